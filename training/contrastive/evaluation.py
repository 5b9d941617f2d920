"""How well captions and pictures of the validation split find each other: loss and recall. torch.

n pairs of m pictures, D dimension. A picture has one caption or several; all of them find it, and any is found by it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gesso.processes import Group
from gesso.training.contrastive.model import build_loss, standardise
from gesso.training.contrastive.pairs import Batch

DEPTHS = (1, 5)


class Embedded(NamedTuple):
    """The pairs of all processes, in the order of the split."""

    pictures: Tensor  # (n, D) float32, norm 1
    captions: Tensor  # the same shape
    same: Tensor  # (n, 2) int64: hashes of picture and caption


@torch.no_grad()
def embed(model: Any, batches: Iterable[Batch], group: Group) -> Embedded:
    """The embeddings of all processes' pairs, the same in each. Collective."""
    parts = [embed_batch(model, batch, group.device) for batch in batches]
    mine = Embedded(*map(torch.cat, zip(*parts, strict=True))) if parts else None
    return mine if group.size == 1 and mine else gather(mine, group)


def embed_batch(model: Any, batch: Batch, device: torch.device) -> Embedded:
    pictures, captions, _ = model(standardise(batch.pixels.to(device)), batch.text.to(device))
    return Embedded(pictures.float().cpu(), captions.float().cpu(), batch.same)


def gather(mine: Embedded | None, group: Group) -> Embedded:
    """The shares of all processes in the order of the split, where pair n is in the share of process n % size."""
    shares: list[Embedded | None] = [None] * group.size
    dist.all_gather_object(shares, mine)
    filled = [share for share in shares if share is not None]
    order = torch.cat([torch.arange(len(share.same)) * group.size + rank for rank, share in enumerate(filled)])
    return Embedded(*(torch.cat(parts)[order.argsort()] for parts in zip(*filled, strict=True)))


def measure(found: Embedded, scale: Tensor, batch_size: int) -> dict[str, float]:
    """`val_loss`, nats, the mean over batches of the training's size, and recalls, %, by direction and depth."""
    recalls = {f"val_{way}_recall@{depth}": value for (way, depth), value in recall(found).items()}
    return {"val_loss": mean_loss(found, scale.cpu(), batch_size), **recalls}


def mean_loss(found: Embedded, scale: Tensor, batch_size: int) -> float:
    loss, total = build_loss(0, 1), 0.0
    for start in range(0, len(found.same), batch_size):
        part = Embedded(*(each[start : start + batch_size] for each in found))
        total += float(loss(part.pictures, part.captions, scale, part.same)) * len(part.same)
    return total / len(found.same)


def recall(found: Embedded) -> dict[tuple[str, int], float]:
    """The share of captions whose picture, and of pictures of which a caption, is among the nearest, %.

    Ties count against it: a model that maps all to one point finds nothing.
    """
    hashes, owners = torch.unique(found.same[:, 0], return_inverse=True)
    firsts = torch.zeros_like(hashes).scatter_reduce_(0, owners, positions(owners), "amin", include_self=False)
    scores = found.captions @ found.pictures[firsts].T  # (n, m)
    own = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, owners[:, None], True)
    picture_ranks = ahead(scores, own)
    caption_ranks = ahead(scores.T, own.T)
    ranks = {"picture": picture_ranks, "caption": caption_ranks}
    return {(way, depth): 100 * float((r < depth).double().mean()) for way, r in ranks.items() for depth in DEPTHS}


def positions(values: Tensor) -> Tensor:
    return torch.arange(len(values))


def ahead(scores: Tensor, own: Tensor) -> Tensor:
    """For each row how many that are not its own are as near as the nearest of its own, or nearer: int64."""
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return ((scores >= best) & ~own).sum(1)
