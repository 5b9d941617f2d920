"""Intervals of every figure: a bootstrap over the pictures of both sides, to first order. numpy alone.

A figure is a smooth function of the weights of the pictures. Its derivative by the weight of picture i is that
picture's influence, which each figure has in closed form; a resample, in which picture i stands w_i times, changes the
figure by

    Σ (w_i − 1) · influence_i / n                      summed over both sides

up to terms of second order. Those are the reason: in a true resample a picture that stands twice makes FID larger and
the Inception Score smaller than any new draw would (two thirds of the pictures are left), so that percentiles of true
resamples lie beside the estimate. The first order has no such bias, costs no decomposition a resample, and its spread
is nearer to that of new draws (tests/evaluation/test_bootstrap.py). What is covered is the figure's expectation at this
number of pictures, not at infinitely many.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERCENTILES = (2.5, 97.5)


class Estimate(NamedTuple):
    """A figure, and the influence of each picture on it, (n,) with mean 0, for each side that it depends on."""

    value: float
    influences: tuple[Floats, ...]


def interval(estimate: Estimate, resamples: int, seed: int) -> tuple[float, float]:
    """The 95% interval of the figure."""
    random = np.random.default_rng(seed)
    sides = estimate.influences
    changes = [sum(side[random.integers(0, len(side), len(side))].mean() for side in sides) for _ in range(resamples)]
    low, high = np.percentile(changes, PERCENTILES)
    return float(estimate.value + low), float(estimate.value + high)
