"""InfoNCE (paper section 9) over the pairs of all processes. torch alone.

b pairs of this process, B = b · processes, D dimension.

Tried without gain (docs/detector.md): a memory of earlier embeddings as further negatives, from which all embeddings
flee together; no gradient through the plain pictures.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import cross_entropy

TEMPERATURE = 0.07  # fixed (section 9)


class Contrast(NamedTuple):
    """What an update's pairs come to."""

    loss: Tensor  # nats
    accuracy: Tensor  # share of pictures whose own copy is the nearest of all


def gather(values: Tensor) -> Tensor:
    """(b, …) of every process → (B, …), in the order of the ranks; gradients flow back to their process."""
    if not dist.is_initialized():
        return values
    return torch.cat(list(all_gather(values)))  # type: ignore[no-untyped-call]


def info_nce(plain: Tensor, altered: Tensor, pictures: Tensor) -> Contrast:
    """The loss of (b, D) unit vectors of pictures against (b, D) of their altered selves, both ways.

    `pictures` (b,) tells which picture each pair is of: another pair of the same picture is no negative.
    """
    every_plain, every_altered, every_picture = gather(plain), gather(altered), gather(pictures)
    rank = dist.get_rank() if dist.is_initialized() else 0
    own = torch.arange(len(pictures), device=pictures.device) + rank * len(pictures)
    void = pictures[:, None] == every_picture
    void[torch.arange(len(own), device=own.device), own] = False
    one, other = (direction(*sides, own, void) for sides in ((plain, every_altered), (altered, every_plain)))
    return Contrast((one.loss + other.loss) / 2, (one.accuracy + other.accuracy) / 2)


def direction(queries: Tensor, keys: Tensor, own: Tensor, void: Tensor) -> Contrast:
    """Each of (b, D) queries has to tell its own of (B, D) keys from the others, but for those that are `void`."""
    logits = (queries.float() @ keys.float().T / TEMPERATURE).masked_fill(void, -torch.inf)
    return Contrast(cross_entropy(logits, own), (logits.argmax(1) == own).float().mean())
