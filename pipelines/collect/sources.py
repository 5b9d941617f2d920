"""Tables of links → batches of raw rows: parquet, CSV, TSV, JSONL, and presets. Imports no Beam, no torch, no faiss.

A row comes out as it stood in its table, or as one count under the reason that kept it back: the rows of the batches
and the counts beside them add up to the rows of the file. Empty lines of a text table are no rows.

CSV follows RFC 4180 strictly: quotes doubled inside quotes, newlines inside quotes are text. TSV knows no quotes and no
escapes: a tab always parts two fields and a newline two rows, as Conceptual Captions and YFCC100M are written.
"""

import bz2
import csv
import gzip
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import NoneType
from typing import IO, Any, NamedTuple
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import schemas
from gesso.errors import UserError

MALFORMED = "malformed_row"
URL_MISSING = "url_missing"

FIELD_BYTES = 1 << 17  # of a link, a caption or an extra text that is kept; 8192 of them fit an Arrow array's 2 GiB
LINE_BYTES = 1 << 22  # of a line, and of a CSV field that is not kept
BLOCK_BYTES = 1 << 18
UNIT_BYTES = 64 << 20
PEEK_ROWS = 100  # a bad first row must not condemn a table
PEEK_THREADS = 16

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".zst": "zst", ".xz": "xz"}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)

TEXT = (pa.string(), pa.binary())

Row = Sequence[bytes | None] | str  # (url, caption, *extras), or the reason that rejects the row
Fields = list[bytes] | None  # of one line; None where it cannot be split


class Only(NamedTuple):
    """Rows are kept whose `column` holds `value`; every other row is counted under `reason`."""

    column: str
    value: bytes
    reason: str


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what."""

    url: str = "url"
    caption: str = "caption"
    extra: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None  # all columns of a CSV or TSV table that has no header
    encoded: frozenset[str] = frozenset()  # percent-encoded, spaces as plus signs; needs `names`
    only: Only | None = None  # needs `names`

    def __post_init__(self) -> None:
        assert self.names is not None or not (self.encoded or self.only)
        twice = [name for name, count in Counter(self.extra).items() if count > 1]
        if twice:
            raise UserError(f"extra column {twice[0]!r} is named twice: name it once")

    @property
    def wanted(self) -> tuple[str, ...]:
        return (self.url, self.caption, *self.extra)


# The 25 columns of the one-file `yfcc100m_dataset`: https://lbsn.vgiscience.org/tutorial/yfcc-introduction; line
# number, photo identifier and hash come first (https://github.com/openai/CLIP, data/yfcc100m.md). The names are those
# of the dataset's own SQLite edition. The earlier edition in ten files lacks `line` and `hash`. Text is written as
# `urllib.parse.quote_plus` writes it (https://huggingface.co/datasets/dalle-mini/YFCC100M_OpenAI_subset).
YFCC100M = (
    *("line", "photoid", "hash", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title"),
    *("description", "usertags", "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl"),
    *("licensename", "licenseurl", "serverid", "farmid", "secret", "secretoriginal", "ext", "marker"),
)
YFCC100M_ENCODED = frozenset(("unickname", "capturedevice", "title", "description", "usertags", "machinetags"))
PRESETS = {
    # https://laion.ai/blog/laion-400-open-dataset and laion-5b: SAMPLE_ID, URL, TEXT, HEIGHT, WIDTH, LICENSE, …
    "laion": Columns("URL", "TEXT"),
    # https://huggingface.co/datasets/kakaobrain/coyo-700m: id, url, text, width, height, image_phash, …
    "coyo": Columns("url", "text"),
    # https://huggingface.co/datasets/mlfoundations/datacomp_small: uid, url, text, original_width, …, sha256
    "datacomp": Columns("url", "text"),
    # https://ai.google.com/research/ConceptualCaptions/download: caption, then link, no header.
    # CC12M has them the other way round.
    "conceptual-captions": Columns(names=("caption", "url")),
    "yfcc100m": Columns(
        "downloadurl",
        "description",
        names=YFCC100M,
        encoded=YFCC100M_ENCODED,
        only=Only("marker", b"0", "not_a_photo"),
    ),
}


class Table(NamedTuple):
    """A file of links."""

    path: str
    size: int  # bytes
    format: str  # a value of FORMATS
    compression: str  # a value of COMPRESSIONS, or empty


class Unit(NamedTuple):
    """What one worker reads at a time: row groups of a parquet table, or the whole of a text table."""

    table: Table
    first_group: int
    groups: int


def find_tables(patterns: Sequence[str]) -> list[Table]:
    """The tables that the globs match, sorted by path, each once."""
    found = {_table(match) for pattern in patterns for match in _matches(pattern)}
    return sorted(found)


def extra_fields(tables: Sequence[Table], columns: Columns) -> tuple[pa.Field, ...]:
    """The extra columns' fields, after a look into every table: it opens, its columns are there, their types agree."""
    for name in columns.extra:
        if name in schemas.RESERVED:
            raise UserError(f"extra column {name!r} has a name that gesso itself writes: rename it in the tables")
    with ThreadPoolExecutor(PEEK_THREADS) as pool:
        found = list(pool.map(lambda table: _peek(table, columns), tables))
    for table, fields in zip(tables, found, strict=True):
        _check_agreement(tables[0], found[0], table, fields)
    return found[0]


