"""The pictures that a prior's run draws, cut from their grid into pairs with captions. Reads no files."""

from typing import NamedTuple

from gesso.errors import UserError
from gesso.training.report.png import png_size
from gesso.training.report.run import Grid

COLUMNS, GAP = 8, 2  # of a grid: pictures in a row, pixels between them (training/grids.py)


class Cell(NamedTuple):
    """A validation picture with what was drawn from its caption under it: a part of the grid. All in % of the part."""

    caption: str
    left: float
    top: float
    width: float  # of the whole grid


class Cells(NamedTuple):
    """The pairs of a grid; all grids of a page have the same."""

    ratio: str  # width / height of a part
    cells: list[Cell]


def cells(grid: Grid) -> Cells:
    """Raises UserError where the grid is not that of its captions."""
    count = len(grid.captions)
    width, height = png_size(grid.body, f"the grid of step {grid.step}")
    columns, pairs = min(COLUMNS, count), -(-count // COLUMNS)
    side, high = (width + GAP) // columns - GAP, (height + GAP) // pairs - GAP
    if (columns * (side + GAP) - GAP, pairs * (high + GAP) - GAP, 2 * side + GAP) != (width, height, high):
        raise UserError(
            f"the grid of step {grid.step} is {width}×{height} pixels and does not fit its {count} captions: "
            "remove that evaluation's folder"
        )
    places = [divmod(place, COLUMNS) for place in range(count)]
    return Cells(
        f"{side} / {high}",
        [
            Cell(caption, -100 * column * (side + GAP) / side, -100 * pair * (high + GAP) / high, 100 * width / side)
            for (pair, column), caption in zip(places, grid.captions, strict=True)
        ],
    )
