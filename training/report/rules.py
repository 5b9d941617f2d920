"""Checks of a training's metrics that give warnings: those that all kinds share. Reads no files."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite, nan
from statistics import fmean, median_low
from typing import NamedTuple

from gesso.training.report.run import Point, Run
from gesso.training.report.words import number, short

JUMP, BEFORE, RECENT = 10.0, 20, 100  # times the median of so many records before, among so many last ones
RISING = 3  # evaluations


class Warned(NamedTuple):
    """A warning: what is wrong, and by which numbers."""

    what: str
    why: str


class Rule(NamedTuple):
    """A check: the condition that it expects, in words, and its function."""

    says: str
    find: Callable[[Run], Warned | None]


def warnings(rules: Sequence[Rule], run: Run) -> list[Warned]:
    """The warnings of all rules that are broken, in their order."""
    return [found for rule in rules if (found := rule.find(run))]


# ── that losses are finite ──


def finite(names: Sequence[str]) -> Rule:
    return Rule(f"{', '.join(names)} are finite in every record.", lambda run: not_finite(run, names))


def not_finite(run: Run, names: Sequence[str]) -> Warned | None:
    found = sorted((step, name) for name in names for step, value in run.points(name) if not isfinite(value))
    if not found:
        return None
    (first, name), steps = found[0], len({step for step, _ in found})
    return Warned("Loss not finite", f"{name} is not a number at step {number(first)}, the first of {steps:,} steps.")


# ── that validation follows training ──


def no_rise(name: str) -> str:
    """What `validation_worsens` expects."""
    return f"{name} does not rise over the last {RISING} evaluations while the mean loss between them falls."


def validation_worsens(run: Run, name: str, unit: str) -> Warned | None:
    last, loss = run.finite(name)[-RISING:], run.finite("loss")
    means = [mean_between(loss, *span) for span in pairwise(last)]
    if len(last) < RISING or not falls([-value for _, value in last]) or not falls(means):
        return None
    values = " → ".join(short(value) for _, value in last)
    return Warned(
        "Validation loss rises",
        f"It rose over the last {RISING} evaluations ({values} {unit}) while the training loss fell.",
    )


def mean_between(points: Sequence[Point], after: Point, until: Point) -> float:
    """The mean of the values after one evaluation and up to another; nan where there is none."""
    values = [value for step, value in points if after[0] < step <= until[0]]
    return fmean(values) if values else nan


def falls(values: Sequence[float]) -> bool:
    return all(before > after for before, after in pairwise(values))


# ── that gradients do not jump ──


def gradient_jumped(run: Run) -> Warned | None:
    norms = run.finite("gradient_norm")
    ahead = range(max(BEFORE, len(norms) - RECENT), len(norms))
    usual = {at: median_low(value for _, value in norms[at - BEFORE : at]) for at in ahead}
    jumps = [at for at in ahead if norms[at][1] > JUMP * usual[at] > 0]
    if not jumps:
        return None
    step, norm = norms[jumps[-1]]
    return Warned(
        "Gradient norm jumped",
        f"{short(norm)} at step {number(step)}, {number(norm / usual[jumps[-1]])} times the median of the {BEFORE} "
        f"records before. Jumps in the last {RECENT} records: {len(jumps)}.",
    )


GRADIENT = Rule(
    f"gradient_norm stays within {JUMP:.0f} times the median of the {BEFORE} records before, over the last "
    f"{RECENT} records.",
    gradient_jumped,
)
