"""The page of a prior's run: its figures, facts, checks, samples and gradient scales. Reads no files."""

from itertools import pairwise

from gesso.training.report import curves, samples, scales
from gesso.training.report.content import Content, Own
from gesso.training.report.curves import Line, Panel, smooth
from gesso.training.report.facts import Fact, moving, speed
from gesso.training.report.panels import (
    GRADIENT_NORM,
    LEARNING_RATE,
    MEMORY,
    MFU,
    SPEED_IN_TOKENS,
    Single,
    noisy,
    others,
    single,
    validation,
)
from gesso.training.report.rules import GRADIENT, Rule, Warned, finite, no_rise, validation_worsens
from gesso.training.report.run import Json, Point, Run
from gesso.training.report.words import number, share, short

SINGLE = {
    "learning_rate": LEARNING_RATE,
    "gradient_norm": GRADIENT_NORM._replace(missing="update skipped"),
    "tokens_per_second": SPEED_IN_TOKENS,
    "memory_mib": MEMORY,
    "mfu": MFU._replace(noisy=True),
    "captions_cut": Single("Captions cut", "so far, to the model's length"),
}
FINITE = ("loss", "text_loss", "image_loss", "val_loss", "val_text_loss", "val_image_loss")
MOST_SKIPPED = 0.05  # of the updates; the paper's largest models skip about as many (DALL-E paper, D)
NAMED = 8  # blocks that a warning names


# ── figures ──


def columns(run: Run) -> list[list[Panel]]:
    singles = {name: single(run, name, how) for name, how in SINGLE.items()}
    of_scales = {name for record in run.records for name in record if name.startswith(scales.PREFIX)}
    known = {*FINITE, "skipped", "sent_mib", "saved_mib", *SINGLE, *of_scales}
    return [
        [losses(run, "loss", "Loss", "nats a token: ⅛ of the caption's and ⅞ of the image's")],
        [losses(run, "image_loss", "Image loss", "nats a token")],
        [losses(run, "text_loss", "Caption loss", "nats a token")],
        *([singles[name]] for name in ("gradient_norm", "learning_rate")),
        [singles["tokens_per_second"], singles["memory_mib"]],
        [skipped(run)],
        [skipped_share(run)],
        [traffic(run)],
        *([singles[name]] for name in ("mfu", "captions_cut")),
        *others(run, known),
    ]


def losses(run: Run, name: str, title: str, unit: str) -> Panel:
    return Panel(name, title, unit, [*noisy(run, name, "training"), validation(run, f"val_{name}")])


def skipped(run: Run) -> Panel:
    return Panel("skipped", "Updates skipped", "since the run began", [Line("skipped", "train", run.points("skipped"))])


def skipped_share(run: Run) -> Panel:
    shares = shares_skipped(run.finite("skipped"))
    lines = [Line("between records", "raw", shares), Line("smoothed", "train", smooth(shares))]
    level = (100 * MOST_SKIPPED, "warned of above")
    return Panel("skipped_share", "Share of updates skipped", "%", lines, level=level if shares else None)


def shares_skipped(counts: list[Point]) -> list[Point]:
    """Of the updates between two records, %."""
    spans = pairwise([(0, 0.0), *counts])
    return [(until, 100 * (now - then) / (until - after)) for (after, then), (until, now) in spans if until > after]


def traffic(run: Run) -> Panel:
    lines = [
        Line("sent", "train", run.points("sent_mib")),
        Line("spared by compression", "also", run.points("saved_mib")),
    ]
    return Panel("traffic", "Gradients sent", "MiB of an update and a process, between replicas", lines)


# ── facts and checks ──


def facts(run: Run) -> list[Fact]:
    return [
        *moving(run.points("val_loss"), "validation loss", less=True),
        *moving(run.points("val_image_loss"), "image loss in validation", less=True),
        *speed(run, "tokens"),
        *all_skipped(run),
    ]


def all_skipped(run: Run) -> list[Fact]:
    counts = run.finite("skipped")
    if not counts:
        return []
    step, count = counts[-1]
    return [Fact(share(count, step), "of the updates skipped", f"{number(count)} of {number(step)}")]


def overfits(run: Run) -> Warned | None:
    found = validation_worsens(run, "val_loss", "nats a token")
    if found is None:
        return None
    step, least = min(run.finite("val_loss"), key=lambda point: point[1])
    best = f"It was best at step {number(step)}, {short(least)}: what came after overfits."
    return found._replace(why=f"{found.why} {best}")


def many_skipped(run: Run) -> Warned | None:
    counts = run.finite("skipped")
    before = [(0, 0.0), *(point for point in counts if point[0] <= run.step / 2)]
    (after, then), (until, now) = before[-1], (before + counts)[-1]
    if now - then <= MOST_SKIPPED * (until - after):
        return None
    return Warned(
        "Many updates skipped",
        f"{number(now - then)} of the {number(until - after)} after step {number(after)}: "
        f"{share(now - then, until - after)}, over {MOST_SKIPPED:.0%}; their gradients were not finite.",
    )


def scale_at_limit(run: Run) -> Warned | None:
    found = scales.read(run)
    low = [block for block, value in enumerate(found.values[-1]) if value <= scales.LIMIT] if found else []
    if not found or not low:
        return None
    named = ", ".join(map(str, low[:NAMED])) + (", …" if len(low) > NAMED else "")
    return Warned(
        "Gradient scale at its lower limit",
        f"At step {number(found.steps[-1])} {len(low)} of {found.blocks} residual blocks are at 2^{scales.LIMIT:g} "
        f"(block {named}): their gradients overflow even so; lower the learning rate, or train in bf16.",
    )


RULES = (
    finite(FINITE),
    Rule(no_rise("val_loss"), overfits),
    Rule(f"At most {MOST_SKIPPED:.0%} of the updates of the recent half of the run are skipped.", many_skipped),
    Rule(f"In the last record no residual block's scale is at its lower limit, 2^{scales.LIMIT:g}.", scale_at_limit),
    GRADIENT,
)


# ── samples and scales ──


def own(run: Run) -> Own:
    found = scales.read(run)
    parts: Json = {"samples": [samples.cells(grid) for grid in run.grids[-1:]], "scales": None}
    if found is None:
        return Own(parts, [], {"scales": None})
    panel = scales.panel(found)
    parts["scales"] = {**scales.heat(found, run.step), "curve": curves.draw(panel, run.step)}
    return Own(parts, [panel], {"scales": scales.heat_data(found, run.step)})


def sections(run: Run) -> dict[str, str]:
    return {"samples": "Samples"} | ({"scales": "Gradient scales"} if scales.read(run) else {})


CONTENT = Content(
    name="prior",
    title="Training of a prior",
    best=("val_loss", "nats a token"),
    sections=sections,
    rules=RULES,
    too_early=lambda run: None,
    facts=facts,
    columns=columns,
    own=own,
)
