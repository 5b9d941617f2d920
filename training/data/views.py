"""Random crops as in listings 1 and 2 of the DALL-E paper, and the centre crop of an evaluation.

    (h, w) ─ square crop, side s = min(h, w) ─▶ (s, s) ─ area resize ─▶ (t, t) ─ crop ─▶ (size, size) ─ flip

Pixels are (height, width, 3) uint8 RGB. The same bytes for the same pixels and the same random numbers. No torch.
"""

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image

from gesso import images
from gesso.errors import Rejected
from gesso.images import Pixels


def dvae_view(pixels: Pixels, size: int, random: Generator) -> Pixels:
    """Listing 1, for the dVAE: (size, size, 3). Raises Rejected(too_small) where the short side is under `size`.

    The listing's 288 and 384 at 256 are round(9/8 · size) and round(12/8 · size).
    """
    side = _short_side(pixels, size)
    square = _random_crop(pixels, side, random)
    view = _resize_and_crop(square, min(side, round(9 / 8 * size)), min(side, round(12 / 8 * size)), size, random)
    if random.integers(0, 2):
        view = np.asarray(cv2.flip(view, 1), np.uint8)  # 6 µs at 256, numpy's own way 200
    return np.ascontiguousarray(view)


def prior_view(pixels: Pixels, size: int, random: Generator) -> Pixels:
    """Listing 2, for the transformer: (size, size, 3), never flipped, since a picture may hold text.

    Raises Rejected(too_small) where the short side is under `size`.
    """
    side = _short_side(pixels, size)
    top, left = (_near_middle(length, side, random) for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    return np.ascontiguousarray(_resize_and_crop(square, size, min(side, round(9 / 8 * size)), size, random))


def centre_view(pixels: Pixels, size: int) -> Pixels:
    """For evaluation, not random: (size, size, 3). Raises Rejected(too_small) where the short side is under `size`.

    As in OpenAI's example for the released dVAE: resized by Pillow's Lanczos until the short side is `size`, then the
    middle.
    """
    side = _short_side(pixels, size)
    height, width = (round(length * size / side) for length in pixels.shape[:2])
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


def _short_side(pixels: Pixels, size: int) -> int:
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise Rejected("too_small", f"{width}×{height}: short side under {size}")
    return min(height, width)


def _near_middle(length: int, side: int, random: Generator) -> int:
    """Listing 2's offset of the square along one axis: random in the middle quarter of what is left over."""
    low = 3 * (length - side) // 8
    return int(random.integers(low, max(low + 1, 5 * (length - side) // 8)))


def _resize_and_crop(square: Pixels, least: int, most: int, size: int, random: Generator) -> Pixels:
    """Area resize to a side between `least` and `most`, both among them, then a random crop.

    Means of bytes need no clipping; they are rounded to nearest, halves to even, as in the listings.
    """
    side = int(random.integers(least, most + 1))
    return _random_crop(images.resize(square, side, side), size, random)


def _random_crop(pixels: Pixels, side: int, random: Generator) -> Pixels:
    top, left = (int(random.integers(0, length - side + 1)) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
