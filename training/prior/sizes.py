"""Sizes as people write them: 16GB, 16GiB, 8Gbit. Standard library only."""

import re
from argparse import ArgumentTypeError
from typing import NamedTuple

PREFIXES = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
SIZE = re.compile(r"(\d+(?:\.\d*)?) ?([kKMGT]?)(i?)(B|bit)(?:/s)?")


class Size(NamedTuple):
    """Bytes, and whether they were written in units of 1024."""

    bytes: float
    binary: bool


def size(text: str) -> Size:
    """argparse's `type` of a size: a number above 0 with a unit, B or bit; GB is 10⁹ bytes and GiB is 2³⁰."""
    found = SIZE.fullmatch(text.strip())
    number = float(found[1]) if found else 0.0
    if not found or number == 0:
        raise ArgumentTypeError(f"it is {text!r}: give a number above 0 with its unit, as in 16GB, 16GiB or 8Gbit")
    base = 1024 if found[3] else 1000
    return Size(number * base ** PREFIXES[found[2]] / (8 if found[4] == "bit" else 1), base == 1024)


def shown(amount: float, binary: bool) -> str:
    """`3.02 GB`, or `2.82 GiB`; small ones in MB or MiB."""
    base, i = (1024, "i") if binary else (1000, "")
    if amount < 10 * base**2:
        return f"{amount / base**2:,.2f} M{i}B"
    return f"{amount / base**3:,.2f} G{i}B"
