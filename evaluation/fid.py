"""Fréchet Inception Distance of two sets of features, and each picture's influence on it. numpy alone, float64.

    FID = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½        Heusel et al., arXiv 1706.08500

With Σ₁ = L Lᵀ of as many columns as its rank, and the symmetric Lᵀ Σ₂ L = P D² Pᵀ, the last trace is that of D: no
root of a matrix that is not symmetric, no imaginary parts, nothing added to the diagonal where the rank is low.

The derivative of that trace by Σ₁ is half the map T₁ that carries the first Gaussian to the second, so that a picture x
of the first side has the influence 2 (μ₁ − μ₂)·x̃ + |x̃|² − x̃ᵀ T₁ x̃, less its mean, with x̃ = x − μ₁; likewise the second:

    T₁ = G₁ G₁ᵀ, G₁ = L Λ⁻¹ P D^½, Λ = Lᵀ L              T₂ = G₂ G₂ᵀ, G₂ = L P D^−½

n, m pictures, d features, r rank.
"""

import numpy as np

from gesso.evaluation.bootstrap import Estimate, Floats

EPSILON = np.finfo(float).eps


def frechet_distance(first: Floats, second: Floats) -> Estimate:
    """FID of features (n, d) and (m, d) of two sides, n, m ≥ 2, with unbiased covariances."""
    if len(first) > len(second):  # the smaller rank costs less
        swapped = frechet_distance(second, first)
        return Estimate(swapped.value, swapped.influences[::-1])
    shift = first.mean(0) - second.mean(0)
    one, two = first - first.mean(0), second - second.mean(0)
    columns, values = factor(one)
    product = two @ columns / np.sqrt(len(two) - 1)
    squares, vectors = np.linalg.eigh(product.T @ product)
    roots = np.sqrt(squares.clip(0))
    value = shift @ shift + values.sum() + np.square(two).sum() / (len(two) - 1) - 2 * roots.sum()
    kept = squares > EPSILON * len(squares) * squares.max(initial=0)
    vectors, roots = vectors[:, kept], np.sqrt(roots[kept])
    influences = (
        influence(one, shift, columns / values @ (vectors * roots)),
        influence(two, -shift, columns @ (vectors / roots)),
    )
    return Estimate(float(value), influences)


def factor(centred: Floats) -> tuple[Floats, Floats]:
    """L, (d, r), of the covariance of centred features (n, d), and the squared norms of its orthogonal columns."""
    scaled = centred / np.sqrt(len(centred) - 1)
    few = len(scaled) <= scaled.shape[1]
    values, vectors = np.linalg.eigh(scaled @ scaled.T if few else scaled.T @ scaled)
    kept = values > EPSILON * max(scaled.shape) * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    return scaled.T @ vectors if few else vectors * np.sqrt(values), values


def influence(centred: Floats, shift: Floats, carry: Floats) -> Floats:
    """Of each picture of a side, (n,). `shift`: its mean less the other's; `carry`: G, (d, r)."""
    found = 2 * centred @ shift + np.square(centred).sum(1) - np.square(centred @ carry).sum(1)
    return np.asarray(found - found.mean())
