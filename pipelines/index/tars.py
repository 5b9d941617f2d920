"""Which tars are indexed, and a look at both ends of each before the job: whole, unpacked, each once. No Beam."""

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import takewhile
from typing import IO, Any, NamedTuple

import pyarrow as pa

from gesso import storage
from gesso.dataset.members import BLOCK, DamagedTar
from gesso.errors import UserError
from gesso.pipelines.index.samples import first_key
from gesso.pipelines.index.tar_stream import HeaderInput, iter_members
from gesso.storage import Found

THREADS = 16
HEAD_BYTES = 64 << 10  # of a tar, in which its first sample is looked for
END_BYTES = 2 * BLOCK
SHOWN = 3  # tars that an error names
FOLDER = "tars"  # of the output, for those that are unpacked
REFETCH = "fetch it again, or leave it out of the pattern"
MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zst"}
UNPACKING = {"gz": "gunzip -k", "bz2": "bunzip2 -k", "xz": "unxz -k", "zst": "unzstd"}
LFS = b"version https://git-lfs"
ENDING = re.compile(r"\.tgz\Z|(\.tar)?\.(gz|bz2|zst|xz)\Z|\.tar\Z", re.I)
IN_FOLDER = re.compile(r"\.tgz\Z|\.tar(\.(gz|bz2|zst|xz))?\Z", re.I)
OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gz": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
    "zst": lambda stream: pa.CompressedInputStream(stream, "zstd"),
}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


class Tar(NamedTuple):
    """A tar that is indexed."""

    number: int  # of its shard
    path: str
    bytes: int  # of the file, compressed or not
    name: str  # in the rows: its file name, or its path below the folder of all where two have one name
    compression: str  # a key of OPENERS, or empty

    def place(self, output: str) -> str:
        """Where it stands once it is indexed."""
        return storage.join(output, FOLDER, self.name) if self.compression else storage.absolute(self.path)


class Ends(NamedTuple):
    """What both ends of a file tell."""

    compression: str = ""
    first_key: str | None = None  # of its first sample, where that stands near
    ended: bool = True  # by an empty block
    fault: str = ""  # why it is no whole tar; a predicate


def find_tars(patterns: Sequence[str]) -> list[Found]:
    """The files that the patterns match, sorted by path, each once. Raises UserError."""
    found = sorted({each for pattern in patterns for each in _matches(pattern)})
    first = dict[str, str]()
    for path in (each.path for each in found):
        real = os.path.realpath(storage.local(path)) if storage.is_local(path) else path
        if real in first:
            raise UserError(f"{first[real]} and {path} are one file: leave one out")
        first[real] = path
    return found


def open_tars(found: Sequence[Found], unpack: bool) -> tuple[list[Tar], list[Ends]]:
    """The tars with what their ends tell. Raises UserError where one is no whole tar, or compressed and not to be."""
    with ThreadPoolExecutor(THREADS) as pool:
        ends = list(pool.map(look, found))
    _check_whole(found, ends)
    packed = [each.path for each, end in zip(found, ends, strict=True) if end.compression]
    if packed and not unpack:
        command = UNPACKING[next(end.compression for end in ends if end.compression)]
        raise UserError(
            f"{_some(packed)} {'is' if len(packed) == 1 else 'are'} compressed, so that no sample can be read alone: "
            f"unpack by `{command} {packed[0]}`, or give --unpack to have copies written below --output"
        )
    names = tar_names([each.path for each in found], [end.compression for end in ends])
    listed = zip(found, names, ends, strict=True)
    tars = [Tar(number, each.path, each.size, name, end.compression) for number, (each, name, end) in enumerate(listed)]
    return tars, ends


def look(found: Found) -> Ends:
    """Reads both ends of a file. Raises OSError where it cannot be read."""
    file = storage.Ranges(found.path)
    head = file.read(0, HEAD_BYTES)
    compression = next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")
    if compression:
        return _look_into(found, compression)
    try:
        key = _first_key(head)
    except DamagedTar:
        return Ends(fault=_no_tar(head))
    if file.size > tarfile.RECORDSIZE and not head.strip(b"\0"):
        return Ends(fault="holds zeros alone")
    if file.size % BLOCK == 0 and not file.read(file.size - END_BYTES, END_BYTES).strip(b"\0"):
        return Ends("", key)
    return _walk(found, key)


