"""A run's directory as the report reads it: settings, records, evaluations. No torch, no numpy."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, sqrt
from typing import Any, NamedTuple

from gesso import storage
from gesso.errors import UserError
from gesso.training import metrics_file
from gesso.training.layout import BEST, CAPTIONS, CHECKPOINTS, CODES, EVALUATIONS, GRID, METRICS, RECORD, SAMPLES, USAGE
from gesso.training.metrics_file import Record
from gesso.training.report.png import png_size

GRIDS = {"dvae": GRID, "prior": SAMPLES, "contrastive": None}  # by the kind of a run; None where it draws none
TILE = 8  # pixels of a code's picture in codes.png

Json = dict[str, Any]
Point = tuple[int, float]  # step, value


class Grid(NamedTuple):
    """An evaluation's pictures: pairs of rows, originals above reconstructions or above what was drawn."""

    step: int
    body: bytes  # PNG
    captions: Sequence[str] = ()  # of a prior's, one for each pair


class Codebook(NamedTuple):
    """Usage and pictures of the codes at an evaluation."""

    step: int
    body: bytes  # PNG: code k's picture, TILE pixels wide, at row k // columns and column k % columns
    counts: list[int]  # how often each code was chosen over the validation pictures

    @property
    def columns(self) -> int:
        return ceil(sqrt(len(self.counts)))

    @property
    def used(self) -> int:
        return sum(count > 0 for count in self.counts)


@dataclass(frozen=True)
class Run:
    """A run as the report reads it."""

    name: str
    about: Json  # run.json
    records: list[Record]
    grids: list[Grid]
    codebook: Codebook | None  # of the last evaluation that has one
    best: Json | None

    @property
    def kind(self) -> str:
        return str(self.about["kind"])

    @property
    def settings(self) -> Json:
        return dict(self.about.get("settings", {}))

    @property
    def step(self) -> int:
        return max((int(record["step"]) for record in self.records), default=0)

    @property
    def steps(self) -> int | None:
        """The update after which the run stops, None where it is not known."""
        return self.settings.get("steps")

    @property
    def vocabulary(self) -> int | None:
        return len(self.codebook.counts) if self.codebook else self.settings.get("vocabulary")

    def points(self, name: str) -> list[Point]:
        """(step, value) of the records that have this metric, values that are not finite included."""
        return [(int(record["step"]), record[name]) for record in self.records if name in record]

    def finite(self, name: str) -> list[Point]:
        return [(step, value) for step, value in self.points(name) if isfinite(value)]


def is_run(directory: str) -> bool:
    """Whether the directory is a training run. Raises UserError where its run.json is damaged."""
    path = storage.join(directory, RECORD)
    return storage.exists(path) and read_json(path).get("kind") in GRIDS


def read_json(path: str) -> Json:
    """A file's object. Raises UserError."""
    try:
        return dict(storage.read_json(path))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore a copy, or remove it") from error


def read_run(directory: str, most: int) -> Run:
    """Reads a run, with at most `most` grids: the first, the last, others evenly between. Raises UserError."""
    about, steps = read_json(storage.join(directory, RECORD)), evaluations(directory)
    name = GRIDS[about["kind"]]
    grids = spread(with_file(steps, name), most) if name else []
    best = storage.join(directory, CHECKPOINTS, BEST)
    return Run(
        name=storage.absolute(directory).split("/")[-1],
        about=about,
        records=metrics_file.read(storage.join(directory, METRICS)),
        grids=alike([Grid(step, read(path), captions_of(path)) for step, path in grids]),
        codebook=last_codebook(steps),
        best=read_json(best) if storage.exists(best) else None,
    )


def evaluations(directory: str) -> dict[int, set[str]]:
    """The evaluations' steps in order, each with the paths of its files."""
    found: dict[int, set[str]] = {}
    for file in storage.walk(storage.join(directory, EVALUATIONS)):
        folder = file.path.split("/")[-2]
        if re.fullmatch(r"[0-9]+", folder):
            found.setdefault(int(folder), set()).add(file.path)
    return dict(sorted(found.items()))


def with_file(steps: dict[int, set[str]], name: str) -> list[tuple[int, str]]:
    return [(step, path) for step, paths in steps.items() for path in paths if path.endswith(f"/{name}")]


def spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` items, the first and the last among them, evenly apart."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def last_codebook(steps: dict[int, set[str]]) -> Codebook | None:
    """The codebook of the last evaluation that has both files: a killed run may have written only one of them."""
    pictures, usages = dict(with_file(steps, CODES)), dict(with_file(steps, USAGE))
    step = max(pictures.keys() & usages.keys(), default=None)
    if step is None:
        return None
    book = Codebook(step, read(pictures[step]), counts_of(usages[step]))
    wide, high = png_size(book.body, pictures[step])
    if (wide, high) != (TILE * book.columns, TILE * ceil(len(book.counts) / book.columns)):
        raise UserError(
            f"{pictures[step]} is {wide}×{high} pixels and {usages[step]} counts {len(book.counts)} codes: "
            "they are of different runs, remove that evaluation's folder"
        )
    return book


def alike(grids: list[Grid]) -> list[Grid]:
    """Those with the captions of the last: a continued run may draw more, or fewer."""
    return [grid for grid in grids if grid.captions == grids[-1].captions]


def captions_of(path: str) -> list[str]:
    """The captions beside a prior's grid; none beside a dVAE's."""
    if not path.endswith(f"/{SAMPLES}"):
        return []
    beside = storage.join(path.rpartition("/")[0], CAPTIONS)
    captions = read_json(beside).get("captions") if storage.exists(beside) else None
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{beside} has no list of captions: remove that evaluation's folder")
    return captions


def counts_of(path: str) -> list[int]:
    counts = read_json(path).get("counts")
    if not isinstance(counts, list) or not counts or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise UserError(f"{path} has no list of counts: remove that evaluation's folder")
    return counts


def read(path: str) -> bytes:
    with storage.open_input(path) as stream:
        return stream.read()
