"""Pictures of the studio: of those not yet whole, the rows that are drawn; those that a person gives. numpy."""

import base64

from gesso import images
from gesso.errors import Rejected, UserError
from gesso.images import Pixels

MAX_PIXELS = 50_000_000  # of a picture that is given
MOST_SIDE = 1024  # its short side is shrunk to it


def drawn_part(pixels: Pixels, rows: int, grid: int) -> Pixels:
    """The first rows of codes."""
    return pixels[: len(pixels) * rows // grid]


def read_picture(text: str) -> Pixels:
    """The pixels of an image file in base64, upright. Raises UserError."""
    try:
        return read_pixels(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise UserError(f"the picture is no base64 ({error}): give a JPEG, PNG, WebP or GIF file") from error


def read_pixels(body: bytes) -> Pixels:
    """Raises UserError."""
    try:
        header = images.read_header(body)
        if header.width * header.height > MAX_PIXELS:
            size = f"{header.width:,}×{header.height:,} pixels"
            raise UserError(f"the picture has {size}: give one of {MAX_PIXELS:,} at most")
        width, height = images.fitted(header, MOST_SIDE, min(header.width, header.height))
        return images.render(body, header, width, height)
    except Rejected as rejected:
        raise UserError(f"the picture cannot be read ({rejected.message}): give a JPEG, PNG, WebP or GIF") from rejected
