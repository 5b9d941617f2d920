"""A PNG's header."""

from gesso.errors import UserError


def png_size(body: bytes, path: str) -> tuple[int, int]:
    """Width and height from a PNG's header. Raises UserError."""
    if body[:8] != b"\x89PNG\r\n\x1a\n" or len(body) < 24:
        raise UserError(f"{path} is not a PNG: remove that evaluation's folder")
    return int.from_bytes(body[16:20], "big"), int.from_bytes(body[20:24], "big")
