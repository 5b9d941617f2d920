"""A split's shards by the manifest; each kind of damage told by the shard's name, refused or left out."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso.errors import UserError
from gesso.training.data.split import open_split
from tests.exports import caption, write_export

COUNTS = (24, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_export(tmp_path_factory.mktemp("made") / "clean", COUNTS, shard_size=10))


@pytest.fixture
def clean(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(made, tmp_path / "clean"))


def flip(path: Path) -> None:
    """Another byte in the middle, the size as before."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 255
    path.write_bytes(body)


def rewrite(manifest: Path, change: Callable[[Any], None]) -> None:
    told = json.loads(manifest.read_text())
    change(told)
    manifest.write_text(json.dumps(told))


def replace_rows(export: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Other rows, and a manifest that lists them."""
    path = export / "train" / name
    pq.write_table(change(pq.read_table(path)), path)
    entry = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def change_manifest(told: Any) -> None:
        for shard in told["shards"]:
            if shard["split"] == "train" and name in shard["files"]:
                shard["files"][name] = entry

    rewrite(export / "manifest.json", change_manifest)


class TestOpen:
    @pytest.mark.parametrize("checksums", [False, True])
    def test_the_manifests_shards(self, made: Path, checksums: bool) -> None:
        train, validation = (open_split(str(made), name, checksums=checksums) for name in ("train", "validation"))
        assert (train.samples, validation.samples) == COUNTS
        assert [shard.index for shard in train.shards] == [0, 1, 2]
        assert train.tar(train.shards[1]) == f"{made}/train/00001.tar"
        assert train.quarantined == ()

    def test_what_it_is(self, made: Path) -> None:
        assert open_split(f"{made}/", "train").identity() == {
            "path": str(made),
            "split": "train",
            "manifest_sha256": hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest(),
            "samples": 24,
            "shards": 3,
            "quarantined": [],
        }

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"clean holds no manifest\.json: give the --output of a `gesso export`$"):
            open_split(str(tmp_path / "clean"), "train")

    def test_unfinished(self, clean: Path) -> None:
        (clean / "manifest.json").unlink()
        with pytest.raises(UserError, match="clean is not finished: run its `gesso export` again"):
            open_split(str(clean), "train")

    @pytest.mark.parametrize("text", ['{"kind": "embeddings", "shards": []}', '{"shards": []}', "[]"])
    def test_another_kind(self, clean: Path, text: str) -> None:
        (clean / "manifest.json").write_text(text)
        with pytest.raises(UserError, match="clean is no export: give the --output of a `gesso export`"):
            open_split(str(clean), "train")

    def test_a_damaged_manifest(self, clean: Path) -> None:
        (clean / "manifest.json").write_text("{")
        with pytest.raises(UserError, match=r"manifest\.json is not JSON \(Expecting .*\): export again"):
            open_split(str(clean), "train")

    def test_a_split_without_samples(self, clean: Path) -> None:
        def drop(told: Any) -> None:
            told["shards"] = [shard for shard in told["shards"] if shard["split"] == "train"]

        rewrite(clean / "manifest.json", drop)
        with pytest.raises(UserError, match="has no samples for validation: `gesso export` with its --validation_size"):
            open_split(str(clean), "validation")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "train/{name} is missing"),
    "cut": (cut, r"train/{name} has [\d,]+ bytes, in manifest.json"),
    "changed": (flip, "train/{name} differs from manifest.json in its sha256"),
}


@pytest.mark.parametrize("name", ["00001.tar", "00001.parquet"])
@pytest.mark.parametrize("kind", DAMAGES)
class TestDamage:
    def test_it_is_refused_by_name(self, clean: Path, name: str, kind: str) -> None:
        damage, words = DAMAGES[kind]
        damage(clean / "train" / name)
        out = (
            r": `gesso verify .*clean` lists all damage, "
            "`gesso train dvae`, `prior` and `contrastive` leave such shards out with --damaged quarantine"
        )
        with pytest.raises(UserError, match=f"clean/{words.format(name=name)}.*{out}$"):
            open_split(str(clean), "train", checksums=True)
        assert open_split(str(clean), "validation", checksums=True).samples == 8

    def test_it_is_left_out_and_told(
        self, clean: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage, words = DAMAGES[kind]
        whole = open_split(str(clean), "train")
        damage(clean / "train" / name)
        found = open_split(str(clean), "train", "quarantine")
        assert [shard.index for shard in found.shards] == [0, 2]
        assert found.samples == 24 - whole.shards[1].count
        ((tar, what),) = found.quarantined
        assert tar == "train/00001.tar"
        assert re.match(words.format(name=name), what)
        assert capsys.readouterr().err == f"{clean}/train/00001.tar is left out with its samples: {what}\n"
        assert found.identity()["quarantined"] == ["train/00001.tar"]


class TestChecksums:
    def test_bytes_are_hashed_only_when_asked(self, clean: Path) -> None:
        flip(clean / "train/00001.tar")
        assert open_split(str(clean), "train").samples == 24

    def test_nothing_is_left(self, clean: Path) -> None:
        flip(clean / "validation/00000.tar")
        with pytest.raises(UserError, match="has no samples for validation: every shard of it is damaged"):
            open_split(str(clean), "validation", "quarantine")


class TestRows:
    def test_columns_in_the_tars_order(self, made: Path) -> None:
        split = open_split(str(made), "train")
        for shard in split.shards:
            expected = pq.read_table(made / f"train/{shard.index:05d}.parquet")
            assert split.rows(shard, ["caption", "key"]).equals(expected.select(["caption", "key"]))

    def test_all_captions(self, made: Path) -> None:
        splits = [open_split(str(made), name) for name in ("train", "validation")]
        tables = [split.rows(shard, ["caption"]) for split in splits for shard in split.shards]
        found = [text for table in tables for text in table["caption"].to_pylist()]
        assert sorted(found) == sorted(map(caption, range(32)))

    def test_damaged_since_the_split_was_opened(self, clean: Path) -> None:
        split = open_split(str(clean), "train")
        flip(clean / "train/00000.parquet")
        with pytest.raises(UserError, match=r"train/00000\.parquet differs from manifest\.json in its sha256: `gesso"):
            split.rows(split.shards[0], ["key"])
        (clean / "train/00001.parquet").unlink()
        with pytest.raises(
            UserError, match=r"train/00001\.parquet cannot be read \(No such file or directory\): `gesso"
        ):
            split.rows(split.shards[1], ["key"])

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda rows: rows.slice(1), r"train/00002\.parquet has \d+ rows, in manifest\.json \d+"),
            (lambda rows: rows.drop_columns(["image_offset"]), r"train/00002\.parquet has no column image_offset"),
        ],
    )
    def test_rows_of_another_form(self, clean: Path, change: Callable[[pa.Table], pa.Table], words: str) -> None:
        replace_rows(clean, "00002.parquet", change)
        split = open_split(str(clean), "train", checksums=False)
        with pytest.raises(UserError, match=words):
            split.rows(split.shards[2], ["key", "image_offset"])
        with pytest.raises(UserError, match=words):
            open_split(str(clean), "train", checksums=True)
        assert [shard.index for shard in open_split(str(clean), "train", "quarantine").shards] == [0, 1]
