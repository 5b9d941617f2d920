"""The loss of a dVAE (DALL-E paper, 2.1 and A.3): pixel map, logit-Laplace, Gumbel-softmax, KL to uniform. torch alone.

b pictures, S their side, K codes, g = S/8.
"""

from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.training.dvae.settings import FACTOR

EPSILON = 0.1
SUBPIXELS = 3 * FACTOR**2  # subpixels of one code, 192: the loss is per subpixel, so beta is divided by it
# From the density of mapped pixels on (0, 1) to that of 8-bit values: d phi / d x = (1 − 2e) / 255.
TO_BYTES = -log((1 - 2 * EPSILON) / 255)


def map_pixels(pixels: Tensor) -> Tensor:
    """uint8 or float 0…255 → float32 in [0.1, 0.9]: (1 − 2e)·x/255 + e."""
    return pixels.float() * ((1 - 2 * EPSILON) / 255) + EPSILON


def at_least_float32(x: Tensor) -> Tensor:
    """float64 as it is, anything else as float32."""
    return x if x.dtype == torch.float64 else x.float()


def unmap_pixels(x: Tensor) -> Tensor:
    """The inverse, to 0…1, clamped."""
    return ((x - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def reconstruct(output: Tensor) -> Tensor:
    """The picture of the decoder's output (b, 6, S, S): float32 (b, 3, S, S) in 0…1."""
    return unmap_pixels(torch.sigmoid(at_least_float32(output[:, :3])))


def logit_laplace(x: Tensor, output: Tensor) -> Tensor:
    """−ln f(x | mu, b) in nats of each subpixel (b, 3, S, S): ln 2 + ln b + ln x + ln(1 − x) + |logit x − mu| / b.

    x (b, 3, S, S) in (0, 1); output (b, 6, S, S): mu, ln b.
    """
    mu, ln_b = at_least_float32(output).chunk(2, dim=1)
    ln_x, ln_rest = x.log(), torch.log1p(-x)
    return log(2) + ln_b + ln_x + ln_rest + (ln_x - ln_rest - mu).abs() * (-ln_b).exp()


def gumbel(exponential: Tensor) -> Tensor:
    """Gumbel noise of Exp(1) noise: −ln E."""
    return -exponential.log()


def relax(logits: Tensor, noise: Tensor, temperature: float | Tensor) -> Tensor:
    """A relaxed sample of one code at each position, (b, K, g, g): softmax of (logits + Gumbel noise) / temperature."""
    return F.softmax((logits + noise) / temperature, dim=1)


def harden(logits: Tensor) -> Tensor:
    """The likeliest code of each position, one-hot: float32 (b, K, g, g)."""
    return F.one_hot(logits.argmax(1), logits.shape[1]).movedim(3, 1).float()


def kl_uniform(logits: Tensor) -> Tensor:
    """KL of the plain categorical, without noise, against uniform: nats of each position (b, g, g), at most ln K."""
    ln_q = F.log_softmax(logits, dim=1)
    return (ln_q.exp() * ln_q).sum(1) + log(logits.shape[1])
