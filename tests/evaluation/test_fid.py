"""FID against closed forms, against torch-fidelity, and at low rank; influences against true derivatives."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from gesso.evaluation.bootstrap import Floats
from gesso.evaluation.fid import factor, frechet_distance
from tests.evaluation.gaussians import as_features, draw, exactly


def by_torch_fidelity(first: Floats, second: Floats) -> float:
    sides = (fid_features_to_statistics(torch.from_numpy(side)) for side in (first, second))
    return float(fid_statistics_to_metric(*sides, False)["frechet_inception_distance"])


def test_closed_form_of_gaussians() -> None:
    """|μ₁ − μ₂|² + Σ (σ₁ − σ₂)² where the covariances are diagonal."""
    means = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    variances = np.array([4.0, 1.0, 9.0]), np.array([1.0, 1.0, 16.0])
    sides = [exactly(50 + at, means[at], np.diag(variances[at]), at) for at in (0, 1)]
    assert frechet_distance(*sides).value == pytest.approx((1 + 4) + (1 + 0 + 1), rel=1e-12)


@pytest.mark.parametrize(("counts", "dimension"), [((600, 500), 64), ((300, 310), 128), ((100, 90), 64)])
def test_torch_fidelitys_value(counts: tuple[int, int], dimension: int) -> None:
    sides = [as_features(count, dimension, seed) for seed, count in enumerate(counts)]
    sides[1] = sides[1] + 0.02
    assert frechet_distance(*sides).value == pytest.approx(by_torch_fidelity(*sides), rel=1e-9)


@pytest.mark.parametrize("counts", [(40, 50), (50, 40), (40, 200), (2, 3)])
def test_torch_fidelitys_value_where_covariances_lack_rank(counts: tuple[int, int]) -> None:
    sides = [as_features(count, 96, seed) for seed, count in enumerate(counts)]
    assert frechet_distance(*sides).value == pytest.approx(by_torch_fidelity(*sides), rel=1e-6)


def test_gaussians_that_share_no_direction_are_as_far_as_their_traces() -> None:
    """Σ₁Σ₂ is 0, and so is the trace of its root."""
    first, second = np.zeros((30, 8)), np.zeros((40, 8))
    first[:, :3] = exactly(30, np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    second[:, 3:] = exactly(40, np.zeros(5), np.diag([1.0, 1.0, 1.0, 1.0, 2.0]))
    assert frechet_distance(first, second).value == pytest.approx(12, rel=1e-7)


def test_a_side_is_at_distance_0_of_itself_also_with_repeats() -> None:
    side = as_features(30, 64, 0)
    for same in (side, np.concatenate([side, side[:10]]), np.concatenate([side] * 4)):
        assert frechet_distance(same, same).value == pytest.approx(0, abs=1e-6 * np.trace(np.cov(same.T)))


def test_pictures_that_are_all_alike() -> None:
    side = as_features(30, 8, 0)
    alike = np.tile(side.mean(0) + 1, (5, 1))
    expected = 8 + np.trace(np.cov(side, rowvar=False))
    assert frechet_distance(alike, side).value == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(alike, alike - 1).value == pytest.approx(8, rel=1e-12)


def test_order_of_sides_and_pictures_does_not_matter() -> None:
    first, second = draw(30, 5, 0)[0], draw(50, 5, 1)[1]
    forth, back = frechet_distance(first, second), frechet_distance(second[::-1], first)
    assert forth.value == pytest.approx(back.value, rel=1e-12)
    np.testing.assert_allclose(forth.influences[0], back.influences[1], atol=1e-10)
    np.testing.assert_allclose(forth.influences[1][::-1], back.influences[0], atol=1e-10)


@pytest.mark.parametrize(("count", "dimension"), [(9, 4), (4, 9)])
def test_the_factor_is_one_of_the_covariance(count: int, dimension: int) -> None:
    side = as_features(count, dimension, 3)
    columns, values = factor(side - side.mean(0))
    np.testing.assert_allclose(columns @ columns.T, np.cov(side, rowvar=False), atol=1e-14)
    np.testing.assert_allclose(columns.T @ columns, np.diag(values), atol=1e-14)
    assert len(values) == min(count - 1, dimension)


@pytest.mark.parametrize(("counts", "dimension"), [((400, 300), 6), ((300, 400), 6), ((60, 50), 80)])
def test_influences_are_derivatives_by_the_weight_of_a_picture(counts: tuple[int, int], dimension: int) -> None:
    """By a difference: a picture that stands twice, among so many copies of all that it weighs 1/(100 n) more."""
    sides = [draw(counts[at], dimension, at)[at] for at in (0, 1)]
    estimate = frechet_distance(*sides)
    for at, side in enumerate(sides):
        copies = np.concatenate([side] * 100)
        base = [copies if place == at else other for place, other in enumerate(sides)]
        more = [np.concatenate([copies, side[:1]]) if place == at else other for place, other in enumerate(sides)]
        change = frechet_distance(*more).value - frechet_distance(*base).value
        slope = np.abs(estimate.influences[at]).mean()
        assert change * (100 * len(side) + 1) == pytest.approx(estimate.influences[at][0], abs=0.05 * slope)
