"""The noise of the relaxation: of each sample by itself, so that neither processes nor parts of a batch change it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from training.data.randomness import seed_of


def exponential(
    purpose: str,
    seed: int,
    epochs: Sequence[int],
    keys: Sequence[str],
    shape: tuple[int, int, int],
    device: torch.device,
) -> Tensor:
    """Exp(1) noise, float32 (b, *shape), the numbers of a sample keyed by purpose, seed, epoch and its key."""
    out = torch.empty(len(keys), *shape, device=device)
    for row, generator in zip(out, generators(purpose, seed, epochs, keys, device), strict=True):
        row.exponential_(generator=generator)
    return out


def generators(
    purpose: str, seed: int, epochs: Sequence[int], keys: Sequence[str], device: torch.device
) -> Iterator[torch.Generator]:
    """One generator, seeded anew for each sample."""
    generator = torch.Generator(device)
    for epoch, key in zip(epochs, keys, strict=True):
        yield generator.manual_seed(seed_of(purpose, seed, epoch, key))
