"""Keys that two shards hold are found by their hashes, and looked up."""

from pathlib import Path

import pytest

from gesso.dataset.schemas import index_schema
from gesso.pipelines.index import indexer, keys
from gesso.pipelines.index.rows import EMPTY_ROW


def write_rows(output: Path, shard: int, *taken: str, refused: str = "") -> None:
    rows = [{"key": key, "status": "success"} for key in taken]
    rows += [{"key": refused, "status": "rejected"}] if refused else []
    full = [{**EMPTY_ROW, "source_tar": "t", "source_key": row["key"], **row} for row in rows]
    indexer.write_rows(str(output), shard, iter(full), index_schema())


def repeats(output: Path, *shards: int) -> list[keys.Repeat]:
    buckets: dict[int, list[bytes]] = {}
    for shard in shards:
        for bucket, packed in keys.hash_keys(str(output), shard):
            buckets.setdefault(bucket, []).append(packed)
    found = (keys.first_repeat(str(output), packed) for packed in buckets.values())
    return sorted(filter(None, found))


def test_different_keys(tmp_path: Path) -> None:
    write_rows(tmp_path, 0, *(f"{n:09d}" for n in range(500)), refused="000000700")
    write_rows(tmp_path, 1, *(f"{n:09d}" for n in range(500, 1000)), refused="000000000")
    write_rows(tmp_path, 2)
    assert repeats(tmp_path, 0, 1, 2) == []


def test_one_key_in_two_shards(tmp_path: Path) -> None:
    write_rows(tmp_path, 0, *(f"{n:09d}" for n in range(500)))
    write_rows(tmp_path, 1, *(f"{n:09d}" for n in range(500, 1000)), "ö/000000007")
    write_rows(tmp_path, 2, "ö/000000007", "z")
    assert repeats(tmp_path, 2, 0, 1) == [("ö/000000007", 1, 2)]


def test_equal_hashes_of_different_keys_are_no_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "hash_key", lambda key: 7)
    write_rows(tmp_path, 0, "a", "b")
    write_rows(tmp_path, 1, "c")
    assert repeats(tmp_path, 0, 1) == []
    write_rows(tmp_path, 2, "b")
    assert repeats(tmp_path, 0, 1, 2) == [("b", 0, 2)]
