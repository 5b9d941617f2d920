"""A directory of shards as an input: what tells it from another, wherever it is, and its keys."""

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso import storage
from gesso.dataset.collection import Collection, open_collection
from gesso.errors import UserError
from tests import indexes
from tests.datasets import write_dataset


def write_img2dataset(folder: Path, rows: int = 4) -> str:
    """Two shards as img2dataset leaves them: no manifest, keys that are positions."""
    folder.mkdir()
    for index in range(2):
        keys = [f"{index:05}{row:04}" for row in range(rows)]
        pq.write_table(pa.table({"key": keys, "status": rows * ["success"]}), folder / f"{index:05}.parquet")
        (folder / f"{index:05}.tar").write_bytes(b"not looked into")
        storage.write_json(str(folder / f"{index:05}_stats.json"), {"count": rows, "successes": rows})
    return str(folder)


def test_a_collection_is_told_by_its_manifest(tmp_path: Path) -> None:
    found = open_collection(write_dataset(tmp_path / "raw"))
    sha256 = hashlib.sha256((tmp_path / "raw/manifest.json").read_bytes()).hexdigest()
    assert found.source_record() == {"kind": "shards", "path": f"{tmp_path}/raw", "sha256": sha256}
    tars = sum(path.stat().st_size for path in (tmp_path / "raw").glob("*.tar"))
    told = {"kind": "shards", "path": f"{tmp_path}/raw", "manifest_sha256": sha256, "shards": 2, "samples": 24}
    assert found.input_record() == {**told, "bytes": tars}


def test_shards_of_img2dataset_are_told_by_names_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_collection(write_img2dataset(tmp_path / "raw"))
    assert found.input_record()["files_sha256"] == found.sha256
    shutil.copytree(tmp_path / "raw", tmp_path / "copy")
    (tmp_path / "copy/notes.txt").write_text("not of the shards")
    monkeypatch.chdir(tmp_path)
    assert open_collection("copy/").sha256 == found.sha256
    (tmp_path / "copy/00001.tar").write_bytes(b"another size")
    assert open_collection("copy").sha256 != found.sha256


def test_keys_are_looked_for_until_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Collection = open_collection(write_img2dataset(tmp_path / "raw"))
    assert found.has_any(pa.array(["x", "000010003"]))
    assert not found.has_any(pa.array(["000020000"]))
    (tmp_path / "raw/00001.parquet").write_bytes(b"PAR1 damaged")
    assert found.has_any(pa.array(["000000003"]))
    with pytest.raises(UserError, match=r"00001\.parquet has no keys \("):
        found.has_any(pa.array(["x"]))


class TestIndex:
    def test_its_shards_are_the_tars_of_others(self, tmp_path: Path) -> None:
        tars = indexes.write_sources(tmp_path / "theirs", (3, 2))
        opened = open_collection(indexes.write_index(tmp_path / "index", tars))
        assert [(shard.number, shard.tar, shard.samples, shard.indexed) for shard in opened.shards] == [
            (0, str(tars[0]), 3, True),
            (1, str(tars[1]), 2, True),
        ]
        assert [shard.bytes for shard in opened.shards] == [tar.stat().st_size for tar in tars]
        assert (opened.indexed, opened.samples) == (True, 5)

    def test_missing_rows(self, tmp_path: Path) -> None:
        index = indexes.write_index(tmp_path / "index", indexes.write_sources(tmp_path / "theirs", (2,)))
        (tmp_path / "index/00000.parquet").unlink()
        with pytest.raises(UserError, match=r"00000\.parquet is missing: `gesso verify "):
            open_collection(index)

    @pytest.mark.parametrize("name", ["a.tar", "00000.tar"])
    def test_tars_without_statistics(self, tmp_path: Path, name: str) -> None:
        indexes.write_tar(tmp_path / name, [indexes.sample(1)])
        with pytest.raises(UserError, match=rf"holds tars without statistics: `gesso index '{tmp_path}/\*\.tar' "):
            open_collection(str(tmp_path))
