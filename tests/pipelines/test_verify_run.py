"""Damage to a training's files, and to the manifest of what is no collection, by the lines that tell it."""

import json
import shutil
from pathlib import Path

import pytest

from gesso import cli
from gesso.pipelines import verify_run
from gesso.pipelines.verify import verify
from tests.dvaes import write_dvae
from tests.embeddings import clustered, write_embeddings
from tests.exports import write_export
from tests.runs import write_run

WEIGHTS = Path(__file__).parents[2] / "dedup/weights/detector.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    output = Path(write_run(tmp_path / "dvae", until=400, pictures=False))
    write_dvae(output / "checkpoints/0000400.pt")
    return output


def flip(path: Path, at: int) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)


class TestDvae:
    def test_whole(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["verify", str(run)]) == 0
        assert capsys.readouterr().out == f"{run}: no problems\n"

    def test_bytes_are_told(self, run: Path) -> None:
        totals, read = [], []
        assert verify(str(run), totals.append, read.append) == []
        names = ("run.json", "metrics.jsonl", "checkpoints/0000400.pt", "checkpoints/best.json")
        assert totals == [sum(read)] == [sum((run / name).stat().st_size for name in names)]

    def test_a_checkpoint_with_a_wrong_byte(self, run: Path) -> None:
        flip(run / "checkpoints/0000400.pt", (run / "checkpoints/0000400.pt").stat().st_size // 2)
        (problem,) = verify(str(run))
        assert problem.startswith("checkpoints/0000400.pt: no whole checkpoint: ")
        assert problem.endswith(" is damaged")

    def test_a_checkpoint_that_is_cut_off(self, run: Path) -> None:
        path = run / "checkpoints/0000400.pt"
        path.write_bytes(path.read_bytes()[:-40])
        assert verify(str(run)) == ["checkpoints/0000400.pt: no whole checkpoint: File is not a zip file"]

    def test_metrics(self, run: Path) -> None:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        (run / "metrics.jsonl").write_text("\n".join([lines[0], "{", *lines[2:]]) + "\n")
        assert verify(str(run)) == ["metrics.jsonl: line 2 is damaged: remove that line, or restore a copy"]

    def test_records(self, run: Path) -> None:
        (run / "checkpoints/best.json").write_text("[1]")
        assert verify(str(run)) == ["checkpoints/best.json: no JSON object"]
        (run / "checkpoints/best.json").write_text('{"step": ')
        (problem,) = verify(str(run))
        assert problem.startswith("checkpoints/best.json: not JSON: Expecting value")

    def test_a_damaged_checkpoint_is_removed(self, run: Path) -> None:
        (run / "checkpoints/0000400.pt").write_bytes(b"")
        assert cli.main(["verify", str(run), "--repair", "--yes"]) == 0
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.json"]
        assert cli.main(["verify", str(run)]) == 0


class TestPrior:
    def test_damage(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text('{"kind": "prior"}')
        assert verify(str(tmp_path)) == []
        write_dvae(tmp_path / "checkpoints/0000400.pt")
        flip(tmp_path / "checkpoints/0000400.pt", (tmp_path / "checkpoints/0000400.pt").stat().st_size // 2)
        (problem,) = verify(str(tmp_path))
        assert problem.startswith("checkpoints/0000400.pt: no whole checkpoint: ")
        assert cli.main(["verify", str(tmp_path), "--repair", "--yes"]) == 0
        assert verify(str(tmp_path)) == []


class TestDetector:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        return Path(shutil.copy(WEIGHTS, tmp_path / WEIGHTS.name))

    def test_whole(self, weights: Path) -> None:
        assert verify(str(weights.parent)) == []

    def test_cut_off(self, weights: Path) -> None:
        size = weights.stat().st_size
        weights.write_bytes(weights.read_bytes()[:-1])
        assert verify(str(weights.parent)) == [f"detector.safetensors: {size - 1:,} bytes, in its header {size:,}"]

    @pytest.mark.parametrize("body", [b"", b"12345678", b"\x02\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"a": 1}'])
    def test_no_header(self, weights: Path, body: bytes) -> None:
        weights.write_bytes(body)
        assert verify(str(weights.parent)) == ["detector.safetensors: its header is damaged"]


class TestTokenizer:
    def test_without_its_record(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text('{"kind": "tokenizer"}')
        (tmp_path / "tokenizer.json").write_text("{")
        (problem,) = verify(str(tmp_path))
        assert problem.startswith("tokenizer.json: not JSON")
        assert cli.main(["verify", str(tmp_path), "--repair", "--yes"]) == 0
        assert not tmp_path.exists()


def test_what_is_not_known_is_not_checked() -> None:
    assert verify_run.check_of("evaluations/0000200/grid.png") is None


class TestManifests:
    """A damaged manifest of what is no collection is a line, and goes with --repair."""

    @pytest.mark.parametrize("text", ["{", "[]", '{"kind": "export"}'])
    def test_export(self, text: str, tmp_path: Path) -> None:
        output = Path(write_export(tmp_path / "clean", (6, 2)))
        (output / "manifest.json").write_text(text)
        (problem,) = verify(str(output))
        assert problem.startswith("manifest.json: ")
        assert cli.main(["verify", str(output), "--repair", "--yes"]) == 0
        assert not (output / "manifest.json").exists()
        assert (output / "train/00000.tar").exists()

    def test_export_without_its_plan(self, tmp_path: Path) -> None:
        output = Path(write_export(tmp_path / "clean", (6, 2)))
        (output / "plan.json").unlink()
        assert verify(str(output)) == ["plan.json: missing"]

    def test_markers(self, tmp_path: Path) -> None:
        output = Path(write_export(tmp_path / "clean", (6, 2)))
        (output / "train/00000_stats.json").write_text("{")
        assert verify(str(output)) == ["train/00000_stats.json: not a JSON object"]
        output = Path(write_embeddings(tmp_path / "e", clustered(6, 8, 0), [f"{n:032x}" for n in range(6)], [6]))
        (output / "00000_stats.json").write_text("{")
        assert verify(str(output)) == ["00000_stats.json: not a JSON object"]

    def test_embeddings(self, tmp_path: Path) -> None:
        output = Path(write_embeddings(tmp_path / "e", clustered(6, 8, 0), [f"{n:032x}" for n in range(6)], [6]))
        (output / "plan.json").write_text(json.dumps({"settings": {"model": "detector"}, "shards": 1}))
        (output / "manifest.json").write_text('{"kind": "embeddings"}')
        assert verify(str(output)) == ["manifest.json: does not have the fields that it should"]
        (output / "manifest.json").unlink()
        assert verify(str(output)) == ["unfinished: run the same `gesso embed` again"]

    def test_clip_retrievals_own(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = Path(write_embeddings(tmp_path / "e", clustered(6, 8, 0), [f"{n:032x}" for n in range(6)], [6]))
        (output / "manifest.json").unlink()
        assert cli.main(["verify", str(output)]) == 2
        assert "holds clip-retrieval's own embeddings: no file of it states" in capsys.readouterr().err
