"""The page of a contrastive model's run: its figures, facts and checks. Reads no files."""

from gesso.training.report.content import Content, Own
from gesso.training.report.curves import Line, Panel
from gesso.training.report.facts import Fact, moving, speed
from gesso.training.report.panels import (
    GRADIENT_NORM,
    LEARNING_RATE,
    MEMORY,
    SPEED_IN_IMAGES,
    Single,
    noisy,
    others,
    single,
    validation,
)
from gesso.training.report.rules import GRADIENT, Rule, finite, no_rise, validation_worsens
from gesso.training.report.run import Run

SINGLE = {
    "learning_rate": LEARNING_RATE,
    "gradient_norm": GRADIENT_NORM._replace(unit="L2, over all weights"),
    "temperature": Single("Temperature", "of the softmax over a batch, learned", log=True),
    "images_per_second": SPEED_IN_IMAGES,
    "memory_mib": MEMORY,
    "captions_cut": Single("Captions cut", "so far, to the model's length"),
}
FINITE = ("loss", "val_loss")
RECALLS = {"picture": "Pictures found by their captions", "caption": "Captions found by their pictures"}
DEPTHS = {1: "val", 5: "also"}  # with the line's kind


def columns(run: Run) -> list[list[Panel]]:
    singles = {name: single(run, name, how) for name, how in SINGLE.items()}
    recalls = [recall_name(of, depth) for of in RECALLS for depth in DEPTHS]
    loss = Panel("loss", "Loss", "nats", [*noisy(run, "loss", "training"), validation(run, "val_loss")])
    return [
        [loss],
        *([recall(run, of)] for of in RECALLS),
        *([singles[name]] for name in ("gradient_norm", "learning_rate", "temperature")),
        [singles["images_per_second"], singles["memory_mib"]],
        [singles["captions_cut"]],
        *others(run, {*FINITE, *recalls, *SINGLE}),
    ]


def recall(run: Run, of: str) -> Panel:
    lines = [
        Line(f"recall@{depth}", kind, run.points(recall_name(of, depth)), dots=True) for depth, kind in DEPTHS.items()
    ]
    return Panel(f"{of}_recall", RECALLS[of], "% of the validation split", lines)


def recall_name(of: str, depth: int) -> str:
    return f"val_{of}_recall@{depth}"


def facts(run: Run) -> list[Fact]:
    return [
        *moving(run.points("val_loss"), "validation loss", less=True),
        *moving(run.points(recall_name("picture", 1)), "% of captions find their picture first", less=False),
        *moving(run.points(recall_name("caption", 1)), "% of pictures find their caption first", less=False),
        *speed(run, "images"),
    ]


RULES = (
    finite(FINITE),
    Rule(no_rise("val_loss"), lambda run: validation_worsens(run, "val_loss", "nats")),
    GRADIENT,
)

CONTENT = Content(
    name="contrastive",
    title="Training of a contrastive model",
    best=("val_loss", "nats"),
    sections=lambda run: {},
    rules=RULES,
    too_early=lambda run: None,
    facts=facts,
    columns=columns,
    own=lambda run: Own({}, [], {}),
)
