"""Tables of links: every format and compression, presets, bad rows with exact counts, broken files by name."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gesso.errors import UserError
from gesso.pipelines.collect import sources, text_rows
from gesso.pipelines.collect.sources import PRESETS, Columns, Table, Unit

LINKS = Path(__file__).parents[3].parent / "shared/data/links"
ROWS = [("http://a.org/1.jpg", "a cat"), ("http://b.org/2.jpg", "ein Hund, grün"), ("http://c.org/3.jpg", "")]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
}

DEFAULT = Columns()

Rows = list[tuple[Any, ...]]
Read = tuple[Rows, Counter[str]]


def csv_bytes(rows: Rows, header: tuple[str, ...] = ("url", "caption")) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode("utf-8", "surrogateescape")


def tsv_bytes(rows: Rows, header: tuple[str, ...] = ("url", "caption")) -> bytes:
    return "".join("\t".join(row) + "\n" for row in [header, *rows]).encode()


def jsonl_bytes(rows: Rows, header: tuple[str, ...] = ("url", "caption")) -> bytes:
    return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode()


def parquet_bytes(rows: Rows, header: tuple[str, ...] = ("url", "caption")) -> bytes:
    values = zip(*rows, strict=True) if rows else [()] * len(header)
    sink = io.BytesIO()
    pq.write_table(pa.table([pa.array(column, pa.string()) for column in values], names=list(header)), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "csv": csv_bytes,
    "tsv": tsv_bytes,
    "jsonl": jsonl_bytes,
    "parquet": parquet_bytes,
}


def table_at(path: Path, content: bytes | pa.Table) -> Table:
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content)
    return sources.find_tables([str(path)])[0]


def read_all(table: Table, columns: Columns = DEFAULT, batch_rows: int = 8192) -> Read:
    """Every row of a table as a tuple, every rejected row by reason; the schema is checked on the way."""
    extra = sources.extra_fields([table], columns)
    captions = pa.null() if table.format == "txt" or not columns.caption else pa.binary()
    schema = pa.schema([pa.field("url", pa.binary()), pa.field("caption", captions), *extra])
    rows: Rows = []
    rejected: Counter[str] = Counter()
    for unit in sources.units(table):
        for batch, counts in sources.read(unit, columns, extra, batch_rows):
            assert batch.schema == schema
            batch.validate(full=True)
            assert all(counts.values())
            rows += [tuple(row.values()) for row in batch.to_pylist()]
            rejected += counts
    return rows, rejected


def encoded(rows: Rows) -> Rows:
    return [tuple(value.encode() for value in row) for row in rows]


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "ndjson"])
def test_text_formats_and_compressions(tmp_path: Path, format: str, ending: str) -> None:
    name = "jsonl" if format == "ndjson" else format
    content = COMPRESS[ending](WRITERS[name](ROWS))
    table = table_at(tmp_path / f"LINKS.{format.upper()}{ending}", content)
    assert table == Table(
        str(tmp_path / f"LINKS.{format.upper()}{ending}"), len(content), name, ending.removeprefix(".")
    )
    assert sources.units(table) == [Unit(table, 0, 1)]
    assert read_all(table) == (encoded(ROWS), Counter())


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst", ".xz"])
def test_members_of_a_compressed_file_are_one_table(tmp_path: Path, ending: str) -> None:
    whole = tsv_bytes(ROWS)
    content = COMPRESS[ending](whole[:25]) + COMPRESS[ending](whole[25:])
    assert len(content) > len(COMPRESS[ending](whole))
    assert read_all(table_at(tmp_path / f"a.tsv{ending}", content)) == (encoded(ROWS), Counter())


@pytest.mark.parametrize("format", WRITERS)
def test_batches_are_cut_by_rows_and_repeat_themselves(tmp_path: Path, format: str) -> None:
    rows = [(f"http://a.org/{number}", f"caption {number}") for number in range(10)]
    table = table_at(tmp_path / f"a.{format}", WRITERS[format](rows))
    [unit] = sources.units(table)
    first, second = (list(sources.read(unit, Columns(), (), batch_rows=4)) for _ in range(2))
    assert [batch.num_rows for batch, _ in first] == [4, 4, 2]
    assert first == second


@pytest.mark.parametrize("format", ["jsonl", "parquet", "tsv", "csv"])
def test_table_without_rows(tmp_path: Path, format: str) -> None:
    assert read_all(table_at(tmp_path / f"a.{format}", WRITERS[format]([]))) == ([], Counter())


def test_empty_lines_windows_ends_mark_and_missing_last_newline(tmp_path: Path) -> None:
    expected: Read = ([(b"http://a", b"x"), (b"http://b", b"y")], Counter())
    mark = b"\xef\xbb\xbf"
    csv_text = mark + b'"url",caption\r\n\r\nhttp://a,x\r\n\n"http://b",y'
    tsv_text = mark + b"url\tcaption\r\n\r\nhttp://a\tx\r\n\nhttp://b\ty"
    json_text = mark + b'{"url":"http://a","caption":"x"}\r\n \r\n\n{"url":"http://b","caption":"y"}'
    for name, content in (("a.csv", csv_text), ("a.tsv", tsv_text), ("a.jsonl", json_text)):
        assert read_all(table_at(tmp_path / name, content)) == expected


def test_bad_csv_rows_are_counted(tmp_path: Path) -> None:
    content = (
        b"url,caption\n"
        b"http://a,one\n"
        b"http://b\n"  # too few
        b"http://c,two,three\n"  # too many
        b",no link\n"
        b'http://d,"said ""yes"",\nthen left"\n'
        b'http://e,"bad" quote\n'
        b"http://f,nul \x00 and latin \xe9\n"
        b"http://g," + b"x" * (sources.FIELD_BYTES + 1) + b"\n"
        b"http://h," + b"x" * sources.FIELD_BYTES + b"\n"
        b"http://i," + b"y" * (text_rows.LINE_BYTES + 1) + b"\n"
        b"http://j,lone \r return\n"
        b'http://k,"never closed\nhttp://l,four\n'
    )
    rows, rejected = read_all(table_at(tmp_path / "a.csv", content))
    assert rows == [
        (b"http://a", b"one"),
        (b"http://d", b'said "yes",\nthen left'),
        (b"http://f", b"nul \x00 and latin \xe9"),
        (b"http://h", b"x" * sources.FIELD_BYTES),
        (b"http://l", b"four"),
    ]
    assert rejected == Counter(malformed_row=7, url_missing=1)


HEAD = b"url,caption,n\n"


def plain_rows(count: int, last: str = "a picture, number {}") -> list[bytes]:
    return [f'http://a.example/{n}.jpg,"{last.format(n)}",{n}\n'.encode() for n in range(count)]


@pytest.mark.parametrize(
    ("stray", "lost"),
    [
        (b'http://s.example/,"never closed,5\n', 1),
        (b'"http://s.example/,never closed,5\n', 1),
        (b'http://s.example/,never closed,"5\n', 1),
        (b'http://s.example/,"closed" badly,5\n', 1),
        (b'http://s.example/,"one ""too"" many"","5"\n', 1),
        (b'http://s.example/,12" tall,5\n', 0),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("at", [0, 150, 299])
def test_a_stray_quote_costs_its_own_row(tmp_path: Path, stray: bytes, lost: int, quoted: bool, at: int) -> None:
    rows = plain_rows(299) if quoted else [row.replace(b'"', b"").replace(b", ", b" ") for row in plain_rows(299)]
    rows.insert(at, stray)
    found, rejected = read_all(table_at(tmp_path / "a.csv", HEAD + b"".join(rows)))
    assert rejected == +Counter(malformed_row=lost)
    urls = [f"http://a.example/{n}.jpg".encode() for n in range(299)]
    assert [url for url, _ in found if url != b"http://s.example/"] == urls


def test_two_stray_quotes_that_seem_to_close_each_other(tmp_path: Path) -> None:
    rows = [row.replace(b'"', b"").replace(b", ", b" ") for row in plain_rows(300)]
    rows[10] = b'http://a.example/10.jpg,"never closed,10\n'
    rows[200] = b'http://a.example/200.jpg,12",200\n'
    found, rejected = read_all(table_at(tmp_path / "a.csv", HEAD + b"".join(rows)))
    assert (len(found), rejected) == (299, Counter(malformed_row=1))
    assert found[199] == (b"http://a.example/200.jpg", b'12"')


def test_a_stray_quote_before_more_than_a_row_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "LINE_BYTES", 1000)
    rows = [row.replace(b'"', b"").replace(b", ", b" ") for row in plain_rows(300)]
    content = HEAD + b'http://s.example/,"never closed,5\n' + b"".join(rows)
    found, rejected = read_all(table_at(tmp_path / "a.csv", content))
    assert (len(found), rejected) == (300, Counter(malformed_row=1))


def test_captions_of_several_lines_stay_whole(tmp_path: Path) -> None:
    """With links in them, too, and with a row of another width."""
    captions = [
        "first\nsecond",
        "see\nhttp://b.example/x.jpg\nand more",
        "see\nhttp://b.example/x.jpg, or that\nand more, and more,\nand the end",
        "a\n\n\nb",
        'he said\n"yes",\nshe no',
        "\n",
    ]
    rows = [(f"http://a.example/{n}", caption, "1") for n, caption in enumerate(captions)]
    content = csv_bytes(rows, ("url", "caption", "n")) + b'http://c.example/,"two\nlines",1,2\n'
    found, rejected = read_all(table_at(tmp_path / "a.csv", content))
    assert found == [(url.encode(), caption.encode()) for url, caption, _ in rows]
    assert rejected == Counter(malformed_row=1)


def test_bad_tsv_rows_are_counted(tmp_path: Path) -> None:
    content = (
        b"url\tcaption\n"
        b'http://a\t"quotes" are text, \xff too\n'
        b"http://b\n"
        b"http://c\ttwo\tthree\n"
        b"\t\n"
        b"http://d\t\n"
        b"http://e\t" + b"x" * (sources.FIELD_BYTES + 1) + b"\n"
        b"http://f\t" + b"y" * (3 * text_rows.LINE_BYTES) + b"\n"
        b"http://g\tlast"
    )
    rows, rejected = read_all(table_at(tmp_path / "a.tsv", content))
    assert rows == [
        (b"http://a", b'"quotes" are text, \xff too'),
        (b"http://d", b""),
        (b"http://g", b"last"),
    ]
    assert rejected == Counter(malformed_row=4, url_missing=1)


def test_bad_jsonl_rows_are_counted(tmp_path: Path) -> None:
    lines = [
        b'{"url": "http://a", "caption": "gr\xc3\xbcn \\u00fc"}',
        b"not json",
        b'["http://b", "a list"]',
        b'{"url": "http://c"}',
        b'{"caption": "no link"}',
        b'{"url": null, "caption": "no link"}',
        b'{"url": "", "caption": "no link"}',
        b'{"url": "http://d", "caption": 5}',
        b'{"url": ["http://e"], "caption": "x"}',
        b'{"url": "http://f", "caption": "latin \xe9"}',
        b'{"url": "http://g", "caption": "surrogate \\ud800"}',
        b"[" * 100_000,
        b'{"url": "http://h", "n": ' + b"9" * 5000 + b"}",
        b'{"url": "http://i", "caption": "' + b"x" * (sources.FIELD_BYTES + 1) + b'"}',
        b'{"url": "http://j", "caption": "' + b"y" * (2 * text_rows.LINE_BYTES) + b'"}',
        b'{"url": "http://k", "caption": null}',
        b'{"url": "http://l", "caption": "cut off',
    ]
    rows, rejected = read_all(table_at(tmp_path / "a.jsonl", b"\n".join(lines)))
    assert rows == [
        (b"http://a", "grün ü".encode()),
        (b"http://c", None),
        (b"http://f", b"latin \xe9"),
        (b"http://g", b"surrogate \xed\xa0\x80"),
        (b"http://k", None),
    ]
    assert rejected == Counter(malformed_row=9, url_missing=3)
    assert len(rows) + rejected.total() == len(lines)


def test_bad_parquet_rows_are_counted(tmp_path: Path) -> None:
    long = b"x" * (sources.FIELD_BYTES + 1)
    urls = pa.array([b"http://a", None, b"", b"http://b", b"http://c", long], pa.binary())
    captions = pa.array([b"one", b"two", long, None, long, b"three"], pa.binary())
    content = pa.table({"other": list(range(6)), "caption": captions, "url": urls})
    rows, rejected = read_all(table_at(tmp_path / "a.parquet", content))
    assert rows == [(b"http://a", b"one"), (b"http://b", None)]
    assert rejected == Counter(malformed_row=2, url_missing=2)


def as_text(values: list[bytes], type: pa.DataType) -> pa.Array:
    """An array of a string type around bytes that nobody has checked to be UTF-8."""
    large = type == pa.large_string()
    binary = pa.array(values, pa.large_binary() if large else pa.binary())
    return pa.Array.from_buffers(type, len(values), binary.buffers())


@pytest.mark.parametrize("layout", ["string", "large_string", "dictionary"])
def test_undecodable_bytes_in_parquet_text(tmp_path: Path, layout: str) -> None:
    values = [b"fine", b"latin \xe9"]
    if layout == "dictionary":
        captions = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), as_text(values, pa.string()))
    else:
        captions = as_text(values, getattr(pa, layout)())
    content = pa.table({"url": ["http://a", "http://b"], "caption": captions, "note": captions})
    table = table_at(tmp_path / "a.parquet", content)
    assert sources.extra_fields([table], Columns(extra=("note",))) == (pa.field("note", pa.string()),)
    assert read_all(table, Columns(extra=("note",))) == (
        [(b"http://a", b"fine", "fine"), (b"http://b", b"latin \xe9", "latin \ufffd")],
        Counter(),
    )


@pytest.mark.parametrize("type", [pa.string_view(), pa.binary_view(), pa.large_binary(), pa.binary()])
def test_parquet_layouts_of_text(tmp_path: Path, type: pa.DataType) -> None:
    content = pa.table({name: pa.array(["http://a", "grün"], type) for name in ("url", "caption")})
    expected = [(value.encode(), value.encode()) for value in ("http://a", "grün")]
    assert read_all(table_at(tmp_path / "a.parquet", content)) == (expected, Counter())


def test_parquet_extras_keep_their_types(tmp_path: Path) -> None:
    content = pa.table(
        {
            "url": ["http://a", "", "http://b"],
            "similarity": [0.5, 0.25, None],
            "boxes": [[[1.0, 2.0]], [], None],
            "caption": pa.nulls(3),
            "LICENSE": pa.array(["?", "cc", "?"]).dictionary_encode(),
        }
    )
    columns = Columns(extra=("LICENSE", "boxes", "similarity"))
    table = table_at(tmp_path / "a.parquet", content)
    assert [field.type for field in sources.extra_fields([table], columns)] == [
        pa.string(),
        pa.list_(pa.list_(pa.float64())),
        pa.float64(),
    ]
    rows = [(b"http://a", None, "?", [[1.0, 2.0]], 0.5), (b"http://b", None, "?", None, None)]
    assert read_all(table, columns) == (rows, Counter(url_missing=1))


def test_text_extras_are_strings(tmp_path: Path) -> None:
    columns = Columns(extra=("n", "note"))
    content = b"note,url,n,caption\nlatin \xe9,http://a,7,x\n,http://b,,y\n"
    rows: Rows = [(b"http://a", b"x", "7", "latin \ufffd"), (b"http://b", b"y", "", "")]
    assert read_all(table_at(tmp_path / "a.csv", content), columns) == (rows, Counter())
    lines = [
        {"url": "http://a", "caption": "x", "n": 7, "note": "seven"},
        {"url": "http://b", "caption": "y", "n": None, "note": {"deep": ["é", True]}},
        {"url": "http://c", "caption": "z", "n": 0.5, "note": "\ud800"},
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    rows = [
        (b"http://a", b"x", "7", "seven"),
        (b"http://b", b"y", None, '{"deep": ["é", true]}'),
        (b"http://c", b"z", "0.5", "\ufffd" * 3),
    ]
    assert read_all(table_at(tmp_path / "a.jsonl", content), columns) == (rows, Counter())


def test_extra_columns_with_names_of_our_own_are_carried_under_others(tmp_path: Path) -> None:
    content = pa.table({"url": ["http://a"], "caption": ["x"], "width": [640], "sha256": ["ab"], "n": [1]})
    table = table_at(tmp_path / "a.parquet", content)
    columns = Columns(extra=("width", "sha256", "n", "url"))
    fields = sources.extra_fields([table], columns)
    assert [(field.name, field.type) for field in fields] == [
        ("table_width", pa.int64()),
        ("table_sha256", pa.string()),
        ("n", pa.int64()),
        ("table_url", pa.string()),
    ]
    assert read_all(table, columns) == ([(b"http://a", b"x", 640, "ab", 1, "http://a")], Counter())


@pytest.mark.parametrize(
    ("one", "other", "unified", "values"),
    [
        (pa.array([1]), pa.array([0.5]), pa.float64(), [1.0, 0.5]),
        (pa.nulls(1), pa.array(["a"]), pa.string(), [None, "a"]),
        (pa.array(["a"]), pa.array([b"\xff"]), pa.string(), ["a", "\ufffd"]),
        (pa.array([["a"]]), pa.array([[None]]), pa.list_(pa.string()), [["a"], [None]]),
        (
            pa.array([5], pa.timestamp("us")),
            pa.array([5], pa.timestamp("ms")),
            pa.timestamp("us"),
            [datetime(1970, 1, 1, 0, 0, 0, 5), datetime(1970, 1, 1, 0, 0, 0, 5000)],
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_drift_from_part_to_part_unify(
    tmp_path: Path, one: pa.Array, other: pa.Array, unified: pa.DataType, values: list[Any], turned: bool
) -> None:
    parts = [(one, values[0]), (other, values[1])][:: -1 if turned else 1]
    tables = [
        table_at(tmp_path / f"{n}.parquet", pa.table({"url": ["u"], "caption": ["c"], "extra": part}))
        for n, (part, _) in enumerate(parts)
    ]
    columns = Columns(extra=("extra",))
    [field] = sources.extra_fields(tables, columns)
    assert (field.name, field.type) == ("extra", unified)
    read = [batch for table in tables for batch, _ in sources.read(Unit(table, 0, 1), columns, [field])]
    assert [batch["extra"].type for batch in read] == [unified] * 2
    assert [batch["extra"].to_pylist() for batch in read] == [[value] for _, value in parts]


def test_a_number_that_the_unified_type_does_not_hold_is_told(tmp_path: Path) -> None:
    tables = [
        table_at(tmp_path / f"{n}.parquet", pa.table({"url": ["u"], "caption": ["c"], "id": [value]}))
        for n, value in enumerate((2**53 + 1, 0.5))
    ]
    columns = Columns(extra=("id",))
    fields = sources.extra_fields(tables, columns)
    text = message(lambda: list(sources.read(Unit(tables[0], 0, 1), columns, fields)))
    assert text.startswith(f"{tables[0].path}: cannot be read (Integer value {2**53 + 1} not in range")


@pytest.mark.parametrize("ending", COMPRESS)
def test_links_one_a_line(tmp_path: Path, ending: str) -> None:
    content = b"\xef\xbb\xbfhttp://a\r\n\n  http://b \n" + b"x" * (text_rows.LINE_BYTES + 1) + b"\nhttp://c"
    table = table_at(tmp_path / f"a.txt{ending}", COMPRESS[ending](content))
    for columns in (DEFAULT, PRESETS["laion"]):
        rows = [(b"http://a", None), (b"http://b", None), (b"http://c", None)]
        assert read_all(table, columns) == (rows, Counter(malformed_row=1))


def test_links_that_are_none(tmp_path: Path) -> None:
    table = table_at(tmp_path / "a.txt", b"one\ntwo\n")
    assert message(lambda: sources.extra_fields([table], DEFAULT)) == (
        f"{table.path}: none of its first 2 lines is a link: a .txt file has one a line"
    )
    table = table_at(tmp_path / "a.txt", b"http://a\n")
    expected = f"{table.path}: no column 'n' among 'url': {WAY_OUT}"
    assert message(lambda: sources.extra_fields([table], Columns(extra=("n",)))) == expected
    assert message(lambda: sources.extra_fields([table], PRESETS["yfcc100m"])).endswith("choose another --preset")


@pytest.mark.parametrize("format", WRITERS)
def test_tables_without_captions(tmp_path: Path, format: str) -> None:
    table = table_at(tmp_path / f"a.{format}", WRITERS[format](ROWS))
    columns = Columns(caption="", extra=("caption",))
    expected = [(url.encode(), None, caption) for url, caption in ROWS]
    assert [(url, caption, *extra) for url, caption, *extra in read_all(table, columns)[0]] == expected


ARRAY = b"""\xef\xbb\xbf
 [ {"url": "http://a", "caption": "gr\xc3\xbcn [ ] , \\" }"},
{"url": "http://b", "caption": "latin \xe9", "n": {"x": [1, 2]}},12 , null,
 {"caption": "no link"}, {"url": "http://c"}]
