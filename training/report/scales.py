"""The gradient scales of a prior's residual blocks: lines along depth, and a map of blocks and steps. Reads no files.

A scale is shown as its log2 over the number of replicas, which is what a run logs: 7 at its lower limit, 24 at most.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from math import ceil, floor, isfinite, nan
from statistics import median_low
from typing import NamedTuple

from gesso.training.report.curves import MOST, Line, Panel, Scale, nice_numbers, thin, under
from gesso.training.report.run import Json, Point, Run

PREFIX = "scale/"
LIMIT = 7.0  # below which no scale falls (training/precision/resblock_scale.py)
THIN = 150  # points of a block's line: there may be 128 of them
RAMP = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")  # viridis (matplotlib)
ROWS, VALUES = 8, 6  # ticks of the map and of its colours, or so


class Scales(NamedTuple):
    """All blocks at the records that have finite scales."""

    steps: list[int]
    values: list[list[float]]  # of each record, of each block

    @property
    def blocks(self) -> int:
        return len(self.values[0])

    def of(self, block: int) -> list[Point]:
        return [(step, row[block]) for step, row in zip(self.steps, self.values, strict=True)]

    def over_blocks(self, reduce: Callable[[Iterable[float]], float]) -> list[Point]:
        return [(step, reduce(row)) for step, row in zip(self.steps, self.values, strict=True)]


def read(run: Run) -> Scales | None:
    """None where the run has no scales, as in bf16 and fp32."""
    names = sorted({name for record in run.records for name in record if name.startswith(PREFIX)})
    whole = [record for record in run.records if all(isfinite(record.get(name, nan)) for name in names)]
    if not names or not whole:
        return None
    return Scales([int(record["step"]) for record in whole], [[record[name] for name in names] for record in whole])


def panel(found: Scales) -> Panel:
    """A thin line for each block, and over them the lowest, the median and the highest scale."""
    deepest = max(1, found.blocks - 1)
    blocks = range(found.blocks)
    threads = [Line(f"{block}", "thread", thin(found.of(block), THIN), depth=block / deepest) for block in blocks]
    lines = [
        Line("lowest", "edge", found.over_blocks(min)),
        Line("median", "ink", found.over_blocks(median_low)),
        Line("highest", "edge", found.over_blocks(max)),
    ]
    unit = "log2, over the number of replicas"
    return Panel("scales", "Scale of each residual block", unit, lines, behind=threads)


def heat(found: Scales, last: int) -> Json:
    """The map as the template shows it: ticks of blocks, steps and colours."""
    low, high = span(found)
    return {
        "blocks": found.blocks,
        "rows": [(block, 100 * (block + 0.5) / found.blocks) for block in whole(0, found.blocks - 1, ROWS)],
        "steps": under(Scale(0, max(last, 2)), "step"),
        "ramp": ", ".join(RAMP),
        "marks": [(at, 100 * (at - low) / (high - low)) for at in whole(low, high, VALUES)],
        "limited": sum(value <= LIMIT for value in found.values[-1]),
    }


def heat_data(found: Scales, last: int) -> Json:
    """What the script draws: up to MOST columns of equal widths in steps, each with the last record in it or before."""
    low, high = span(found)
    columns = min(MOST, len(found.steps))
    ends = [last * (column + 1) / columns for column in range(columns)]
    places = [max(0, bisect_right(found.steps, end) - 1) for end in ends]
    return {
        "steps": [found.steps[place] for place in places],
        "values": [[round(value, 2) for value in found.values[place]] for place in places],
        "low": low,
        "high": high,
        "limit": LIMIT,
        "ramp": RAMP,
    }


def whole(low: int, high: int, most: int) -> list[int]:
    """Round numbers between two, without fractions."""
    return [round(at) for at in nice_numbers(low, high, most) if at.is_integer()]


def span(found: Scales) -> tuple[int, int]:
    """The whole numbers between which all values lie, at least two apart."""
    low = floor(min(min(row) for row in found.values))
    return low, max(low + 2, ceil(max(max(row) for row in found.values)))
