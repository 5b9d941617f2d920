"""Draws pictures on white squares of 128 pixels: SVG by rsvg-convert, pixels by Pillow; and says why one is dropped."""

import io
import subprocess
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

SIZE = 128  # pixels of a side
MARGIN = 4  # pixels around the object
CANVAS = 2 * SIZE  # of the first drawing, which finds where the object is
LARGEST = 2048  # of a second drawing, of an object that is small in its page
SECONDS = 10.0  # for a drawing
QUALITY = 80  # of the JPEG, its colours at half the size: 3.2 KB a picture, a fifth less than without
INVISIBLE = 248  # a pixel from this value in each channel is white
PALE = 235  # a pixel from this value in each channel is hardly seen on white
LEAST_PAINTED = 0.02  # share of pixels that are seen
LEAST_CONTRAST = 6.0  # standard deviation of the most varied channel
LONGEST = 5.0  # long side of the object over the short

Pixels = npt.NDArray[np.uint8]


class Dropped(Exception):
    """Why a picture is left out, as a short reason."""


def draw_svg(svg: bytes) -> Pixels:
    """The object of an SVG on white, cropped to it, about (CANVAS, CANVAS, 3). Raises Dropped."""
    drawn = rsvg(svg, CANVAS)
    top, bottom, left, right = box(drawn)
    side = max(bottom - top, right - left)
    if side < CANVAS // 2:
        drawn = rsvg(svg, min(LARGEST, CANVAS * CANVAS // side))
        top, bottom, left, right = box(drawn)
    return drawn[top:bottom, left:right]


def rsvg(svg: bytes, side: int) -> Pixels:
    """An SVG on white, its long side `side` pixels. Raises Dropped."""
    command = ["rsvg-convert", "--keep-aspect-ratio", f"--width={side}", f"--height={side}", "--background-color=white"]
    try:
        done = subprocess.run(command, input=svg, capture_output=True, timeout=SECONDS, check=True)
        return np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB"))
    except subprocess.TimeoutExpired as error:
        raise Dropped("drawing takes too long") from error
    except (subprocess.CalledProcessError, UnidentifiedImageError) as error:
        raise Dropped("cannot be drawn") from error


def draw_file(path: Path) -> Pixels:
    """The object of a picture with transparency on white, cropped to it. Raises Dropped."""
    try:
        picture = Image.open(path).convert("RGBA")
    except OSError as error:
        raise Dropped("cannot be drawn") from error
    white = Image.new("RGBA", picture.size, "white")
    pixels = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    top, bottom, left, right = box(pixels)
    return pixels[top:bottom, left:right]


def photograph(path: Path) -> Pixels:
    """The middle square of a photograph, (SIZE, SIZE, 3)."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side]
    return np.asarray(cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)


def box(pixels: Pixels) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is not white. Raises Dropped where nothing is."""
    painted = np.any(pixels < INVISIBLE, 2)
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    if not len(rows):
        raise Dropped("empty")
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def on_white(pixels: Pixels) -> Pixels:
    """The object in the middle of a white square, with a margin, (SIZE, SIZE, 3). Raises Dropped."""
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        raise Dropped("too narrow")
    if max(height, width) < SIZE // 3:
        raise Dropped("too small")
    scale = (SIZE - 2 * MARGIN) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(pixels, size, interpolation=way)
    square = np.full((SIZE, SIZE, 3), 255, np.uint8)
    top, left = (SIZE - size[1]) // 2, (SIZE - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = small
    check(square)
    return square


def check(square: Pixels) -> None:
    """Raises Dropped where almost nothing can be seen, or one colour without a shape."""
    if np.any(square < PALE, 2).mean() < LEAST_PAINTED:
        raise Dropped("almost white")
    inner = square[MARGIN:-MARGIN, MARGIN:-MARGIN]
    if float(inner.std((0, 1)).max()) < LEAST_CONTRAST:
        raise Dropped("one colour all over")


def jpeg(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY, subsampling=2, optimize=True)
    return stream.getvalue()
