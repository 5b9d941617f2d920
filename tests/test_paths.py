"""Commands one behind the other where every path has an odd name, by each of the spellings that a user may give."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gesso import cli, storage
from gesso.dataset import layout
from tests.exports import picture
from tests.servers import Web, serve

ODD = "a b%20#?[1]*ü"
SMALL = ("--image_size", "32", "--min_side", "16")
SPELLINGS = {"absolute": "{home}/{name}", "file": "file://{home}/{name}", "home": "~/{name}", "relative": "{name}/"}


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serve({f"/{number}.jpg": picture(number) for number in range(12)}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_table(path: Path, web: Web) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        rows = [(web.url(f"/{number}.jpg"), f"a picture of the number {number}, drawn by hand") for number in range(12)]
        csv.writer(stream).writerows([("url", "caption"), *rows, (rows[0][0], "another caption of the same picture")])


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_command_takes_every_name(
    home: Path, web: Web, spelling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def named(name: str) -> str:
        return SPELLINGS[spelling].format(home=home, name=f"{ODD}/{name}")

    def run(*argv: str) -> str:
        assert cli.main(argv) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    write_table(home / ODD / f"{ODD}.csv", web)
    raw, repeats, clean = named(f"{ODD} raw"), named(f"{ODD} repeats"), named(f"{ODD} clean")
    run("collect", "--input", named(f"{ODD}.csv"), "--output", raw, *SMALL)
    assert "finished" in run("status", raw)
    assert ": no problems" in run("verify", raw)
    run("report", raw)
    run("report", raw, "--output", named(f"{ODD}.html"))
    run("repeats", "--shards", raw, "--output", repeats)
    sizes = ("--validation_size", "2", "--shard_size", "5")
    run("export", "--shards", raw, "--drop", repeats, "--output", clean, *sizes)
    assert ": no problems" in run("verify", clean)
    run("train", "tokenizer", "--data", clean, "--output", named(f"{ODD} tokenizer"), "--vocabulary", "300")
    assert "nothing to do" in run("collect", "--input", named(f"{ODD}.csv"), "--output", raw, *SMALL)

    assert [path.name for path in home.iterdir()] == [ODD]
    assert {path.name for path in (home / ODD).iterdir()} == {
        f"{ODD}.csv",
        f"{ODD}.html",
        *(f"{ODD} {name}" for name in ("raw", "repeats", "clean", "tokenizer")),
    }
    assert (home / ODD / f"{ODD}.html").read_bytes() == (home / ODD / f"{ODD} raw" / "report.html").read_bytes()
    assert sum(pq.read_metadata(path).num_rows for path in (home / ODD / f"{ODD} clean").glob("*/*.parquet")) == 12


def test_an_output_with_brackets_is_no_pattern(home: Path, web: Web) -> None:
    write_table(home / "links.csv", web)
    assert cli.main(["collect", "--input", "links.csv", "--output", "g/a", *SMALL]) == 0
    before = {name: (home / "g/a" / name).read_bytes() for name in below(home / "g/a")}
    assert layout.plan_name(0) in before
    for output in ("g/[ab]", "g/?", "g/*"):
        assert cli.main(["collect", "--input", "links.csv", "--output", output, *SMALL]) == 0
        assert below(home / output) == set(before)
    assert {name: (home / "g/a" / name).read_bytes() for name in below(home / "g/a")} == before


def test_an_input_that_is_there_is_that_file(home: Path, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(home / "[ab].csv", web)
    (home / "a.csv").write_text("no,table\n")
    write_table(home / "[in]/1.csv", web)
    (home / "i").mkdir()
    (home / "i/1.csv").write_text("no,table\n")
    given = ["--input", "[ab].csv", "[in]/*.csv", "--output", "out"]
    assert cli.main(["collect", *given, *SMALL]) == 0
    plan = storage.read_json(str(home / "out" / layout.PLAN))
    assert [table["name"] for table in plan["input"]] == ["[ab].csv", "1.csv"]
    assert plan["rows_read"] == 26  # two tables of 13 rows
