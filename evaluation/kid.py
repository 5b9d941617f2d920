"""Kernel Inception Distance of two sets of features, and each picture's influence on it. numpy alone, float64.

The unbiased estimate of the squared MMD under the kernel k(x, y) = (x·y / d + 1)³ (Bińkowski et al., arXiv 1801.01401),
over all pictures at once: the mean that estimates over random subsets, as torch-fidelity's 100 of 1,000 pictures, tend
to. Not biased by the number of pictures, and below 0 now and then where the sides are alike. n, m pictures, d features.
"""

import numpy as np

from gesso.evaluation.bootstrap import Estimate, Floats

BLOCK = 256  # rows of the kernel's matrix at a time


def kernel_distance(first: Floats, second: Floats) -> Estimate:
    """KID of features (n, d) and (m, d), n, m ≥ 2."""
    across = means(first, second)
    within = [means_of_others(side) for side in (first, second)]
    value = within[0].mean() + within[1].mean() - 2 * across[0].mean()
    influences = [2 * (own - other) for own, other in zip(within, across, strict=True)]
    return Estimate(float(value), tuple(each - each.mean() for each in influences))


def means(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """The mean kernel of each picture of a side with those of the other, (n,) and (m,)."""
    rows, columns = [], np.zeros(len(second))
    for start in range(0, len(first), BLOCK):
        kernels = (first[start : start + BLOCK] @ second.T / first.shape[1] + 1) ** 3
        rows.append(kernels.mean(1))
        columns += kernels.sum(0) / len(first)
    return np.concatenate(rows), columns


def means_of_others(side: Floats) -> Floats:
    """The mean kernel of each picture with the others of its side, (n,)."""
    itself = (np.square(side).sum(1) / side.shape[1] + 1) ** 3
    return np.asarray((means(side, side)[0] * len(side) - itself) / (len(side) - 1))
