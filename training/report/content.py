"""What differs between the pages of the kinds of runs; everything else is shared. Imports no kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gesso.training.report.curves import Panel
from gesso.training.report.facts import Fact
from gesso.training.report.rules import Rule
from gesso.training.report.run import Json, Run


class Own(NamedTuple):
    """The sections that only one kind of run has: what its template shows, its figures, what its script reads."""

    parts: Json
    panels: Sequence[Panel]
    data: Json


@dataclass(frozen=True)
class Content:
    """The page of a kind of run. `name` is that of its template and script, `sections` has their titles by anchor."""

    name: str
    title: str
    best: tuple[str, str]  # metric of the best checkpoint, and its unit
    sections: Callable[[Run], dict[str, str]]
    rules: Sequence[Rule]
    too_early: Callable[[Run], str | None]  # says why it is too early to judge the run
    facts: Callable[[Run], list[Fact]]  # but for the steps
    columns: Callable[[Run], list[list[Panel]]]  # figures in the order of the page; a column's stand together
    own: Callable[[Run], Own]
