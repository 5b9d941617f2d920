"""One shard on disk: reproducible tar, rows, commit marker. No Beam, no pictures decoded.

    00000.tar           the kept samples in the order of their uids: KEY.jpg KEY.txt KEY.json
    00000.parquet       a row for every link, kept or not, in the same order
    rejected/00000.tar  small pictures of some that a rule on pictures rejected, for people to look at
    00000_stats.json    the commit marker, written last: counts, sizes and checksums of the three above

The bytes of the first three depend on the links' responses alone: no clock, no order of completion.
"""

import errno
import hashlib
import json
import os
import tarfile
import tempfile
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.layout import marker_name, rejected_name, rows_name, tar_name
from gesso.dataset.records import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED, SUCCESS, status_of
from gesso.dataset.schemas import ROW_FIELDS, row_schema

Row = dict[str, Any]

LOOK = 0.1  # seconds between two looks of the one who takes: to be woken for each position costs more than to write it
KEPT_SAMPLES = 8  # rejected pictures a shard and reason keeps to show
BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = b"\0" * (2 * BLOCK)
NAME_BYTES, SIZE_DIGITS = 100, 11  # of a header's fields
EMPTY_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
EMPTY_SUM = int(EMPTY_HEADER[148:154], 8)  # of all bytes, those of the sum itself as blanks
EMPTY_ROW: Row = {field.name: None for field in ROW_FIELDS}


class Outcome(NamedTuple):
    """What became of one link: fields of its row, and the bytes to keep or to show."""

    fields: Row
    body: bytes = b""  # the JPEG of a success, else a thumbnail or nothing


class Spool:
    """Outcomes come in any order and go out by position; they wait in a file that has no name, not in memory.

    `put` may be called from any thread; `take` blocks until its position is there, or raises what `fail` was told.
    """

    def __init__(self, count: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the spool
        self._offsets = array("q", [-1]) * count
        self._sizes = array("q", [0]) * (2 * count)  # of a position's fields, of its body
        self._end = 0
        self._arrived = threading.Condition()
        self._error: BaseException | None = None
        self.counts: Counter[str] = Counter()  # of the reasons so far

    def put(self, position: int, outcome: Outcome) -> None:
        head = json.dumps(outcome.fields).encode()
        record = head + outcome.body
        with self._arrived:
            offset, self._end = self._end, self._end + len(record)
            self._sizes[2 * position], self._sizes[2 * position + 1] = len(head), len(outcome.body)
        written = os.pwrite(self._file.fileno(), record, offset)
        if written != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())
        with self._arrived:
            self._offsets[position] = offset
            self.counts[outcome.fields["reason"] or SUCCESS] += 1

    def take(self, position: int) -> Outcome:
        with self._arrived:
            while self._offsets[position] < 0 and not self._error:
                self._arrived.wait(LOOK)
            if self._error:
                raise self._error
        head, body = self._sizes[2 * position : 2 * position + 2]
        record = os.pread(self._file.fileno(), head + body, self._offsets[position])
        return Outcome(json.loads(record[:head]), record[head:])

    def fail(self, error: BaseException) -> None:
        with self._arrived:
            self._error = error
            self._arrived.notify()

    def close(self) -> None:
        self._file.close()


class Hashing:
    """A stream's write side that counts and hashes what passes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    closed = False

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self.bytes += memoryview(data).nbytes
        self._stream.write(data)
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Parquet asks for it; closing the stream flushes."""

    def summary(self) -> Row:
        return {"bytes": self.bytes, "sha256": self._sha256.hexdigest()}


def header(name: str, size: int) -> bytes:
    """The header of a tar's member: tarfile's bytes in a tenth of its time; only name, size and sum differ."""
    raw, octal = name.encode(), b"%011o" % size
    if len(raw) > NAME_BYTES or len(octal) > SIZE_DIGITS:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT)
    total = EMPTY_SUM + sum(raw) + sum(octal) - sum(b"0" * SIZE_DIGITS)
    rest = (EMPTY_HEADER[len(raw) : 124], octal, EMPTY_HEADER[135:148], b"%06o" % total, EMPTY_HEADER[154:])
    return b"".join((raw, *rest))


