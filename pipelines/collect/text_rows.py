"""Bytes of a text table → its rows as fields: lines, CSV, TSV, JSON. Knows no columns.

CSV follows RFC 4180 strictly: quotes doubled inside quotes, newlines inside quotes are text. A quote that nobody closes
would take in the rows behind it. So a row of several lines is taken apart where it breaks a rule of quoting, is longer
than LINE_BYTES, or where most of its lines behind the first are whole rows with a link by themselves: the first line is
one malformed row, and the next is read anew. (pandas, ClickHouse and Python's csv lose all up to the next quote or the
end; DuckDB and Arrow refuse the file or, told to go on, lose the block.)

TSV knows no quotes and no escapes: a tab always parts two fields and a newline two rows, as Conceptual Captions and
YFCC100M are written.
"""

import bz2
import codecs
import csv
import gzip
import json
import lzma
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO, Any

import pyarrow as pa

LINE_BYTES = 1 << 22  # of a line, a CSV row, or a value of a JSON array
BLOCK_BYTES = 1 << 18
MARK = b"\xef\xbb\xbf"  # byte order mark of UTF-8
SPACE = re.compile(r"[ \t\r\n]*")
LINK = re.compile(r"\s*https?://", re.I)

Fields = list[bytes] | None  # of one row; None where it cannot be split
Json = dict[str, Any]

# Arrow's zstd reader and not zstandard's, which takes a truncated frame for a whole one.
OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "": lambda stream: stream,
    "gz": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
    "zst": lambda stream: pa.CompressedInputStream(stream, "zstd"),
}


def blocks(stream: IO[bytes], compression: str) -> Iterator[bytes]:
    """The decompressed bytes, a block at a time. Raises what the compression raises where they break off."""
    opened = OPENERS[compression](stream)
    return iter(lambda: opened.read(BLOCK_BYTES), b"")


def lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without newline and without the byte order mark; one over LINE_BYTES is cut, and stays over it."""
    split = _split_lines(blocks)
    yield next(split, b"").removeprefix(MARK)
    yield from split


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
        rest = rest[: LINE_BYTES + 1]
    yield rest


def filled(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line and not line.isspace())


class CsvLines:
    """Lines as the csv module wants them, one byte a character; those of the row under way can be read again."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._again = deque[str]()
        self.row: list[str] = []
        self._bytes = 0

    def __iter__(self) -> "CsvLines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines).decode("latin-1") + "\n"
        self.row.append(line)
        self._bytes += len(line)
        if self._bytes > LINE_BYTES:
            raise csv.Error(f"a row of more than {LINE_BYTES:,} bytes")
        return line

    def begin_row(self) -> None:
        self.row, self._bytes = [], 0

    def read_again(self) -> None:
        """All lines of the row but the first are to be read again."""
        self._again.extendleft(reversed(self.row[1:]))


def csv_rows(lines: Iterator[bytes], width: int) -> Iterator[Fields]:
    """`width` is the number of columns, 0 where the first row tells it."""
    csv.field_size_limit(LINE_BYTES)
    source = CsvLines(lines)
    reader = csv.reader(source, strict=True)
    while True:
        source.begin_row()
        try:
            fields: list[str] | None = next(reader)
        except csv.Error:
            fields = None
        except StopIteration:
            return
        if len(source.row) > 1 and (fields is None or contains_rows(source.row, width)):
            source.read_again()
            fields = None
        if fields is None:
            yield None
        elif fields:
            width = width or len(fields)
            yield [field.encode("latin-1") for field in fields]


def contains_rows(row: list[str], width: int) -> bool:
    """Whether most of the lines behind the first are rows by themselves."""
    behind = [line for line in row[1:] if not line.isspace()]
    return 2 * sum(is_row(line, width) for line in behind) > len(behind)


def is_row(line: str, width: int) -> bool:
    if "://" not in line:
        return False
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error:
        return False
    return len(fields) == width and any(map(LINK.match, fields))


def tsv_rows(lines: Iterator[bytes], width: int) -> Iterator[Fields]:
    """`width` is not needed: no line belongs to another."""
    for line in lines:
        text = line.removesuffix(b"\r")
        if text:
            yield text.split(b"\t") if len(text) <= LINE_BYTES else None


ROWS: dict[str, Callable[[Iterator[bytes], int], Iterator[Fields]]] = {"csv": csv_rows, "tsv": tsv_rows}


def json_lines(lines: Iterable[bytes]) -> Iterator[Json | None]:
    """The object of each line; None for a line that is none."""
    return map(json_object, filled(lines))


def json_object(line: bytes) -> Json | None:
    if len(line) > LINE_BYTES:
        return None
    try:
        value = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_records(blocks: Iterator[bytes]) -> Iterator[Json | None]:
    """The objects of an array, or of lines where the file does not begin with a bracket; None for what is no object.

    Raises ValueError where an array breaks off: nothing tells where its next object begins.
    """
    head = next(blocks, b"")
    while len(head) < len(MARK) or not head.removeprefix(MARK).strip():
        block = next(blocks, b"")
        if not block:
            break
        head += block
    rest = chain([head.removeprefix(MARK)], blocks)
    if head.removeprefix(MARK).lstrip().startswith(b"["):
        return (value if isinstance(value, dict) else None for value in array_values(rest))
    return json_lines(lines(rest))


def array_values(blocks: Iterable[bytes]) -> Iterator[Any]:
    """The values of a JSON array, one in memory at a time. Raises ValueError from where it is none."""
    texts = decoded(blocks)
    text, at, values = next(texts).lstrip(), 1, 0
    while True:
        try:
            value, end = json.JSONDecoder().raw_decode(text, at := after_space(text, at))
            separator = text[after_space(text, end)]
        except (ValueError, IndexError, RecursionError) as error:
            if text[at:].startswith("]") and not values:
                break
            more = next(texts, "") if len(text) - at <= LINE_BYTES else ""
            if not more:
                raise ValueError(str(error) or "too deep") from error
            text, at = text[at:] + more, 0
            continue
        if separator not in ",]":
            raise ValueError(f"{separator!r} stands where a comma should")
        yield value
        values, at = values + 1, after_space(text, end) + 1
        if separator == "]":
            break
    if any(part.strip() for part in (text[at:].removeprefix("]" * (not values)), *texts)):
        raise ValueError("more stands behind its end")


def after_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    assert found
    return found.end()


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    yield from filter(None, map(decoder.decode, blocks))
    yield decoder.decode(b"", final=True)
