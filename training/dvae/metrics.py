"""Metrics of reconstructions and of codebook usage. torch alone.

b pictures, S their side, K codes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)
C1, C2 = 0.01**2, 0.03**2


def squared_error(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared error of each picture, (b,); pictures (b, 3, S, S) in 0…1."""
    return (one - other).square().mean((1, 2, 3))


def psnr(squared: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared errors, of a picture whose range is 1."""
    return -10 * squared.clamp_min(1e-10).log10()


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of each picture, (b,): each channel under a Gaussian of 11 pixels, where it fits whole."""
    offsets = torch.arange(WINDOW, dtype=one.dtype, device=one.device) - WINDOW // 2
    bell = torch.exp(-offsets.square() / (2 * SIGMA**2))
    kernel = torch.outer(bell, bell) / bell.sum().square()

    def mean(x: Tensor) -> Tensor:
        means = F.conv2d(x.flatten(0, 1).unsqueeze(1), kernel[None, None])
        return means.view(*x.shape[:2], *means.shape[2:])

    at, bt = mean(one), mean(other)
    variances = mean(one * one) - at * at + mean(other * other) - bt * bt
    covariance = mean(one * other) - at * bt
    similar = (2 * at * bt + C1) * (2 * covariance + C2) / ((at * at + bt * bt + C1) * (variances + C2))
    return similar.mean((1, 2, 3))


def count_codes(codes: Tensor, vocabulary: int) -> Tensor:
    """How often each code occurs: int64 (K,). Unlike `bincount`, it does not wait for the device."""
    flat = codes.flatten()
    return flat.new_zeros(vocabulary).scatter_add_(0, flat, torch.ones_like(flat))


def in_use(counts: Tensor) -> int:
    """Codes that occur."""
    return int((counts > 0).sum())


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of the codes: how many would be in use if all were used alike."""
    share = counts.double() / counts.sum().clamp_min(1)
    return float(torch.special.entr(share).sum().exp())
