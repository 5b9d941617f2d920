"""Checks and repairs of an index: its rows are made again, tars of others are only told of."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso import cli
from gesso.pipelines import verify
from tests import indexes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    indexes.write_index(folder / "index", indexes.write_sources(folder / "theirs", (6, 5)))
    return folder


@pytest.fixture
def made(whole: Path, tmp_path: Path) -> Path:
    """An index with its tars beside it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "made"))


def flip(path: Path, at: int | None = None) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2 if at is None else at] ^= 1
    path.write_bytes(body)


def problems(made: Path) -> list[str]:
    return [line.replace(f"{made}/", "") for line in verify.verify(str(made / "index"))]


def change(path: Path, edit: Any) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_a_whole_index(made: Path) -> None:
    done: list[int] = []
    total: list[int] = []
    assert verify.verify(str(made / "index"), total.append, done.append) == []
    assert sum(done) == sum(total)  # every byte is read once, those of the tars, too


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda made: flip(made / "index/00001.parquet"), "00001.parquet: sha256 differs from manifest.json"),
        (lambda made: (made / "index/00000.parquet").unlink(), "00000.parquet: missing"),
        (lambda made: flip(made / "theirs/part-0.tar"), "theirs/part-0.tar: sha256 differs from manifest.json"),
        (lambda made: (made / "theirs/part-1.tar").unlink(), "theirs/part-1.tar: missing"),
        (lambda made: (made / "index/00001_stats.json").write_text("{"), "00001_stats.json: not a JSON object"),
        (lambda made: (made / "index/00001_stats.json").unlink(), "00001_stats.json: missing"),
        (lambda made: (made / "index/plan.json").unlink(), "plan.json: missing"),
        (
            lambda made: shutil.copy(made / "index/00000_stats.json", made / "index/00007_stats.json"),
            "00007_stats.json: not in manifest.json",
        ),
        (
            lambda made: change(made / "index/00000_stats.json", lambda marker: marker.update(count=7)),
            "00000_stats.json: count differs from manifest.json",
        ),
        (
            lambda made: change(made / "index/manifest.json", lambda manifest: manifest.update(samples=7)),
            "manifest.json: 7 samples, its shards hold 11",
        ),
        (
            lambda made: change(made / "index/manifest.json", lambda manifest: manifest["funnel"].update(rows_read=12)),
            "the funnel does not add up: 12 samples read, 11 accounted for",
        ),
    ],
)
def test_damage(made: Path, damage: Any, expected: str) -> None:
    damage(made)
    assert problems(made) == [expected]


def test_a_tar_of_another_size(made: Path) -> None:
    size = (made / "theirs/part-0.tar").stat().st_size
    (made / "theirs/part-0.tar").write_bytes(b"x")
    assert problems(made) == [f"theirs/part-0.tar: 1 bytes, in manifest.json {size:,}"]


@pytest.mark.parametrize(("column", "by"), [("image_offset", 512), ("image_offset", -1), ("image_bytes", 1)])
def test_rows_that_do_not_fit_their_tar(made: Path, column: str, by: int) -> None:
    path = made / "index/00000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[2][column] += by
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    found = {path.name: indexes.summary(path)}
    for name in ("manifest.json", "00000_stats.json"):
        change(made / "index" / name, lambda value: value.get("shards", [value])[0]["files"].update(found))
    assert problems(made) == ["00000.parquet: 1 pictures are not where theirs/part-0.tar has files"]


def test_an_unfinished_index(made: Path) -> None:
    for name in ("manifest.json", "00001_stats.json"):
        (made / "index" / name).unlink()
    flip(made / "index/00000.parquet")
    assert problems(made) == [
        "00000.parquet: sha256 differs from manifest.json",
        "unfinished: 1 of 2 tars are not indexed; run the same `gesso index` again",
    ]


def test_rows_are_made_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in (made / "index").iterdir() if "_stats" not in path.name}
    flip(made / "index/00001.parquet")
    assert cli.main(["verify", str(made / "index"), "--repair", "--yes"]) == 0
    assert "removed: 3 files; the same `gesso index` with" in capsys.readouterr().out
    assert cli.main(["index", f"{made}/theirs/*.tar", "--output", str(made / "index")]) == 0
    assert {path.name: path.read_bytes() for path in (made / "index").iterdir() if "_stats" not in path.name} == before


def test_tars_of_others_are_never_removed(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(made / "theirs/part-0.tar")
    assert cli.main(["verify", str(made / "index"), "--repair", "--yes"]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"cannot be mended here: {made}/theirs/part-0.tar: sha256 differs from manifest.json",
        "nothing to remove",
    ]
    assert (made / "theirs/part-0.tar").exists()
    assert (made / "index/00000.parquet").exists()


def test_an_unpacked_tar_goes_with_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in indexes.write_sources(tmp_path / "theirs", (2, 2)):
        path.with_suffix(".tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    command = ["index", f"{tmp_path}/theirs/*.gz", "--output", str(tmp_path / "index"), "--unpack"]
    assert cli.main(command) == 0
    before = (tmp_path / "index/tars/part-1.tar").read_bytes()
    flip(tmp_path / "index/tars/part-1.tar")
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path / "index"), "--repair", "--yes"]) == 0
    removed = "manifest.json 00001_stats.json 00001.parquet tars/part-1.tar"
    assert f"to be removed from {tmp_path}/index: {removed}" in capsys.readouterr().out
    assert cli.main(command) == 0
    assert (tmp_path / "index/tars/part-1.tar").read_bytes() == before
    assert verify.verify(str(tmp_path / "index")) == []
