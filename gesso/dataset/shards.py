"""One shard on disk: reproducible tar, rows, commit marker. No Beam, no pictures decoded.

    00000.tar                  the kept samples in the order of their keys: KEY.jpg KEY.txt KEY.json
    00000.parquet              a row for every link, kept or not, in the same order
    rejected/00000.thumbnails  a tar: small pictures of some that a rule rejected, for people to look at
    00000_stats.json           the commit marker, written last: counts, sizes and checksums of the three above

The bytes of the first three depend on the links' responses alone, not on time or the order of completion.
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
from gesso.dataset.json_values import json_rows, typed
from gesso.dataset.layout import marker_name, rejected_name, rows_name, tar_name
from gesso.dataset.records import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED, SUCCESS, status_of
from gesso.dataset.schemas import PLAN_FIELDS, ROW_FIELDS, row_schema

Row = dict[str, Any]

POLL_SECONDS = 0.1  # seconds between two checks of `take`: waking it for each position costs more than writing it
EXAMPLES_PER_REASON = 8  # rejected pictures that a shard keeps for each reason
BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = b"\0" * (2 * BLOCK)
NAME_BYTES, SIZE_DIGITS = 100, 11  # of a header's fields
EMPTY_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
EMPTY_CHECKSUM = int(EMPTY_HEADER[148:154], 8)  # of all bytes, the checksum's own as blanks
EMPTY_ROW: Row = {field.name: None for field in ROW_FIELDS}
PLAN_NAMES = [field.name for field in PLAN_FIELDS]


class Outcome(NamedTuple):
    """The result of one link: fields of its row, and the picture's bytes."""

    fields: Row
    body: bytes = b""  # the kept JPEG, or a thumbnail of a rejected picture, or empty


