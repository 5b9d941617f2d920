"""One evaluation from both sides' pictures to its record. torch, through the models.

{"kind": "evaluation", "generated": {…}, "reference": {…}, "exclude": …, "models": {…}, "settings": {…},
 "rows": [{"pictures": "all", "blur": 0.0, "generated": 30000, "reference": 40504, "fid": {…}, …}], "notes": […]}
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gesso import progress, storage
from gesso.dataset import identity
from gesso.dedup.models import choose_device
from gesso.errors import UserError
from gesso.evaluation import models, overlap
from gesso.evaluation.features import Features, Model, Told, side_of
from gesso.evaluation.figures import Rated, measure
from gesso.evaluation.inception import FEATURES, open_inception
from gesso.evaluation.inception_score import SPLITS
from gesso.evaluation.overlap import Kept
from gesso.evaluation.pictures import Side, annotated, open_side
from gesso.evaluation.settings import Run
from gesso.generation.models import shipped
from gesso.generation.ranker import Ranker, open_ranker
from gesso.progress import Display, State

Json = dict[str, Any]

FORMAT = 1
ALL, WITHOUT = "all", "without the overlap"
# What pictures are compared by, and what captions are.
INCEPTION, EMBEDDINGS, RANKER = "inception", "embeddings", "ranker"
FEWEST = 2  # pictures of a side, for a covariance


class Sides(NamedTuple):
    """Both sides, and what stays of them in each set of rows, by its name."""

    generated: Side
    reference: Side
    sets: dict[str, Kept]
    notes: list[str]


class Models(NamedTuple):
    """The models for each side."""

    generated: dict[str, Model]
    reference: dict[str, Model]
    classifier: npt.NDArray[np.float64] | None

    @property
    def features(self) -> str:
        """The name of the model by which pictures are compared."""
        return next(iter(self.reference))


def open_sides(run: Run) -> Sides:
    """Raises UserError where a side has too few pictures, or captions were generated that the reference lacks."""
    generated = open_side("generated", run.generated, run.settings.ranks, run.output)
    reference = annotated(open_side("reference", run.reference, 0, run.output), run.annotations)
    overlap.check_captions(generated, reference)
    sides = Sides(generated, reference, {ALL: overlap.everything(generated, reference)}, [])
    if run.exclude:
        keys = overlap.read_exclusions(run.exclude)
        sides.sets[WITHOUT] = overlap.exclude(keys, generated, reference, run.exclude)
        sides.notes.extend(overlap.notes(keys, generated, reference))
    for name, kept in sides.sets.items():
        check_counts(name, generated, reference, kept)
    return sides


def check_counts(name: str, generated: Side, reference: Side, kept: Kept) -> None:
    """Raises UserError where a side has no covariance."""
    for flag, side, mask in (("generated", generated, kept.generated), ("reference", reference, kept.reference)):
        if mask.sum() < FEWEST:
            left = "" if name == ALL else f" {name}"
            raise UserError(
                f"--{flag} {side.path} has {mask.sum()} pictures{left}: FID needs {FEWEST} at least, and is comparable "
                f"from {FEATURES + 1:,} on"
            )


def evaluate(run: Run, sides: Sides) -> Json:
    """Computes what is new, and gives the record. Raises UserError for pictures and weights that cannot be used."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        opened = open_models(run, sides.generated, threads)
        size = run.settings.size or side_of(sides.generated.pictures[0])
        generated, reference = tell(run, sides, opened, Features(run.output, size, run.radii, threads))
    progress.announce("computing the figures and their intervals")
    rows = list(rated(run, sides, generated, reference, opened))
    return {
        "format": FORMAT,
        "kind": "evaluation",
        "generated": side_record(sides.generated, generated, run.output),
        "reference": side_record(sides.reference, reference, run.output),
        "exclude": identity.hint(run.exclude, run.output) if run.exclude else None,
        "models": {name: model.identity for name, model in opened.generated.items()},
        "settings": {"size": size, **run.settings.record()},
        "rows": rows,
        "notes": [*sides.notes, *notes(run, sides, size, reference, opened)],
    }


