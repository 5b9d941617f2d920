"""Tables of links → batches of raw rows: parquet, CSV, TSV, JSON, lists of links. Imports no Beam, no torch, no faiss.

A row comes out as it stood in its table, or as one count under the reason that rejected it: the rows of the batches
and the counts beside them add up to the rows of the file. Empty lines of a text table are no rows. How text tables are
split into rows, and what a stray quote costs, is described in text_rows.py.

A table without a column of captions has a caption column of Arrow's null type: its rows have no caption to judge.
"""

import hashlib
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from gesso.pipelines.collect import text_rows
from gesso.pipelines.collect.text_rows import LINE_BYTES, Fields

MALFORMED = "malformed_row"
URL_MISSING = "url_missing"

FIELD_BYTES = 1 << 17  # of a link, a caption or an extra text that is kept; 8192 of them fit an Arrow array's 2 GiB
UNIT_BYTES = 64 << 20
ENDS_BYTES = 1 << 20  # at the start and at the end of a table, by which it is known again
PEEK_ROWS = 100  # a bad first row does not reject a table
PEEK_THREADS = 16

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
}
NAMELESS = ("csv", "tsv")  # formats whose tables may come without a header
COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".zst": "zst", ".xz": "xz"}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
PREFIX = "table_"  # of an extra column whose name gesso itself writes

TEXT = (pa.string(), pa.binary())

Row = Sequence[bytes | None] | str  # the fields of Columns.wanted, or the reason that rejects the row


class RowFilter(NamedTuple):
    """Rows are kept whose `column` holds `value`; every other row is counted under `reason`."""

    column: str
    value: bytes
    reason: str


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what."""

    url: str = "url"
    caption: str = "caption"  # empty: there are no captions
    extra: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None  # all columns of a CSV or TSV table that has no header
    encoded: frozenset[str] = frozenset()  # percent-encoded, spaces as plus signs; needs `names`
    row_filter: RowFilter | None = None  # needs `names`

    def __post_init__(self) -> None:
        assert self.names is not None or not (self.encoded or self.row_filter)
        twice = [name for name, count in Counter(self.carried).items() if count > 1]
        if twice:
            raise UserError(f"extra column {twice[0]!r} is named twice: name it once")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of the columns that are read."""
        return (self.url, *filter(None, [self.caption]), *self.extra)

    @property
    def carried(self) -> tuple[str, ...]:
        """The names under which the extra columns travel."""
        return tuple(f"{PREFIX}{name}" if name in schemas.RESERVED else name for name in self.extra)


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
        row_filter=RowFilter("marker", b"0", "not_a_photo"),
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


def identity(table: Table) -> dict[str, Any]:
    """What tells a table from others, wherever it stands: name, size, and a hash of its first and last MiB."""
    with _opened(table) as stream:
        digest = hashlib.sha256(stream.read(ENDS_BYTES))
        stream.seek(max(0, table.size - ENDS_BYTES))
        digest.update(stream.read(ENDS_BYTES))
    return {"name": table.path.rpartition("/")[2], "bytes": table.size, "ends_sha256": digest.hexdigest()}