def units(table: Table) -> list[Unit]:
    """The table cut into units: row groups of at most 64 MiB together, or a single larger one."""
    if table.format != "parquet":
        return [Unit(table, 0, 1)]
    with _opened(table) as stream:
        metadata = pq.read_metadata(stream)
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    return [Unit(table, first, count) for first, count in _packed(sizes)]


def read(unit: Unit, columns: Columns, batch_rows: int = 8192) -> Iterator[tuple[pa.RecordBatch, Counter[str]]]:
    """Batches of url and caption as raw bytes with the extras behind, each with its rejected rows by reason."""
    with _opened(unit.table) as stream:
        if unit.table.format == "parquet":
            yield from _read_parquet(stream, unit, columns, batch_rows)
        else:
            yield from _read_text(stream, unit.table, columns, batch_rows)


def _matches(pattern: str) -> list[storage.Found]:
    found = storage.glob(pattern)
    if not found:
        raise UserError(f"no file matches {pattern!r}: name files or a glob such as 'links/*.parquet'")
    return found


def _table(found: storage.Found) -> Table:
    stem = found.path.lower()
    ending = next((ending for ending in COMPRESSIONS if stem.endswith(ending)), "")
    stem = stem.removesuffix(ending)
    format = next((name for end, name in FORMATS.items() if stem.endswith(end)), None)
    if format is None or (format == "parquet" and ending):
        raise UserError(
            f"{found.path}: unknown ending; name the file .parquet, or .csv, .tsv, .jsonl or .ndjson "
            f"with or without {', '.join(COMPRESSIONS)}"
        )
    return Table(found.path, found.size, format, COMPRESSIONS.get(ending, ""))


@contextmanager
def _opened(table: Table) -> Iterator[IO[bytes]]:
    try:
        with storage.open_input(table.path) as stream:
            yield stream
    except BROKEN as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{table.path}: cannot be read ({reason}): mend the file or leave it out") from error


def _peek(table: Table, columns: Columns) -> tuple[pa.Field, ...]:
    if columns.names is not None and table.format in ("parquet", "jsonl"):
        raise UserError(
            f"{table.path}: the chosen columns are those of a CSV or TSV table without a header, "
            f"and a {table.format} table names its own: choose another --preset"
        )
    with _opened(table) as stream:
        if table.format == "parquet":
            return _peek_parquet(stream, table, columns)
        _peek_text(stream, table, columns)
    return tuple(pa.field(name, pa.string()) for name in columns.extra)


def _peek_parquet(stream: IO[bytes], table: Table, columns: Columns) -> tuple[pa.Field, ...]:
    schema = pq.read_schema(stream)
    _require(table, columns, schema.names)
    for name in (columns.url, columns.caption):
        if _plain(schema.field(name).type) not in (pa.string(), pa.binary(), pa.null()):
            raise UserError(f"{table.path}: column {name!r} holds {schema.field(name).type}, not text")
    return tuple(pa.field(name, _plain(schema.field(name).type)) for name in columns.extra)


def _peek_text(stream: IO[bytes], table: Table, columns: Columns) -> None:
    lines = _lines(_blocks(stream, table.compression))
    if table.format == "jsonl":
        _peek_jsonl(lines, table, columns)
        return
    rows = SPLITS[table.format](lines)
    names = columns.names or _header(table, rows)
    _require(table, columns, names)
    widths = [len(fields) for fields in islice(rows, PEEK_ROWS) if fields is not None]
    if widths and len(names) not in widths:
        raise UserError(
            f"{table.path}: {len(names)} columns are named, but its first row has {widths[0]} fields: "
            f"choose another --preset or mend the file"
        )