def input_record(tars: Sequence[Tar]) -> dict[str, Any]:
    """What tells these tars from others, wherever they are: names and sizes."""
    paths = [storage.absolute(tar.path) for tar in tars]
    folder = common_folder(paths)
    names = (path.removeprefix(folder).lstrip("/") for path in paths)
    lines = "".join(f"{name}\t{tar.bytes}\n" for name, tar in zip(names, tars, strict=True))
    digest = sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    total = sum(tar.bytes for tar in tars)
    return {"kind": "tars", "path": folder, "files_sha256": digest, "tars": len(tars), "bytes": total}


def check_keys(tars: Sequence[Tar], ends: Sequence[Ends]) -> None:
    """Raises UserError where two tars begin with one key, as those do that count anew."""
    first = dict[str, Tar]()
    for tar, end in zip(tars, ends, strict=True):
        if end.first_key is not None and end.first_key in first:
            raise repeated_key(end.first_key, first[end.first_key].path, tar.path)
        if end.first_key is not None:
            first[end.first_key] = tar


def repeated_key(key: str, one: str, other: str) -> UserError:
    return UserError(
        f"the key {key!r} is in {one} and in {other}: give --keys shard (and another --output, where this one is "
        "begun), so that keys begin with the name of their tar"
    )


def tar_names(paths: Sequence[str], compressions: Sequence[str]) -> list[str]:
    """The name of each tar in the rows; of one that is unpacked, without the ending of its compression."""
    paths = [
        f"{ENDING.sub('', path)}.tar" if compression else path
        for path, compression in zip(map(storage.absolute, paths), compressions, strict=True)
    ]
    names = [path.rpartition("/")[2] for path in paths]
    if len(set(names)) == len(names):
        return names
    folder = common_folder(paths)
    names = [path.removeprefix(folder).lstrip("/") for path in paths]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"{name} is given compressed and unpacked: leave one of both out of the pattern")
    return names


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all paths are below, without a slash at its end."""
    levels = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    return "/".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def _matches(pattern: str) -> list[Found]:
    found = storage.glob(pattern) or [each for each in storage.files(pattern) if IN_FOLDER.search(each.path)]
    if not found:
        raise UserError(f"no tar matches {pattern!r}: give tars, a pattern such as 'cc3m/*.tar', or their folder")
    return found


def _first_key(head: bytes) -> str | None:
    """The key of the first sample in the first bytes of a tar. Raises DamagedTar where they are no tar's."""
    try:
        return first_key(iter_members(HeaderInput(io.BytesIO(head))))
    except DamagedTar:
        if not _is_header(head[:BLOCK]):
            raise
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _look_into(found: Found, compression: str) -> Ends:
    """The beginning of what is compressed."""
    try:
        with storage.open_input(found.path) as stream:
            head = OPENERS[compression](stream).read(HEAD_BYTES)
        return Ends(compression, _first_key(head))
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno:
            raise
        return Ends(compression, fault=f"cannot be unpacked ({error})")
    except DamagedTar:
        return Ends(compression, fault=f"holds, compressed, what {_no_tar(head)}")


def _no_tar(head: bytes) -> str:
    if not head:
        return "is empty"
    if head.startswith(LFS):
        return "is a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)"
    return f"is no tar: it begins with {head[:8]!r}"


def _walk(found: Found, key: str | None) -> Ends:
    """Goes through the headers of a tar without an end, which may be cut off."""
    try:
        with storage.open_input(found.path) as stream:
            walked = HeaderInput(stream)
            for _ in iter_members(walked):
                pass
        return Ends("", key, bool(walked.last))
    except DamagedTar as damage:
        return Ends("", key, fault=str(damage))


def _check_whole(found: Sequence[Found], ends: Sequence[Ends]) -> None:
    faults = [f"{each.path} {end.fault}" for each, end in zip(found, ends, strict=True) if end.fault]
    if faults:
        share = f"{len(faults):,} of {len(found):,} files: " if len(faults) > 1 else ""
        again = REFETCH if len(faults) == 1 else REFETCH.replace("it", "them")
        raise UserError(f"{share}{_some(faults, '; ')}: {again}")


def _some(items: Sequence[str], between: str = ", ") -> str:
    """The first few."""
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return between.join(items[:SHOWN]) + more
