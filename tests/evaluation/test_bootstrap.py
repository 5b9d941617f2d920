"""Intervals: by the seed, as wide as new draws spread, and not beside the estimate."""

import numpy as np
import pytest

from gesso.evaluation.bootstrap import Estimate, interval
from gesso.evaluation.fid import frechet_distance
from tests.evaluation.gaussians import draw


def test_the_same_for_a_seed() -> None:
    side = np.random.default_rng(0).normal(size=50)
    estimate = Estimate(3.0, (side - side.mean(),))
    assert interval(estimate, 200, 7) == interval(estimate, 200, 7)
    assert interval(estimate, 200, 7) != interval(estimate, 200, 8)


def test_of_a_mean_it_is_two_standard_errors_to_both_sides() -> None:
    values = np.random.default_rng(1).normal(size=400)
    low, high = interval(Estimate(5.0, (values - values.mean(),)), 4000, 0)
    error = values.std() / 20
    assert (low, high) == pytest.approx((5 - 1.96 * error, 5 + 1.96 * error), abs=0.1 * error)


def test_both_sides_add_their_variances() -> None:
    sides = [np.random.default_rng(seed).normal(size=400) for seed in (0, 1)]
    one, both = (interval(Estimate(0, tuple(s - s.mean() for s in sides[:count])), 4000, 0) for count in (1, 2))
    assert (both[1] - both[0]) / (one[1] - one[0]) == pytest.approx(2**0.5, rel=0.06)


def test_pictures_that_do_not_differ_leave_no_doubt() -> None:
    assert interval(Estimate(2.5, (np.zeros(10), np.zeros(4))), 100, 0) == (2.5, 2.5)


@pytest.mark.parametrize(("count", "dimension"), [(200, 4), (24, 32)])
def test_it_covers_the_expectation_at_this_number_of_pictures(count: int, dimension: int) -> None:
    """Nominally 95% of the time; with 32 dimensions and 24 pictures the covariances lack rank."""
    estimates = [frechet_distance(*draw(count, dimension, seed)) for seed in range(150)]
    expected = np.mean([estimate.value for estimate in estimates])
    found = [interval(estimate, 400, seed) for seed, estimate in enumerate(estimates)]
    assert 0.90 <= np.mean([low <= expected <= high for low, high in found]) <= 0.99


def test_it_covers_the_true_distance_where_the_bias_is_small() -> None:
    """Means differ by 0.5 in each of 2 dimensions, standard deviations are 1 and 2: FID is 0.5 + 2."""
    found = [interval(frechet_distance(*draw(2000, 2, seed)), 400, seed) for seed in range(100)]
    assert np.mean([low <= 2.5 <= high for low, high in found]) >= 0.90


def test_the_spread_is_nearer_to_that_of_new_draws_than_that_of_resamples() -> None:
    """The reason for the first order, which bootstrap.py states."""
    count, dimension = 48, 32
    drawn = [frechet_distance(*draw(count, dimension, seed)) for seed in range(100)]
    true = np.std([estimate.value for estimate in drawn])
    first_order = np.mean([np.sqrt(sum(side.var() / count for side in each.influences)) for each in drawn])
    random = np.random.default_rng(0)
    first, second = draw(count, dimension, 0)
    taken = [(random.integers(0, count, count), random.integers(0, count, count)) for _ in range(100)]
    resamples = [frechet_distance(first[one], second[two]).value for one, two in taken]
    assert abs(first_order - true) < abs(np.std(resamples) - true)
    assert np.percentile(resamples, 2.5) > drawn[0].value  # the whole interval lies above the estimate