def open_models(run: Run, generated: Side, threads: Executor) -> Models:
    """Raises UserError where weights are missing, or there is a ranker and no captions."""
    settings, device = run.settings, choose_device(run.settings.device)
    if run.inception:
        inception = open_inception(run.inception, device)
        shared = {INCEPTION: models.of_inception(inception, settings.resize, settings.batch_size, threads)}
        return Models({**shared, **scored(run, generated, device)}, shared, inception.classifier)
    compared, scores = models.of_ranker(opened_ranker(run, device))
    shared = {EMBEDDINGS: compared}
    return Models({**shared, RANKER: scores} if generated.captioned else shared, shared, None)


def scored(run: Run, generated: Side, device: torch.device) -> dict[str, Model]:
    """The model of the CLIP score, where one is given."""
    if not run.ranker:
        return {}
    if not generated.captioned:
        raise UserError(f"--ranker {run.ranker}: {generated.path} has no captions to rate by: leave --ranker out")
    _, scores = models.of_ranker(opened_ranker(run, device))
    return {RANKER: scores}


def opened_ranker(run: Run, device: torch.device) -> Ranker:
    """The one that is given, or the shipped one."""
    return open_ranker(run.ranker or shipped(), run.pretrained, device)


def tell(run: Run, sides: Sides, opened: Models, features: Features) -> tuple[Told, Told]:
    """What the models tell of both sides, under a progress bar."""
    each = len(opened.generated), len(opened.reference)
    total = len(run.radii) * (len(sides.generated.pictures) * each[0] + len(sides.reference.pictures) * each[1])
    done = 0
    with Display() as display:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            display.show(shown(done), last=done == total)

        def shown(done: int) -> State:
            return State(done, total, lambda rate: progress.line(done, total, "passes", rate))

        return (
            features.tell(sides.generated, opened.generated, not run.settings.size, advance),
            features.tell(sides.reference, opened.reference, False, advance),
        )


def rated(run: Run, sides: Sides, generated: Told, reference: Told, opened: Models) -> Iterator[Json]:
    """A row for each set of pictures and radius."""
    for name, kept in sides.sets.items():
        for radius in run.radii:
            cosines = generated.rows.get((RANKER, radius))
            those = Rated(
                generated.rows[opened.features, radius][kept.generated],
                reference.rows[opened.features, radius][kept.reference],
                opened.classifier,
                None if cosines is None else cosines[kept.generated],
            )
            counts = {"generated": len(those.generated), "reference": len(those.reference)}
            figures = measure(those, run.settings.resamples, run.settings.seed)
            yield {"pictures": name, "blur": radius, **counts, **figures}


def side_record(side: Side, told: Told, output: str) -> Json:
    """`sha256` is that of the pictures' bytes in their order."""
    return {
        "name": storage.absolute(side.path).rpartition("/")[2],
        "path": identity.hint(side.path, output),
        "kind": side.kind,
        "pictures": len(side.pictures),
        "sha256": told.sha256,
    }


def notes(run: Run, sides: Sides, size: int, reference: Told, opened: Models) -> Iterator[str]:
    """What a reader of the figures has to know, a sentence each."""
    if opened.features == EMBEDDINGS:
        name = opened.reference[EMBEDDINGS].identity["embeddings_of"]["name"]
        yield (
            f"Distances are between the embeddings of {name}, not Inception's: they compare among themselves alone. "
            "--inception gives FID and the Inception Score."
        )
    features = next(iter(reference.rows.values())).shape[1]
    fewest = min(int(mask.sum()) for kept in sides.sets.values() for mask in kept)
    if fewest <= features:
        yield (
            f"A side has {fewest:,} pictures: with fewer than {features + 1:,} a covariance of {features:,} features "
            "lacks rank, and FID lies far above its value at many pictures. Compare it at equal numbers alone; KID has "
            "no such bias."
        )
    if reference.enlarged:
        yield f"{reference.enlarged:,} references were smaller than {size}×{size} and were enlarged."
    if opened.features == INCEPTION and opened.classifier is None:
        yield f"No Inception Score: --inception {run.inception} has no classifier; README.md names files with one."
    if opened.classifier is not None and any(kept.generated.sum() < SPLITS for kept in sides.sets.values()):
        yield f"No Inception Score of fewer than {SPLITS} generated pictures, one for each of its splits."
    if RANKER not in opened.generated:
        yield "No CLIP score: --ranker gives one."
    if run.settings.resize == "legacy":
        yield "Resized without antialiasing, as torch-fidelity and pytorch-fid do: not comparable with the default."
