"""A run → the page of `gesso report`. Reads no files but its own template, style and script."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files as resources
from math import isfinite
from statistics import median_low
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gesso.training.report import curves, panels, rules
from gesso.training.report.pictures import exact_uri, png_size, uri
from gesso.training.report.run import TILE, Codebook, Grid, Json, Point, Run
from gesso.training.report.words import UNCHANGED, change, number, share, short

RECENT = 10  # records whose median is the speed


class Fact(NamedTuple):
    """A number at the top of the page: `trend` is good, bad or empty."""

    value: str
    name: str
    change: str = ""
    trend: str = ""


class Shown(NamedTuple):
    """A grid on the page."""

    step: int
    uri: str
    width: int
    height: int


def render(run: Run) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("gesso.training.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "value": value}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    script = resource("page.js")
    return environment.get_template("page.html.j2").render(
        it=run,
        style=Markup(resource("page.css")),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        state=state(run),
        warnings=rules.warnings(run),
        too_early=rules.too_early(run),
        rules=[rule.says for rule in rules.RULES],
        facts=facts(run),
        best=best(run.best),
        figures=figures(run),
        grids=[shown(grid) for grid in run.grids],
        codes=codes(run.codebook),
        data=data(run),
    )


def resource(name: str) -> str:
    return resources("gesso.training.report").joinpath(name).read_text("utf-8")


def value(of: Any) -> str:
    """A setting as text: strings as they are, others as JSON."""
    return of if isinstance(of, str) else json.dumps(of, ensure_ascii=False)


# ── head ──


def state(run: Run) -> str:
    """What the run still lacks, in words; empty where nothing."""
    if not run.records:
        return "No metrics have been logged yet: run `gesso report` again later."
    evaluated = any(name.startswith("val_") for record in run.records for name in record)
    parts = [] if evaluated else ["No evaluation yet"]
    if run.steps and run.step < run.steps:
        parts.insert(0, f"Not finished: step {number(run.step)} of {number(run.steps)}")
    return ". ".join([*parts, ""]).strip()


def facts(run: Run) -> list[Fact]:
    """The numbers at the top of the page, without those that are not known."""
    found = [Fact(number(run.step), f"of {number(run.steps)} steps" if run.steps else "steps")]
    found += moving(run.points("val_mse"), "validation MSE", less=True)
    found += moving(run.points("val_nats_per_dim"), "nats per dimension", less=True)
    found += in_use(run)
    found += moving(run.points("val_perplexity"), "perplexity of the codes", less=False)
    speeds = [speed for _, speed in run.finite("images_per_second")[-RECENT:]]
    return found + ([Fact(short(median_low(speeds)), "images a second")] if speeds else [])


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


def in_use(run: Run) -> list[Fact]:
    used, most = run.finite("val_codes_used"), run.vocabulary
    if not used:
        return []
    count = used[-1][1]
    if not most:
        return [Fact(number(count), "codes in use")]
    return [Fact(share(count, most), "of the codes in use", f"{number(count)} of {number(most)}")]


def best(checkpoint: Json | None) -> str:
    if not checkpoint or not {"step", "val_nats_per_dim"} <= checkpoint.keys():
        return ""
    return f"Best checkpoint: step {number(checkpoint['step'])}, {short(checkpoint['val_nats_per_dim'])} nats/dim."


# ── figures and pictures ──


def figures(run: Run) -> list[list[Markup]]:
    """Columns of figures, without those that have no data."""
    drawn = [[curves.draw(panel, run.step) for panel in column] for column in panels.columns(run)]
    return [filled for column in drawn if (filled := [figure for figure in column if figure])]


def shown(grid: Grid) -> Shown:
    name = f"the grid of step {grid.step}"
    return Shown(grid.step, uri(grid.body, name), *png_size(grid.body, name))


def codes(book: Codebook | None) -> Json | None:
    """The codebook as the template shows it."""
    if book is None:
        return None
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
        "curve": curves.draw(panels.usage(book), len(book.counts)),
    }


def data(run: Run) -> Json:
    """What the page's script reads."""
    lines = curves.data([panel for column in panels.columns(run) for panel in column])
    if run.codebook is None:
        return {"panels": lines, "codes": None}
    book = run.codebook
    lines |= curves.data([panels.usage(book)])
    return {"panels": lines, "codes": {"counts": book.counts, "columns": book.columns, "tile": TILE}}
