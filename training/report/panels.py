"""Figures of one metric, and the lines that figures are made of. Reads no files."""

from collections.abc import Iterable
from typing import NamedTuple

from gesso.training.report.curves import Line, Panel, smooth
from gesso.training.report.run import Run

PLACES = ("step", "epoch", "index")  # the position of a record, not a metric to draw


class Single(NamedTuple):
    """How the figure of one metric is drawn.

    `noisy`: smoothed as well; `missing`: what it means that a value is no number.
    """

    title: str
    unit: str
    log: bool = False
    noisy: bool = False
    small: bool = False
    missing: str = "not a number"


SPEED_IN_IMAGES = Single("Speed", "images a second", noisy=True, small=True)
SPEED_IN_TOKENS = Single("Speed", "tokens a second", noisy=True, small=True)
LEARNING_RATE = Single("Learning rate", "of AdamW", log=True)
GRADIENT_NORM = Single("Gradient norm", "before clipping", log=True, noisy=True)
MEMORY = Single("Memory", "MiB", small=True)
MFU = Single("MFU", "share of the GPU's peak FLOP/s")


def single(run: Run, name: str, how: Single) -> Panel:
    lines = noisy(run, name, "each record") if how.noisy else [line(run, name)]
    return Panel(name, how.title, how.unit, lines, log=how.log, small=how.small, missing=how.missing)


def others(run: Run, known: Iterable[str]) -> list[list[Panel]]:
    """Metrics without a figure of their own, so that everything logged is shown."""
    names = {name for record in run.records for name in record} - {*known, *PLACES}
    return [[Panel(name, name, "", [line(run, name)])] for name in sorted(names)]


def noisy(run: Run, name: str, label: str) -> list[Line]:
    """The values as logged, faint, and smoothed."""
    return [Line(label, "raw", run.points(name)), Line("smoothed", "train", smooth(run.points(name)))]


def line(run: Run, name: str) -> Line:
    of_validation = name.startswith("val_")
    label = "validation" if of_validation else name.replace("_", " ")
    return Line(label, "val" if of_validation else "train", run.points(name), dots=of_validation)


def validation(run: Run, name: str) -> Line:
    return Line("validation", "val", run.points(name), dots=True)
