"""Damage, `verify --repair`, the same command again: the bytes from before. And what is refused, asked, left."""

# ruff: noqa: F401, F811 - what is imported from other tests are fixtures

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gesso import cli
from gesso.dataset.kinds import KINDS
from gesso.pipelines import repair
from tests.pipelines.collect import test_job as collecting
from tests.pipelines.collect.test_job import collected, table, web
from tests.pipelines.embed import test_job as embedding
from tests.pipelines.embed.test_job import weights
from tests.pipelines.encode import test_job as encoding
from tests.pipelines.encode.test_job import data, dvae, tokens
from tests.pipelines.export import test_job as exporting
from tests.pipelines.export.test_job import clean, drops, raw, source
from tests.pipelines.match import test_repeats as repeating
from tests.pipelines.match.test_repeats import embedded, found, shards

Again = Callable[[Path], int]


def contents(output: Path) -> dict[str, bytes]:
    """All but the clock in the markers and what is not ours."""
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.endswith("_stats.json")]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def mend(output: Path, damaged: list[str], again: Again, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Damages files, repairs, runs the command again, and compares with the bytes from before; the removed names."""
    before = contents(output)
    for name in damaged:
        flip(output / name)
    capsys.readouterr()
    assert cli.main(["verify", str(output), "--repair", "--yes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{output}: ") and "problem" in line for line in lines)
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in damaged)
    assert contents(output).items() < before.items()
    assert again(output) == 0
    assert contents(output) == before
    assert cli.main(["verify", str(output)]) == 0
    (removed,) = [line for line in lines if line.startswith("to be removed from ")]
    return removed.partition(": ")[2].split()


def export_again(raw: Path, drops: list[str]) -> Again:
    """Runs the export's command into an output again."""
    return lambda output: exporting.export(raw, output, *exporting.FLAGS, *exporting.dropping(drops))


class TestTheSameBytesAgain:
    def test_collection(
        self,
        table: Path,
        collected: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = Path(shutil.copytree(collected, tmp_path / "raw"))
        removed = mend(output, ["00001.tar", "00002.parquet"], lambda output: collecting.collect(table, output), capsys)
        assert removed[:3] == ["manifest.json", "00001_stats.json", "00002_stats.json"]
        assert {"00001.tar", "00001.parquet", "00002.tar", "00002.parquet"} < set(removed)
        assert not any(name.startswith(("00000", "plan")) for name in removed)

    def test_a_collections_marker_and_manifest(
        self,
        table: Path,
        collected: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = Path(shutil.copytree(collected, tmp_path / "raw"))
        (output / "00000_stats.json").write_text("{")
        removed = mend(output, [], lambda output: collecting.collect(table, output), capsys)
        assert "00000.tar" in removed
        (output / "manifest.json").write_text(json.dumps({"shards": []}))
        before = contents(collected)
        assert cli.main(["verify", str(output), "--repair", "--yes"]) == 0
        assert collecting.collect(table, output) == 0
        assert contents(output) == before

    def test_embeddings(
        self,
        raw: Path,
        weights: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = tmp_path / "embeddings"
        assert embedding.embed(raw, output, weights) == 0
        names = ["img_emb/img_emb_00001.npy", "metadata/metadata_00001.parquet"]
        removed = mend(output, names[:1], lambda output: embedding.embed(raw, output, weights), capsys)
        assert removed == ["manifest.json", "00001_stats.json", *names]

    def test_an_exports_tar(
        self,
        raw: Path,
        clean: Path,
        drops: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = Path(shutil.copytree(clean, tmp_path / "clean"))
        removed = mend(output, ["train/00001.tar", "README.md"], export_again(raw, drops), capsys)
        assert removed == ["manifest.json", "train/00001_stats.json", "README.md", "train/00001.tar"]

    def test_an_exports_rows_take_all_with_them(
        self,
        raw: Path,
        clean: Path,
        drops: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = Path(shutil.copytree(clean, tmp_path / "clean"))
        again = export_again(raw, drops)
        mend(output, ["validation/00000.parquet"], again, capsys)
        mend(output, ["dropped.parquet"], again, capsys)

    def test_tokens(
        self,
        data: Path,
        dvae: str,
        tokens: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = Path(shutil.copytree(tokens, tmp_path / "tokens"))
        removed = mend(output, ["train/00001.npy"], lambda output: encoding.run(data, output, dvae), capsys)
        assert removed == ["manifest.json", "train/00001_stats.json", "train/00001.npy", "train/00001.parquet"]

    def test_repeats(
        self,
        shards: str,
        embedded: str,
        found: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = Path(shutil.copytree(found, tmp_path / "found"))

        def again(output: Path) -> int:
            return cli.main(repeating.command(shards, output, "--near", str(repeating.NEAR), "--embeddings", embedded))

        assert mend(output, ["near.parquet"], again, capsys) == ["manifest.json", "near.parquet"]


class Terminal(io.StringIO):
    """A keyboard at which somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def damaged(collected: Path, tmp_path: Path) -> Path:
    output = Path(shutil.copytree(collected, tmp_path / "raw"))
    flip(output / "00001.tar")
    return output


class TestAsking:
    @pytest.mark.parametrize("answer", ["n\n", "\n", "", "what?\n"])
    def test_nothing_is_removed_without_a_yes(
        self, answer: str, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(damaged)
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert cli.main(["verify", str(damaged), "--repair"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "00001.tar: sha256 differs from manifest.json"
        assert lines[-1].endswith("nothing was removed")
        assert contents(damaged) == before

    def test_a_yes_removes(
        self, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", Terminal("Yes\n"))
        assert cli.main(["verify", str(damaged), "--repair"]) == 0
        assert not (damaged / "00001.tar").exists()
        assert "the same `gesso collect` with --output" in capsys.readouterr().out

    def test_without_a_terminal_it_is_refused(
        self, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        before = contents(damaged)
        assert cli.main(["verify", str(damaged), "--repair"]) == 2
        assert capsys.readouterr().err == (
            "gesso: --repair asks before it removes anything, and there is no terminal: give --yes as well\n"
        )
        assert contents(damaged) == before

    def test_yes_alone(self, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["verify", str(damaged), "--yes"]) == 2
        assert capsys.readouterr().err == "gesso: --yes is for --repair: give both, or none\n"

    def test_not_while_a_job_writes(self, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from gesso.lock import lock

        with lock(str(damaged)):
            assert cli.main(["verify", str(damaged), "--repair", "--yes"]) == 2
        assert "is being written by" in capsys.readouterr().err
        assert (damaged / "00001.tar").exists()


class TestWhatIsLeft:
    def test_whole_and_unfinished_ones(
        self, collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = Path(shutil.copytree(collected, tmp_path / "raw"))
        before = contents(output)
        assert cli.main(["verify", str(output), "--repair", "--yes"]) == 0
        assert capsys.readouterr().out == f"{output}: no problems\n"
        assert contents(output) == before
        (output / "manifest.json").unlink()
        assert cli.main(["verify", str(output), "--repair", "--yes"]) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "nothing to remove: the same `gesso collect` goes on"

    def test_a_plan_and_foreign_files_stay(
        self,
        collected: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = Path(shutil.copytree(collected, tmp_path / "raw"))
        (output / "mine.parquet").write_bytes(b"mine")
        (output / "plan.json").write_text("{")
        flip(output / "00000.tar")
        assert cli.main(["verify", str(output), "--repair", "--yes"]) == 1
        lines = capsys.readouterr().out.splitlines()
        left = [line for line in lines if line.startswith("cannot be mended here: ")]
        assert [line.split(": ")[1] for line in left] == ["plan.json", "mine.parquet"]
        assert (output / "mine.parquet").exists()
        assert (output / "plan.json").exists()
        assert not (output / "00000.tar").exists()


@pytest.mark.parametrize(
    ("kind", "name", "removed"),
    [
        ("collection", "rejected/00001.tar", {"00001.tar", "00001_stats.json", "rejected/00001.tar", "manifest.json"}),
        ("collection", "plan/00001.parquet", set()),
        ("collection", "the funnel does not add up", set()),
        ("export", "train/00001_stats.json", {"train/00001.tar", "train/00001_stats.json", "manifest.json"}),
        ("export", "train/notes.txt", set()),
        ("matches", "matches.parquet", {"matches.parquet", "manifest.json"}),
        ("dvae", "checkpoints/0000500.pt", {"checkpoints/0000500.pt"}),
        ("dvae", "metrics.jsonl", set()),
        ("detector", "detector.safetensors", {"detector.safetensors"}),
    ],
)
def test_what_goes_with_a_damaged_file(kind: str, name: str, removed: set[str], tmp_path: Path) -> None:
    present = {
        *("00000.tar", "00001.tar", "00001_stats.json", "rejected/00001.tar", "plan.json", "manifest.json"),
        *("train/00001.tar", "train/00001.parquet", "train/00001_stats.json", "validation/00001.tar"),
        *("train/notes.txt", "matches.parquet"),
    }
    assert repair.files_to_remove(str(tmp_path), KINDS[kind], name, present) == removed


def test_what_says_that_it_is_whole_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a removal which is interrupted leaves an unfinished output, not a damaged one."""
    gone: list[str] = []
    monkeypatch.setattr(repair.storage, "remove", lambda path: gone.append(os.path.basename(path)))
    repair.remove(str(tmp_path), ["plan.json", "00001.tar", "manifest.json", "00001_stats.json"])
    assert gone == ["manifest.json", "00001_stats.json", "00001.tar", "plan.json"]