def identities(tables: Sequence[Table]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(PEEK_THREADS) as pool:
        return list(pool.map(identity, tables))


def extra_fields(tables: Sequence[Table], columns: Columns) -> tuple[pa.Field, ...]:
    """The extra columns' fields, after a look into every table: it opens, its columns are there, their types unify.

    A column whose name gesso writes itself is carried under another (`Columns.carried`).
    """
    with ThreadPoolExecutor(PEEK_THREADS) as pool:
        found = list(pool.map(lambda table: _peek(table, _columns_of(table, columns)), tables))
    types = zip(*found, strict=True)
    return tuple(
        pa.field(carried, _unified(tables, name, list(of_column)))
        for carried, name, of_column in zip(columns.carried, columns.extra, types, strict=True)
    )


def units(table: Table) -> list[Unit]:
    """The table cut into units: row groups of at most 64 MiB together, or a single larger one."""
    if table.format != "parquet":
        return [Unit(table, 0, 1)]
    with _opened(table) as stream:
        metadata = pq.read_metadata(stream)
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    return [Unit(table, first, count) for first, count in _packed(sizes)]


def read(
    unit: Unit, columns: Columns, extra: Sequence[pa.Field], batch_rows: int = 8192
) -> Iterator[tuple[pa.RecordBatch, Counter[str]]]:
    """Batches of url and caption as raw bytes with `extra` behind, each with its rejected rows by reason."""
    columns = _columns_of(unit.table, columns)
    with _opened(unit.table) as stream:
        if unit.table.format == "parquet":
            yield from _read_parquet(stream, unit, columns, extra, batch_rows)
        else:
            yield from _read_text(stream, unit.table, columns, extra, batch_rows)


def _columns_of(table: Table, columns: Columns) -> Columns:
    """A .txt file has links alone, whatever other tables have."""
    return replace(columns, url="url", caption="") if table.format == "txt" else columns


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
            f"{found.path}: unknown ending; name the file .parquet, or .csv, .tsv, .jsonl, .ndjson, .json or .txt "
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


def _peek(table: Table, columns: Columns) -> tuple[pa.DataType, ...]:
    """The types of the extra columns. Raises UserError where the table is not as `columns` says."""
    if columns.names is not None and table.format not in NAMELESS:
        raise UserError(
            f"{table.path}: the chosen columns are those of a CSV or TSV table without a header, "
            f"which a {table.format} table is not: choose another --preset"
        )
    with _opened(table) as stream:
        if table.format == "parquet":
            return _peek_parquet(stream, table, columns)
        PEEKS.get(table.format, _peek_delimited)(text_rows.blocks(stream, table.compression), table, columns)
    return tuple(pa.string() for _ in columns.extra)


def _peek_parquet(stream: IO[bytes], table: Table, columns: Columns) -> tuple[pa.DataType, ...]:
    schema = pq.read_schema(stream)
    _require(table, columns, schema.names)
    for name in filter(None, (columns.url, columns.caption)):
        if _plain(schema.field(name).type) not in (pa.string(), pa.binary(), pa.null()):
            raise UserError(f"{table.path}: column {name!r} holds {schema.field(name).type}, not text")
    return tuple(_plain(schema.field(name).type) for name in columns.extra)


def _peek_delimited(blocks: Iterator[bytes], table: Table, columns: Columns) -> None:
    names, rows = _named_rows(blocks, table, columns)
    widths = [len(fields) for fields in islice(rows, PEEK_ROWS) if fields is not None]
    if widths and len(names) not in widths:
        raise UserError(
            f"{table.path}: {len(names)} columns are named, but its first row has {widths[0]} fields: "
            f"choose another --preset or mend the file"
        )


def _peek_json(blocks: Iterator[bytes], table: Table, columns: Columns) -> None:
    found = list(islice(_records(blocks, table), PEEK_ROWS))
    objects = [record for record in found if record is not None]
    if objects:
        _require(table, columns, list(dict.fromkeys(name for record in objects for name in record)))
    elif found and table.format == "json":  # of lines each is a row, and counted as malformed
        raise UserError(f"{table.path}: none of its first {len(found)} values is an object: mend the file")


def _peek_links(blocks: Iterator[bytes], table: Table, columns: Columns) -> None:
    _require(table, columns, [columns.url])
    found = list(islice(text_rows.filled(text_rows.lines(blocks)), PEEK_ROWS))
    if found and not any(b"://" in line for line in found):
        raise UserError(f"{table.path}: none of its first {len(found)} lines is a link: a .txt file has one a line")


PEEKS = {"jsonl": _peek_json, "json": _peek_json, "txt": _peek_links}


def _require(table: Table, columns: Columns, names: Sequence[str]) -> None:
    for name in columns.wanted:
        if name not in names:
            none = ", or --caption_column '' where there are no captions" if name == columns.caption else ""
            raise UserError(
                f"{table.path}: no column {name!r} among {', '.join(map(repr, names))}: "
                f"name the right one with --url_column, --caption_column, --extra_columns or --preset{none}"
            )
        if names.count(name) > 1:
            raise UserError(f"{table.path}: column {name!r} is there more than once: rename one")


def _unified(tables: Sequence[Table], name: str, types: list[pa.DataType]) -> pa.DataType:
    """The type that holds a column of all tables. Raises UserError where there is none."""
    unified, origin = types[0], tables[0]
    for table, type in zip(tables, types, strict=True):
        if type == unified:
            continue
        try:
            wider = _wider(unified, type)
        except pa.ArrowTypeError as error:
            raise UserError(
                f"{table.path}: extra column {name!r} holds {type}, but {unified} in {origin.path}: "
                f"make them alike or leave the column out"
            ) from error
        if wider != unified:
            unified, origin = wider, table
    return unified


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if {one, other} == set(TEXT):
        return pa.string()
    schemas = [pa.schema([pa.field("column", type)]) for type in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


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
    stream: IO[bytes], unit: Unit, columns: Columns, extra: Sequence[pa.Field], batch_rows: int
) -> Iterator[tuple[pa.RecordBatch, Counter[str]]]:
    file = pq.ParquetFile(stream)
    groups = list(range(unit.first_group, unit.first_group + unit.groups))
    wanted = list(dict.fromkeys(columns.wanted))
    for batch in file.iter_batches(batch_rows, row_groups=groups, columns=wanted, use_threads=False):
        yield _parquet_batch(batch, columns, extra)


def _parquet_batch(
    batch: pa.RecordBatch, columns: Columns, extra: Sequence[pa.Field]
) -> tuple[pa.RecordBatch, Counter[str]]:
    arrays = [_flat(batch.column(name)) for name in columns.wanted]
    texts = len(arrays) - len(columns.extra)  # the link, and the caption where there is one
    raw = [
        array.cast(pa.large_binary()) if number < texts or _plain(array.type) in TEXT else array
        for number, array in enumerate(arrays)
    ]
    return _filtered(raw, columns, extra)


def _flat(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _filtered(
    raw: Sequence[pa.Array], columns: Columns, extra: Sequence[pa.Field]
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The rows that have a link and no over-long text. `raw` holds every text as large_binary: no 2 GiB to overflow."""
    lengths = [_lengths(array) for array in raw if array.type == pa.large_binary()]
    missing = pc.equal(lengths[0], 0)
    long = pc.and_not(pc.greater(pc.max_element_wise(*lengths), FIELD_BYTES), missing)
    keep = pc.invert(pc.or_(missing, long))
    kept = [array.filter(keep) for array in raw]
    if not columns.caption:
        kept.insert(1, pa.nulls(len(kept[0])))
    caption = pa.binary() if columns.caption else pa.null()
    fields = [pa.field("url", pa.binary()), pa.field("caption", caption), *extra]
    arrays = [_typed(array, field.type) for array, field in zip(kept, fields, strict=True)]
    rejected = Counter({URL_MISSING: missing.true_count, MALFORMED: long.true_count})
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)), +rejected


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
    stream: IO[bytes], table: Table, columns: Columns, extra: Sequence[pa.Field], batch_rows: int
) -> Iterator[tuple[pa.RecordBatch, Counter[str]]]:
    rows = READS.get(table.format, _delimited_rows)(text_rows.blocks(stream, table.compression), table, columns)
    while chunk := list(islice(rows, batch_rows)):
        yield _text_batch(chunk, columns, extra)


def _text_batch(
    chunk: Sequence[Row], columns: Columns, extra: Sequence[pa.Field]
) -> tuple[pa.RecordBatch, Counter[str]]:
    rows = [row for row in chunk if not isinstance(row, str)]
    values = zip(*rows, strict=True) if rows else [()] * len(columns.wanted)
    batch, rejected = _filtered([pa.array(column, pa.large_binary()) for column in values], columns, extra)
    return batch, rejected + Counter(row for row in chunk if isinstance(row, str))


def _named_rows(blocks: Iterator[bytes], table: Table, columns: Columns) -> tuple[tuple[str, ...], Iterator[Fields]]:
    """The columns' names and the rows of a CSV or TSV table. Raises UserError where a column is missing."""
    rows = text_rows.ROWS[table.format](text_rows.lines(blocks), len(columns.names or ()))
    names = columns.names or _header(table, rows)
    _require(table, columns, names)
    return names, rows


def _header(table: Table, rows: Iterator[Fields]) -> tuple[str, ...]:
    fields = next(rows, None)
    if fields is None:
        raise UserError(f"{table.path}: no header in its first line: mend the file or leave it out")
    return tuple(field.decode("utf-8", "replace") for field in fields)


def _delimited_rows(blocks: Iterator[bytes], table: Table, columns: Columns) -> Iterator[Row]:
    names, rows = _named_rows(blocks, table, columns)
    pick = [names.index(name) for name in columns.wanted]
    encoded = [i for i, name in enumerate(columns.wanted) if name in columns.encoded]
    row_filter = columns.row_filter
    at = names.index(row_filter.column) if row_filter else 0
    for fields in rows:
        if fields is None or len(fields) != len(names):
            yield MALFORMED
        elif row_filter and fields[at] != row_filter.value:
            yield row_filter.reason
        else:
            yield _decoded([fields[i] for i in pick], encoded)


def _link_rows(blocks: Iterator[bytes], table: Table, columns: Columns) -> Iterator[Row]:
    for line in text_rows.filled(text_rows.lines(blocks)):
        yield [line.strip()] if len(line) <= LINE_BYTES else MALFORMED


def _decoded(values: list[bytes], encoded: list[int]) -> list[bytes]:
    for i in encoded:
        values[i] = unquote_to_bytes(values[i].replace(b"+", b" "))
    return values


def _json_rows(blocks: Iterator[bytes], table: Table, columns: Columns) -> Iterator[Row]:
    for record in _records(blocks, table):
        yield MALFORMED if record is None else _json_row(record, columns)


def _records(blocks: Iterator[bytes], table: Table) -> Iterator[dict[str, Any] | None]:
    """The objects of a JSON table, None for what is no object. Raises UserError where an array breaks off."""
    if table.format == "jsonl":
        yield from text_rows.json_lines(text_rows.lines(blocks))
        return
    number = 0
    try:
        for number, record in enumerate(text_rows.json_records(blocks), 1):  # noqa: B007 - named in the error below
            yield record
    except ValueError as error:
        what = f"is no JSON behind its first {number:,} values ({error})"
        raise UserError(f"{table.path}: {what}: mend the file") from error


def _json_row(record: dict[str, Any], columns: Columns) -> Row:
    names = columns.wanted[: len(columns.wanted) - len(columns.extra)]
    texts = [record.get(name) for name in names]
    if not all(isinstance(text, (str, NoneType)) for text in texts):
        return MALFORMED
    try:
        return [_encoded(text) for text in (*texts, *(_json_text(record.get(name)) for name in columns.extra))]
    except RecursionError:
        return MALFORMED


READS = {"jsonl": _json_rows, "json": _json_rows, "txt": _link_rows}


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