def _peek_jsonl(lines: Iterator[bytes], table: Table, columns: Columns) -> None:
    found = [_object(line) for line in islice(_filled(lines), PEEK_ROWS)]
    objects = [record for record in found if record is not None]
    if objects:
        _require(table, columns, list(dict.fromkeys(name for record in objects for name in record)))
    elif found:
        raise UserError(f"{table.path}: none of its first {len(found)} lines is a JSON object: mend the file")


def _require(table: Table, columns: Columns, names: Sequence[str]) -> None:
    for name in columns.wanted:
        if name not in names:
            raise UserError(
                f"{table.path}: no column {name!r} among {', '.join(map(repr, names))}: "
                f"name the right one with --url-column, --caption-column, --extra-columns or --preset"
            )
        if names.count(name) > 1:
            raise UserError(f"{table.path}: column {name!r} is there more than once: rename one")


def _check_agreement(first: Table, expected: tuple[pa.Field, ...], table: Table, fields: tuple[pa.Field, ...]) -> None:
    for one, other in zip(expected, fields, strict=True):
        if one.type != other.type:
            raise UserError(
                f"{table.path}: extra column {other.name!r} holds {other.type}, but {one.type} in {first.path}: "
                f"make them alike or leave the column out"
            )


def _plain(type: pa.DataType) -> pa.DataType:
    """The type without its layout: dictionary, large and view types become what they stand for."""
    if pa.types.is_dictionary(type):
        return _plain(type.value_type)
    if pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_large_binary(type) or pa.types.is_binary_view(type):
        return pa.binary()
    return type


def _packed(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbours packed to UNIT_BYTES at most: (first, count) of each pack."""
    first, total = 0, 0
    for group, size in enumerate(sizes):
        if group > first and total + size > UNIT_BYTES:
            yield first, group - first
            first, total = group, 0
        total += size
    if sizes:
        yield first, len(sizes) - first


def _read_parquet(
    stream: IO[bytes], unit: Unit, columns: Columns, batch_rows: int
) -> Iterator[tuple[pa.RecordBatch, Counter[str]]]:
    file = pq.ParquetFile(stream)
    groups = list(range(unit.first_group, unit.first_group + unit.groups))
    wanted = list(dict.fromkeys(columns.wanted))
    for batch in file.iter_batches(batch_rows, row_groups=groups, columns=wanted, use_threads=False):
        yield _parquet_batch(batch, columns)


def _parquet_batch(batch: pa.RecordBatch, columns: Columns) -> tuple[pa.RecordBatch, Counter[str]]:
    arrays = [_flat(batch.column(name)) for name in columns.wanted]
    types = [pa.binary(), pa.binary(), *(_plain(batch.column(name).type) for name in columns.extra)]
    raw = [array.cast(pa.large_binary()) if type in TEXT else array for array, type in zip(arrays, types, strict=True)]
    return _judged(raw, types, columns)


def _flat(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _judged(
    raw: Sequence[pa.Array], types: Sequence[pa.DataType], columns: Columns
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The rows that have a link and no over-long text. `raw` holds every text as large_binary: no 2 GiB to overflow."""
    lengths = [_lengths(array) for array in raw if array.type == pa.large_binary()]
    missing = pc.equal(lengths[0], 0)
    long = pc.and_not(pc.greater(pc.max_element_wise(*lengths), FIELD_BYTES), missing)
    keep = pc.invert(pc.or_(missing, long))
    arrays = [_typed(array.filter(keep), type) for array, type in zip(raw, types, strict=True)]
    rejected = Counter({URL_MISSING: missing.true_count, MALFORMED: long.true_count})
    return pa.RecordBatch.from_arrays(arrays, ["url", "caption", *columns.extra]), +rejected


def _lengths(binary: pa.Array) -> pa.Array:
    return pc.fill_null(pc.binary_length(binary), 0)


def _typed(array: pa.Array, type: pa.DataType) -> pa.Array:
    """The array as `type`; bytes that are no UTF-8 are replaced where it is text."""
    try:
        return array.cast(type)
    except pa.ArrowInvalid:
        if type != pa.string():
            raise
        return pa.array([value and value.decode("utf-8", "replace") for value in array.to_pylist()], type)


def _read_text(
    stream: IO[bytes], table: Table, columns: Columns, batch_rows: int
) -> Iterator[tuple[pa.RecordBatch, Counter[str]]]:
    lines = _lines(_blocks(stream, table.compression))
    rows = _json_rows(lines, columns) if table.format == "jsonl" else _delimited_rows(lines, table, columns)
    while chunk := list(islice(rows, batch_rows)):
        yield _text_batch(chunk, columns)


def _text_batch(chunk: Sequence[Row], columns: Columns) -> tuple[pa.RecordBatch, Counter[str]]:
    rows = [row for row in chunk if not isinstance(row, str)]
    values = zip(*rows, strict=True) if rows else [()] * len(columns.wanted)
    raw = [pa.array(column, pa.large_binary()) for column in values]
    types = [pa.binary(), pa.binary(), *(pa.string() for _ in columns.extra)]
    batch, rejected = _judged(raw, types, columns)
    return batch, rejected + Counter(row for row in chunk if isinstance(row, str))


# Arrow's zstd reader and not zstandard's, which takes a truncated frame for a whole one.
OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "": lambda stream: stream,
    "gz": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
    "zst": lambda stream: pa.CompressedInputStream(stream, "zstd"),
}


