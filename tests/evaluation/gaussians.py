"""Features of known moments."""

import numpy as np

from gesso.evaluation.bootstrap import Floats


def draw(count: int, dimension: int, seed: int) -> tuple[Floats, Floats]:
    """Standard normal features, and others of mean 0.5 and standard deviation 2: FID is 1.25 a dimension."""
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, count, dimension))
    return first, 2 * second + 0.5


def exactly(count: int, mean: Floats, covariance: Floats, seed: int = 0) -> Floats:
    """`count` features whose mean and unbiased covariance are these to the last bits; `covariance` is diagonal."""
    drawn = np.random.default_rng(seed).normal(size=(count, len(mean)))
    basis, _ = np.linalg.qr(drawn - drawn.mean(0))
    return np.asarray(basis * np.sqrt(np.diag(covariance) * (count - 1)) + mean)


def as_features(count: int, dimension: int, seed: int) -> Floats:
    """Nonnegative, correlated, of very different variances, as Inception's are."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimension, dimension)) / np.sqrt(dimension)
    spread = np.geomspace(1, 0.02, dimension)
    return np.asarray(np.maximum(random.normal(size=(count, dimension)) @ mixing * spread + 0.3, 0))