"""


@pytest.mark.parametrize("block", [1, 3, 64, 1 << 18])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_json_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, ending: str) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", block)
    table = table_at(tmp_path / f"a.json{ending}", COMPRESS[ending](ARRAY))
    rows = [
        (b"http://a", 'grün [ ] , " }'.encode(), None),
        (b"http://b", b"latin \xe9", '{"x": [1, 2]}'),
        (b"http://c", None, None),
    ]
    assert read_all(table, Columns(extra=("n",))) == (rows, Counter(malformed_row=2, url_missing=1))


def test_json_of_lines_or_of_an_array(tmp_path: Path) -> None:
    array = json.dumps([dict(zip(("url", "caption"), row, strict=True)) for row in ROWS], indent=2)
    for content in (jsonl_bytes(ROWS), array.encode()):
        assert read_all(table_at(tmp_path / "a.json", content)) == (encoded(ROWS), Counter())


@pytest.mark.parametrize("content", [b"[]", b" [ \n] ", b"", b"\n"])
def test_json_without_rows(tmp_path: Path, content: bytes) -> None:
    assert read_all(table_at(tmp_path / "a.json", content)) == ([], Counter())


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b'[{"url": "u", "caption": "c"}', 0),
        (b'[{"url": "u", "caption": "c"}, {"url": "v", "capt', 1),
        (b'[{"url": "u", "caption": "c"} {"url": "v"}]', 0),
        (b'[{"url": "u", "caption": "c"},]', 1),
        (b'[{"url": "u", "caption": "c"}] [', 1),
        (b"[] x", 0),
        (b'[{"url": "u", "caption": "' + b"x" * (6 << 20), 0),
        (b"[" * 100_000, 0),
    ],
)
def test_json_arrays_that_break_off_are_named(tmp_path: Path, content: bytes, number: int) -> None:
    table = table_at(tmp_path / "a.json", content)
    text = message(lambda: list(sources.read(Unit(table, 0, 1), DEFAULT, ())))
    assert text.startswith(f"{table.path}: is no JSON behind its first {number} values (")
    assert text.endswith("): mend the file")


def test_a_table_is_known_by_name_size_and_ends(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    one, other = (table_at(tmp_path / name, csv_bytes(ROWS)) for name in ("a.csv", "b/a.csv"))
    assert sources.identities([one, other]) == [sources.identity(one)] * 2
    assert {**sources.identity(one), "ends_sha256": ""} == {"name": "a.csv", "bytes": one.size, "ends_sha256": ""}
    changed = table_at(tmp_path / "b/a.csv", csv_bytes(ROWS).replace(b"cat", b"dog"))
    assert changed.size == one.size
    assert sources.identity(changed) != sources.identity(one)


def test_units_pack_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    rows = [(f"http://a.org/{number}", f"caption {number}") for number in range(10)]
    pq.write_table(pa.table(list(zip(*rows, strict=True)), names=["url", "caption"]), path, row_group_size=2)
    [table] = sources.find_tables([str(path)])
    assert sources.units(table) == [Unit(table, 0, 5)]
    size = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    monkeypatch.setattr(sources, "UNIT_BYTES", 2 * size)
    assert sources.units(table) == [Unit(table, 0, 2), Unit(table, 2, 2), Unit(table, 4, 1)]
    assert read_all(table) == (encoded(rows), Counter())
    [(batch, _)] = sources.read(Unit(table, 2, 2), Columns(), ())
    assert batch["caption"].to_pylist() == [b"caption 4", b"caption 5", b"caption 6", b"caption 7"]
    monkeypatch.setattr(sources, "UNIT_BYTES", 1)
    assert [unit.groups for unit in sources.units(table)] == [1] * 5


def test_preset_laion(tmp_path: Path) -> None:
    header = ("SAMPLE_ID", "URL", "TEXT", "HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity")
    row = (1, "http://a", "a cat", 300, 400, "?", "UNLIKELY", 0.31)
    table = table_at(tmp_path / "a.parquet", pa.table([[value] for value in row], names=list(header)))
    assert read_all(table, PRESETS["laion"]) == ([(b"http://a", b"a cat")], Counter())


def test_preset_coyo(tmp_path: Path) -> None:
    header = ("id", "url", "text", "width", "height", "image_phash", "text_length", "word_count")
    row = (841814333321, "http://a", "a cat", 600, 600, "b18cdb5a2e4d6f7c", 5, 2)
    path = tmp_path / "part-00000-17da4908-c000.snappy.parquet"
    table = table_at(path, pa.table([[value] for value in row], names=list(header)))
    assert read_all(table, PRESETS["coyo"]) == ([(b"http://a", b"a cat")], Counter())


def test_preset_datacomp(tmp_path: Path) -> None:
    header = ("uid", "url", "text", "original_width", "original_height", "face_bboxes", "sha256")
    row = ("335db346a4904547", "http://a", "untitled image", 980, 405, [[0.1, 0.2, 0.3, 0.4]], "695d74e8")
    table = table_at(tmp_path / "a.parquet", pa.table([[value] for value in row], names=list(header)))
    assert read_all(table, PRESETS["datacomp"]) == ([(b"http://a", b"untitled image")], Counter())


def test_preset_conceptual_captions(tmp_path: Path) -> None:
    content = b"author : a life in photography -- in pictures\thttps://i.pinimg.com/1.jpg\nno link here\n"
    table = table_at(tmp_path / "Train_GCC-training.tsv", content)
    expected = [(b"https://i.pinimg.com/1.jpg", b"author : a life in photography -- in pictures")]
    assert read_all(table, PRESETS["conceptual-captions"]) == (expected, Counter(malformed_row=1))


def yfcc_line(marker: str, description: str, url: str = "http://farm8.staticflickr.com/7205/1_d.jpg") -> bytes:
    line = f"0\t6185218911\t4e2f7a\t39019111@N00\tguck+xzs\t2012-02-16 09:56:37.0\t1331840483\tCanon+PowerShot\t\
IMG_0520\t{description}\tkey+west,sea\t\t-81.804885\t24.550558\t12\thttp://www.flickr.com/photos/1/\t{url}\t\
Attribution License\thttp://creativecommons.org/licenses/by/2.0/\t7205\t8\td\te\tjpg\t{marker}\n"
    return line.encode()


def test_preset_yfcc100m(tmp_path: Path) -> None:
    content = b"".join(
        [
            yfcc_line("0", "My+vacation+%26+%22Rome%22%0A+gr%C3%BCn+%E9+1%2B1"),
            yfcc_line("1", "a+film"),
            yfcc_line("0", ""),
            yfcc_line("0", "x", url=""),
            b"0\t6185218911\n",
        ]
    )
    table = table_at(tmp_path / "yfcc100m_dataset.tsv.bz2", bz2.compress(content))
    columns = replace(PRESETS["yfcc100m"], extra=("usertags", "licensename", "pageurl"))
    rest = ("key west,sea", "Attribution License", "http://www.flickr.com/photos/1/")
    link = b"http://farm8.staticflickr.com/7205/1_d.jpg"
    caption = 'My vacation & "Rome"\n grün '.encode() + b"\xe9 1+1"
    assert read_all(table, columns) == (
        [(link, caption, *rest), (link, b"", *rest)],
        Counter(not_a_photo=1, url_missing=1, malformed_row=1),
    )


def test_find_tables_sorts_and_keeps_each_once(tmp_path: Path) -> None:
    for name in ("b.csv", "a.parquet", "c.jsonl.zst", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"1234")
    patterns = [f"{tmp_path}/*.csv", f"{tmp_path}/[ab].*", f"{tmp_path}/c*"]
    assert sources.find_tables(patterns) == [
        Table(f"{tmp_path}/a.parquet", 4, "parquet", ""),
        Table(f"{tmp_path}/b.csv", 4, "csv", ""),
        Table(f"{tmp_path}/c.jsonl.zst", 4, "jsonl", "zst"),
    ]


def test_find_tables_errors(tmp_path: Path) -> None:
    assert message(lambda: sources.find_tables([f"{tmp_path}/*.csv"])) == (
        f"no file matches '{tmp_path}/*.csv': name files or a glob such as 'links/*.parquet'"
    )
    for name in ("_SUCCESS", "a.dat", "a.parquet.gz", "a.gz"):
        (tmp_path / name).write_bytes(b"")
        assert message(partial(sources.find_tables, [f"{tmp_path}/{name}"])) == (
            f"{tmp_path}/{name}: unknown ending; name the file .parquet, or .csv, .tsv, .jsonl, .ndjson, .json or .txt "
            f"with or without .gz, .bz2, .zst, .xz"
        )


WAY_OUT = "name the right one with --url_column, --caption_column, --extra_columns or --preset"


@pytest.mark.parametrize("format", WRITERS)
def test_missing_column(tmp_path: Path, format: str) -> None:
    table = table_at(tmp_path / f"a.{format}", WRITERS[format](ROWS))
    none = ", or --caption_column '' where there are no captions"
    expected = f"{table.path}: no column 'TEXT' among 'url', 'caption': {WAY_OUT}{none}"
    assert message(lambda: sources.extra_fields([table], Columns(caption="TEXT"))) == expected


def test_every_table_is_checked(tmp_path: Path) -> None:
    good = table_at(tmp_path / "a.csv", csv_bytes(ROWS))
    bad = table_at(tmp_path / "b.jsonl", jsonl_bytes(ROWS, ("link", "caption")))
    assert message(lambda: sources.extra_fields([good, bad], Columns())) == (
        f"{bad.path}: no column 'url' among 'link', 'caption': {WAY_OUT}"
    )


def test_extra_column_errors(tmp_path: Path) -> None:
    assert message(lambda: Columns(extra=("n", "m", "n"))) == "extra column 'n' is named twice: name it once"
    twice = message(lambda: Columns(extra=("width", "table_width")))
    assert twice == "extra column 'table_width' is named twice: name it once"
    one = table_at(tmp_path / "a.parquet", pa.table({"url": ["u"], "caption": ["c"], "n": [1]}))
    two = table_at(tmp_path / "b.csv", b"url,caption,n\nu,c,1\n")
    assert message(lambda: sources.extra_fields([one, two], Columns(extra=("n",)))) == (
        f"{two.path}: extra column 'n' holds string, but int64 in {one.path}: make them alike or leave the column out"
    )
    double = table_at(tmp_path / "c.csv", b"url,caption,url\nu,c,1\n")
    assert message(lambda: sources.extra_fields([double], Columns())) == (
        f"{double.path}: column 'url' is there more than once: rename one"
    )


def test_column_that_is_no_text(tmp_path: Path) -> None:
    table = table_at(tmp_path / "a.parquet", pa.table({"url": ["u"], "caption": [["a", "b"]]}))
    assert message(lambda: sources.extra_fields([table], Columns())).startswith(
        f"{table.path}: column 'caption' holds list<"
    )


def test_wrong_preset_for_the_file(tmp_path: Path) -> None:
    table = table_at(tmp_path / "a.tsv", b"1\t2\t3\n")
    assert message(lambda: sources.extra_fields([table], PRESETS["yfcc100m"])) == (
        f"{table.path}: 25 columns are named, but its first row has 3 fields: choose another --preset or mend the file"
    )
    table = table_at(tmp_path / "a.jsonl", jsonl_bytes(ROWS))
    assert message(lambda: sources.extra_fields([table], PRESETS["yfcc100m"])) == (
        f"{table.path}: the chosen columns are those of a CSV or TSV table without a header, "
        f"which a jsonl table is not: choose another --preset"
    )


def test_text_tables_without_a_head(tmp_path: Path) -> None:
    table = table_at(tmp_path / "a.csv", b"\n")
    expected = f"{table.path}: no header in its first line: mend the file or leave it out"
    assert message(lambda: sources.extra_fields([table], Columns())) == expected
    assert message(lambda: list(sources.read(Unit(table, 0, 1), Columns(), ()))) == expected


def test_a_table_of_bad_rows_alone_is_counted(tmp_path: Path) -> None:
    assert read_all(table_at(tmp_path / "a.jsonl", b"one\n\ntwo\n")) == ([], Counter(malformed_row=2))


def test_a_bad_first_row_condemns_no_table(tmp_path: Path) -> None:
    table = table_at(tmp_path / "a.jsonl", b"oops\n" + jsonl_bytes(ROWS[:1]))
    assert read_all(table) == (encoded(ROWS[:1]), Counter(malformed_row=1))
    table = table_at(tmp_path / "a.tsv", b"oops\na cat\thttp://a\n")
    expected: Read = ([(b"http://a", b"a cat")], Counter(malformed_row=1))
    assert read_all(table, PRESETS["conceptual-captions"]) == expected


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst", ".xz"])
def test_truncated_file_is_named(tmp_path: Path, ending: str) -> None:
    rows = [(f"http://a.org/{number * 7919 % 100003}", str(number**5)) for number in range(5000)]
    whole = COMPRESS[ending](tsv_bytes(rows))
    table = table_at(tmp_path / f"a.tsv{ending}", whole[:-20])
    text = message(lambda: list(sources.read(Unit(table, 0, 1), Columns(), ())))
    assert text.startswith(f"{table.path}: cannot be read (")
    assert text.endswith("): mend the file or leave it out")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.csv.bz2", "a.csv.zst", "a.csv.xz"])
def test_broken_file_is_named_by_the_first_look(tmp_path: Path, name: str) -> None:
    table = table_at(tmp_path / name, b"this is none of these formats")
    text = message(lambda: sources.extra_fields([table], Columns()))
    assert text.startswith(f"{table.path}: cannot be read (")


def test_corrupt_parquet_page_is_named(tmp_path: Path) -> None:
    rows = [(f"http://a.org/{number}", str(number)) for number in range(5000)]
    content = bytearray(parquet_bytes(rows))
    content[200:4000] = b"\xff" * 3800
    table = table_at(tmp_path / "a.parquet", bytes(content))
    assert sources.extra_fields([table], Columns()) == ()
    text = message(lambda: list(sources.read(Unit(table, 0, 1), Columns(), ())))
    assert text.startswith(f"{table.path}: cannot be read (")


def test_vanished_file_is_named(tmp_path: Path) -> None:
    table = table_at(tmp_path / "a.csv", csv_bytes(ROWS))
    Path(table.path).unlink()
    assert message(lambda: sources.extra_fields([table], Columns())) == (
        f"{table.path}: cannot be read ([Errno 2] No such file or directory: '{table.path}'): "
        f"mend the file or leave it out"
    )


def test_deep_json_is_counted(tmp_path: Path) -> None:
    depths = range(1, 1500, 7)
    lines = [f'{{"url": "http://a", "caption": "x", "n": {"[" * depth}{"]" * depth}}}\n' for depth in depths]
    rows, rejected = read_all(table_at(tmp_path / "a.jsonl", "".join(lines).encode()), Columns(extra=("n",)))
    assert len(rows) > 10
    assert set(rejected) == {"malformed_row"}
    assert len(rows) + rejected.total() == len(depths)


TEXT = st.text(max_size=40)
URL = st.text(min_size=1, max_size=40)
FLAT = st.characters(codec="utf-8", exclude_characters="\t\n\r")
PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@PROPERTY
@given(
    rows=st.lists(st.tuples(URL, TEXT), min_size=1, max_size=20), format=st.sampled_from(["csv", "jsonl", "parquet"])
)
def test_any_text_comes_back(tmp_path: Path, rows: Rows, format: str) -> None:
    table = table_at(tmp_path / f"a.{format}", WRITERS[format](rows))
    assert read_all(table, batch_rows=7) == (encoded(rows), Counter())


@PROPERTY
@given(rows=st.lists(st.tuples(st.text(FLAT, min_size=1), st.text(FLAT)), max_size=20))
def test_any_text_without_tabs_comes_back_from_tsv(tmp_path: Path, rows: Rows) -> None:
    table = table_at(tmp_path / "a.tsv", tsv_bytes(rows))
    assert read_all(table, batch_rows=7) == (encoded(rows), Counter())


@PROPERTY
@given(content=st.binary(max_size=300), name=st.sampled_from(["a.tsv", "a.csv", "a.jsonl"]))
def test_no_bytes_are_fatal_behind_a_good_row(tmp_path: Path, content: bytes, name: str) -> None:
    head = jsonl_bytes(ROWS[:1]) if name == "a.jsonl" else WRITERS[name[2:]](ROWS[:1])
    rows, rejected = read_all(table_at(tmp_path / name, head + content))
    assert rows[0] == encoded(ROWS)[0]
    if name == "a.tsv":
        lines = [line for line in content.split(b"\n") if line.removesuffix(b"\r")]
        assert len(rows) + rejected.total() == 1 + len(lines)


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_the_size_of_a_block_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", 4 * block)
    content = b"\xef\xbb\xbf" + csv_bytes([("http://a", 'two\nlines, "quoted"'), ("http://b", "x\r\ny")])
    expected: Read = ([(b"http://a", b'two\nlines, "quoted"'), (b"http://b", b"x\r\ny")], Counter())
    for ending, compress in COMPRESS.items():
        assert read_all(table_at(tmp_path / f"a.csv{ending}", compress(content))) == expected


def shared(name: str) -> Table:
    if not (LINKS / name).exists():
        pytest.skip(f"no shared data at {LINKS / name}")
    return sources.find_tables([str(LINKS / name)])[0]


def test_shared_laion() -> None:
    rows, rejected = read_all(shared("laion_10000.parquet"), PRESETS["laion"])
    assert (len(rows), rejected) == (10_000, Counter())
    assert rows[1][1] == b"Tavern Brawl by velinov"


def test_shared_conceptual_captions() -> None:
    rows, rejected = read_all(shared("conceptual_captions_val.tsv"), PRESETS["conceptual-captions"])
    assert (len(rows), rejected) == (7_917, Counter())
    assert rows[0][1] == b"author : a life in photography -- in pictures"