def _blocks(stream: IO[bytes], compression: str) -> Iterator[bytes]:
    """The decompressed bytes, a block at a time. Raises one of BROKEN where they break off."""
    opened = OPENERS[compression](stream)
    return iter(lambda: opened.read(BLOCK_BYTES), b"")


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without newline and without the byte order mark; of one over LINE_BYTES a stump that is over it too."""
    lines = _split_lines(blocks)
    yield next(lines, b"").removeprefix(b"\xef\xbb\xbf")
    yield from lines


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        rest = rest[: LINE_BYTES + 1]
    yield rest


def _filled(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line and not line.isspace())


def _csv_rows(lines: Iterable[bytes]) -> Iterator[Fields]:
    csv.field_size_limit(LINE_BYTES)
    reader = csv.reader(_csv_lines(lines), strict=True)
    while True:
        try:
            fields = next(reader)
        except csv.Error:
            yield None
        except StopIteration:
            return
        else:
            if fields:
                yield [field.encode("latin-1") for field in fields]


def _csv_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Lines as the csv module wants them, one byte a character; an over-long one becomes a field that it refuses."""
    for line in lines:
        yield "x" * (LINE_BYTES + 1) if len(line) > LINE_BYTES else line.decode("latin-1") + "\n"


def _tsv_rows(lines: Iterable[bytes]) -> Iterator[Fields]:
    for line in lines:
        text = line.removesuffix(b"\r")
        if text:
            yield text.split(b"\t") if len(text) <= LINE_BYTES else None


SPLITS: dict[str, Callable[[Iterable[bytes]], Iterator[Fields]]] = {"csv": _csv_rows, "tsv": _tsv_rows}


def _header(table: Table, rows: Iterator[Fields]) -> tuple[str, ...]:
    fields = next(rows, None)
    if fields is None:
        raise UserError(f"{table.path}: no header in its first line: mend the file or leave it out")
    return tuple(field.decode("utf-8", "replace") for field in fields)


def _delimited_rows(lines: Iterable[bytes], table: Table, columns: Columns) -> Iterator[Row]:
    rows = SPLITS[table.format](lines)
    names = columns.names or _header(table, rows)
    _require(table, columns, names)
    pick = [names.index(name) for name in columns.wanted]
    encoded = [i for i, name in enumerate(columns.wanted) if name in columns.encoded]
    only = columns.only
    at = names.index(only.column) if only else 0
    for fields in rows:
        if fields is None or len(fields) != len(names):
            yield MALFORMED
        elif only and fields[at] != only.value:
            yield only.reason
        else:
            yield _decoded([fields[i] for i in pick], encoded)


def _decoded(values: list[bytes], encoded: list[int]) -> list[bytes]:
    for i in encoded:
        values[i] = unquote_to_bytes(values[i].replace(b"+", b" "))
    return values


def _json_rows(lines: Iterable[bytes], columns: Columns) -> Iterator[Row]:
    for line in _filled(lines):
        record = _object(line)
        yield MALFORMED if record is None else _json_row(record, columns)


def _object(line: bytes) -> dict[str, Any] | None:
    if len(line) > LINE_BYTES:
        return None
    try:
        record = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _json_row(record: dict[str, Any], columns: Columns) -> Row:
    url, caption = record.get(columns.url), record.get(columns.caption)
    if not isinstance(url, (str, NoneType)) or not isinstance(caption, (str, NoneType)):
        return MALFORMED
    try:
        extras = [_encoded(_json_text(record.get(name))) for name in columns.extra]
    except RecursionError:
        return MALFORMED
    return [_encoded(url), _encoded(caption), *extras]


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _encoded(text: str | None) -> bytes | None:
    """The bytes that stood in the line; of an escaped lone surrogate, its three bytes, which are no UTF-8."""
    if text is None:
        return None
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
