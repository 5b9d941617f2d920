"""Which keys a query sees: the only truth for every form of attention. Light: torch is loaded by `mask` alone.

Paper (arXiv 2102.12092), section 2.2 and figure 11. The stream is the text positions 0…T-1, then the image positions in
raster order: L = T + g². Text sees text up to itself and never the image; an image position sees all text, and of the
image what its layer's kind says. Every kind depends on one number alone, the distance back in raster order.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Positions = TypeVar("Positions", int, "Tensor")  # one position, or int64 tensors that broadcast


class Layout(NamedTuple):
    """The shape of a stream: T text positions (1 or more), a grid of g × g (2 or more), the convolution's odd side."""

    text: int
    grid: int
    kernel: int = 11

    @property
    def image(self) -> int:
        """N = g², image positions."""
        return self.grid**2

    @property
    def length(self) -> int:
        """L = T + N, all positions."""
        return self.text + self.image


def kind_of(layer: int, layers: int) -> str:
    """The kind of attention of a layer, counted from 1: 47 row, 16 column and 1 convolution of the paper's 64."""
    if layer == layers:
        return "convolution"
    return "column" if layer % 4 == 2 else "row"


def _row(distance: Positions, layout: Layout) -> Positions:
    """The position itself and the g before it: wraps over the ends of rows."""
    return distance <= layout.grid


def _column(distance: Positions, layout: Layout) -> Positions:
    """The same column, its own row and those above."""
    return distance % layout.grid == 0


def _convolution(distance: Positions, layout: Layout) -> Positions:
    """A kernel around the position, what is not after it: wraps over the ends of rows.

    Distances are g·a + e with 0 ≤ a ≤ r and |e| ≤ r, where r is half of the kernel.
    """
    half = layout.kernel // 2
    return (distance <= half * (layout.grid + 1)) & ((distance + half) % layout.grid <= 2 * half)


def _causal(distance: Positions, layout: Layout) -> Positions:
    """All that is not after it: dense attention, for comparison."""
    return distance >= 0


_NEAR: dict[str, Callable[..., Any]] = {
    "row": _row,
    "column": _column,
    "convolution": _convolution,
    "causal": _causal,
}
KINDS = tuple(_NEAR)


def sees(kind: str, layout: Layout, query: Positions, key: Positions) -> Positions:
    """Whether the query at a position of the stream sees the key: bool, or a bool tensor of the broadcast shape."""
    image = (key >= layout.text) & _NEAR[kind](query - key, layout)
    return (key <= query) & ((key < layout.text) | image)


def distances(kind: str, layout: Layout) -> list[int]:
    """How far back in raster order an image position sees others, ascending: from 0, itself, to g² - 1 at most."""
    return [distance for distance in range(layout.image) if _NEAR[kind](distance, layout)]


def pairs(kind: str, layout: Layout) -> int:
    """How many pairs of query and key are seen: the True entries of `mask`."""
    text = layout.text * (layout.text + 1) // 2
    return text + layout.image * layout.text + sum(layout.image - distance for distance in distances(kind, layout))


def mask(kind: str, layout: Layout) -> "Tensor":
    """All of it: bool (L, L) on the CPU, True where the query (row) sees the key (column)."""
    import torch

    positions = torch.arange(layout.length)
    return sees(kind, layout, positions[:, None], positions)
