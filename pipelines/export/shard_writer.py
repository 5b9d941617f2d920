"""One shard of an export: its samples' ranges straight from the source's tars into its own tar. Knows no Beam.

    rows 0, 1, 2 …, in order ─▶ groups of ranges, a few threads ahead, sorted by place within a group
        ─▶ headers checked against the plan ─▶ tar, written once ─▶ marker

A body is read once and written once. What is held in memory is the groups that are read ahead, never a shard.
"""

import io
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from threading import Lock
from time import monotonic, time
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import members, shards
from gesso.dataset.layout import rows_name, tar_name
from gesso.dataset.members import CAPTION, IMAGE, JSON, Damage
from gesso.dataset.progress import Note
from gesso.dataset.records import SUCCESS
from gesso.errors import UserError

Json = dict[str, Any]

READERS = 8  # ranges that are read at a time: what a disk's queue is for
GROUP = 16  # samples that a thread reads in one go: waking it for each costs as much as the read
AHEAD = 64 << 20  # bytes that are read ahead at most, but for one group
OPEN_TARS = 256  # a process may have 1,024 open files by default
BEAT = 1.0  # seconds between two notes on a shard's progress
COLUMNS = [
    "key",
    "source_shard",
    "source_offset",
    "source_bytes",
    "offset",
    "image_bytes",
    "caption_bytes",
    "json_bytes",
]
BODIES = (IMAGE, CAPTION, JSON)


class Range(NamedTuple):
    """A planned sample, as COLUMNS has it."""

    key: str
    source_shard: int
    source_offset: int
    source_bytes: int
    offset: int
    image_bytes: int
    caption_bytes: int
    json_bytes: int


class Tars:
    """The source's tars, of which the last used stay open; `sizes` are those of the plan, bytes by shard."""

    def __init__(self, path: str, sizes: dict[int, int]) -> None:
        self._path = path
        self._sizes = sizes
        self._open = OrderedDict[int, storage.Ranges]()
        self._lock = Lock()

    def read(self, group: list[Range]) -> dict[str, bytes]:
        """The bytes of some samples by key, read in the order of their places; from any thread. Raises UserError."""
        by_place = sorted(group, key=lambda item: (item.source_shard, item.source_offset))
        return {item.key: self._read(item) for item in by_place}

    def _read(self, item: Range) -> bytes:
        data = self._tar(item.source_shard).read(item.source_offset, item.source_bytes)
        if len(data) != item.source_bytes:
            raise self.changed(item.source_shard, f"ends within sample {item.key}")
        return data

    def _tar(self, shard: int) -> storage.Ranges:
        with self._lock:
            tar = self._open.pop(shard, None) or self._begin(shard)
            self._open[shard] = tar
            if len(self._open) > OPEN_TARS:
                self._open.popitem(last=False)  # a thread that still reads from it holds it open
        return tar

    def _begin(self, shard: int) -> storage.Ranges:
        try:
            tar = storage.Ranges(storage.join(self._path, tar_name(shard)))
        except OSError as error:
            raise self.changed(shard, f"cannot be read ({error.strerror or error})") from error
        if tar.size != self._sizes[shard]:
            raise self.changed(shard, f"has {tar.size:,} bytes, not {self._sizes[shard]:,}")
        return tar

    def changed(self, shard: int, how: str) -> UserError:
        return UserError(
            f"{storage.join(self._path, tar_name(shard))} has changed since the export was planned: it {how}; "
            "bring the old shard back, or export to another --output"
        )


def copy_shard(output: str, index: int, rows: Json, tars: Tars) -> Json:
    """Writes `output`/00000.tar by its planned rows, and its marker, which it returns; `rows`: size and checksum."""
    started = time()
    planned = read_planned(storage.join(output, rows_name(index)), rows)
    note = Note(output, index, copied := Counter[str]())
    with storage.write_whole(storage.join(output, tar_name(index))) as stream:
        hashing = shards.Hashing(stream)
        write_tar(hashing, planned, tars, beating(note, copied))
    written = {tar_name(index): hashing.summary(), rows_name(index): rows}
    marker = shards.commit(output, index, written, copied, started, time())
    note.remove()
    return marker


def read_planned(path: str, expected: Json) -> list[Range]:
    """A shard's samples in their order. Raises UserError where the file is not the one that was planned."""
    try:
        with storage.open_input(path) as stream:
            body = stream.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): export to another --output") from error
    if sha256(body).hexdigest() != expected["sha256"]:
        raise UserError(f"{path} is not the file that was planned: export to another --output")
    table = pq.read_table(io.BytesIO(body), columns=COLUMNS)
    return list(map(Range, *(table[name].to_pylist() for name in COLUMNS)))


def write_tar(hashing: shards.Hashing, planned: list[Range], tars: Tars, done: Callable[[], None]) -> None:
    """Every sample at its planned offset. Raises UserError where a source does not hold what it did."""
    tar = shards.Tar(hashing)
    for item, data in read_ahead(planned, tars):
        assert hashing.bytes == item.offset, item
        try:
            parts = members.parts(data)
        except Damage as damage:
            raise tars.changed(item.source_shard, f"{damage} at byte {item.source_offset:,}") from damage
        sizes = tuple(parts[kind].bytes for kind in BODIES)
        if parts[IMAGE].key != item.key or sizes != item[-len(BODIES) :]:
            raise tars.changed(item.source_shard, f"holds another sample at byte {item.source_offset:,}")
        view = memoryview(data)
        for member in map(parts.__getitem__, BODIES):
            tar.add(f"{item.key}.{member.ending}", view[member.offset : member.offset + member.bytes])
        done()
    tar.end()


def read_ahead(planned: list[Range], tars: Tars) -> Iterator[tuple[Range, bytes]]:
    """The samples in their order, while threads read the next ones."""
    waiting = deque[tuple[list[Range], Future[dict[str, bytes]]]]()
    ahead = 0
    with ThreadPoolExecutor(READERS, "read") as pool:
        for group in groups(planned):
            waiting.append((group, pool.submit(tars.read, group)))
            ahead += size_of(group)
            while ahead > AHEAD or len(waiting) > 2 * READERS:
                first, reading = waiting.popleft()
                ahead -= size_of(first)
                yield from in_order(first, reading)
        while waiting:
            yield from in_order(*waiting.popleft())


def groups(planned: list[Range]) -> Iterable[list[Range]]:
    return (planned[start : start + GROUP] for start in range(0, len(planned), GROUP))


def size_of(group: list[Range]) -> int:
    return sum(item.source_bytes for item in group)


def in_order(group: list[Range], reading: "Future[dict[str, bytes]]") -> Iterator[tuple[Range, bytes]]:
    data = reading.result()
    for item in group:
        yield item, data.pop(item.key)


def beating(note: Note, copied: Counter[str]) -> Callable[[], None]:
    """Counts a sample at each call, and notes the progress every second."""
    last = monotonic()

    def done() -> None:
        nonlocal last
        copied[SUCCESS] += 1
        if monotonic() - last > BEAT:
            last = monotonic()
            note.write()

    return done
