"""Writes one shard of an export: byte ranges of the source's tars → a new tar. Knows no Beam.

    rows in their final order ─▶ groups, prefetched by a few threads, each group read in the order of its offsets
        ─▶ headers checked against the plan ─▶ tar ─▶ marker

Every byte is read once and written once. Memory holds the prefetched groups, never a whole shard.
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
from gesso.dataset.members import CAPTION, IMAGE, JSON, DamagedTar
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import SUCCESS
from gesso.errors import UserError

Json = dict[str, Any]

READERS = 8  # reads at a time, to fill a disk's queue
SAMPLES_PER_READ = 16  # in one task of a thread: a task for each sample costs as much as its read
PREFETCH_BYTES = 64 << 20  # bytes that may wait in memory, beside one group
MAX_OPEN_TARS = 256  # a process may have 1,024 open files by default
PROGRESS_INTERVAL = 1.0  # seconds between two writes of the progress file
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


class PlannedSample(NamedTuple):
    """A row of the shard's parquet, with the fields of COLUMNS."""

    key: str
    source_shard: int
    source_offset: int
    source_bytes: int
    offset: int
    image_bytes: int
    caption_bytes: int
    json_bytes: int


class SourceTars:
    """Reads from the source's tars and keeps the last used ones open; `sizes`: planned bytes of each shard's tar."""

    def __init__(self, path: str, sizes: dict[int, int]) -> None:
        self._path = path
        self._sizes = sizes
        self._open = OrderedDict[int, storage.Ranges]()
        self._lock = Lock()

    def read(self, group: list[PlannedSample]) -> dict[str, bytes]:
        """The bytes of some samples by key, read in the order of their offsets. Thread-safe. Raises UserError."""
        by_offset = sorted(group, key=lambda item: (item.source_shard, item.source_offset))
        return {item.key: self._read(item) for item in by_offset}

    def _read(self, item: PlannedSample) -> bytes:
        data = self._tar(item.source_shard).read(item.source_offset, item.source_bytes)
        if len(data) != item.source_bytes:
            raise self.changed_error(item.source_shard, f"ends within sample {item.key}")
        return data

    def _tar(self, shard: int) -> storage.Ranges:
        with self._lock:
            tar = self._open.pop(shard, None) or self._open_tar(shard)
            self._open[shard] = tar
            if len(self._open) > MAX_OPEN_TARS:
                self._open.popitem(last=False)  # a thread that still reads from it keeps it open
        return tar

    def _open_tar(self, shard: int) -> storage.Ranges:
        try:
            tar = storage.Ranges(storage.join(self._path, tar_name(shard)))
        except OSError as error:
            raise self.changed_error(shard, f"cannot be read ({error.strerror or error})") from error
        if tar.size != self._sizes[shard]:
            raise self.changed_error(shard, f"has {tar.size:,} bytes, not {self._sizes[shard]:,}")
        return tar

    def changed_error(self, shard: int, how: str) -> UserError:
        return UserError(
            f"{storage.join(self._path, tar_name(shard))} has changed since the export was planned: it {how}; "
            "bring the old shard back, or export to another --output"
        )


def write_shard(output: str, index: int, rows: Json, tars: SourceTars) -> Json:
    """Writes `output`/00000.tar from its planned rows; returns its marker. `rows`: their file's size and checksum."""
    started = time()
    planned = read_planned(storage.join(output, rows_name(index)), rows)
    progress_file = ProgressFile(output, index, counts := Counter[str]())
    with storage.write_whole(storage.join(output, tar_name(index))) as stream:
        hashing = shards.HashingWriter(stream)
        write_tar(hashing, planned, tars, counter_with_progress(progress_file, counts))
    written = {tar_name(index): hashing.summary(), rows_name(index): rows}
    marker = shards.commit(output, index, written, counts, started, time())
    progress_file.remove()
    return marker


def read_planned(path: str, expected: Json) -> list[PlannedSample]:
    """A shard's planned samples in order. Raises UserError where the file is not the one that was planned."""
    try:
        with storage.open_input(path) as stream:
            body = stream.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): export to another --output") from error
    if sha256(body).hexdigest() != expected["sha256"]:
        raise UserError(f"{path} is not the file that was planned: export to another --output")
    table = pq.read_table(io.BytesIO(body), columns=COLUMNS)
    return list(map(PlannedSample, *(table[name].to_pylist() for name in COLUMNS)))


def write_tar(
    hashing: shards.HashingWriter, planned: list[PlannedSample], tars: SourceTars, sample_done: Callable[[], None]
) -> None:
    """Writes every sample at its planned offset. Raises UserError where the source has changed."""
    tar = shards.TarWriter(hashing)
    for item, data in prefetch(planned, tars):
        assert hashing.bytes == item.offset, item
        try:
            parts = members.sample_members(data)
        except DamagedTar as damage:
            raise tars.changed_error(item.source_shard, f"{damage} at byte {item.source_offset:,}") from damage
        sizes = tuple(parts[kind].bytes for kind in BODIES)
        if parts[IMAGE].key != item.key or sizes != item[-len(BODIES) :]:
            raise tars.changed_error(item.source_shard, f"holds another sample at byte {item.source_offset:,}")
        view = memoryview(data)
        for member in map(parts.__getitem__, BODIES):
            tar.add(f"{item.key}.{member.suffix}", view[member.offset : member.offset + member.bytes])
        sample_done()
    tar.end()


def prefetch(planned: list[PlannedSample], tars: SourceTars) -> Iterator[tuple[PlannedSample, bytes]]:
    """The samples with their bytes, in order, while threads read the next ones."""
    waiting = deque[tuple[list[PlannedSample], Future[dict[str, bytes]]]]()
    prefetched = 0
    with ThreadPoolExecutor(READERS, "read") as pool:
        for group in groups(planned):
            waiting.append((group, pool.submit(tars.read, group)))
            prefetched += bytes_of(group)
            while prefetched > PREFETCH_BYTES or len(waiting) > 2 * READERS:
                first, reading = waiting.popleft()
                prefetched -= bytes_of(first)
                yield from in_order(first, reading)
        while waiting:
            yield from in_order(*waiting.popleft())


def groups(planned: list[PlannedSample]) -> Iterable[list[PlannedSample]]:
    return (planned[start : start + SAMPLES_PER_READ] for start in range(0, len(planned), SAMPLES_PER_READ))


def bytes_of(group: list[PlannedSample]) -> int:
    return sum(item.source_bytes for item in group)


def in_order(group: list[PlannedSample], reading: "Future[dict[str, bytes]]") -> Iterator[tuple[PlannedSample, bytes]]:
    data = reading.result()
    for item in group:
        yield item, data.pop(item.key)


def counter_with_progress(progress_file: ProgressFile, counts: Counter[str]) -> Callable[[], None]:
    """A function that counts a sample at each call, and writes the progress file every PROGRESS_INTERVAL."""
    last = monotonic()

    def sample_done() -> None:
        nonlocal last
        counts[SUCCESS] += 1
        if monotonic() - last > PROGRESS_INTERVAL:
            last = monotonic()
            progress_file.write()

    return sample_done
