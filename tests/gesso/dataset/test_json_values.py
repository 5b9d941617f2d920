"""Arrow values as plain JSON: times of any year and unit, bytes, numbers that JSON lacks, keys that tell no type."""

import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.dataset.json_values import json_rows, typed


def one(value: Any, type: pa.DataType) -> Any:
    """What JSON has for one value of a type; integers may stand for times."""
    array = pa.array([value, None], type)
    [first, second] = json_rows(pa.RecordBatch.from_arrays([array], ["v"]))
    assert second == {"v": None}
    return first["v"]


def count(value: int, type: pa.DataType) -> Any:
    array = pa.array([value], pa.int32() if type.bit_width == 32 else pa.int64()).cast(type)
    return json_rows(pa.RecordBatch.from_arrays([array], ["v"]))[0]["v"]


@pytest.mark.parametrize(
    ("value", "type", "expected"),
    [
        (10**12, pa.timestamp("s"), "33658-09-27 01:46:40"),
        (0, pa.timestamp("s"), "1970-01-01 00:00:00"),
        (120, pa.timestamp("ms"), "1970-01-01 00:00:00.120000"),
        (-1, pa.timestamp("us"), "1969-12-31 23:59:59.999999"),
        (1, pa.timestamp("ns"), "1970-01-01 00:00:00.000000001"),
        (1000, pa.timestamp("ns"), "1970-01-01 00:00:00.000001"),
        (10**9, pa.timestamp("ns", "Europe/Berlin"), "1970-01-01 00:00:01+00:00"),
        (5_000_000, pa.date32(), "15659-07-15"),
        (86_400_000, pa.date64(), "1970-01-02"),
        (61, pa.time32("s"), "00:01:01"),
        (61_000_000_001, pa.time64("ns"), "00:01:01.000000001"),
        (90_061_000_000_001, pa.duration("ns"), "1 day, 1:01:01.000000001"),
        (-1, pa.duration("s"), "-1 day, 23:59:59"),
    ],
)
def test_times_of_any_year_and_unit(value: int, type: pa.DataType, expected: str) -> None:
    assert count(value, type) == expected


@given(st.datetimes(), st.timedeltas(timedelta(-100_000_000), timedelta(100_000_000)), st.times())
def test_times_are_written_as_python_writes_them(moment: datetime, span: timedelta, clock: time) -> None:
    assert one(moment, pa.timestamp("us")) == str(moment)
    assert one(moment.replace(tzinfo=UTC), pa.timestamp("us", "UTC")) == str(moment.replace(tzinfo=UTC))
    assert one(moment.date(), pa.date32()) == str(moment.date())
    assert one(span, pa.duration("us")) == str(span)
    assert one(clock, pa.time64("us")) == str(clock)


@pytest.mark.parametrize(
    ("value", "type", "expected"),
    [
        (b"\x00\xffab", pa.binary(), "AP9hYg=="),
        (b"ab", pa.binary(2), "YWI="),
        ([b"a", None], pa.list_(pa.binary()), ["YQ==", None]),
        (float("nan"), pa.float64(), None),
        (float("-inf"), pa.float32(), None),
        ([1.0, float("inf")], pa.list_(pa.float64()), [1.0, None]),
        (2.0, pa.float16(), 2.0),
        (Decimal("1.50"), pa.decimal128(5, 2), "1.50"),
        (True, pa.bool_(), True),
        (2**64 - 1, pa.uint64(), 2**64 - 1),
        ({"at": date(2020, 1, 2), "raw": b"a"}, pa.struct([("at", pa.date32()), ("raw", pa.binary())]), None),
        ([("k", 1.5)], pa.map_(pa.string(), pa.float64()), [{"key": "k", "value": 1.5}]),
        ([date(2020, 1, 2)], pa.large_list(pa.date32()), ["2020-01-02"]),
        ([time(1, 2)], pa.list_(pa.time32("s"), 1), ["01:02:00"]),
    ],
)
def test_other_types(value: Any, type: pa.DataType, expected: Any) -> None:
    if isinstance(value, dict):
        expected = {"at": "2020-01-02", "raw": "YQ=="}
    assert one(value, type) == expected


def test_keys_that_tell_no_type_are_left_out() -> None:
    value = {
        "a": None,
        "b": [],
        "c": [None, [None]],
        "d": {"x": None},
        "e": [{"x": None, "y": 1}],
        "f": [None, 1],
        "g": "",
        "h": False,
        "i": 0,
    }
    assert typed(value) == {"e": [{"y": 1}], "f": [None, 1], "g": "", "h": False, "i": 0}


def test_columns_and_rows_that_are_none() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1, 2]})
    assert json_rows(batch.select([])) == [{}, {}]
    assert json_rows(batch.slice(0, 0)) == []


WRITE = """
import sys
class Hidden:
    def find_spec(self, name, *_):
        if name == "pandas":
            raise ModuleNotFoundError(name)
if {hide}:
    sys.meta_path.insert(0, Hidden())
import pyarrow as pa
from gesso.dataset import shards
from gesso.dataset.schemas import plan_schema
from gesso.dataset.shards import Outcome
from gesso.pipelines.collect import plan
from gesso.pipelines.packing import pack
extra = tuple(pa.field(name, type) for name, type in (("t", pa.timestamp("ns")), ("d", pa.duration("ns"))))
batch = pa.RecordBatch.from_pydict(
    {{
        "key": ["a" * 32, "a" * 32, "b" * 32],
        "url": ["http://a.example/", "http://a.example/", "http://b.example/"],
        "caption": ["a dog"] * 3,
        "original_caption": pa.nulls(3, pa.string()),
        "reason": pa.nulls(3, pa.string()),
        "t": pa.array([10**18 + 1, 10**17, None]).cast(pa.timestamp("ns")),
        "d": pa.array([1, 10**12, None]).cast(pa.duration("ns")),
    }},
    schema=plan_schema(extra),
)
batch["t"][2:].to_pylist()  # imports pandas where it is there
table, counts = plan.merge([pack(batch)], extra)
kept = {{"status": "success", "reason": None}}
written, _ = shards.write_shard(sys.argv[1], 0, table.to_batches(), lambda at: Outcome(kept, b"JPEG"), extra)
assert ("pandas" in sys.modules) is not {hide}
print(counts, written)
"""


def test_nanoseconds_give_the_same_shard_with_and_without_pandas(tmp_path: Path) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", WRITE.format(hide=hide), str(tmp_path / str(hide))],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hide in (True, False)
    ]
    assert told[0] == told[1]
    assert "'repeat_pair': 1" in told[0]
