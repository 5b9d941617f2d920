"""Captions to draw: of the command line, or of a file with one a line. Light: the standard library alone."""

import re

from gesso import storage
from gesso.errors import UserError

# Control characters but tabs, and what a terminal's broken bytes become: signs of a file that is no text.
BINARY = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
SHOWN = 40  # characters of a caption in a message


def checked(caption: str, where: str = "the caption") -> str:
    """The caption without blanks around it. Raises UserError where it is empty, or holds what is no text."""
    found = BINARY.search(caption)
    if found:
        raise UserError(f"{where} is no text: it has {found[0]!r} after {caption[: found.start()][-SHOWN:]!r}")
    if not caption.strip():
        raise UserError(f"{where} is empty: write what the picture shows")
    return caption.strip()


def read(path: str) -> list[str]:
    """The captions of a UTF-8 file, one a line; empty lines at its end do not count. Raises UserError."""
    if not storage.exists(path):
        raise UserError(f"--captions {path} is not there: give a file with a caption on each line")
    try:
        lines = storage.read(path).decode("utf-8-sig").rstrip().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"--captions {path} is no UTF-8 text ({error.reason} at byte {error.start:,})") from error
    return [checked(line, f"{path} line {number:,}") for number, line in enumerate(lines, 1)]


def given(caption: str, path: str) -> list[str]:
    """Those that a command is to draw: one, or a file's. Raises UserError."""
    if bool(caption) == bool(path):
        raise UserError('give one caption, as in `gesso generate "a red apple"`, or --captions FILE')
    return read(path) if path else [checked(caption)]


def short(caption: str) -> str:
    """For messages."""
    return caption if len(caption) <= SHOWN else f"{caption[: SHOWN - 1]}…"
