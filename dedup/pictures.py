"""The detector's training pictures: found in folders and shards, decoded on demand. No torch."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gesso import images, storage
from gesso.dataset import collection, index, members
from gesso.dataset.members import SUFFIXES, suffix_of
from gesso.errors import Rejected, UserError
from gesso.images import Pixels
from gesso.storage import Found

MIN_SIDE = 32  # pixels; smaller pictures have too little detail to be told apart


REJECTED = "rejected"  # a collection's folder of thumbnails, which stand in tars in old ones


class Location(NamedTuple):
    """A picture's bytes: a whole file, or a range of a shard."""

    path: str
    offset: int
    size: int  # bytes


def find(sources: Sequence[str]) -> list[Location]:
    """Every picture below the given folders, also inside .tar shards, in the order of paths; those of an index.

    Raises UserError where there is none or a shard is damaged.
    """
    found = [location for source in sources for location in locations_in(source)]
    if not found:
        raise UserError(f"--data {' '.join(sources)}: no picture ({', '.join(SUFFIXES)}) and no .tar shard is there")
    return found


def content_sha256(sources: Sequence[str], found: Sequence[Location]) -> str:
    """What tells the pictures found in these folders from others, wherever the folders are: names, places, sizes."""
    digest = hashlib.sha256()
    tars = [tar.path.rpartition("/")[0] for source in sources for tar in index.read_tars(source).values()]
    above = {storage.local(folder).rstrip("/") + "/" for folder in (*sources, *tars)}
    folders = sorted(above, key=len, reverse=True)
    for path, offset, size in found:
        name = path[next((len(folder) for folder in folders if path.startswith(folder)), 0) :]
        digest.update(f"{name}\t{offset}\t{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def locations_in(source: str) -> Iterator[Location]:
    """The pictures of one source."""
    if index.is_index(source):
        yield from locations_in_index(source)
        return
    for item in storage.walk(source):
        if f"/{REJECTED}/" not in item.path:
            yield from locations(item)


def locations_in_index(source: str) -> Iterator[Location]:
    """The taken pictures of an index, from its rows. Raises UserError where a tar is gone or has another size."""
    for shard in collection.open_collection(source).shards:
        rows = index.read_taken(source, shard.number, index.PLACES)
        for offset, size in zip(*(rows[name].to_pylist() for name in index.PLACES), strict=True):
            yield Location(shard.tar, offset, size)


def locations(item: Found) -> Iterator[Location]:
    if suffix_of(item.path) == "tar":
        yield from locations_in_shard(item)
    elif suffix_of(item.path) in SUFFIXES:
        yield Location(item.path, 0, item.size)


def locations_in_shard(item: Found) -> Iterator[Location]:
    """A shard's pictures, from its headers alone."""
    with storage.open_input(item.path) as stream:

        def read_at(offset: int, size: int) -> bytes:
            stream.seek(offset)
            return stream.read(size)

        try:
            for member in members.iter_members(read_at, item.size):
                if suffix_of(member.name) in SUFFIXES:
                    yield Location(item.path, member.offset, member.bytes)
        except members.DamagedTar as damage:
            raise UserError(f"{item.path} {damage}: repair it or leave it out of --data") from damage


def decode(location: Location, side: int) -> Pixels:
    """(height, width, 3) uint8 RGB, the short side at most `side`. Raises Rejected: too small, or damaged."""
    with storage.open_input(location.path) as stream:
        stream.seek(location.offset)
        body = stream.read(location.size)
    header = images.read_header(body)
    short = min(header.width, header.height)
    if short < MIN_SIDE:
        raise Rejected("too_small", f"{header.width}×{header.height}: short side under {MIN_SIDE}")
    return images.render(body, header, *images.fitted(header, side, short))
