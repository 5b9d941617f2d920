"""The noise of the Gumbel-softmax, keyed by sample, so that it does not depend on processes or parts of a batch."""

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
    """Exp(1) noise, float32 (b, *shape), each sample's from a generator of its own: purpose, seed, epoch and key."""
    out, generator = torch.empty(len(keys), *shape, device=device), torch.Generator(device)
    for row, epoch, key in zip(out, epochs, keys, strict=True):
        row.exponential_(generator=generator.manual_seed(seed_of(purpose, seed, epoch, key)))
    return out
