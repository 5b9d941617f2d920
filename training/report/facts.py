"""The numbers at the top of a training's page. Reads no files."""

from collections.abc import Sequence
from math import isfinite
from statistics import median_low
from typing import NamedTuple

from gesso.training.report.run import Point, Run
from gesso.training.report.words import UNCHANGED, change, number, short

RECENT = 10  # records whose median is the speed


class Fact(NamedTuple):
    """A number at the top of the page: `trend` is good, bad or empty."""

    value: str
    name: str
    change: str = ""
    trend: str = ""


def steps(run: Run) -> Fact:
    return Fact(number(run.step), f"of {number(run.steps)} steps" if run.steps else "steps")


def moving(points: Sequence[Point], name: str, less: bool) -> list[Fact]:
    """The last value, and its change since the evaluation before."""
    if not points:
        return []
    now = points[-1][1]
    if len(points) < 2 or not isfinite(now) or not isfinite(points[-2][1]):
        return [Fact(short(now), name)]
    step, before = points[-2]
    moved = change(before, now)
    trend = "" if moved == UNCHANGED else "good" if (now < before) == less else "bad"
    return [Fact(short(now), name, f"{moved} since step {number(step)}", trend)]


def speed(run: Run, unit: str) -> list[Fact]:
    """The median of the last records, in images or tokens."""
    speeds = [speed for _, speed in run.finite(f"{unit}_per_second")[-RECENT:]]
    return [Fact(short(median_low(speeds)), f"{unit} a second")] if speeds else []
