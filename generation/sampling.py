"""Codes drawn from logits: filters, and the inverse of the cumulative distribution at numbers of a seed. torch.

logits (b, K) ─ / temperature ─ top-k ─ top-p ─ softmax ─▶ probabilities ─ cumulative sums in float64, in the order of
the codes ─▶ the first code whose sum exceeds u · total. The number u is a function of seed and position alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gesso.generation.settings import Sampling

BITS = 32  # of a number: a multiple of 2^-32 below 1 times a float64 stays below that


def uniforms(seeds: Sequence[int], positions: int) -> Tensor:
    """Numbers in [0, 1), float64 (n, positions): row i of seed i. Versions of numpy keep Philox."""
    drawn = np.stack([np.random.Philox(key=seed).random_raw(positions) for seed in seeds])
    return torch.from_numpy((drawn >> (64 - BITS)) / (1 << BITS))


def draw_codes(logits: Tensor, numbers: Tensor, sampling: Sampling) -> Tensor:
    """Float (b, K) and float64 (b,) → int64 (b,)."""
    totals = probabilities(logits, sampling).cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(totals, numbers[:, None] * totals[:, -1:], right=True).squeeze(1)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What codes are drawn by: float (b, K), summing to 1 up to rounding; 0 for those that are left out."""
    logits = logits / sampling.temperature if sampling.temperature != 1 else logits
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    found = logits.softmax(-1)
    return likeliest(found, sampling.top_p) if sampling.top_p < 1 else found


def likeliest(found: Tensor, mass: float) -> Tensor:
    """The probabilities of the fewest likeliest codes that have `mass` together, 0 for the others; of equal ones the
    smaller code comes first."""
    ordered, codes = found.sort(stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1, dtype=torch.float64) - ordered
    return torch.zeros_like(found).scatter_(-1, codes, ordered.masked_fill(before >= mass, 0))
