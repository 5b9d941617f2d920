"""The whole `gesso match`: against brute force, killed, in two processes, and what it says to mistakes."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gesso import cli
from gesso.dataset import manifest
from gesso.dataset.embeddings import ROWS
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.pipelines.match import parts, transforms
from tests.embeddings import clustered, write_embeddings

TRAINING, REFERENCES = clustered(3000, 16, 1), clustered(40, 16, 2)
TRAINING_KEYS = [hashlib.md5(str(number).encode()).hexdigest() for number in range(3000)]
KEYS = [f"COCO_{number * 7 % 40:03}" for number in range(40)]
SIZES = [1000, 0, 900, 1100]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("sides")
    training = write_embeddings(folder / "training", TRAINING, TRAINING_KEYS, SIZES)
    hashes = [None if number == 3 else "0" * 16 for number in range(40)]
    return training, write_embeddings(
        folder / "coco", REFERENCES, KEYS, [25, 15], kind="images", source="/coco", phash=hashes
    )


@pytest.fixture(scope="module")
def matched(sides: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("matched") / "overlap"
    assert match(sides, output) == 0
    return output


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven parts in the place of one."""
    monkeypatch.setattr(transforms, "chunks", lambda blocks: original_chunks(blocks, 120))


original_chunks = transforms.chunks


def command(sides: tuple[str, str], output: Path, *more: str) -> list[str]:
    return ["match", "--embeddings", sides[0], "--reference", sides[1], "--output", str(output), *more]


def match(sides: tuple[str, str], output: Path, *more: str) -> int:
    return cli.main(command(sides, output, *more))


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def expected(k: int) -> list[dict[str, Any]]:
    every = (REFERENCES.astype(np.float64) @ TRAINING.T.astype(np.float64)).astype(np.float32)
    shards = np.repeat(range(len(SIZES)), SIZES)
    rows = []
    for at in np.argsort(KEYS):
        best = sorted(range(len(TRAINING_KEYS)), key=lambda row: (-every[at, row], TRAINING_KEYS[row]))[:k]
        for rank, row in enumerate(best, 1):
            pair = {"reference_key": KEYS[at], "rank": rank, "uid": TRAINING_KEYS[row], "shard": shards[row]}
            distance = None if at == 3 else row.bit_count()
            rows.append({**pair, "similarity": float(every[at, row]), "phash_distance": distance})
    return rows


def test_the_matches_are_those_of_brute_force(matched: Path) -> None:
    table = pq.read_table(matched / "matches.parquet")
    assert list(table.schema) == list(MATCH_FIELDS)
    assert table.to_pylist() == expected(8)


def test_the_manifest(matched: Path, sides: tuple[str, str]) -> None:
    manifest = json.loads((matched / "manifest.json").read_text())
    body = (matched / "matches.parquet").read_bytes()
    assert manifest.pop("versions").keys() == {"gesso", "faiss-cpu", "numpy", "pyarrow"}
    assert manifest == {
        "format": 1,
        "kind": "matches",
        "model": {"name": "test", "pretrained": None, "sha256": 64 * "0", "image_size": 32, "dimension": 16},
        "top_k": 8,
        "references": 40,
        "samples": 3000,
        "metric": "cosine",
        "training": {"embeddings": sides[0], "source": {"kind": "shards", "path": "/raw"}},
        "reference": {"embeddings": sides[1], "source": {"kind": "images", "path": "/coco"}},
        "files": {"matches.parquet": {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}},
    }
    assert set(contents(matched)) == {"plan.json", "manifest.json", "matches.parquet"}


@pytest.mark.usefixtures("small_chunks")
def test_many_parts_give_the_same_bytes(sides: tuple[str, str], matched: Path, tmp_path: Path) -> None:
    assert match(sides, tmp_path / "overlap") == 0
    assert contents(tmp_path / "overlap") == contents(matched)


def test_other_blocks_give_the_same_matches(sides: tuple[str, str], matched: Path, tmp_path: Path) -> None:
    """The shards of the same samples are numbered anew; all else stays."""
    mixed = np.random.default_rng(0).permutation(3000)
    hashes: list[str | None] = [f"{row:016x}" for row in mixed]
    write_embeddings(
        tmp_path / "mixed", TRAINING[mixed], [TRAINING_KEYS[row] for row in mixed], 30 * [100], phash=hashes
    )
    assert match((str(tmp_path / "mixed"), sides[1]), tmp_path / "overlap") == 0
    one, other = (pq.read_table(path / "matches.parquet").drop("shard") for path in (matched, tmp_path / "overlap"))
    assert one.equals(other)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(sides: tuple[str, str], matched: Path, tmp_path: Path) -> None:
    flags = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
    argv = command(sides, tmp_path / "overlap", *flags)
    subprocess.run([sys.executable, "-m", "gesso", *argv], check=True, capture_output=True)
    assert contents(tmp_path / "overlap") == contents(matched)


def test_a_finished_search_is_left_alone(
    sides: tuple[str, str], matched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (matched / "decision.json").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in matched.rglob("*")}
    assert match(sides, matched) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in matched.rglob("*")} == before
    (matched / "decision.json").unlink()


