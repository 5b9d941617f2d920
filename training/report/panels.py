"""The figures of a dVAE's run, and their lines. Reads no files."""

from collections.abc import Sequence
from math import log

from gesso.training.report.curves import Line, Panel, smooth
from gesso.training.report.run import Codebook, Run

PLACES = ("step", "epoch", "index")  # the position of a record, not a metric to draw
# Metrics of the panels under the curves: the title, the unit, whether logarithmic.
SINGLE = {
    "val_nats_per_dim": ("Nats per dimension", "of 8-bit values, lower is better", False),
    "val_mse": ("MSE", "pixels from 0 to 1, lower is better", True),
    "val_psnr": ("PSNR", "dB, higher is better", False),
    "val_ssim": ("SSIM", "at most 1, higher is better", False),
    "temperature": ("Temperature", "of the Gumbel-softmax", True),
    "learning_rate": ("Learning rate", "of AdamW", True),
    "gradient_norm": ("Gradient norm", "before clipping", True),
    "loss_scale": ("Loss scale", "of fp16", True),
    "images_per_second": ("Speed", "images a second", False),
    "memory_mib": ("Memory", "MiB", False),
    "mfu": ("MFU", "share of the GPU's peak FLOP/s", False),
}
NOISY = ("gradient_norm", "images_per_second")
SMALL = ("images_per_second", "memory_mib")


def columns(run: Run) -> list[list[Panel]]:
    """The figures in the order of the page; those that share a column stand together."""
    names = list(SINGLE)[:7]
    stacked = [single(run, name) for name in SMALL]
    rest = [[single(run, name)] for name in ("loss_scale", "mfu")]
    return [
        [objective(run)],
        [divergence(run), weight(run)],
        *([single(run, name)] for name in names),
        [codes(run)],
        [perplexity(run)],
        stacked,
        [bounds(run)],
        *rest,
        *([plain(run, name)] for name in others(run)),
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
    lines = [*noisy(run, "kl", "KL"), Line("validation", "val", run.points("val_kl"), dots=True)]
    return Panel("kl", "KL to uniform", "nats per position", lines, level=most)


def weight(run: Run) -> Panel:
    return Panel("beta", "β", "the KL's weight", [Line("β", "train", run.points("beta"))], small=True)


def codes(run: Run) -> Panel:
    lines = pair(run, "codes_used", "val_codes_used")
    every = (float(run.vocabulary), "all codes") if run.vocabulary else None
    return Panel("codes", "Codes in use", "codes", lines, level=every)


def perplexity(run: Run) -> Panel:
    return Panel("perplexity", "Perplexity of the codes", "codes", pair(run, "perplexity", "val_perplexity"), log=True)


def bounds(run: Run) -> Panel:
    lines = [
        Line("relaxed", "also", run.points("val_relaxed_elbo"), dots=True),
        Line("hard", "val", run.points("val_hard_elbo"), dots=True),
    ]
    return Panel("elbo", "ELBO in validation", "nats per subpixel on (0, 1), higher is better", lines)


def pair(run: Run, training: str, validation: str) -> list[Line]:
    return [
        Line("training", "train", run.points(training)),
        Line("validation", "val", run.points(validation), dots=True),
    ]


def single(run: Run, name: str) -> Panel:
    title, unit, log_scale = SINGLE[name]
    lines = noisy(run, name, "each record") if name in NOISY else [line(run, name)]
    return Panel(name, title, unit, lines, log=log_scale, small=name in SMALL)


def plain(run: Run, name: str) -> Panel:
    return Panel(name, name, "", [line(run, name)])


def noisy(run: Run, name: str, label: str) -> list[Line]:
    """The values as logged, faint, and smoothed."""
    return [Line(label, "raw", run.points(name)), Line("smoothed", "train", smooth(run.points(name)))]


def line(run: Run, name: str) -> Line:
    of_validation = name.startswith("val_")
    label = "validation" if of_validation else name.replace("_", " ")
    return Line(label, "val" if of_validation else "train", run.points(name), dots=of_validation)


def others(run: Run) -> Sequence[str]:
    """Metrics without a figure above, so that everything logged is shown."""
    known = {"loss", "nll", "kl", "val_kl", "beta", "codes_used", "val_codes_used", "perplexity"}
    known |= {"val_perplexity", "val_relaxed_elbo", "val_hard_elbo", *SINGLE, *PLACES}
    return sorted({name for record in run.records for name in record} - known)


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
