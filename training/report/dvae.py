"""The page of a dVAE's run: its figures, facts, checks, grids and codebook. Reads no files."""

from math import log

from gesso.training.report import curves
from gesso.training.report.content import Content, Own
from gesso.training.report.curves import Line, Panel, smooth
from gesso.training.report.facts import Fact, moving, speed
from gesso.training.report.panels import (
    GRADIENT_NORM,
    LEARNING_RATE,
    MEMORY,
    MFU,
    SPEED_IN_IMAGES,
    Single,
    noisy,
    others,
    single,
    validation,
)
from gesso.training.report.pictures import exact_uri
from gesso.training.report.rules import GRADIENT, Rule, Warned, finite, no_rise, validation_worsens
from gesso.training.report.run import TILE, Codebook, Json, Point, Run
from gesso.training.report.words import number, share, short

SINGLE = {
    "val_nats_per_dim": Single("Nats per dimension", "of 8-bit values, lower is better"),
    "val_mse": Single("MSE", "pixels from 0 to 1, lower is better", log=True),
    "val_psnr": Single("PSNR", "dB, higher is better"),
    "val_ssim": Single("SSIM", "at most 1, higher is better"),
    "temperature": Single("Temperature", "of the Gumbel-softmax", log=True),
    "learning_rate": LEARNING_RATE,
    "gradient_norm": GRADIENT_NORM,
    "loss_scale": Single("Loss scale", "of fp16", log=True),
    "images_per_second": SPEED_IN_IMAGES,
    "memory_mib": MEMORY,
    "mfu": MFU,
}
FINITE = ("loss", "nll", "kl", "val_nats_per_dim", "val_mse")
LEAST_USED = 0.1  # of the codes
EARLY = 0.1  # of the temperature schedule: before, the codes in use say nothing yet (docs/dvae.md)


# ── figures ──


def columns(run: Run) -> list[list[Panel]]:
    singles = {name: single(run, name, how) for name, how in SINGLE.items()}
    known = {"loss", "nll", "kl", "val_kl", "beta", "codes_used", "val_codes_used", "perplexity"}
    known |= {"val_perplexity", "val_relaxed_elbo", "val_hard_elbo", *SINGLE}
    return [
        [objective(run)],
        [divergence(run), weight(run)],
        *([singles[name]] for name in list(SINGLE)[:7]),
        [codes(run)],
        [perplexity(run)],
        [singles["images_per_second"], singles["memory_mib"]],
        [bounds(run)],
        *([singles[name]] for name in ("loss_scale", "mfu")),
        *others(run, known),
    ]


def objective(run: Run) -> Panel:
    lines = [
        *noisy(run, "loss", "loss"),
        Line("NLL, smoothed", "also", smooth(run.points("nll"))),
        Line("validation", "val", [(step, -value) for step, value in run.points("val_hard_elbo")], dots=True),
    ]
    return Panel("loss", "Loss", "nats per subpixel, of the density on (0, 1)", lines)


def divergence(run: Run) -> Panel:
    most = (log(run.vocabulary), "maximum") if run.vocabulary else None
    lines = [*noisy(run, "kl", "KL"), validation(run, "val_kl")]
    return Panel("kl", "KL to uniform", "nats per position", lines, level=most)


def weight(run: Run) -> Panel:
    return Panel("beta", "β", "the KL's weight", [Line("β", "train", run.points("beta"))], small=True)


def codes(run: Run) -> Panel:
    every = (float(run.vocabulary), "all codes") if run.vocabulary else None
    return Panel("codes", "Codes in use", "codes", pair(run, "codes_used"), level=every)


def perplexity(run: Run) -> Panel:
    return Panel("perplexity", "Perplexity of the codes", "codes", pair(run, "perplexity"), log=True)


def bounds(run: Run) -> Panel:
    lines = [
        Line("relaxed", "also", run.points("val_relaxed_elbo"), dots=True),
        Line("hard", "val", run.points("val_hard_elbo"), dots=True),
    ]
    return Panel("elbo", "ELBO in validation", "nats per subpixel on (0, 1), higher is better", lines)


def pair(run: Run, name: str) -> list[Line]:
    return [Line("training", "train", run.points(name)), validation(run, f"val_{name}")]


# ── facts and checks ──


def facts(run: Run) -> list[Fact]:
    return [
        *moving(run.points("val_mse"), "validation MSE", less=True),
        *moving(run.points("val_nats_per_dim"), "nats per dimension", less=True),
        *in_use(run),
        *moving(run.points("val_perplexity"), "perplexity of the codes", less=False),
        *speed(run, "images"),
    ]


def in_use(run: Run) -> list[Fact]:
    count, most = last(run.finite("val_codes_used")), run.vocabulary
    if count is None:
        return []
    if not most:
        return [Fact(number(count), "codes in use")]
    return [Fact(share(count, most), "of the codes in use", f"{number(count)} of {number(most)}")]


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


def scale_under_one(run: Run) -> Warned | None:
    scale = last(run.finite("loss_scale"))
    if scale is None or scale >= 1:
        return None
    return Warned(
        "fp16 loss scale under 1",
        f"It has fallen to {short(scale)}: gradients overflow even unscaled; train in bf16 or fp32.",
    )


def worsens(run: Run) -> Warned | None:
    return validation_worsens(run, "val_nats_per_dim", "nats/dim")


def last(points: list[Point]) -> float | None:
    return points[-1][1] if points else None


RULES = (
    finite(FINITE),
    Rule(no_rise("val_nats_per_dim"), worsens),
    Rule(
        f"At least {LEAST_USED:.0%} of the codes are in use at the last evaluation (or of its positions, where "
        "these are fewer than the codes).",
        codebook_collapse,
    ),
    GRADIENT,
    Rule("The last loss_scale of fp16 is at least 1.", scale_under_one),
)


# ── the codebook ──


def own(run: Run) -> Own:
    book = run.codebook
    if book is None:
        return Own({"codes": None}, [], {"codes": None})
    drawn = {"counts": book.counts, "columns": book.columns, "tile": TILE}
    return Own({"codes": described(book)}, [usage(book)], {"codes": drawn})


def described(book: Codebook) -> Json:
    """The codebook as the template shows it."""
    total = sum(book.counts)
    most = max(range(len(book.counts)), key=book.counts.__getitem__)
    return {
        "step": book.step,
        "uri": exact_uri(book.body),
        "size": len(book.counts),
        "total": total,
        "used": book.used,
        "unused": len(book.counts) - book.used,
        "most": most,
        "most_share": share(book.counts[most], total) if total else "–",
        "curve": curves.draw(usage(book), len(book.counts)),
    }


def usage(book: Codebook) -> Panel:
    """How often each code was used, in descending order; unused codes cannot be drawn on a logarithmic axis."""
    ordered = sorted(book.counts, reverse=True)
    points = [(rank, float(count)) for rank, count in enumerate(ordered, 1) if count]
    even = sum(ordered) / len(ordered)
    return Panel(
        "usage",
        "Usage, most frequent first",
        "times chosen",
        [Line("chosen", "train", points)],
        log=True,
        across="rank",
        level=(even, "uniform use") if even else None,
    )


CONTENT = Content(
    name="dvae",
    title="Training of a dVAE",
    best=("val_nats_per_dim", "nats/dim"),
    sections=lambda run: {"grids": "Reconstructions", "codebook": "Codebook"},
    rules=RULES,
    too_early=too_early,
    facts=facts,
    columns=columns,
    own=own,
)
