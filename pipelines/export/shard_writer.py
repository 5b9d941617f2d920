"""Writes one shard of an export: byte ranges of the source's tars → a new tar. Knows no Beam.

    rows in their final order ─▶ groups, prefetched by a few threads, each group read in the order of its offsets
        ─▶ headers checked against the plan ─▶ tar ─▶ marker

Of an index only the picture is read, and checked by its hash; caption and json are made of the rows. Every byte is read
and written once. Memory holds the prefetched groups, never a whole shard.
"""

import io
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from threading import Lock
from time import monotonic, time
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import index, members, shards
from gesso.dataset.collection import SourceShard
from gesso.dataset.layout import rows_name, tar_name
from gesso.dataset.members import CAPTION, IMAGE, JSON, DamagedTar
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import SUCCESS
from gesso.dataset.schemas import RANGE_FIELDS
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
RANGES = [field.name for field in RANGE_FIELDS]

Files = list[tuple[str, bytes | memoryview]]  # suffix and content of a sample's members, in their order


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


class PlannedShard(NamedTuple):
    """A shard's samples in order; `rows` are those of KEY.json, only of an index."""

    samples: list[PlannedSample]
    rows: pa.Table | None


class SourceTars:
    """Reads from the source's tars and keeps the last used ones open."""

    def __init__(self, source: Sequence[SourceShard]) -> None:
        self.indexed = any(shard.indexed for shard in source)
        self._shards = {shard.number: shard for shard in source}
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
            tar = storage.Ranges(self._shards[shard].tar)
        except OSError as error:
            raise self.changed_error(shard, f"cannot be read ({error.strerror or error})") from error
        if tar.size != self._shards[shard].bytes:
            raise self.changed_error(shard, f"has {tar.size:,} bytes, not {self._shards[shard].bytes:,}")
        return tar

    def changed_error(self, shard: int, how: str) -> UserError:
        return UserError(
            f"{self._shards[shard].tar} has changed since the export was planned: it {how}; "
            "bring the old shard back, or export to another --output"
        )


def write_shard(output: str, number: int, rows: Json, tars: SourceTars) -> Json:
    """Writes `output`/00000.tar from its planned rows; returns its marker. `rows`: their file's size and checksum."""
    started = time()
    planned = read_planned(storage.join(output, rows_name(number)), rows, tars.indexed)
    progress_file = ProgressFile(output, number, counts := Counter[str]())
    with storage.write_whole(storage.join(output, tar_name(number))) as stream:
        hashing = shards.HashingWriter(stream)
        write_tar(hashing, planned, tars, counter_with_progress(progress_file, counts))
    written = {tar_name(number): hashing.summary(), rows_name(number): rows}
    marker = shards.commit(output, number, written, counts, started, time())
    progress_file.remove()
    return marker


def read_planned(path: str, expected: Json, indexed: bool) -> PlannedShard:
    """A shard as it was planned. Raises UserError where the file is not the one that was planned."""
    try:
        with storage.open_input(path) as stream:
            body = stream.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): export to another --output") from error
    if sha256(body).hexdigest() != expected["sha256"]:
        raise UserError(f"{path} is not the file that was planned: export to another --output")
    table = pq.read_table(io.BytesIO(body), columns=None if indexed else COLUMNS)
    samples = list(map(PlannedSample, *(table[name].to_pylist() for name in COLUMNS)))
    return PlannedShard(samples, table.drop_columns(RANGES) if indexed else None)


def write_tar(
    hashing: shards.HashingWriter, planned: PlannedShard, tars: SourceTars, sample_done: Callable[[], None]
) -> None:
    """Writes every sample at its planned offset. Raises UserError where the source has changed."""
    tar, read = shards.TarWriter(hashing), prefetch(planned.samples, tars)
    of_source = ((item, source_files(item, data, tars)) for item, data in read)
    for item, files in of_source if planned.rows is None else indexed_files(read, planned.rows, tars):
        assert hashing.bytes == item.offset, item
        for suffix, body in files:
            tar.add(f"{item.key}.{suffix}", body)
        sample_done()
    tar.end()


def source_files(item: PlannedSample, data: bytes, tars: SourceTars) -> Files:
    """The members of a sample, from its bytes in the source's tar."""
    try:
        parts = members.sample_members(data)
    except DamagedTar as damage:
        raise tars.changed_error(item.source_shard, f"{damage} at byte {item.source_offset:,}") from damage
    sizes = tuple(parts[kind].bytes for kind in BODIES)
    if parts[IMAGE].key != item.key or sizes != item[-len(BODIES) :]:
        raise tars.changed_error(item.source_shard, f"holds another sample at byte {item.source_offset:,}")
    view = memoryview(data)
    found = map(parts.__getitem__, BODIES)
    return [(each.suffix, view[each.offset : each.offset + each.bytes]) for each in found]


def indexed_files(
    read: Iterable[tuple[PlannedSample, bytes]], rows: pa.Table, tars: SourceTars
) -> Iterator[tuple[PlannedSample, Files]]:
    """Each sample's picture, from the bytes of its range, with caption and json, from its row."""
    texts = (text for batch in rows.to_batches() for text in index.texts(batch))
    checks = zip(rows["sha256"].to_pylist(), rows["image_format"].to_pylist(), strict=True)
    for (item, data), (caption, fields), (checksum, form) in zip(read, texts, checks, strict=True):
        if sha256(data).hexdigest() != checksum:
            raise tars.changed_error(item.source_shard, f"holds another picture at byte {item.source_offset:,}")
        if (len(caption), len(fields)) != item[-2:]:
            raise UserError(f"sample {item.key} was planned by another version of gesso: export to another --output")
        yield item, [(index.SUFFIXES[form], data), ("txt", caption), ("json", fields)]


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
