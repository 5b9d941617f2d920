"""Windows of image positions: the queries of some rows or columns, and the few keys that they see. Knows torch.

All attention but dense attention sees little of the image. The image's queries are cut into n windows of w; the keys of
a window are its own positions and the `back` before it. Columns are cut from the transposed image, where each is a row.
Which of these keys a query sees is said by `masks.sees` alone.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.training.prior.masks import Layout, distances, sees


class Windows(NamedTuple):
    """How the image is cut: w queries a window, keys before it, and whether the image is transposed first."""

    size: int
    back: int
    transposed: bool


def windows_of(kind: str, layout: Layout, queries: int) -> Windows:
    """The smallest windows of whole rows (columns) that divide the image and hold `queries` positions or all."""
    if kind == "causal":
        return Windows(layout.image, 0, False)
    divisors = (rows for rows in range(1, layout.grid + 1) if layout.grid % rows == 0)
    size = next(rows * layout.grid for rows in divisors if rows * layout.grid >= queries or rows == layout.grid)
    if kind == "column":
        return Windows(size, 0, True)
    return Windows(size, min(distances(kind, layout)[-1], layout.image - size), False)


def image_of(x: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """The image's part of a stream in the windows' order: (b, h, L, …) → (b, h, N, …)."""
    return reordered(x[:, :, layout.text :], layout, windows)


def reordered(image: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """Raster order to the windows' order, and the same again back: (b, h, N, …) → (b, h, N, …)."""
    if not windows.transposed:
        return image
    return torch.unflatten(image, 2, (layout.grid, layout.grid)).transpose(2, 3).flatten(2, 3)


def queries_of(x: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """The windows' queries: (b, h, L, …) → (b, h, n, w, …)."""
    return torch.unflatten(image_of(x, layout, windows), 2, (-1, windows.size))


def keys_of(x: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """The windows' keys or values: (b, h, L, c) → (b, h, n, back + w, c), a view where windows overlap.

    The first windows begin in the text, or in zeros before it: the mask hides both.
    """
    if not windows.back:
        return queries_of(x, layout, windows)
    start = layout.text - windows.back
    held = x[:, :, start:] if start >= 0 else F.pad(x, (0, 0, -start, 0))
    return held.unfold(2, windows.back + windows.size, windows.size).transpose(-1, -2)


def fold(gradients: Tensor, windows: Windows) -> Tensor:
    """The sum of the keys' gradients over the windows that hold them: (b, h, n, back + w, c) → (b, h, N, c)."""
    out = gradients[:, :, :, windows.back :].clone(memory_format=torch.contiguous_format)
    for step, upper in enumerate(range(windows.back, 0, -windows.size), 1):
        lower = max(0, upper - windows.size)
        out[:, :, :-step, lower - upper :] += gradients[:, :, step:, lower:upper]
    return out.flatten(2, 3)


def raster(order: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """Numbers of image positions in the windows' order → in raster order."""
    return order % layout.grid * layout.grid + order // layout.grid if windows.transposed else order


def seen(kind: str, layout: Layout, windows: Windows) -> Tensor:
    """Which of its window's keys a query sees: bool (n, w, back + w) on the CPU."""
    starts = torch.arange(0, layout.image, windows.size)[:, None, None]
    queries = starts + torch.arange(windows.size)[:, None]
    keys = starts + torch.arange(-windows.back, windows.size)
    positions = (layout.text + raster(order, layout, windows) for order in (queries, keys))
    return sees(kind, layout, *positions) & (keys >= 0)


@torch.compiler.assume_constant_result
def hidden(kind: str, layout: Layout, queries: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of `windows_of(kind, layout, queries)`: 0 where seen, else -inf; (n, w, back + w)."""
    return _hidden(kind, Layout(*layout), queries, device, dtype)  # torch.compile hands over a plain tuple


@cache
def _hidden(kind: str, layout: Layout, queries: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    visible = seen(kind, layout, windows_of(kind, layout, queries))
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf).to(device)
