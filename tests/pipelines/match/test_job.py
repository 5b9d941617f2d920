"""The whole `gesso match`: against brute force, killed, in two processes, and what it says to mistakes."""

import hashlib
import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gesso import cli
from gesso.dataset import manifest
from gesso.dataset.embeddings import ROWS
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup import overlap
from gesso.pipelines.match import parts, transforms
from tests.embeddings import clustered, unit, write_clip_retrieval, write_embeddings

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
            pair |= {"similarity": float(every[at, row]), "phash_distance": distance, "reference_view": 0}
            rows.append(pair)
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
        "training": told_side(sides[0], {"kind": "shards", "path": "/raw"}),
        "reference": {**told_side(sides[1], {"kind": "images", "path": "/coco"}), "views": 1},
        "files": {"matches.parquet": {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}},
    }
    assert set(contents(matched)) == {"plan.json", "manifest.json", "matches.parquet"}


def told_side(path: str, source: dict[str, str]) -> dict[str, Any]:
    """A side in a manifest that is two folders beside it."""
    sha256 = hashlib.sha256(Path(path, "manifest.json").read_bytes()).hexdigest()
    told = f"../../{Path(path).parent.name}/{Path(path).name}"
    return {"embeddings": told, "sha256": sha256, "source": source, "left_out": {}}


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


VIEWS = 6
IN_VIEWS = clustered(VIEWS * 40, 16, 3)
IN_VIEWS[4:12] = IN_VIEWS[3]  # views that are as similar to every sample


def expected_in_views(k: int, training: Any = TRAINING, keys: list[str] = TRAINING_KEYS) -> list[dict[str, Any]]:
    """The maximum over a reference's views, of the smallest view that has it; the k best of all samples."""
    every = (IN_VIEWS.astype(np.float64) @ training.T.astype(np.float64)).astype(np.float32).reshape(40, VIEWS, -1)
    best, view = every.max(axis=1), every.argmax(axis=1)
    rows = []
    for at in np.argsort(KEYS):
        order = sorted(range(len(keys)), key=lambda row: (-best[at, row], keys[row]))[:k]
        for rank, row in enumerate(order, 1):
            pair = {"reference_key": KEYS[at], "rank": rank, "uid": keys[row], "similarity": float(best[at, row])}
            rows.append({**pair, "reference_view": int(view[at, row])})
    return rows


