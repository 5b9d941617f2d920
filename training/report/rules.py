"""Checks of a training's metrics that give warnings. Reads no files."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite, nan
from statistics import fmean, median_low
from typing import NamedTuple

from gesso.training.report.run import Point, Run
from gesso.training.report.words import number, share, short

FINITE = ("loss", "nll", "kl", "val_nats_per_dim", "val_mse")
LEAST_USED = 0.1  # of the codes
EARLY = 0.1  # of the temperature schedule: before, the codes in use say nothing yet (docs/dvae.md)
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


def not_finite(run: Run) -> Warned | None:
    found = sorted((step, name) for name in FINITE for step, value in run.points(name) if not isfinite(value))
    if not found:
        return None
    (first, name), steps = found[0], len({step for step, _ in found})
    return Warned("Loss not finite", f"{name} is not a number at step {number(first)}, the first of {steps:,} steps.")


def validation_worsens(run: Run) -> Warned | None:
    last, loss = run.finite("val_nats_per_dim")[-RISING:], run.finite("loss")
    means = [mean_between(loss, *span) for span in pairwise(last)]
    if len(last) < RISING or not falls([-value for _, value in last]) or not falls(means):
        return None
    values = " → ".join(short(value) for _, value in last)
    return Warned(
        "Validation loss rises",
        f"It rose over the last {RISING} evaluations ({values} nats/dim) while the training loss fell.",
    )


def mean_between(points: Sequence[Point], after: Point, until: Point) -> float:
    """The mean of the values after one evaluation and up to another; nan where there is none."""
    values = [value for step, value in points if after[0] < step <= until[0]]
    return fmean(values) if values else nan


def falls(values: Sequence[float]) -> bool:
    return all(before > after for before, after in pairwise(values))


def codebook_collapse(run: Run) -> Warned | None:
    used, most = last(run.finite("val_codes_used")), run.vocabulary
    if used is None or not most or too_early(run):
        return None
    reachable = min(most, sum(run.codebook.counts)) if run.codebook else most
    if used >= LEAST_USED * reachable:
        return None
    return Warned(
        "Codebook collapse",
        f"{number(used)} of {number(reachable)} codes are in use at the last evaluation: {share(used, reachable)}, "
        f"under {LEAST_USED:.0%}.",
    )


def too_early(run: Run) -> str | None:
    """Says that the codes cannot be judged yet, while the temperature schedule has only begun; else None."""
    enough = round(EARLY * run.settings.get("temperature_steps", 0))
    if run.step >= enough:
        return None
    steps = number(run.step)
    return f"After {steps} updates it is too early to judge the codes in use: look again after {number(enough)}."


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


def scale_under_one(run: Run) -> Warned | None:
    scale = last(run.finite("loss_scale"))
    if scale is None or scale >= 1:
        return None
    return Warned(
        "fp16 loss scale under 1",
        f"It has fallen to {short(scale)}: gradients overflow even unscaled; train in bf16 or fp32.",
    )


def last(points: Sequence[Point]) -> float | None:
    return points[-1][1] if points else None


RULES = (
    Rule(f"{', '.join(FINITE)} are finite in every record.", not_finite),
    Rule(
        f"val_nats_per_dim does not rise over the last {RISING} evaluations while the mean loss between them falls.",
        validation_worsens,
    ),
    Rule(
        f"At least {LEAST_USED:.0%} of the codes are in use at the last evaluation (or of its positions, where "
        "these are fewer than the codes).",
        codebook_collapse,
    ),
    Rule(
        f"gradient_norm stays within {JUMP:.0f} times the median of the {BEFORE} records before, over the last "
        f"{RECENT} records.",
        gradient_jumped,
    ),
    Rule("The last loss_scale of fp16 is at least 1.", scale_under_one),
)


def warnings(run: Run) -> list[Warned]:
    """The warnings of all rules that are broken, in the order of RULES."""
    return [found for rule in RULES if (found := rule.find(run))]
