"""Pictures to learn from: every picture of folders and shards by its place, decoded when it is asked for. No torch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gesso import images, storage
from gesso.dataset import members
from gesso.dataset.members import SUFFIXES, suffix_of
from gesso.errors import Rejected, UserError
from gesso.images import Pixels
from gesso.storage import Found

LEAST_SIDE = 32  # pixels; what is smaller has nothing to tell two pictures apart


class Place(NamedTuple):
    """Where a picture's bytes stand: a whole file, or a part of a shard."""

    path: str
    offset: int
    size: int  # bytes


def find(sources: Sequence[str]) -> list[Place]:
    """Every picture below the given folders, those inside .tar shards too, in the order of paths.

    Raises UserError where there is none or a shard is damaged.
    """
    found = [place for source in sources for item in storage.walk(source) for place in places(item)]
    if not found:
        raise UserError(f"--data {' '.join(sources)}: no picture ({', '.join(SUFFIXES)}) and no .tar shard below")
    return found


def places(item: Found) -> Iterator[Place]:
    if suffix_of(item.path) == "tar":
        yield from shard(item)
    elif suffix_of(item.path) in SUFFIXES:
        yield Place(item.path, 0, item.size)


def shard(item: Found) -> Iterator[Place]:
    """A shard's pictures, by its headers alone."""
    with storage.open_input(item.path) as stream:

        def read_at(offset: int, size: int) -> bytes:
            stream.seek(offset)
            return stream.read(size)

        try:
            for member in members.members(read_at, item.size):
                if suffix_of(member.name) in SUFFIXES:
                    yield Place(item.path, member.offset, member.bytes)
        except members.Damage as damage:
            raise UserError(f"{item.path} {damage}: mend it or leave it out of --data") from damage


def decode(place: Place, side: int) -> Pixels:
    """(height, width, 3) uint8 RGB, the short side at most `side`. Raises Rejected where it teaches nothing."""
    with storage.open_input(place.path) as stream:
        stream.seek(place.offset)
        body = stream.read(place.size)
    header = images.read_header(body)
    short = min(header.width, header.height)
    if short < LEAST_SIDE:
        raise Rejected("too_small", f"{header.width}×{header.height}: short side under {LEAST_SIDE}")
    return images.render(body, header, *images.fitted(header, side, short))