@pytest.fixture(scope="module")
def in_views(sides: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("in_views") / "coco"
    return sides[0], write_embeddings(
        folder, IN_VIEWS, KEYS, [25, 15], kind="images", source="/coco", phash=40 * ["0" * 16], views=VIEWS
    )


@pytest.fixture(scope="module")
def matched_in_views(in_views: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("matched_in_views") / "overlap"
    assert match(in_views, output) == 0
    return output


class TestViews:
    """References in several views: each sample by the view that is most similar to it."""

    NAMES = ("reference_key", "rank", "uid", "similarity", "reference_view")

    def rows(self, output: Path) -> list[dict[str, Any]]:
        return pq.read_table(output / "matches.parquet", columns=list(self.NAMES)).to_pylist()

    def test_the_matches_are_those_of_brute_force(self, matched_in_views: Path) -> None:
        table = pq.read_table(matched_in_views / "matches.parquet")
        assert list(table.schema) == list(MATCH_FIELDS)
        assert self.rows(matched_in_views) == expected_in_views(8)
        assert set(table["reference_view"].to_pylist()) == set(range(VIEWS))
        distinct = {(row["reference_key"], row["uid"]) for row in table.to_pylist()}
        assert len(distinct) == table.num_rows == 320
        distances = [TRAINING_KEYS.index(uid).bit_count() for uid in table["uid"].to_pylist()]
        assert table["phash_distance"].to_pylist() == distances

    def test_the_manifest_tells_them(self, matched_in_views: Path) -> None:
        manifest = json.loads((matched_in_views / "manifest.json").read_text())
        assert (manifest["references"], manifest["reference"]["views"]) == (40, VIEWS)
        assert "views" not in manifest["training"]

    def test_the_command_tells_them(
        self, in_views: tuple[str, str], matched_in_views: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert match(in_views, matched_in_views) == 0
        assert "40 references in 6 views each among 3,000 training pictures" in capsys.readouterr().out

    @pytest.mark.usefixtures("small_chunks")
    def test_many_parts_give_the_same_bytes(
        self, in_views: tuple[str, str], matched_in_views: Path, tmp_path: Path
    ) -> None:
        assert match(in_views, tmp_path / "overlap") == 0
        assert contents(tmp_path / "overlap") == contents(matched_in_views)

    @pytest.mark.usefixtures("small_chunks")
    def test_killed_and_started_again_it_ends_with_the_same_bytes(
        self, in_views: tuple[str, str], matched_in_views: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "overlap"
        argv = [sys.executable, "-c", KILLED, "6", *command(in_views, output)]
        assert subprocess.run(argv, capture_output=True, check=False).returncode == -signal.SIGKILL
        assert not (output / "manifest.json").exists()
        assert match(in_views, output) == 0
        assert contents(output) == contents(matched_in_views)

    def test_of_training_pictures_the_whole_alone(self, in_views: tuple[str, str], tmp_path: Path) -> None:
        """Their crops are nearer to the references than they are themselves."""
        few = np.stack([TRAINING[:30], np.resize(IN_VIEWS, (30, 16))], axis=1).repeat([1, 5], axis=1).reshape(-1, 16)
        training = write_embeddings(tmp_path / "few", few, TRAINING_KEYS[:30], [20, 10], views=6)
        assert match((training, in_views[1]), tmp_path / "overlap", "--top_k", "3") == 0
        assert self.rows(tmp_path / "overlap") == expected_in_views(3, TRAINING[:30], TRAINING_KEYS[:30])
        assert json.loads((tmp_path / "overlap/manifest.json").read_text())["samples"] == 30

    def test_ties_go_to_the_smaller_key_and_the_smaller_view(self, tmp_path: Path) -> None:
        one = np.eye(2, dtype=np.float16)
        reference = write_embeddings(tmp_path / "a", one[[1, 0, 0, 1, 0, 0]], ["r"], [1], kind="images", views=6)
        training = write_embeddings(tmp_path / "b", one[[0, 1, 0, 1]], ["d", "b", "a", "c"], [4])
        assert match((training, reference), tmp_path / "overlap", "--top_k", "3") == 0
        found = [(row["uid"], row["similarity"], row["reference_view"]) for row in self.rows(tmp_path / "overlap")]
        assert found == [("a", 1, 1), ("b", 1, 0), ("c", 1, 0)]

    def test_fewer_training_pictures_than_asked_for(self, in_views: tuple[str, str], tmp_path: Path) -> None:
        few = write_embeddings(tmp_path / "few", TRAINING[:3], TRAINING_KEYS[:3], [0, 3])
        assert match((few, in_views[1]), tmp_path / "overlap", "--top_k", "5") == 0
        assert self.rows(tmp_path / "overlap") == expected_in_views(3, TRAINING[:3], TRAINING_KEYS[:3])

    def test_two_references_of_one_key(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        twice = write_embeddings(tmp_path / "twice", IN_VIEWS[:18], ["a", "b", "a"], [3], views=6)
        assert match((sides[0], twice), tmp_path / "out") == 2
        assert "several references named 'a'" in capsys.readouterr().err


class TestClipRetrieval:
    """Directories that clip-retrieval wrote, on both sides."""

    def write(self, folder: Path, vectors: Any, keys: list[str], sizes: list[int]) -> str:
        ends = np.cumsum([0, *sizes])
        blocks = [(vectors[a:b], {"image_path": keys[a:b]}) for a, b in pairwise(ends.tolist())]
        return write_clip_retrieval(folder, blocks)

    def test_on_both_sides_it_finds_what_gesso_finds(
        self, matched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        training = self.write(tmp_path / "laion", TRAINING.astype(np.float32) * 7, TRAINING_KEYS, SIZES)
        reference = self.write(tmp_path / "coco", REFERENCES, KEYS, [40])
        assert match((training, reference), tmp_path / "overlap") == 0
        names = ("reference_key", "rank", "uid")
        one, other = (pq.read_table(path / "matches.parquet") for path in (matched, tmp_path / "overlap"))
        exact = (REFERENCES.astype(np.float64) @ unit(TRAINING).T.astype(np.float64)).astype(np.float32)
        best = -np.sort(-exact, axis=1)[np.argsort(KEYS), :8]
        assert other["similarity"].to_pylist() == best.ravel().tolist()
        assert other.select(names).slice(0, 40) == one.select(names).slice(0, 40)
        assert other["shard"].null_count == other["phash_distance"].null_count == 320
        assert "do not tell their models" in capsys.readouterr().out

    def test_vectors_without_a_direction_are_counted_out(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        few = TRAINING[:6].astype(np.float32)
        few[1], few[2, 3], few[4] = 0, np.nan, np.inf
        training = self.write(tmp_path / "laion", few, TRAINING_KEYS[:6], [2, 4])
        assert match((training, sides[1]), tmp_path / "overlap") == 0
        manifest = json.loads((tmp_path / "overlap/manifest.json").read_text())
        assert manifest["training"]["left_out"] == {"vector_not_finite": 2, "vector_zero": 1}
        assert (manifest["samples"], manifest["model"]["name"]) == (3, "test")
        found = set(pq.read_table(tmp_path / "overlap/matches.parquet")["uid"].to_pylist())
        assert found == {TRAINING_KEYS[row] for row in (0, 3, 5)}
        out = capsys.readouterr().out
        assert "40 references among 3 training pictures" in out
        assert "training: 3 vectors are left out: 2 vector_not_finite, 1 vector_zero" in out
        assert f"{training} does not tell its model, taken to be test, as of the other side: both have 16" in out

    def test_references_without_a_direction_are_counted_out(self, sides: tuple[str, str], tmp_path: Path) -> None:
        few = REFERENCES[:3].astype(np.float32)
        few[1] = 0
        reference = self.write(tmp_path / "coco", few, KEYS[:3], [3])
        assert match((sides[0], reference), tmp_path / "overlap", "--top_k", "2") == 0
        manifest = json.loads((tmp_path / "overlap/manifest.json").read_text())
        assert (manifest["references"], manifest["reference"]["left_out"]) == (2, {"vector_zero": 1})
        keys = pq.read_table(tmp_path / "overlap/matches.parquet")["reference_key"].to_pylist()
        assert keys == sorted(2 * [KEYS[0], KEYS[2]])

    @pytest.mark.parametrize("dimension", [1, 3072])
    def test_one_vector_of_any_dimension(self, tmp_path: Path, dimension: int) -> None:
        vector = np.ones((1, dimension), np.float32)
        sides = (self.write(tmp_path / "a", vector, ["t"], [1]), self.write(tmp_path / "b", -vector, ["r"], [1]))
        assert match(sides, tmp_path / "overlap") == 0
        row = pq.read_table(tmp_path / "overlap/matches.parquet").to_pylist()
        told = {"reference_key": "r", "rank": 1, "uid": "t", "shard": None, "phash_distance": None, "reference_view": 0}
        assert row == [{**told, "similarity": pytest.approx(-1, abs=2**-9)}]

    def test_many_of_dimension_one(self, tmp_path: Path) -> None:
        """Each is as near as half of all: the smaller keys come first."""
        signs = np.where(np.arange(300) % 2, 1, -1).astype(np.float32)[:, None]
        keys = [f"{row:03}" for row in range(300)]
        sides = (self.write(tmp_path / "a", signs, keys, [300]), self.write(tmp_path / "b", signs[:2], ["x", "y"], [2]))
        assert match(sides, tmp_path / "overlap", "--top_k", "3") == 0
        found = pq.read_table(tmp_path / "overlap/matches.parquet")["uid"].to_pylist()
        assert found == ["000", "002", "004", "001", "003", "005"]

    def test_nothing_but_zeros(
        self, sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        zeros = self.write(tmp_path / "zeros", np.zeros((2, 16), np.float32), ["a", "b"], [2])
        assert match((zeros, sides[1]), tmp_path / "overlap") == 0
        assert pq.read_table(tmp_path / "overlap/matches.parquet").num_rows == 0
        assert match((sides[0], zeros), tmp_path / "other") == 2
        assert "there is nothing to search for" in capsys.readouterr().err


class TestMoved:
    """Sides are told by content: where they are says nothing."""

    def test_the_same_command_goes_on_with_moved_sides(
        self,
        sides: tuple[str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        few = write_embeddings(tmp_path / "made/few", TRAINING[:3], TRAINING_KEYS[:3], [3])
        assert match((few, sides[1]), tmp_path / "overlap") == 0
        monkeypatch.chdir((tmp_path / "made").rename(tmp_path / "elsewhere"))
        assert match(("./few/", sides[1]), Path("../overlap")) == 0
        assert "is finished: nothing to do" in capsys.readouterr().out
        write_embeddings(Path("few"), TRAINING[3:6], TRAINING_KEYS[:3], [3])
        assert match(("few", sides[1]), tmp_path / "overlap") == 2
        line = capsys.readouterr().err.strip()
        assert "other settings: input: " in line
        assert "elsewhere/few is not the same embeddings (sha256 " in line

    def test_an_overlap_is_read_where_it_was_moved_with_its_sides(self, tmp_path: Path) -> None:
        made = tmp_path / "made"
        few = write_embeddings(made / "few", TRAINING[:3], TRAINING_KEYS[:3], [3], source=str(made / "raw"))
        coco = write_embeddings(made / "coco", REFERENCES[:3], KEYS[:3], [3], kind="images", source="/coco")
        assert match((few, coco), made / "overlap") == 0
        elsewhere = made.rename(tmp_path / "elsewhere")
        read = overlap.read(str(elsewhere / "overlap")).manifest
        told = [read[side][name] for side in ("training", "reference") for name in ("embeddings", "source")]
        assert told == [
            f"{elsewhere}/few",
            {"kind": "shards", "path": f"{elsewhere}/raw"},
            f"{elsewhere}/coco",
            {"kind": "images", "path": "/coco"},
        ]


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