KILLED = """
import os, signal, sys
from gesso import cli, storage
from gesso.pipelines.match import transforms
cut, replace, renames = transforms.chunks, storage._commit, iter(range(1000))
transforms.chunks = lambda blocks: cut(blocks, 120)
def kill(source, target):
    if next(renames) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
storage._commit = kill
cli.main(sys.argv[2:])
"""


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("renames", [0, 6, 41])
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    sides: tuple[str, str], matched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The kill comes before so many files have got their names; parts that are committed are not searched again."""
    output = tmp_path / "overlap"
    argv = [sys.executable, "-c", KILLED, str(renames), *command(sides, output)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert not (output / "manifest.json").exists()
    committed, searched, write = set(manifest.committed(str(output))), set[int](), parts.write_part

    def watched(directory: str, index: int, *rest: Any) -> None:
        searched.add(index)
        write(directory, index, *rest)

    monkeypatch.setattr(parts, "write_part", watched)
    assert match(sides, output) == 0
    assert searched == set(range(7)) - committed
    assert contents(output) == contents(matched)


def test_fewer_training_pictures_than_asked_for(sides: tuple[str, str], tmp_path: Path) -> None:
    few = write_embeddings(tmp_path / "few", TRAINING[:3], TRAINING_KEYS[:3], [0, 3])
    assert match((few, sides[1]), tmp_path / "overlap", "--top_k", "5") == 0
    assert pq.read_table(tmp_path / "overlap/matches.parquet")["rank"].to_pylist() == 40 * [1, 2, 3]


def test_no_training_pictures(sides: tuple[str, str], tmp_path: Path) -> None:
    none = write_embeddings(tmp_path / "none", TRAINING[:0], [], [0, 0])
    assert match((none, sides[1]), tmp_path / "overlap") == 0
    table = pq.read_table(tmp_path / "overlap/matches.parquet")
    assert (list(table.schema), table.num_rows) == (list(MATCH_FIELDS), 0)


def test_a_part_is_some_chunks_and_there_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from gesso.dataset.embeddings import Block, Embeddings

    training = Embeddings("", {}, {}, "", (Block(0, 10 * ROWS),))
    assert [len(part) for part in transforms.match_parts(training)] == [4, 4, 2]
    monkeypatch.setattr(transforms, "MAX_PARTS", 2)
    assert [len(part) for part in transforms.match_parts(training)] == [5, 5]


class TestMistakes:
    """One line, exit code 2, nothing written."""

    def refused(self, capsys: pytest.CaptureFixture[str], output: Path, code: int, message: str) -> None:
        lines = capsys.readouterr().err.strip().splitlines()
        assert (code, len(lines)) == (2, 1)
        assert lines[0].startswith("gesso: ")
        assert message in lines[0]
        assert not output.exists()

    def test_missing_embeddings(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = match((str(tmp_path / "none"), sides[1]), tmp_path / "out")
        self.refused(capsys, tmp_path / "out", code, "none holds no embeddings: give the --output of a `gesso embed`")

    def test_another_dimension(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = write_embeddings(tmp_path / "other", clustered(4, 8, 0), KEYS[:4], [4])
        code = match((sides[0], other), tmp_path / "out")
        self.refused(capsys, tmp_path / "out", code, "different models (dimension 16 and 8)")

    def test_another_model(self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = write_embeddings(tmp_path / "other", REFERENCES[:4], KEYS[:4], [4], model={"name": "ViT-B-32"})
        code = match((sides[0], other), tmp_path / "out")
        self.refused(capsys, tmp_path / "out", code, "different models (name 'test' and 'ViT-B-32')")

    def test_a_block_that_is_cut_off(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = write_embeddings(tmp_path / "broken", TRAINING[:9], TRAINING_KEYS[:9], [9])
        path = tmp_path / "broken/img_emb/img_emb_00000.npy"
        path.write_bytes(path.read_bytes()[:-10])
        self.refused(capsys, tmp_path / "out", match((broken, sides[1]), tmp_path / "out"), "is damaged (")

    def test_two_references_of_one_key(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        twice = write_embeddings(tmp_path / "twice", REFERENCES[:3], ["a", "b", "a"], [3])
        code = match((sides[0], twice), tmp_path / "out")
        self.refused(capsys, tmp_path / "out", code, "several references named 'a'")

    def test_no_references(self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        none = write_embeddings(tmp_path / "none", REFERENCES[:0], [], [0])
        code = match((sides[0], none), tmp_path / "out")
        self.refused(capsys, tmp_path / "out", code, "there is nothing to search for")

    @pytest.mark.parametrize(
        ("more", "message"),
        [(("--top_k", "0"), "--top_k is 0: give 1 or more"), (("--topk", "3"), "unknown flag --topk")],
    )
    def test_flags(
        self,
        sides: tuple[str, str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        more: tuple[str, ...],
        message: str,
    ) -> None:
        self.refused(capsys, tmp_path / "out", match(sides, tmp_path / "out", *more), message)

    def test_changed_settings(self, sides: tuple[str, str], matched: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = contents(matched)
        assert match(sides, matched, "--top_k", "3") == 2
        assert "top_k was 8, is 3" in capsys.readouterr().err
        assert contents(matched) == before

    def test_rows_that_are_no_unit_vectors_are_told_from_a_worker(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = write_embeddings(tmp_path / "broken", 2 * TRAINING[:9], TRAINING_KEYS[:9], [9])
        assert match((broken, sides[1]), tmp_path / "out") == 2
        assert "row 0 has norm 2, not 1" in capsys.readouterr().err
        assert not (tmp_path / "out/manifest.json").exists()
