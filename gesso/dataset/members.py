"""The byte ranges of a tar's samples, read from its headers alone. No Beam, no pictures.

    ┌ sample ───────────────────────────────────────────┐┌ next sample
    │ header  picture … │ header  caption │ header json ││ header …
    └ offset            bytes = up to the next ─────────┘└

The members of a sample are adjacent, in any order (so are img2dataset's); the headers of PAX and GNU that tell a long
name stand before a member's own and belong to its sample.
"""

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif")  # of what may be a picture
PICTURES = frozenset(SUFFIXES)
IMAGE, CAPTION, JSON = "image", "caption", "json"
KINDS = {**dict.fromkeys(PICTURES, IMAGE), "txt": CAPTION, "json": JSON}
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
EXTENDED = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)  # whose data tell of the next header
TOLD = (b"path", b"size")  # of what those tell
CHECKSUM = slice(148, 156)
MAGIC, USTAR = slice(257, 265), tarfile.POSIX_MAGIC
PREFIX = slice(345, 500)  # of a name in ustar that is longer than its field
NOTHING: Mapping[str, str] = {}

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
        return split_name(self.name)[0]

    @property
    def suffix(self) -> str:
        return split_name(self.name)[1]


class Sample(NamedTuple):
    """A sample's key, its byte range in the tar, the sizes of its members' data, and its picture's suffix."""

    key: str
    offset: int
    bytes: int
    image_bytes: int
    caption_bytes: int
    json_bytes: int
    image_suffix: str = "jpg"


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
        image, caption, fields = (by_kind[kind] for kind in (IMAGE, CAPTION, JSON))
        sizes = (image.bytes, caption.bytes, fields.bytes)
        found.append(Sample(key, start, group[-1].end - start, *sizes, image.suffix))
        start = group[-1].end
    return found


def iter_members(read_at: ReadAt, size: int) -> Iterator[Member]:
    """The files of a tar of `size` bytes, which ends with an empty block. Raises DamagedTar."""
    for member in headers(read_at, size):
        if member is None:
            return
        yield member
    raise DamagedTar("is cut off at its end")


def headers(read_at: ReadAt, size: int) -> Iterator[Member | None]:
    """The files of a tar or of a part of it, `size` bytes, and None for an empty block. Raises DamagedTar."""
    offset, told = 0, dict[str, str]()
    while block := read_at(offset, BLOCK):
        if not block.strip(b"\0"):
            yield None
            offset += BLOCK
            continue
        member, kind = read_header(block, offset, told)
        if member.end > size:
            raise DamagedTar(f"is cut off in {member.name}")
        offset = member.end
        told = extension(kind, read_at(member.offset, member.bytes)) if kind in EXTENDED else {}
        if kind in REGULAR:
            yield member


def extension(kind: bytes, body: bytes) -> dict[str, str]:
    """What a header of PAX or GNU tells of the next one: its `path`, of PAX its `size` too. Raises DamagedTar."""
    told = {b"path": body.rstrip(b"\0")} if kind == tarfile.GNUTYPE_LONGNAME else pax_records(body)
    try:
        return {name.decode(): told[name].decode() for name in TOLD if name in told}
    except UnicodeDecodeError as error:
        raise DamagedTar(f"holds a name that is not UTF-8 ({error})") from error


def pax_records(body: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header, `LENGTH NAME=VALUE` and a line end. Raises DamagedTar."""
    told = dict[bytes, bytes]()
    while body:
        length, blank, _ = body.partition(b" ")
        end = int(length) if blank and length.isdigit() else 0
        record = body[len(length) + 1 : end]
        if end > len(body) or not record.endswith(b"\n"):
            raise DamagedTar("has a PAX header that is damaged")
        name, _, value = record[:-1].partition(b"=")
        told[name] = value
        body = body[end:]
    return told


def sample_members(sample: bytes) -> dict[str, Member]:
    """The members of one sample by kind (IMAGE, CAPTION, JSON), from its bytes in the tar. Raises DamagedTar."""
    found = list(headers(lambda offset, size: sample[offset : offset + size], len(sample)))
    members = [member for member in found if member]
    if len(members) != len(found) or len({member.key for member in members}) != 1 or members[-1].end != len(sample):
        raise DamagedTar("holds a different sample than before")
    return members_by_kind(members)


def members_by_kind(found: Iterable[Member]) -> dict[str, Member]:
    """A sample's members by kind. Raises DamagedTar unless they are a picture, a caption and a json."""
    found = list(found)
    kinds = {KINDS.get(member.suffix, member.suffix): member for member in found}
    if len(found) != len(KINDS.keys() - PICTURES) + 1 or kinds.keys() != {IMAGE, CAPTION, JSON}:
        suffixes = ", ".join(member.suffix for member in found)
        raise DamagedTar(
            f"holds sample {found[0].key} as {suffixes}, not as a picture, txt and json (`gesso index` takes others)"
        )
    return kinds


def read_header(block: bytes, offset: int, told: Mapping[str, str] = NOTHING) -> tuple[Member, bytes]:
    """The member whose header is at `offset`, and its type; `told`: by the header before. Raises DamagedTar."""
    try:
        if (
            int(block[CHECKSUM].rstrip(b" \0"), 8) != sum(block) - sum(block[CHECKSUM]) + 8 * ord(" ")
            or len(block) < BLOCK
        ):
            raise ValueError("bad checksum")
        size = int(told["size"]) if "size" in told else int(block[124:136].rstrip(b" \0"), 8)
        if size < 0:
            raise ValueError(f"a size of {size:,}")
        name = told["path"] if "path" in told else name_of(block)
    except ValueError as error:
        raise DamagedTar(f"is no tar from byte {offset:,} on ({error})") from error
    body = offset + BLOCK
    return Member(name, body, size, body + size + -size % BLOCK), block[156:157]


def name_of(block: bytes) -> str:
    """The name in a header's own fields."""
    name = block[:100].partition(b"\0")[0].decode()
    prefix = block[PREFIX].partition(b"\0")[0] if block[MAGIC] == USTAR else b""
    return f"{prefix.decode()}/{name}" if prefix else name


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member as webdataset groups them: `./2024.v1/07.seg.PNG` → `2024.v1/07` and `seg.PNG`.

    The key is the folders with the base name up to its first dot; `./` in front is dropped.
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()
