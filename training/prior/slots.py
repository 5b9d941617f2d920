"""Where decoding keeps the image's keys and values: of each kind of layer no more than later positions see. torch.

    kind                       slots of a candidate                     of which a position reads
    row, convolution, causal   a ring: its farthest key's distance + 1  all
    column                     all N, column by column                  those of its column

`masks.sees` says which of these a position sees. A position is an int, or an int64 tensor of one element with the same
results and without a change of any shape, so that a CUDA graph can replay one step for all positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gesso.training.prior.masks import Layout, Positions, distances, sees

Position = int | Tensor


class Place(NamedTuple):
    """A position's place: the slot it is kept in, the block of slots it reads, and what is added to their scores."""

    slot: Position
    block: Position
    hidden: Tensor  # (s,) or (1, s): 0 where seen, else -inf


def count_of(kind: str, layout: Layout) -> int:
    """The slots of a candidate in a layer."""
    return layout.image if kind == "column" else distances(kind, layout)[-1] + 1


class Slots:
    """The slots of one kind: `count` of them in `blocks` blocks, s = count / blocks of which a position reads."""

    def __init__(self, kind: str, layout: Layout, dtype: torch.dtype, device: torch.device) -> None:
        self._grid, self._columns = layout.grid, kind == "column"
        self.count = count_of(kind, layout)
        self.blocks = layout.grid if self._columns else 1
        positions = torch.arange(layout.image)[:, None]
        held = self._held(positions, torch.arange(self.count // self.blocks))
        seen = sees(kind, layout, layout.text + positions, layout.text + held) & (held >= 0)
        self._hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf).to(device)

    def place(self, position: Positions) -> Place:
        """Where a position is kept, and what it reads."""
        return Place(self.slots(position), position % self.blocks, self._hidden[position])

    def slots(self, position: Positions) -> Positions:
        """The slot of a position, or those of many."""
        if self._columns:
            return position % self._grid * self._grid + position // self._grid
        return position % self.count

    def kept(self, positions: int) -> Tensor:
        """Of the first positions those that still have their slots after the last: int64 on the CPU."""
        return torch.arange(max(0, positions - self.count), positions)

    def _held(self, positions: Tensor, slots: Tensor) -> Tensor:
        """Which position each slot of its block holds when a position has been kept; below 0, or after it: none."""
        if self._columns:
            return slots * self._grid + positions % self._grid
        return positions - (positions - slots) % self.count


def keep(cache: Tensor, place: Place, values: Tensor) -> None:
    """Keys and values (2, b, h, c) into their slot of (2, b, h, count, c)."""
    if isinstance(place.slot, int):
        cache[:, :, :, place.slot] = values
    else:
        cache.index_copy_(3, place.slot, values.unsqueeze(3).to(cache.dtype))


def read(cache: Tensor, blocks: int, place: Place) -> Tensor:
    """The slots of a position's block: (2, b, h, count, c) → (2, b, h, s, c); a copy where the block is a tensor."""
    if blocks == 1:
        return cache
    divided = torch.unflatten(cache, 3, (blocks, -1))
    if isinstance(place.block, int):
        return divided[:, :, :, place.block]
    return divided.index_select(3, place.block).squeeze(3)