class Tar:
    """Writes a tar whose bytes depend on names and contents alone (POSIX ustar, every other field constant)."""

    def __init__(self, stream: Hashing) -> None:
        self._stream = stream

    def add(self, name: str, body: bytes | memoryview) -> None:
        self._stream.write(b"".join((header(name, len(body)), body, b"\0" * (-len(body) % BLOCK))))

    def add_sample(self, row: Row, body: bytes) -> None:
        """A row's picture, caption and fields, side by side as webdataset wants them."""
        self.add(f"{row['key']}.jpg", body)
        self.add(f"{row['key']}.txt", row["caption"].encode())
        self.add(f"{row['key']}.json", json.dumps(row, ensure_ascii=False, default=str).encode())

    def end(self) -> None:
        padding = b"\0" * (-(self._stream.bytes + len(END_OF_TAR)) % tarfile.RECORDSIZE)
        self._stream.write(END_OF_TAR + padding)


def write_shard(
    output: str,
    index: int,
    plan: Iterable[pa.RecordBatch],
    take: Callable[[int], Outcome],
    extra: tuple[pa.Field, ...],
) -> tuple[Row, Counter[str]]:
    """Writes tar, rows and rejected samples, each under a temporary name until whole.

    `plan` holds the shard's pairs in the order of their uids, `take` gives the outcome of a pair to fetch by its
    position. Returns each file's size and checksum by name, and the count of each reason, `success` among them.
    """
    names = (tar_name(index), rows_name(index), rejected_name(index))
    with ExitStack() as stack:
        streams = [Hashing(stack.enter_context(storage.write_whole(storage.join(output, name)))) for name in names]
        kept, rejected = Tar(streams[0]), Tar(streams[2])
        schema, counts = row_schema(extra), Counter[str]()
        with pq.ParquetWriter(streams[1], schema, compression="zstd") as writer:
            for rows, bodies in completed(plan, take):
                for row, body in zip(rows, bodies, strict=True):
                    reason = row["reason"] or SUCCESS
                    if reason == SUCCESS:
                        kept.add_sample(row, body)
                    elif body and counts[reason] < KEPT_SAMPLES:
                        rejected.add_sample(row, body)
                    counts[reason] += 1
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
        kept.end()
        rejected.end()
    return {name: stream.summary() for name, stream in zip(names, streams, strict=True)}, counts


def completed(
    plan: Iterable[pa.RecordBatch], take: Callable[[int], Outcome]
) -> Iterator[tuple[list[Row], list[bytes]]]:
    """The planned pairs with what became of them, a batch at a time."""
    position = 0
    for batch in plan:
        pairs = batch.to_pylist()
        outcomes = [
            take(position + row) if pair["reason"] is None else Outcome({"status": REJECTED, "reason": pair["reason"]})
            for row, pair in enumerate(pairs)
        ]
        position += len(pairs)
        rows = [{**EMPTY_ROW, **pair, **outcome.fields} for pair, outcome in zip(pairs, outcomes, strict=True)]
        yield rows, [outcome.body for outcome in outcomes]


def commit(output: str, index: int, written: Row, counts: Counter[str], started: float, ended: float) -> Row:
    """Writes the marker by which the shard counts as done, in img2dataset's form of statistics, and returns it."""
    marker = {
        "count": counts.total(),
        "successes": counts[SUCCESS],
        **{status: tally(counts, status) for status in (FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED)},
        "duration": ended - started,
        "start_time": started,
        "end_time": ended,
        "status_dict": dict(sorted(counts.items())),
        "files": written,
    }
    storage.write_json(storage.join(output, marker_name(index)), marker)
    return marker


def tally(counts: Counter[str], status: str) -> int:
    return sum(count for reason, count in counts.items() if status_of(reason) == status)
