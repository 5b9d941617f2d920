"""One shard on disk: the spool, the tar, the rows, the marker."""

import hashlib
import io
import json
import random
import tarfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso.dataset import members, shards
from gesso.dataset.schemas import plan_schema, row_schema
from gesso.dataset.shards import Outcome, Spool

KEYS = [f"{number:032x}" for number in range(6)]
EXTRA = (pa.field("score", pa.float64()),)
KEPT = {"status": "success", "reason": None, "width": 4, "height": 3, "sha256": "ab", "reencoded": True}


def pair(number: int, reason: str | None = None) -> dict[str, Any]:
    return {
        "key": KEYS[number],
        "url": f"http://a.example/{number}.jpg",
        "caption": f"a dog, number {number} — «ö»",
        "original_caption": None,
        "reason": reason,
        "score": number / 2,
    }


def plan_of(*pairs: dict[str, Any], size: int = 2) -> list[pa.RecordBatch]:
    schema = plan_schema(EXTRA)
    return [pa.RecordBatch.from_pylist(list(pairs[at : at + size]), schema) for at in range(0, len(pairs), size)]


def lost(reason: str, status: str = "failed_to_resize", body: bytes = b"") -> Outcome:
    return Outcome({"status": status, "reason": reason, "error_message": f"told {reason}"}, body)


PLAN = plan_of(pair(0), pair(1, "caption_too_short"), pair(2), pair(3), pair(4))
OUTCOMES = {
    0: Outcome(KEPT, b"JPEG zero"),
    2: lost("http_404", "failed_to_download"),
    3: lost("too_small", body=b"thumbnail three"),
    4: Outcome(KEPT, b"JPEG four"),
}


def write(folder: Path, take: Any = OUTCOMES.__getitem__) -> tuple[dict[str, Any], Counter[str]]:
    return shards.write_shard(str(folder), 0, PLAN, take, EXTRA)


class TestSpool:
    def test_any_order_in_positions_out(self) -> None:
        spool, order = Spool(100), list(range(100))
        random.Random(0).shuffle(order)
        for position in order:
            spool.put(position, Outcome({"reason": None, "n": position}, bytes([position]) * position))
        assert [spool.take(position) for position in range(100)] == [
            Outcome({"reason": None, "n": position}, bytes([position]) * position) for position in range(100)
        ]
        spool.close()

    def test_take_waits_for_its_position(self) -> None:
        spool, taken = Spool(2), []
        thread = threading.Thread(target=lambda: taken.extend(spool.take(position) for position in (0, 1)))
        thread.start()
        spool.put(1, Outcome({"reason": None, "n": 1}))
        spool.put(0, Outcome({"reason": "timeout", "n": 0}))
        thread.join()
        assert [outcome.fields["n"] for outcome in taken] == [0, 1]
        assert spool.counts == Counter(success=1, timeout=1)

    def test_fail_reaches_the_one_who_waits(self) -> None:
        spool, raised = Spool(1), []

        def take() -> None:
            try:
                spool.take(0)
            except OSError as error:
                raised.append(str(error))

        thread = threading.Thread(target=take)
        thread.start()
        spool.fail(OSError("no space left"))
        thread.join()
        assert raised == ["no space left"]


class TestTar:
    def test_same_bytes_as_tarfile_writes(self) -> None:
        stream, theirs = io.BytesIO(), io.BytesIO()
        tar = shards.TarWriter(shards.HashingWriter(stream))
        members = {"a.jpg": b"x" * 511, "b.txt": b"", "c.json": b"y" * 512, "d": b"z" * 20_000}
        with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as reference:
            for name, body in members.items():
                tar.add(name, body)
                info = tarfile.TarInfo(name)
                info.size = len(body)
                reference.addfile(info, io.BytesIO(body))
        tar.end()
        assert stream.getvalue() == theirs.getvalue()

    def test_hashing_counts_and_hashes(self) -> None:
        stream = io.BytesIO()
        hashing = shards.HashingWriter(stream)
        hashing.write(b"abc")
        hashing.write(memoryview(b"defg"))
        assert hashing.summary() == {"bytes": 7, "sha256": hashlib.sha256(b"abcdefg").hexdigest()}
        assert stream.getvalue() == b"abcdefg"


