"""InfoNCE (arXiv 2102.12092, section 9) over the pairs of all processes. torch alone.

b pairs of this process, B = b · processes, D dimension of an embedding.

Tried without gain (docs/detector.md): a queue of earlier embeddings as further negatives, from which all embeddings
drift away together; no gradient through the plain pictures.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import cross_entropy

TEMPERATURE = 0.07  # fixed (section 9 of the paper)


class Contrast(NamedTuple):
    """Loss and accuracy of a batch of pairs."""

    loss: Tensor  # nats
    accuracy: Tensor  # share of pictures whose own copy is the most similar of all


def gather(values: Tensor) -> Tensor:
    """(b, …) of every process → (B, …), in the order of the ranks; gradients flow back to the rows' process."""
    if not dist.is_initialized():
        return values
    return torch.cat(list(all_gather(values)))  # type: ignore[no-untyped-call]


def info_nce(plain: Tensor, altered: Tensor, pictures: Tensor) -> Contrast:
    """The symmetric loss of (b, D) unit vectors of pictures and (b, D) of their altered copies.

    `pictures` (b,) has the number of each pair's picture: another pair of the same picture is not a negative.
    """
    every_plain, every_altered, every_picture = gather(plain), gather(altered), gather(pictures)
    rank = dist.get_rank() if dist.is_initialized() else 0
    target = torch.arange(len(pictures), device=pictures.device) + rank * len(pictures)
    excluded = pictures[:, None] == every_picture
    excluded[torch.arange(len(target), device=target.device), target] = False
    forward, backward = (
        one_way_loss(*sides, target, excluded) for sides in ((plain, every_altered), (altered, every_plain))
    )
    return Contrast((forward.loss + backward.loss) / 2, (forward.accuracy + backward.accuracy) / 2)


def one_way_loss(queries: Tensor, keys: Tensor, target: Tensor, excluded: Tensor) -> Contrast:
    """Cross-entropy of each of (b, D) queries over (B, D) keys without those `excluded`; `target` (b,): its own key."""
    logits = (queries.float() @ keys.float().T / TEMPERATURE).masked_fill(excluded, -torch.inf)
    return Contrast(cross_entropy(logits, target), (logits.argmax(1) == target).float().mean())
