"""Pictures inside the page: sizes from headers, data URIs. OpenCV is loaded for large ones alone."""

from base64 import b64encode

from gesso.errors import UserError

LARGE = 1 << 20  # bytes; a larger grid becomes a JPEG, so that a page of twelve grids stays below 20 MB
QUALITY = 90


def png_size(body: bytes, path: str) -> tuple[int, int]:
    """Width and height from a PNG's header. Raises UserError."""
    if body[:8] != b"\x89PNG\r\n\x1a\n" or len(body) < 24:
        raise UserError(f"{path} is not a PNG: remove that evaluation's folder")
    return int.from_bytes(body[16:20], "big"), int.from_bytes(body[20:24], "big")


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