class Spool:
    """Puts outcomes that arrive in any order into the order of their positions, through a temporary file.

    `put` may be called from any thread; `take` waits for its position, or raises the error that was given to `fail`.
    """

    def __init__(self, count: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the spool
        self._offsets = array("q", [-1]) * count
        self._sizes = array("q", [0]) * (2 * count)  # two for each position: of its fields, of its body
        self._end = 0
        self._arrived = threading.Condition()
        self._error: BaseException | None = None
        self.counts: Counter[str] = Counter()  # reasons so far, `success` among them

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
                self._arrived.wait(POLL_SECONDS)
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


class HashingWriter:
    """A file object for writing that counts and hashes its bytes."""

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
        """pyarrow calls it; the stream is flushed when it is closed."""

    def summary(self) -> Row:
        return {"bytes": self.bytes, "sha256": self._sha256.hexdigest()}


def tar_header(name: str, size: int) -> bytes:
    """The header of a tar's member: the same bytes as tarfile's, ten times as fast.

    A PAX header stands before it where the name is longer than its field or not ASCII, or the file larger than 8 GiB.
    """
    raw, octal = name.encode(), b"%011o" % size
    if len(raw) > NAME_BYTES or len(octal) > SIZE_DIGITS or not raw.isascii():
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8")
    total = EMPTY_CHECKSUM + sum(raw) + sum(octal) - sum(b"0" * SIZE_DIGITS)
    rest = (EMPTY_HEADER[len(raw) : 124], octal, EMPTY_HEADER[135:148], b"%06o" % total, EMPTY_HEADER[154:])
    return b"".join((raw, *rest))


def header_bytes(name: str) -> int:
    """The size of `tar_header` for a file of less than 8 GiB."""
    return BLOCK if len(name) <= NAME_BYTES and name.isascii() else len(tar_header(name, 0))


class TarWriter:
    """Writes a reproducible tar: its bytes depend on names and contents alone (POSIX ustar, other fields constant)."""

    def __init__(self, stream: HashingWriter) -> None:
        self._stream = stream

    def add(self, name: str, body: bytes | memoryview) -> None:
        self._stream.write(b"".join((tar_header(name, len(body)), body, b"\0" * (-len(body) % BLOCK))))

    def add_sample(self, row: Row, body: bytes) -> None:
        """A row's picture, caption and fields, side by side as webdataset wants them; no field without a type."""
        self.add(f"{row['key']}.jpg", body)
        self.add(f"{row['key']}.txt", row["caption"].encode())
        self.add(f"{row['key']}.json", json_text(row))

    def end(self) -> None:
        padding = b"\0" * (-(self._stream.bytes + len(END_OF_TAR)) % tarfile.RECORDSIZE)
        self._stream.write(END_OF_TAR + padding)


def json_text(row: Row) -> bytes:
    """A row as KEY.json has it."""
    return json.dumps(typed(row), ensure_ascii=False, allow_nan=False).encode()


def write_shard(
    output: str,
    index: int,
    plan: Iterable[pa.RecordBatch],
    take: Callable[[int], Outcome],
    extra: tuple[pa.Field, ...],
) -> tuple[Row, Counter[str]]:
    """Writes tar, rows and rejected samples, each under a temporary name until complete.

    `plan` holds the shard's pairs in the order of their keys, `take` returns the outcome of a fetched pair by its
    position. Returns each file's size and checksum by name, and the count of each reason, `success` among them.
    """
    names = (tar_name(index), rows_name(index), rejected_name(index))
    with ExitStack() as stack:
        streams = [
            HashingWriter(stack.enter_context(storage.write_whole(storage.join(output, name)))) for name in names
        ]
        kept, rejected = TarWriter(streams[0]), TarWriter(streams[2])
        schema, counts = row_schema(extra), Counter[str]()
        with pq.ParquetWriter(streams[1], schema, compression="zstd") as writer:
            for pairs, outcomes in iter_rows(plan, take):
                rows = rows_of(pairs, outcomes)
                extras = json_rows(pairs.select([field.name for field in extra]))
                add_samples(kept, rejected, rows, extras, outcomes, counts)
                found = pa.RecordBatch.from_pylist(rows, row_schema())
                columns = [*found.columns, *(pairs[field.name].cast(field.type) for field in extra)]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        kept.end()
        rejected.end()
    return {name: stream.summary() for name, stream in zip(names, streams, strict=True)}, counts


def iter_rows(
    plan: Iterable[pa.RecordBatch], take: Callable[[int], Outcome]
) -> Iterator[tuple[pa.RecordBatch, list[Outcome]]]:
    """The planned pairs with what became of them, a batch at a time."""
    position = 0
    for batch in plan:
        reasons = batch["reason"].to_pylist()
        yield (
            batch,
            [
                take(position + row) if reason is None else Outcome({"status": REJECTED, "reason": reason})
                for row, reason in enumerate(reasons)
            ],
        )
        position += len(reasons)


def rows_of(pairs: pa.RecordBatch, outcomes: list[Outcome]) -> list[Row]:
    """The rows without the extra columns."""
    planned = pairs.select(PLAN_NAMES).to_pylist()
    return [{**EMPTY_ROW, **pair, **outcome.fields} for pair, outcome in zip(planned, outcomes, strict=True)]


def add_samples(
    kept: TarWriter,
    rejected: TarWriter,
    rows: list[Row],
    extras: list[Row],
    outcomes: list[Outcome],
    counts: Counter[str],
) -> None:
    """Adds each kept picture, and the first few of each reason; counts the reasons."""
    for row, more, outcome in zip(rows, extras, outcomes, strict=True):
        reason = row["reason"] or SUCCESS
        if reason == SUCCESS:
            kept.add_sample({**row, **more}, outcome.body)
        elif outcome.body and counts[reason] < EXAMPLES_PER_REASON:
            rejected.add_sample({**row, **more}, outcome.body)
        counts[reason] += 1


def commit(
    output: str, index: int, written: Row, counts: Counter[str], started: float, ended: float, more: Row | None = None
) -> Row:
    """Writes and returns the commit marker, in the format of img2dataset's statistics: with it the shard is done."""
    marker = {
        "count": counts.total(),
        "successes": counts[SUCCESS],
        **{status: count_status(counts, status) for status in (FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED)},
        "duration": ended - started,
        "start_time": started,
        "end_time": ended,
        "status_dict": dict(sorted(counts.items())),
        "files": written,
        **(more or {}),
    }
    storage.write_json(storage.join(output, marker_name(index)), marker)
    return marker


def count_status(counts: Counter[str], status: str) -> int:
    return sum(count for reason, count in counts.items() if status_of(reason) == status)
