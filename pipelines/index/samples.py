"""Members of a tar → its samples, by webdataset's rule. No Beam, no pictures decoded.

The key of a member is its path up to the first dot of the base name, its suffix what follows, in lower case; folders
belong to the key, a leading `./` or `/` does not. Consecutive members of one key are a sample.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from gesso.dataset import members
from gesso.dataset.members import SUFFIXES
from gesso.pipelines.index.tar_stream import TarInput, iter_members, read_body

LEADING = re.compile(r"\A(\.?/)+")
META = re.compile(r"__[^/]*__(/|\Z)")  # webdataset's own records
FOLDER, LINK, SPARSE, SPECIAL, META_KIND = "folder", "link", "sparse", "special", "meta"
HIDDEN, NO_EXTENSION = "hidden", "no_extension"


class File(NamedTuple):
    """A member of a sample."""

    key: str
    suffix: str
    info: tarfile.TarInfo


class Picture(NamedTuple):
    """A sample's picture as it stands in the tar."""

    offset: int  # of its data
    body: bytes


class Sample(NamedTuple):
    """A sample with the bytes that are wanted of it."""

    key: str
    picture: Picture | None  # the first
    bodies: dict[str, bytes]  # by suffix
    dropped: tuple[str, ...]  # suffixes of the members that were not read


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member of a sample."""
    key, suffix = members.split_name(LEADING.sub("", name))
    return key, readable(suffix.lower())


def readable(name: str) -> str:
    """A name as UTF-8 can have it: bytes that are none become `\\xe9`."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def skipped_kind(info: tarfile.TarInfo) -> str | None:
    """Why a member belongs to no sample; None where it may."""
    if not info.isreg():
        return FOLDER if info.isdir() else LINK if info.issym() or info.islnk() else SPECIAL
    if info.issparse():
        return SPARSE
    name = LEADING.sub("", info.name)
    if META.match(name):
        return META_KIND
    base = name.rpartition("/")[2]
    return HIDDEN if base.startswith(".") else None if "." in base else NO_EXTENSION


def iter_files(found: Iterable[tarfile.TarInfo], skipped: Counter[str]) -> Iterator[File]:
    """The members that belong to samples; counts the others by kind."""
    for info in found:
        kind = skipped_kind(info)
        if kind:
            skipped[kind] += 1
        else:
            yield File(*split_name(info.name), info)


def iter_samples(tar_input: TarInput, wanted: frozenset[str], skipped: Counter[str]) -> Iterator[Sample]:
    """The samples of a tar in its order, with the members whose suffixes are wanted. Raises DamagedTar."""
    for key, files in groupby(iter_files(iter_members(tar_input), skipped), attrgetter("key")):
        yield _read_sample(tar_input, key, files, wanted)


def first_key(found: Iterable[tarfile.TarInfo]) -> str | None:
    return next((file.key for file in iter_files(found, Counter())), None)


def _read_sample(tar_input: TarInput, key: str, files: Iterable[File], wanted: frozenset[str]) -> Sample:
    picture, bodies, dropped = None, dict[str, bytes](), list[str]()
    for _, suffix, info in files:
        if suffix in SUFFIXES and picture is None:
            picture = Picture(info.offset_data, read_body(tar_input, info))
        elif suffix in wanted and suffix not in bodies:
            bodies[suffix] = read_body(tar_input, info)
        else:
            dropped.append(suffix)
    return Sample(key, picture, bodies, tuple(dropped))
