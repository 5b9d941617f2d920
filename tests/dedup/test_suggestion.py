"""The first threshold: where the references part, else the shipped detector's benchmark, else none."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup.overlap import Overlap
from gesso.dedup.review import suggestion
from gesso.dedup.review.suggestion import BENCHMARK, SHIPPED_SHA256, Suggestion

WEIGHTS = Path(__file__).parents[2] / "dedup/weights/detector.safetensors"


def found(nearest: list[float], sha256: str = "ab", views: int = 1) -> Overlap:
    """References with these nearest similarities, and a second neighbour each, which has no say."""
    rows = [
        {"reference_key": f"r{place:04d}", "rank": rank, "uid": f"s{rank}", "shard": 0, "similarity": similarity}
        for place, best in enumerate(nearest)
        for rank, similarity in ((1, best), (2, best / 2))
    ]
    table = pa.Table.from_pylist(
        [{**row, "phash_distance": None, "reference_view": 0} for row in rows], pa.schema(MATCH_FIELDS)
    )
    manifest = {"model": {"name": "detector", "sha256": sha256}, "reference": {"views": views}}
    return Overlap("data/overlap", manifest, table)


def spread(low: float, high: float, count: int) -> list[float]:
    return [float(value) for value in np.linspace(low, high, count)]


def test_where_the_references_part() -> None:
    assert suggestion.suggest(found(spread(0.8, 0.9, 12) + spread(0.3, 0.6, 30))) == Suggestion(
        0.7,
        "Where the references part (Otsu): 12 have a sample at 0.800 or more, 30 only up to 0.600; 84% of the variance "
        "lies between them.",
    )


def test_the_benchmark_has_no_say_where_they_part() -> None:
    nearest = spread(0.8, 0.9, 12) + spread(0.3, 0.6, 30)
    assert suggestion.suggest(found(nearest, SHIPPED_SHA256)) == suggestion.suggest(found(nearest))


@pytest.mark.parametrize(
    ("nearest", "why"),
    [
        ([], "0 references are too few to see where they part."),
        (spread(0.9, 0.99, 9) + spread(0.3, 0.4, 10), "19 references are too few to see where they part."),
        ([0.5] * 40, "The 40 references do not part into two groups"),
        (spread(0.3, 0.9, 300), "The 300 references do not part into two groups (75% of the variance lies between"),
        (spread(0.9, 0.99, 9) + spread(0.3, 0.4, 100), "The 109 references do not part into two groups"),
    ],
)
def test_else_the_shipped_detectors_benchmark(nearest: list[float], why: str) -> None:
    none = suggestion.suggest(found(nearest))
    assert none.threshold is None
    assert none.reason.startswith(why)
    shipped = suggestion.suggest(found(nearest, SHIPPED_SHA256))
    assert shipped.threshold == BENCHMARK[1].threshold
    assert shipped.reason == (
        f"{none.reason} In its benchmark the shipped detector found 97% of altered copies here, at 0.1% false matches."
    )


@pytest.mark.parametrize("views", [6, 15])
def test_the_benchmarks_threshold_depends_on_the_views(views: int) -> None:
    suggested = suggestion.suggest(found([0.5] * 40, SHIPPED_SHA256, views))
    assert suggested.threshold == BENCHMARK[views].threshold > BENCHMARK[1].threshold
    found_of = f"the shipped detector found {BENCHMARK[views].found}% of altered copies here in {views} views"
    assert suggested.reason.endswith(f"In its benchmark {found_of} of each reference, at 0.1% false matches.")


def test_the_shipped_detector_is_the_one_that_was_measured() -> None:
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == SHIPPED_SHA256


def test_as_the_command_prints_it() -> None:
    assert str(Suggestion(0.73, "So.")) == "suggested threshold: 0.73. So."
    assert str(Suggestion(None, "So.")) == "suggested threshold: none. So."


def test_otsu_is_the_best_of_all_cuts() -> None:
    random = np.random.default_rng(5)
    for count in (2, 3, 50):
        values = np.sort(random.random(count))
        parts = suggestion.otsu(values)
        within = [values[:at].var() * at + values[at:].var() * (count - at) for at in range(1, count)]
        assert parts.under == int(np.argmin(within)) + 1
        assert parts.share == pytest.approx(1 - min(within) / (count * values.var()))
        assert (parts.low, parts.high) == (values[parts.under - 1], values[parts.under])
