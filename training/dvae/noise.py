"""The noise of the relaxation: of each sample by itself, so that neither processes nor parts of a batch change it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gesso.training.data.randomness import seed_of


def exponential(
    purpose: str,
    seed: int,
    epochs: Sequence[int],
    keys: Sequence[str],
    shape: tuple[int, int, int],
    device: torch.device,
) -> Tensor:
    """Exp(1) noise, float32 (b, *shape), the numbers of a sample keyed by purpose, seed, epoch and its key."""
    out, generator = torch.empty(len(keys), *shape, device=device), torch.Generator(device)
    for row, epoch, key in zip(out, epochs, keys, strict=True):
        row.exponential_(generator=generator.manual_seed(seed_of(purpose, seed, epoch, key)))
    return out