class TestWriteShard:
    def test_kept_samples_stand_side_by_side_in_the_order_of_their_uids(self, tmp_path: Path) -> None:
        write(tmp_path)
        with tarfile.open(tmp_path / "00000.tar") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert list(members) == [f"{KEYS[n]}.{kind}" for n in (0, 4) for kind in ("jpg", "txt", "json")]
        assert members[f"{KEYS[4]}.jpg"] == b"JPEG four"
        assert members[f"{KEYS[4]}.txt"].decode() == "a dog, number 4 — «ö»"
        row = {**shards.EMPTY_ROW, **pair(4), **KEPT}
        assert list(json.loads(members[f"{KEYS[4]}.json"]).items()) == [
            (name, value) for name, value in row.items() if value is not None
        ]

    def test_a_row_for_every_link(self, tmp_path: Path) -> None:
        _, counts = write(tmp_path)
        table = pq.read_table(tmp_path / "00000.parquet")
        assert table.schema.equals(row_schema(EXTRA))
        rows = table.to_pylist()
        assert [(row["key"], row["status"], row["reason"], row["error_message"]) for row in rows] == [
            (KEYS[0], "success", None, None),
            (KEYS[1], "rejected", "caption_too_short", None),
            (KEYS[2], "failed_to_download", "http_404", "told http_404"),
            (KEYS[3], "failed_to_resize", "too_small", "told too_small"),
            (KEYS[4], "success", None, None),
        ]
        assert [row["score"] for row in rows] == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert counts == Counter(success=2, caption_too_short=1, http_404=1, too_small=1)

    def test_extra_columns_travel_as_they_are_and_as_json(self, tmp_path: Path) -> None:
        """Beyond the year 9999, bytes, and what is no JSON: whole in the rows, plain in KEY.json."""
        extra = (
            pa.field("at", pa.timestamp("s")),
            pa.field("raw", pa.binary()),
            pa.field("score", pa.float64()),
            pa.field("boxes", pa.list_(pa.list_(pa.float64()))),
        )
        values = [[10**12, None], [b"\xff", b"a"], [float("nan"), 0.5], [[], [[0.5]]]]
        columns = [pa.array(column, field.type) for column, field in zip(values, extra, strict=True)]
        plan = pa.RecordBatch.from_pylist([pair(0), pair(1)], plan_schema())
        batch = pa.RecordBatch.from_arrays([*plan.columns, *columns], schema=plan_schema(extra))
        shards.write_shard(str(tmp_path), 0, [batch], lambda at: Outcome(KEPT, b"JPEG"), extra)
        with tarfile.open(tmp_path / "00000.tar") as tar:
            read = [json.load(tar.extractfile(f"{KEYS[n]}.json")) for n in (0, 1)]  # type: ignore[arg-type]
        names = [field.name for field in extra]
        assert [{name: row[name] for name in names if name in row} for row in read] == [
            {"at": "33658-09-27 01:46:40", "raw": "/w=="},
            {"raw": "YQ==", "score": 0.5, "boxes": [[0.5]]},
        ]
        written = pq.read_table(tmp_path / "00000.parquet", columns=names)
        assert written["at"].equals(pa.chunked_array([columns[0].cast(pa.timestamp("ms"))]))  # parquet has no seconds
        assert [written[name].to_pylist() for name in ("raw", "boxes")] == [values[1], values[3]]

    def test_rejected_pictures_the_first_few_of_each_reason(self, tmp_path: Path) -> None:
        pairs = [{**pair(0), "key": f"{n:032x}"} for n in range(30)]
        reasons = ["too_small", "aspect_ratio"]
        outcomes = [lost(reasons[n % 2], body=b"" if n == 4 else b"picture %d" % n) for n in range(30)]
        shards.write_shard(str(tmp_path), 3, plan_of(*pairs), outcomes.__getitem__, EXTRA)
        with tarfile.open(tmp_path / "rejected/00003.thumbnails") as tar:
            shown = [int(name.split(".")[0], 16) for name in tar.getnames() if name.endswith(".jpg")]
        assert shown == [n for n in range(16) if n != 4]

    def test_bytes_do_not_depend_on_the_batches_of_the_plan(self, tmp_path: Path) -> None:
        first, _ = write(tmp_path / "a")
        again, _ = write(tmp_path / "b")
        assert first == again
        for name, entry in first.items():
            assert hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() == entry["sha256"]

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        def take(position: int) -> Outcome:
            if position == 3:
                raise OSError("the disk is full")
            return OUTCOMES[position]

        with pytest.raises(OSError, match="the disk is full"):
            write(tmp_path, take)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_commit_writes_img2dataset_statistics(tmp_path: Path) -> None:
    written, counts = write(tmp_path)
    marker = shards.commit(str(tmp_path), 0, written, counts, 100.0, 102.5)
    assert json.loads((tmp_path / "00000_stats.json").read_text()) == marker
    assert marker == {
        "count": 5,
        "successes": 2,
        "failed_to_download": 1,
        "failed_to_resize": 1,
        "rejected": 1,
        "duration": 2.5,
        "start_time": 100.0,
        "end_time": 102.5,
        "status_dict": {"caption_too_short": 1, "http_404": 1, "success": 2, "too_small": 1},
        "files": written,
    }


@pytest.mark.parametrize(
    ("name", "size", "form"),
    [
        ("a.jpg", 0, tarfile.USTAR_FORMAT),
        ("k" * 100, 8**11 - 1, tarfile.USTAR_FORMAT),
        ("k" * 101, 1, tarfile.PAX_FORMAT),
        ("folder/" * 10 + "x" * 60, 5, tarfile.PAX_FORMAT),
        ("é.jpg", 700, tarfile.PAX_FORMAT),
        ("文" * 600 + ".jpg", 700, tarfile.PAX_FORMAT),
    ],
)
def test_headers_are_those_of_tarfile(name: str, size: int, form: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert shards.tar_header(name, size) == info.tobuf(form, "utf-8")
    assert shards.header_bytes(name) == len(shards.tar_header(name, size))


def test_a_member_larger_than_a_header_can_say() -> None:
    header = shards.tar_header("a.jpg", 8**11)
    assert b"size=8589934592" in header
    assert next(members.headers(lambda offset, size: header[offset : offset + size], 9 << 30)) == members.Member(
        "a.jpg", 1536, 8**11, 1536 + 8**11
    )
