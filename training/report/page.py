"""A run → the page of `gesso report`. Reads no files but its own templates, style and scripts."""

import hashlib
import json
from base64 import b64encode
from importlib.resources import files as resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gesso.training.report import contrastive, curves, dvae, facts, prior, rules
from gesso.training.report.content import Content
from gesso.training.report.curves import Panel
from gesso.training.report.pictures import shown
from gesso.training.report.run import Json, Run
from gesso.training.report.words import number, short

CONTENTS = {content.name: content for content in (dvae.CONTENT, prior.CONTENT, contrastive.CONTENT)}


def render(run: Run) -> str:
    """The whole page."""
    content = CONTENTS[run.kind]
    own, columns = content.own(run), content.columns(run)
    panels = [panel for column in columns for panel in column]
    return (
        environment()
        .get_template(f"{content.name}.html.j2")
        .render(
            **head(run, content),
            **resources_of(content),
            figures=figures(columns, run.step),
            grids=[shown(grid) for grid in run.grids],
            data={"panels": curves.data([*panels, *own.panels]), **own.data},
            **own.parts,
        )
    )


def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("gesso.training.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "value": value}
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made


def value(of: Any) -> str:
    """A setting as text: strings as they are, others as JSON."""
    return of if isinstance(of, str) else json.dumps(of, ensure_ascii=False)


def resources_of(content: Content) -> Json:
    """Style and script, and the script's hash, by which the page allows it."""
    script = resource("page.js") + resource(f"{content.name}.js")
    digest = hashlib.sha256(script.encode()).digest()
    return {
        "style": Markup(resource("page.css")),
        "script": Markup(script),
        "script_hash": b64encode(digest).decode(),
    }


def resource(name: str) -> str:
    return resources("gesso.training.report").joinpath(name).read_text("utf-8")


def head(run: Run, content: Content) -> Json:
    return {
        "it": run,
        "title": content.title,
        "sections": content.sections(run),
        "state": state(run),
        "warnings": rules.warnings(content.rules, run),
        "too_early": content.too_early(run),
        "rules": [rule.says for rule in content.rules],
        "facts": [facts.steps(run), *content.facts(run)],
        "best": best(run.best, *content.best),
    }


def state(run: Run) -> str:
    """What the run still lacks, in words; empty where nothing."""
    if not run.records:
        return "No metrics have been logged yet: run `gesso report` again later."
    evaluated = any(name.startswith("val_") for record in run.records for name in record)
    parts = [] if evaluated else ["No evaluation yet"]
    if run.steps and run.step < run.steps:
        parts.insert(0, f"Not finished: step {number(run.step)} of {number(run.steps)}")
    return ". ".join([*parts, ""]).strip()


def best(checkpoint: Json | None, name: str, unit: str) -> str:
    if not checkpoint or not {"step", name} <= checkpoint.keys():
        return ""
    return f"Best checkpoint: step {number(checkpoint['step'])}, {short(checkpoint[name])} {unit}."


def figures(columns: list[list[Panel]], step: int) -> list[list[Markup]]:
    """Columns of figures, without those that have no data."""
    drawn = [[curves.draw(panel, step) for panel in column] for column in columns]
    return [filled for column in drawn if (filled := [figure for figure in column if figure])]
