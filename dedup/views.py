"""The views of a picture that are embedded: the whole, and crops that a copy of a part is near to. Standard library.

 1   the whole
 6   and five crops of 70% of each side: the corners, the centre
15   and nine crops of 50% of each side: a grid of 3×3, each overlapping its neighbours by half
"""

from itertools import product
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gesso.images import Pixels


class Box(NamedTuple):
    """A part of a picture: shares of its width (left, right) and height (top, bottom), from the top left corner."""

    left: float
    top: float
    right: float
    bottom: float


WHOLE = 0  # the first view of every picture
CORNERS = (Box(0, 0, 0.7, 0.7), Box(0.3, 0, 1, 0.7), Box(0, 0.3, 0.7, 1), Box(0.3, 0.3, 1, 1))
LARGE = (*CORNERS, Box(0.15, 0.15, 0.85, 0.85))
SMALL = tuple(Box(left, top, left + 0.5, top + 0.5) for top, left in product((0, 0.25, 0.5), repeat=2))
ALL = (Box(0, 0, 1, 1), *LARGE, *SMALL)
VIEWS: dict[int, tuple[Box, ...]] = {count: ALL[:count] for count in (1, 6, 15)}  # by --views


def crop(pixels: "Pixels", box: Box) -> "Pixels":
    """The part of a picture (H, W, 3) in the box, without a copy: every pixel that the box touches, one at least."""
    height, width = pixels.shape[:2]
    rows = slice(floor(box.top * height), ceil(box.bottom * height))
    return pixels[rows, floor(box.left * width) : ceil(box.right * width)]


def smallest_share(views: int) -> float:
    """The smallest share of a side among that many views: what decoding must leave the pixels for."""
    return min(min(box.right - box.left, box.bottom - box.top) for box in VIEWS[views])


def name(view: int) -> str:
    """A view in words, `top left 70%`; the whole is `whole`."""
    if view == WHOLE:
        return "whole"
    box = ALL[view]
    vertical = place(box.top, box.bottom, "top", "bottom")
    horizontal = place(box.left, box.right, "left", "right")
    return f"{' '.join(filter(None, (vertical, horizontal))) or 'centre'} {round(100 * (box.right - box.left))}%"


def place(begin: float, end: float, first: str, last: str) -> str:
    """The name of the side at which the box stands; none in the middle."""
    return first if begin == 0 else last if end == 1 else ""
