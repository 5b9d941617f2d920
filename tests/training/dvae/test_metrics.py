"""Errors and code usage against brute force."""

from math import exp, log, log10

import numpy as np
import pytest
import torch

from gesso.training.dvae import metrics


def pictures(seed: int, side: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ssim_by_hand(one: np.ndarray, other: np.ndarray) -> float:
    """Of one channel, window by window (Wang et al. 2004)."""
    at = np.arange(11) - 5
    bell = np.exp(-(at**2) / (2 * 1.5**2))
    weight = np.outer(bell, bell) / bell.sum() ** 2
    found = []
    for y in range(one.shape[0] - 10):
        for x in range(one.shape[1] - 10):
            a, b = one[y : y + 11, x : x + 11], other[y : y + 11, x : x + 11]
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(found))


def test_ssim_is_that_of_every_window() -> None:
    one, other = pictures(0), pictures(1) * 0.5 + pictures(0) * 0.5
    by_hand = [np.mean([ssim_by_hand(one[n, c].numpy(), other[n, c].numpy()) for c in range(3)]) for n in range(2)]
    assert metrics.ssim(one, other).tolist() == pytest.approx(by_hand, abs=1e-9)


def test_of_equal_pictures() -> None:
    one = pictures(2)
    assert metrics.ssim(one, one).tolist() == pytest.approx([1, 1])
    assert metrics.squared_error(one, one).tolist() == [0, 0]
    assert metrics.psnr(torch.zeros(1)).tolist() == [100]


def test_squared_error_and_psnr_of_a_constant_difference() -> None:
    squared = metrics.squared_error(pictures(3), pictures(3) + 0.1)
    assert squared.tolist() == pytest.approx([0.01, 0.01])
    assert metrics.psnr(squared).tolist() == pytest.approx([-10 * log10(0.01)] * 2)


def test_codes_in_use_and_their_perplexity() -> None:
    counts = metrics.count_codes(torch.tensor([[0, 2], [2, 2]]), 4)
    assert counts.tolist() == [1, 0, 3, 0]
    assert metrics.in_use(counts) == 2
    assert metrics.perplexity(counts) == pytest.approx(exp(-(0.25 * log(0.25) + 0.75 * log(0.75))))
    assert metrics.perplexity(torch.full((8,), 5)) == pytest.approx(8)
    assert metrics.perplexity(torch.zeros(8, dtype=torch.int64)) == 1
