"""The expected best of N, against all subsets; its curve."""

from itertools import combinations
from math import lgamma
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gesso.generation.gain import draw, expected_best, powers, weights


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11])
def test_the_mean_over_all_subsets(n: int) -> None:
    scores = np.random.default_rng(n).normal(size=(3, n)).round(1)  # some of them equal
    gain = expected_best(scores)
    for count, best in zip(gain.candidates, gain.best, strict=True):
        each = [np.mean([max(subset) for subset in combinations(row, count)]) for row in scores]
        assert best == pytest.approx(np.mean(each), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (512, [2**k for k in range(10)])]
)
def test_at_powers_of_two_and_at_all(n: int, counts: list[int]) -> None:
    assert list(powers(n)) == counts


@pytest.mark.parametrize("count", [1, 2, 64, 256, 511, 512])
def test_weights_of_512_by_binomials(count: int) -> None:
    def log_binomial(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    found = weights(512, count)
    expected = [
        np.exp(log_binomial(k - 1, count - 1) - log_binomial(512, count)) if k >= count else 0.0 for k in range(1, 513)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_more_candidates_are_never_worse() -> None:
    gain = expected_best(np.random.default_rng(0).normal(size=(4, 512)))
    assert np.all(np.diff(gain.best) > 0)


def test_the_ends_are_mean_and_maximum() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
    gain = expected_best(scores)
    assert gain.best[0] == pytest.approx(scores.mean(dtype=np.float64))
    assert gain.best[-1] == pytest.approx(scores.max(1).mean(dtype=np.float64))


def test_equal_scores_gain_nothing() -> None:
    gain = expected_best(np.full((2, 16), 0.25))
    assert gain.best == pytest.approx([0.25] * 5)
    assert gain.error == pytest.approx([0.0] * 5, abs=1e-12)


def test_the_standard_error_is_over_captions() -> None:
    gain = expected_best(np.array([[1.0, 1.0], [2.0, 2.0], [6.0, 6.0]]))
    assert gain.best == pytest.approx([3.0, 3.0])
    assert gain.error == pytest.approx([np.std([1, 2, 6], ddof=1) / 3**0.5] * 2)
    assert expected_best(np.array([[1.0, 2.0]])).error == [0.0, 0.0]


def test_the_curve_is_a_picture_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    gain = expected_best(np.random.default_rng(0).normal(size=(4, 64)))
    for name in ("one.png", "two.png"):
        draw(gain, str(tmp_path / name), "ViT-B-32")
    assert Image.open(tmp_path / "one.png").size == (750, 525)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
