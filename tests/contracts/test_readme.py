"""The commands of README's blocks, run one after the other as they stand, on small data."""

import csv
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gesso import cli
from tests import indexes, servers
from tests.datasets import picture

README = Path(__file__).parents[2] / "README.md"
# What the test adds so that a command ends by itself and soon.
MORE = {
    "gesso review data/overlap": ["--threshold", "0.9", "--who", "a test"],
    "gesso train dvae": ["--steps", "2"],
    "gesso train prior": ["--steps", "2", "--samples", "1"],
    "gesso train contrastive": ["--steps", "2"],
    "gesso generate": ["--n", "4", "--keep", "2"],
    "gesso collect": ["--min_side", "16"],
}
SERVES = "gesso studio"  # until it is interrupted


def commands() -> list[str]:
    """The lines of the shell blocks that call gesso on data, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), re.S)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"gesso (?!--|COMMAND)", line)]


def ending() -> list[str]:
    """Those that end by themselves."""
    return [line for line in commands() if not line.startswith(SERVES)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """LAION's columns in links/, others' tars in cc3m/, and COCO's pictures, of which two are in the table."""
    bodies = {f"/{number}.jpg": picture(number, 320, 280) for number in range(40)}
    with servers.serve(bodies) as web:
        (tmp_path / "links").mkdir()
        (tmp_path / "val2014").mkdir()
        rows = [(web.url(path), f"a picture of the number {path[1:-4]} on the wall") for path in bodies]
        with (tmp_path / "links/part.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("URL", "TEXT"), *rows])
        import pyarrow.csv
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.csv.read_csv(tmp_path / "links/part.csv"), tmp_path / "links/part.parquet")
        (tmp_path / "links/part.csv").unlink()
        indexes.write_tar(tmp_path / "cc3m/cc3m-train-0000.tar", map(indexes.sample, range(4)))
        for number in (1, 2, 50, 51):
            (tmp_path / f"val2014/{number}.jpg").write_bytes(picture(number, 320, 280))
        for number, name in ((60, "photo-astronaut"), (61, "photo-coffee"), (62, "photo-rocket")):
            body = (README.parent / f"examples/pictures/files/{name}.jpg").read_bytes()
            (tmp_path / f"val2014/{number}.jpg").write_bytes(body)
        numbers = (1, 2, 50, 51, 60, 61, 62)
        images = [{"id": number, "file_name": f"{number}.jpg"} for number in numbers]
        captions = [{"id": number, "image_id": number, "caption": f"a wall {number}"} for number in numbers]
        (tmp_path / "captions.txt").write_text("a wall 2\na wall 60\na wall 61\na wall 62\n")
        (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": captions}))
        monkeypatch.chdir(tmp_path)
        yield tmp_path


def test_every_kind_of_command_is_there() -> None:
    named = {" ".join(line.split()[1:3]) if line.split()[1] == "train" else line.split()[1] for line in commands()}
    assert named >= set(cli.COMMANDS) - {"train detector"}


@pytest.mark.slow
def test_the_blocks_run_as_they_stand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ending():
        more = next((flags for start, flags in MORE.items() if line.startswith(start)), [])
        assert cli.main([*shlex.split(line)[1:], *more]) == 0, (line, capsys.readouterr().err)
    funnel = json.loads((folder / "data/clean/manifest.json").read_text())["funnel"]
    assert (funnel["samples_read"], funnel["validation"], funnel["overlap"] >= 2) == (40, 4, True), funnel
    assert json.loads((folder / "data/cc3m/manifest.json").read_text())["samples"] == 4
    assert (folder / "data/tokens/manifest.json").exists()
    assert (folder / "runs/dvae/report.html").exists()
    assert (folder / "out/evaluation/evaluation.md").exists()
