"""Where the samples of a tar stand, told by its headers alone, bodies unread. No Beam, no pictures.

    ┌ sample ───────────────────────────────────────────┐┌ next sample
    │ header  picture … │ header  caption │ header json ││ header …
    └ offset            bytes = up to the next ─────────┘└

The members of a sample stand together in any order, as img2dataset leaves them, too; blocks that carry what a header
has no room for (PAX, GNU) belong to the sample behind them.
"""

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif")  # of what may be a picture
PICTURES = frozenset({"jpg", "jpeg", "png", "webp"})
IMAGE, CAPTION, JSON = "image", "caption", "json"
KINDS = {**dict.fromkeys(PICTURES, IMAGE), "txt": CAPTION, "json": JSON}
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
SUM = slice(148, 156)

ReadAt = Callable[[int, int], bytes]  # offset, size


class Damage(Exception):
    """What is wrong with a tar, as words that follow its name."""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int  # of its body
    bytes: int
    end: int  # of its last block

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]

    @property
    def ending(self) -> str:
        return self.name.partition(".")[2]


class Sample(NamedTuple):
    """A sample's key, its range in the tar, and the sizes of its bodies."""

    key: str
    offset: int
    bytes: int
    image_bytes: int
    caption_bytes: int
    json_bytes: int


def index(read_at: ReadAt, size: int) -> list[Sample]:
    """The samples of a whole tar of `size` bytes, in its order. Raises Damage."""
    found, seen = [], set[str]()
    start = 0
    for key, group in groupby(members(read_at, size), lambda member: member.key):
        parts = list(group)
        if key in seen:
            raise Damage(f"holds sample {key} twice, or its files apart")
        seen.add(key)
        bodies = by_kind(parts)
        sizes = (bodies[kind].bytes for kind in (IMAGE, CAPTION, JSON))
        found.append(Sample(key, start, parts[-1].end - start, *sizes))
        start = parts[-1].end
    return found


def members(read_at: ReadAt, size: int) -> Iterator[Member]:
    """The files of a whole tar, which ends with an empty block. Raises Damage."""
    offset = 0
    while block := read_at(offset, BLOCK):
        if not block.strip(b"\0"):
            return
        member, regular = read_header(block, offset)
        if member.end > size:
            raise Damage(f"is cut off in {member.name}")
        offset = member.end
        if regular:
            yield member
    raise Damage("is cut off in its end")


def parts(sample: bytes) -> dict[str, Member]:
    """The files of one sample's range, by kind. Raises Damage."""
    found, offset = [], 0
    while offset < len(sample):
        member, regular = read_header(sample[offset : offset + BLOCK], offset)
        offset = member.end
        if regular:
            found.append(member)
    if len({member.key for member in found}) != 1 or offset != len(sample):
        raise Damage("holds another sample than before")
    return by_kind(found)


def by_kind(found: Iterable[Member]) -> dict[str, Member]:
    """A sample's picture, caption and fields. Raises Damage unless they are these three."""
    found = list(found)
    kinds = {KINDS.get(member.ending, member.ending): member for member in found}
    if len(found) != len(KINDS.keys() - PICTURES) + 1 or kinds.keys() != {IMAGE, CAPTION, JSON}:
        endings = ", ".join(member.ending for member in found)
        raise Damage(f"holds sample {found[0].key} as {endings}, not as a picture, txt and json")
    return kinds


def read_header(block: bytes, offset: int) -> tuple[Member, bool]:
    """The member whose header stands at `offset`, and whether it is a file. Raises Damage."""
    try:
        if int(block[SUM].rstrip(b" \0"), 8) != sum(block) - sum(block[SUM]) + 8 * ord(" ") or len(block) < BLOCK:
            raise ValueError("bad checksum")
        size = int(block[124:136].rstrip(b" \0"), 8)
        name = block[:100].partition(b"\0")[0].decode()
    except ValueError as error:
        raise Damage(f"is no tar from byte {offset:,} on ({error})") from error
    body = offset + BLOCK
    return Member(name, body, size, body + size + -size % BLOCK), block[156:157] in REGULAR


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()
