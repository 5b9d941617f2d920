"""Fréchet Inception Distance of two sets of features, and each picture's influence on it. numpy alone, float64.

    FID = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½        Heusel et al., arXiv 1706.08500

With factors Σ = L Lᵀ of as many columns as the rank, and the singular values L₁ᵀ L₂ = P D Qᵀ, the last trace is Σ D: no
square root of a matrix that is not symmetric, no small imaginary parts, exact at any rank.

The derivative of that trace by Σ₁ is half the map T that carries the one Gaussian to the other, so that a picture x of
the first side has the influence 2 (μ₁ − μ₂)·x̃ + |x̃|² − x̃ᵀ T x̃, less its mean, with x̃ = x − μ₁, T = G Gᵀ and
G = L₁ Λ₁⁻¹ P D^½, Λ₁ = L₁ᵀ L₁. Of the second side likewise. n pictures, d features, r rank.
"""

from typing import NamedTuple

import numpy as np

from gesso.evaluation.bootstrap import Estimate, Floats


class Factor(NamedTuple):
    """L, (d, r): Σ = L Lᵀ. Its columns are orthogonal, with the squared norms `values`, (r,)."""

    columns: Floats
    values: Floats


def frechet_distance(first: Floats, second: Floats) -> Estimate:
    """FID of features (n, d) and (m, d) of two sides, n, m ≥ 2, with unbiased covariances."""
    means = first.mean(0), second.mean(0)
    centred = first - means[0], second - means[1]
    one, two = (factor(side) for side in centred)
    left, singular, right = np.linalg.svd(one.columns.T @ two.columns, full_matrices=False)
    shift = means[0] - means[1]
    value = shift @ shift + one.values.sum() + two.values.sum() - 2 * singular.sum()
    influences = (
        influence(centred[0], shift, one, left * np.sqrt(singular)),
        influence(centred[1], -shift, two, right.T * np.sqrt(singular)),
    )
    return Estimate(float(value), influences)


def factor(centred: Floats) -> Factor:
    """The factor of the covariance of centred features (n, d), from the smaller of the two products with themselves."""
    scaled = centred / np.sqrt(len(centred) - 1)
    few = len(scaled) <= scaled.shape[1]
    values, vectors = np.linalg.eigh(scaled @ scaled.T if few else scaled.T @ scaled)
    kept = values > np.finfo(float).eps * max(scaled.shape) * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    return Factor(scaled.T @ vectors if few else vectors * np.sqrt(values), values)


def influence(centred: Floats, shift: Floats, own: Factor, rotated: Floats) -> Floats:
    """Of each picture of a side, (n,); `rotated`: its singular vectors, times the roots of the singular values."""
    carried = centred @ ((own.columns / own.values) @ rotated)
    found = 2 * centred @ shift + np.square(centred).sum(1) - np.square(carried).sum(1)
    return found - found.mean()
