"""Indexes one tar: rows, then the commit marker. Each byte of the tar is read once. No Beam.

tar ─ (decompressed, and written whole to tars/NAME.tar) ─ tarfile ─ samples ─ rows ─▶ 00000.parquet
00000_stats.json   the commit marker, written last: counts, size and sha256 of the rows and of the tar
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from time import monotonic, time
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import identity, shards
from gesso.dataset.layout import rows_name
from gesso.dataset.members import DamagedTar
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import SUCCESS
from gesso.dataset.schemas import index_schema
from gesso.dataset.shards import HashingWriter
from gesso.errors import UserError
from gesso.pipelines.index.rows import Row, RowMaker, carried_fields
from gesso.pipelines.index.samples import iter_samples
from gesso.pipelines.index.settings import IndexSettings
from gesso.pipelines.index.tar_stream import TarInput, read_rest
from gesso.pipelines.index.tars import BROKEN, OPENERS, REFETCH, Tar

BATCH_ROWS = 1000
BATCH_BYTES = 64 << 20  # of carried members in a batch, about
PROGRESS_INTERVAL = 1.0  # seconds between two writes of the progress file


class Unpacked:
    """The decompressed bytes of a tar, written to a file as they are read."""

    def __init__(self, stream: IO[bytes], compression: str, target: IO[bytes]) -> None:
        self._stream, self._target = OPENERS[compression](stream), target

    def read(self, size: int) -> bytes:
        """Raises DamagedTar where the compressed bytes are broken or break off."""
        try:
            data: bytes = self._stream.read(size)
        except BROKEN as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise DamagedTar(f"cannot be unpacked ({error})") from error
        self._target.write(data)
        return data


def index_tar(output: str, tar: Tar, settings: IndexSettings) -> Row:
    """Indexes a tar and commits it; returns its marker. Raises UserError where the tar is damaged or has changed."""
    started, skipped, counts = time(), Counter[str](), Counter[str]()
    maker = RowMaker(tar.name, settings)
    progress_file = ProgressFile(output, tar.number, counts)
    try:
        with ExitStack() as stack:
            tar_input = open_tar(stack, output, tar)
            rows = count_rows(iter_rows(tar, tar_input, maker, skipped), counts, progress_file)
            written = write_rows(output, tar.number, rows, index_schema(carried_fields(settings)))
    except DamagedTar as damage:
        raise UserError(f"{tar.path} {damage}: {REFETCH}") from damage
    told = {"path": identity.hint(tar.place(output), output), "bytes": tar_input.bytes, "sha256": tar_input.sha256()}
    more = {"tar": told, "members_dropped": in_order(maker.dropped), "members_skipped": in_order(skipped)}
    more |= {"values_dropped": in_order(maker.unfitting)}
    marker = shards.commit(output, tar.number, {rows_name(tar.number): written}, counts, started, time(), more)
    progress_file.remove()
    return marker


def open_tar(stack: ExitStack, output: str, tar: Tar) -> TarInput:
    """The tar as it is read; one that is compressed is also written to its place, whole or not at all."""
    stream = stack.enter_context(storage.open_input(tar.path))
    if not tar.compression:
        return TarInput(stream)
    target = stack.enter_context(storage.write_whole(tar.place(output)))
    return TarInput(Unpacked(stream, tar.compression, target))


def iter_rows(tar: Tar, tar_input: TarInput, maker: RowMaker, skipped: Counter[str]) -> Iterator[Row]:
    """The rows of a tar, which is read to its end. Raises DamagedTar."""
    yield from map(maker.row, iter_samples(tar_input, maker.wanted, skipped))
    read_rest(tar_input)
    if not tar.compression and tar_input.bytes != tar.bytes:
        raise DamagedTar(f"has {tar_input.bytes:,} bytes, not {tar.bytes:,}, since the job began")


def count_rows(rows: Iterator[Row], counts: Counter[str], progress_file: ProgressFile) -> Iterator[Row]:
    last = monotonic()
    for row in rows:
        counts[row["reason"] or SUCCESS] += 1
        if monotonic() - last > PROGRESS_INTERVAL:
            last = monotonic()
            progress_file.write()
        yield row


def write_rows(output: str, index: int, rows: Iterator[Row], schema: pa.Schema) -> Row:
    """Writes the rows, a batch a row group; returns size and checksum of the file."""
    with storage.write_whole(storage.join(output, rows_name(index))) as stream:
        hashing = HashingWriter(stream)
        with pq.ParquetWriter(hashing, schema, compression="zstd") as writer:
            for batch in iter(partial(next_batch, rows), []):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
    return hashing.summary()


def next_batch(rows: Iterator[Row]) -> list[Row]:
    """The next rows, fewer where carried members are large."""
    batch, size = list[Row](), 0
    for row in islice(rows, BATCH_ROWS):
        batch.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, bytes | str))
        if size > BATCH_BYTES:
            break
    return batch


def in_order(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}


def totals(markers: dict[int, Any], name: str) -> dict[str, int]:
    """The sum of a count over all markers, the largest first."""
    summed = Counter[str]()
    for marker in markers.values():
        summed.update(marker[name])
    return dict(sorted(summed.items(), key=lambda item: (-item[1], item[0])))
