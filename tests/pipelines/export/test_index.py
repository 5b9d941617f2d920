"""An index is exported as a collection is: pictures from the tars of others, captions and fields from the rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset as wds

from gesso import cli
from gesso.dataset import members
from gesso.pipelines import verify
from tests import indexes

NUMBERS = range(11)
FLAGS = ("--validation_size", "3", "--shard_size", "5")

Sample = dict[str, Any]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    indexes.write_sources(folder / "theirs")
    indexes.write_index(folder / "index", sorted((folder / "theirs").iterdir()), carry="cls")
    return folder


@pytest.fixture(scope="module")
def clean(theirs: Path) -> Path:
    assert export(theirs / "index", theirs / "clean") == 0
    return theirs / "clean"


def export(source: Path, output: Path, *more: str) -> int:
    return cli.main(["export", "--shards", str(source), "--output", str(output), *FLAGS, *more])


def read(folder: Path) -> dict[str, Sample]:
    """The samples of an export as webdataset reads them, by key."""
    paths = sorted(map(str, folder.glob("*/*.tar")))
    return {sample["__key__"]: sample for sample in wds.WebDataset(paths, shardshuffle=False)}


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("_stats.json"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_pictures_captions_and_fields(clean: Path) -> None:
    found = read(clean)
    assert found.keys() == {indexes.key(number) for number in NUMBERS}
    for number in NUMBERS:
        sample = found[indexes.key(number)]
        suffix = ("jpg", "png", "webp", "gif")[number % 4]
        assert {name for name in sample if not name.startswith("__")} == {suffix, "txt", "json"}
        assert sample[suffix] == indexes.picture(number)
        assert sample["txt"].decode() == f"A picture of number {number} — «ö»"
        fields = json.loads(sample["json"])
        told = {name: fields[name] for name in ("key", "caption", "status", "source_key", "source_tar", "cls")}
        assert told == {
            "key": indexes.key(number),
            "caption": f"A picture of number {number} — «ö»",
            "status": "success",
            "source_key": indexes.key(number),
            "source_tar": f"part-{number // 6}.tar",
            "cls": str(number),
        }
        assert not fields.keys() & {"image_offset", "image_bytes", "reason"}


def test_the_offsets_give_the_very_bytes(clean: Path) -> None:
    """Also behind the PAX headers of long names and of those that are not ASCII."""
    for rows in clean.glob("*/*.parquet"):
        body = rows.with_suffix(".tar").read_bytes()
        table = pq.read_table(rows).to_pylist()
        listed = members.list_samples(lambda offset, size, body=body: body[offset : offset + size], len(body))
        assert [(row["key"], row["offset"], row["bytes"]) for row in table] == [sample[:3] for sample in listed]
        for row in table:
            image, caption, fields = (
                body[row[f"{kind}_offset"] :][: row[f"{kind}_bytes"]] for kind in ("image", "caption", "json")
            )
            number = int(row["cls"])
            assert (image, caption.decode()) == (indexes.picture(number), row["caption"])
            assert json.loads(fields)["sha256"] == row["sha256"]
            assert (row["source_shard"], row["source_bytes"]) == (number // 6, len(image))


def test_verify_finds_nothing(clean: Path) -> None:
    assert verify.verify(str(clean)) == []


def test_a_split_of_it_is_exported_again(clean: Path, tmp_path: Path) -> None:
    assert export(clean / "train", tmp_path / "again", "--validation_size", "0") == 0
    before, after = read(clean), read(tmp_path / "again")
    assert after.keys() == {
        row["key"] for path in clean.glob("train/*.parquet") for row in pq.read_table(path).to_pylist()
    }
    for key, sample in after.items():
        assert {name: sample[name] for name in sample if name[:2] != "__"} == {
            name: before[key][name] for name in before[key] if name[:2] != "__"
        }


def test_only_what_is_missing_is_written_again(theirs: Path, clean: Path) -> None:
    expected = contents(clean)
    for name in ("manifest.json", "train/00001.tar", "train/00001_stats.json"):
        (clean / name).unlink()
    assert export(theirs / "index", clean) == 0
    assert contents(clean) == expected


def test_drop_lists_and_the_card(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(f"{indexes.key(2)}\n{indexes.key(3)}\n")
    assert export(theirs / "index", tmp_path / "clean", "--drop", str(tmp_path / "mine.txt")) == 0
    assert read(tmp_path / "clean").keys() == {indexes.key(number) for number in NUMBERS} - {
        indexes.key(2),
        indexes.key(3),
    }
    card = (tmp_path / "clean/README.md").read_text()
    assert "9 pictures with captions, from tars that others made: indexed and deduplicated, shuffled" in card
    assert all(f'{{"name": "{suffix}", "dtype": "image"}}' in card for suffix in ("jpg", "png", "webp", "gif"))
    assert "| `theirs` | 2 tars | files_sha256 " in card
    assert "| `rows_read` | 11 | samples of the tars |" in card


def test_a_picture_that_was_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tar,) = indexes.write_sources(tmp_path / "theirs", [4])
    output = indexes.write_index(tmp_path / "index", [tar])
    body = tar.read_bytes()
    at = body.index(indexes.picture(2))
    tar.write_bytes(body[: at + 100] + bytes([body[at + 100] ^ 1]) + body[at + 101 :])
    assert export(Path(output), tmp_path / "clean", "--validation_size", "1") == 2
    message = f"part-0.tar has changed since the export was planned: it holds another picture at byte {at:,}; bring"
    assert message in capsys.readouterr().err


def test_an_output_around_the_tars(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(theirs / "index", theirs / "theirs") == 2
    assert f"--output {theirs}/theirs holds tars of --shards, in {theirs}/theirs: give" in capsys.readouterr().err
