"""A picture on its way to Inception: cut to a square, blurred, resized to 299×299. No torch.

    bytes ─ decode ─ centre crop ─ antialiased bicubic, 8 bits ─▶ (S, S, 3) uint8; one of that size stays as it is
          ─ Gaussian blur of r pixels, 8 bits ─▶ (S, S, 3) uint8 ─ resize ─▶ (299, 299, 3) float32 from 0 to 255

Both sides pass the same steps at the generated pictures' size S, so that neither is sharper by its size, and a radius
means the same on both. What leaves the first two steps is a picture that could have been saved as PNG.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gesso import images
from gesso.images import Header, Pixels

Floats = npt.NDArray[np.float32]

SIDE = 299  # pixels of Inception's input
REACH = 4  # standard deviations to which the blur's kernel reaches


def square(body: bytes, header: Header, size: int) -> Pixels:
    """The middle of a picture, (size, size, 3). Raises Rejected(undecodable)."""
    whole = images.decode(body, header, min(header.width, header.height))
    pixels = images.upright(whole, header.orientation)
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC))


def blur(pixels: Pixels, radius: float) -> Pixels:
    """Gaussian blur whose standard deviation is `radius` pixels, mirrored at the borders; rounded to 8 bits."""
    if not radius:
        return pixels
    side = 2 * math.ceil(REACH * radius) + 1
    blurred = cv2.GaussianBlur(pixels.astype(np.float32), (side, side), radius, borderType=cv2.BORDER_REFLECT_101)
    return np.rint(blurred).clip(0, 255).astype(np.uint8)


def resize(pixels: Pixels, how: str) -> Floats:
    """The picture at 299×299, by `clean` or `legacy`."""
    return resize_clean(pixels) if how == "clean" else resize_legacy(pixels)


def resize_clean(pixels: Pixels) -> Floats:
    """Antialiased bicubic in float, each channel by Pillow (Parmar et al., arXiv 2104.11222)."""
    channels = (Image.fromarray(channel) for channel in np.moveaxis(pixels.astype(np.float32), 2, 0))
    resized = [np.asarray(each.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for each in channels]
    return np.stack(resized, 2).clip(0, 255)


def resize_legacy(pixels: Pixels) -> Floats:
    """TensorFlow 1's bilinear resize without antialiasing, whose grid begins at the first pixel's centre."""
    rows, columns = (taps(length) for length in pixels.shape[:2])
    across = mixed(pixels.astype(np.float32), *columns, axis=1)
    return mixed(across, *rows, axis=0)


def taps(length: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """For each of 299 pixels the one to its left among `length`, and how far it is from that, (299,) each."""
    places = np.arange(SIDE, dtype=np.float32) * np.float32(length / SIDE)
    left = places.astype(np.int64)
    return left, places - left.astype(np.float32)


def mixed(pixels: Floats, left: npt.NDArray[np.int64], share: Floats, axis: int) -> Floats:
    """Neighbours along an axis, mixed by `share`."""
    first = pixels.take(left, axis)
    second = pixels.take(np.minimum(left + 1, pixels.shape[axis] - 1), axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.asarray(first + (second - first) * share.reshape(shape))
