"""The byte ranges of a tar's samples, read from its headers alone. No Beam, no pictures.

    ┌ sample ───────────────────────────────────────────┐┌ next sample
    │ header  picture … │ header  caption │ header json ││ header …
    └ offset            bytes = up to the next ─────────┘└

The members of a sample are adjacent, in any order (so are img2dataset's); extension headers for long names (PAX, GNU)
belong to the sample that follows them.
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
CHECKSUM = slice(148, 156)

ReadAt = Callable[[int, int], bytes]  # offset, size


class DamagedTar(Exception):
    """A damaged tar; the message is a predicate that follows the file's name."""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int  # of its data
    bytes: int
    end: int  # of its last block

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]

    @property
    def suffix(self) -> str:
        return self.name.partition(".")[2]


class Sample(NamedTuple):
    """A sample's key, its byte range in the tar, and the sizes of its members' data."""

    key: str
    offset: int
    bytes: int
    image_bytes: int
    caption_bytes: int
    json_bytes: int


def list_samples(read_at: ReadAt, size: int) -> list[Sample]:
    """The samples of a tar of `size` bytes, in its order. Raises DamagedTar."""
    found, seen = [], set[str]()
    start = 0
    for key, grouped in groupby(iter_members(read_at, size), lambda member: member.key):
        group = list(grouped)
        if key in seen:
            raise DamagedTar(f"holds sample {key} twice, or its files are not adjacent")
        seen.add(key)
        by_kind = members_by_kind(group)
        sizes = (by_kind[kind].bytes for kind in (IMAGE, CAPTION, JSON))
        found.append(Sample(key, start, group[-1].end - start, *sizes))
        start = group[-1].end
    return found


def iter_members(read_at: ReadAt, size: int) -> Iterator[Member]:
    """The files of a tar of `size` bytes, which ends with an empty block. Raises DamagedTar."""
    offset = 0
    while block := read_at(offset, BLOCK):
        if not block.strip(b"\0"):
            return
        member, regular = read_header(block, offset)
        if member.end > size:
            raise DamagedTar(f"is cut off in {member.name}")
        offset = member.end
        if regular:
            yield member
    raise DamagedTar("is cut off at its end")


def sample_members(sample: bytes) -> dict[str, Member]:
    """The members of one sample by kind (IMAGE, CAPTION, JSON), from its bytes in the tar. Raises DamagedTar."""
    found, offset = [], 0
    while offset < len(sample):
        member, regular = read_header(sample[offset : offset + BLOCK], offset)
        offset = member.end
        if regular:
            found.append(member)
    if len({member.key for member in found}) != 1 or offset != len(sample):
        raise DamagedTar("holds a different sample than before")
    return members_by_kind(found)


def members_by_kind(found: Iterable[Member]) -> dict[str, Member]:
    """A sample's members by kind. Raises DamagedTar unless they are a picture, a caption and a json."""
    found = list(found)
    kinds = {KINDS.get(member.suffix, member.suffix): member for member in found}
    if len(found) != len(KINDS.keys() - PICTURES) + 1 or kinds.keys() != {IMAGE, CAPTION, JSON}:
        suffixes = ", ".join(member.suffix for member in found)
        raise DamagedTar(f"holds sample {found[0].key} as {suffixes}, not as a picture, txt and json")
    return kinds


def read_header(block: bytes, offset: int) -> tuple[Member, bool]:
    """The member whose header is at `offset`, and whether it is a regular file. Raises DamagedTar."""
    try:
        if (
            int(block[CHECKSUM].rstrip(b" \0"), 8) != sum(block) - sum(block[CHECKSUM]) + 8 * ord(" ")
            or len(block) < BLOCK
        ):
            raise ValueError("bad checksum")
        size = int(block[124:136].rstrip(b" \0"), 8)
        name = block[:100].partition(b"\0")[0].decode()
    except ValueError as error:
        raise DamagedTar(f"is no tar from byte {offset:,} on ({error})") from error
    body = offset + BLOCK
    return Member(name, body, size, body + size + -size % BLOCK), block[156:157] in REGULAR


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()
