"""Pictures inside the page, as data URIs. OpenCV is loaded for large ones alone."""

from base64 import b64encode
from typing import NamedTuple

from gesso.errors import UserError
from gesso.training.report.png import png_size
from gesso.training.report.run import Grid

LARGE = 1 << 20  # bytes; a larger grid becomes a JPEG, so that a page of twelve grids stays below 20 MB
QUALITY = 90


class Shown(NamedTuple):
    """A grid on the page."""

    step: int
    uri: str
    width: int
    height: int


def shown(grid: Grid) -> Shown:
    name = f"the grid of step {grid.step}"
    return Shown(grid.step, uri(grid.body, name), *png_size(grid.body, name))


def exact_uri(png: bytes) -> str:
    """The file itself as a data URI."""
    return "data:image/png;base64," + b64encode(png).decode()


def uri(png: bytes, path: str) -> str:
    """A picture to look at: the file itself, or a JPEG of a large one. Raises UserError where it does not decode."""
    return exact_uri(png) if len(png) <= LARGE else "data:image/jpeg;base64," + b64encode(jpeg(png, path)).decode()


def jpeg(png: bytes, path: str) -> bytes:
    import cv2
    import numpy as np

    from gesso.images import encode

    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise UserError(f"{path} cannot be decoded: remove that evaluation's folder")
    return encode(pixels.astype(np.uint8), QUALITY)
