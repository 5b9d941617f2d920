"""The whole `gesso repeats`: by content, by embedding, killed, in two processes, and what it says to mistakes."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso import cli, storage
from gesso.dataset import manifest
from gesso.dataset.schemas import DROP_FIELDS, row_schema
from gesso.dedup.repeats import find_drops
from gesso.pipelines.match import repeats, transforms
from tests import indexes
from tests.datasets import write_dataset
from tests.embeddings import clustered, unit, write_clip_retrieval, write_embeddings

NEAR = 0.95


def kept_rows(shards: str) -> list[dict[str, Any]]:
    rows = [row for path in sorted(Path(shards).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if row["status"] == "success"]


def set_hashes(shards: str, choose: Any) -> None:
    """Rewrites each kept row's content hash to what `choose` says of its place among the kept, and the manifest."""
    place = 0
    for path in sorted(Path(shards).glob("*.parquet")):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            if row["status"] == "success":
                row["sha256"] = choose(place)
                place += 1
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
        marker = path.with_name(f"{path.stem}_stats.json")
        record = json.loads(marker.read_text())
        record["files"][path.name]["bytes"] = path.stat().st_size
        marker.write_text(json.dumps(record))
    manifest.finish(shards)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """36 samples in three shards; places 2, 14 and 30 hold one picture, 5 and 6 another."""
    output = write_dataset(tmp_path_factory.mktemp("shards") / "raw", 3)
    same = {14: 2, 30: 2, 6: 5}
    set_hashes(output, lambda place: f"{same.get(place, place):064x}")
    return output


@pytest.fixture(scope="module")
def embedded(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    keys = [row["key"] for row in kept_rows(shards)]
    return write_embeddings(tmp_path_factory.mktemp("embedded"), clustered(36, 8, 0, 6), keys, [12] * 3, source=shards)


@pytest.fixture(scope="module")
def found(shards: str, embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("found") / "repeats"
    assert run(shards, output, "--near", str(NEAR), "--embeddings", embedded) == 0
    return output


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight tiles in the place of one."""
    cut = transforms.chunks
    monkeypatch.setattr(transforms, "chunks", lambda blocks: cut(blocks, 5))


def command(shards: str, output: Path, *more: str) -> list[str]:
    return ["repeats", "--shards", shards, "--output", str(output), *more]


def run(shards: str, output: Path, *more: str) -> int:
    return cli.main(command(shards, output, *more))


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def greedy(keys: list[str], vectors: np.ndarray[Any, Any], excluded: set[str]) -> list[dict[str, Any]]:
    """The rule, one sample after the other."""
    every = (vectors.astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
    stay: list[int] = []
    dropped = []
    for row in sorted((row for row in range(len(keys)) if keys[row] not in excluded), key=lambda row: keys[row]):
        beside = [other for other in stay if every[row, other] >= NEAR]
        if beside:
            of = max(beside, key=lambda other: every[row, other])
            drop = {"uid": keys[row], "reason": "repeat_near", "of": keys[of], "similarity": float(every[row, of])}
            dropped.append(drop)
        else:
            stay.append(row)
    return dropped


def test_the_smallest_key_of_one_content_is_kept(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shards, tmp_path / "repeats") == 0
    keys = [row["key"] for row in kept_rows(shards)]
    table = pq.read_table(tmp_path / "repeats/exact.parquet")
    assert list(table.schema) == list(DROP_FIELDS)
    expected = []
    for group in ((2, 14, 30), (5, 6)):
        kept, *others = sorted(keys[place] for place in group)
        expected += [{"uid": key, "reason": "repeat_exact", "of": kept, "similarity": None} for key in others]
    assert table.to_pylist() == sorted(expected, key=lambda drop: drop["uid"])
    assert set(contents(tmp_path / "repeats")) == {"plan.json", "manifest.json", "exact.parquet"}
    assert "repeat_exact            3    8.3%" in capsys.readouterr().out


def test_near_repeats_are_those_of_the_rule_among_what_the_exact_ones_leave(
    shards: str, embedded: str, found: Path
) -> None:
    keys = [row["key"] for row in kept_rows(shards)]
    dropped = set(pq.read_table(found / "exact.parquet")["uid"].to_pylist())
    expected = greedy(keys, clustered(36, 8, 0, 6), dropped)
    table = pq.read_table(found / "near.parquet")
    assert list(table.schema) == list(DROP_FIELDS)
    assert table.to_pylist() == expected
    assert len(expected) > 5
    manifest = json.loads((found / "manifest.json").read_text())
    assert manifest["dropped"] == {"repeat_exact": 3, "repeat_near": len(expected)}
    assert (manifest["kind"], manifest["near"], manifest["samples"]) == ("repeats", NEAR, 36)
    told = ["../../" + str(Path(path).relative_to(found.parents[1])) for path in (shards, embedded)]
    assert [manifest["shards"], manifest["embeddings"]] == told
    assert manifest["shards_sha256"] == hashlib.sha256(Path(shards, "manifest.json").read_bytes()).hexdigest()


def test_the_rule_on_chains() -> None:
    """1 ~ 2 ~ 3 ~ 4 in a row: 2 goes for 1, 3 stays since 2 went, 4 goes for 3."""
    keys = np.array([b"4", b"2", b"3", b"1"])
    pair = np.dtype([("one", "i8"), ("other", "i8"), ("similarity", "f4")])
    result = find_drops(keys, np.array([(3, 1, 0.96), (2, 1, 0.99), (2, 0, 0.97)], pair))
    pairs_found = [(keys[a], keys[b]) for a, b in zip(result.dropped, result.kept, strict=True)]
    assert pairs_found == [(b"2", b"1"), (b"4", b"3")]
    assert result.similarity.tolist() == [np.float32(0.96), np.float32(0.97)]


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_on_many(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((150, 3)))
    keys = [f"{number:04}" for number in rng.permutation(150)]
    every = (vectors.astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
    one, other = np.nonzero(np.tril(every >= NEAR, -1))
    pair = np.dtype([("one", "i8"), ("other", "i8"), ("similarity", "f4")])
    pairs = np.zeros(len(one), pair)
    pairs["one"], pairs["other"], pairs["similarity"] = one, other, every[one, other]
    result = find_drops(np.array([key.encode() for key in keys]), rng.permutation(pairs))
    pairs_found = [(keys[a], keys[b]) for a, b in zip(result.dropped, result.kept, strict=True)]
    assert pairs_found == [(drop["uid"], drop["of"]) for drop in greedy(keys, vectors, set())]


@pytest.mark.usefixtures("small_tiles")
def test_many_tiles_give_the_same_bytes(shards: str, embedded: str, found: Path, tmp_path: Path) -> None:
    assert run(shards, tmp_path / "repeats", "--near", str(NEAR), "--embeddings", embedded) == 0
    assert contents(tmp_path / "repeats") == contents(found)


def test_of_an_index(tmp_path: Path) -> None:
    """The same picture in two tars of others."""
    samples = [indexes.sample(number) for number in range(4)]
    repeated = ("again", samples[1][1])
    for name, some in (("a", samples), ("b", [repeated])):
        indexes.write_tar(tmp_path / f"theirs/{name}.tar", some)
    index = indexes.write_index(tmp_path / "index", sorted((tmp_path / "theirs").iterdir()))
    assert run(index, tmp_path / "repeats") == 0
    (row,) = pq.read_table(tmp_path / "repeats/exact.parquet").to_pylist()
    assert (row["uid"], row["of"]) == (indexes.key(1), "again")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(shards: str, embedded: str, found: Path, tmp_path: Path) -> None:
    flags = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
    near = ("--near", str(NEAR), "--embeddings", embedded)
    argv = [sys.executable, "-m", "gesso", *command(shards, tmp_path / "repeats", *near, *flags)]
    subprocess.run(argv, check=True, capture_output=True)
    assert contents(tmp_path / "repeats") == contents(found)


def test_finished_lists_are_left_alone(found: Path, shards: str, embedded: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in found.rglob("*")}
    assert run(shards, found, "--near", str(NEAR), "--embeddings", embedded) == 0
    assert {path: path.stat().st_mtime_ns for path in found.rglob("*")} == before


KILLED = """
import os, signal, sys
from gesso import cli, storage
from gesso.pipelines.match import transforms
cut, replace, renames = transforms.chunks, storage._commit, iter(range(1000))
transforms.chunks = lambda blocks: cut(blocks, 5)
def kill(source, target):
    if next(renames) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
storage._commit = kill
cli.main(sys.argv[2:])
"""


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("renames", [1, 30, 55])
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    shards: str, embedded: str, found: Path, tmp_path: Path, renames: int
) -> None:
    """The kill comes before so many files have got their names."""
    argv = command(shards, tmp_path / "repeats", "--near", str(NEAR), "--embeddings", embedded)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(renames), *argv], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "repeats/manifest.json").exists()
    assert cli.main(argv) == 0
    assert contents(tmp_path / "repeats") == contents(found)


def test_directories_of_img2dataset(tmp_path: Path) -> None:
    """No plan, no manifest, keys that are positions."""
    for index in range(2):
        rows = [
            {"key": f"{index:05}{row:04}", "url": "u", "caption": "c", "status": "success", "sha256": f"{row % 3:064x}"}
            for row in range(4)
        ]
        pq.write_table(pa.Table.from_pylist(rows, row_schema()), tmp_path / f"{index:05}.parquet")
        (tmp_path / f"{index:05}.tar").write_bytes(b"not looked into")
        storage.write_json(str(tmp_path / f"{index:05}_stats.json"), {"count": 4, "successes": 4})
    assert run(str(tmp_path), tmp_path / "repeats") == 0
    table = pq.read_table(tmp_path / "repeats/exact.parquet")
    assert table["uid"].to_pylist() == ["000000003", "000010000", "000010001", "000010002", "000010003"]
    assert table["of"].to_pylist() == ["000000000", "000000000", "000000001", "000000002", "000000000"]


class TestClipRetrieval:
    """Embeddings of these shards that clip-retrieval wrote: they do not tell what they were made of, but their keys."""

    def write(self, folder: Path, keys: list[str], vectors: Any) -> str:
        return write_clip_retrieval(folder, [(vectors, {"image_path": keys})])

    def test_near_repeats_are_the_same(
        self, shards: str, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        keys, vectors = [row["key"] for row in kept_rows(shards)], clustered(36, 8, 0, 6)
        vectors = np.concatenate([vectors, np.zeros((1, 8), np.float16), np.full((1, 8), np.nan, np.float16)])
        path = self.write(tmp_path / "clip", [*keys, "f" * 32, "e" * 32], vectors)
        assert run(shards, tmp_path / "repeats", "--near", str(NEAR), "--embeddings", path) == 0
        near = [folder / "near.parquet" for folder in (found, tmp_path / "repeats")]
        assert near[0].read_bytes() == near[1].read_bytes()
        manifest = json.loads((tmp_path / "repeats/manifest.json").read_text())
        assert manifest["left_out"] == {"vector_not_finite": 1, "vector_zero": 1}
        assert "2 vectors are left out: 1 vector_not_finite, 1 vector_zero" in capsys.readouterr().out

    def test_embeddings_of_others_are_refused(
        self, shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = self.write(tmp_path / "clip", ["000000007", "000000008"], clustered(2, 8, 0))
        code = run(shards, tmp_path / "out", "--near", "0.9", "--embeddings", path)
        refused(capsys, tmp_path, code, f"{path} has no key of {shards}, its first is 000000007: embed these shards")


class TestMoved:
    def test_shards_and_embeddings_that_were_moved(
        self, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        keys, made = [row["key"] for row in kept_rows(shards)], tmp_path / "made"
        shutil.copytree(shards, made / "raw")
        write_embeddings(made / "embedded", clustered(36, 8, 0, 6), keys, [12] * 3, source="../raw")
        tie(made / "embedded", hashlib.sha256((made / "raw/manifest.json").read_bytes()).hexdigest())
        near = ("--near", str(NEAR), "--embeddings")
        assert run(str(made / "raw"), made / "repeats", *near, str(made / "embedded")) == 0
        (tmp_path / "other").mkdir()
        shutil.move(made / "embedded", tmp_path / "other/embedded")
        monkeypatch.chdir(made)
        assert run("raw", Path("repeats"), *near, "../other/embedded") == 0
        assert "is finished: nothing to do" in capsys.readouterr().out
        shutil.rmtree("raw")
        write_dataset(Path("raw"), 2)
        assert run("raw", Path("again"), *near, "../other/embedded") == 2
        assert f"holds embeddings of {tmp_path}/other/raw, not of {made}/raw" in capsys.readouterr().err


def tie(folder: Path, sha256: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["source"]["sha256"] = sha256
    storage.write_json(str(folder / "manifest.json"), manifest)


class TestMistakes:
    """One line, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (("--near", "0.9"), "--embeddings is missing"),
            (("--embeddings", "{embedded}"), "--near is missing"),
            (("--near", "1.5", "--embeddings", "{embedded}"), "--near is 1.5: give 1 or less"),
            (("--near", "-1", "--embeddings", "{embedded}"), "--near is -1.0: give 0 or more"),
            (
                ("--near", "0.9", "--embeddings", "{shards}"),
                "`gesso repeats --embeddings` wants embeddings: `gesso embed",
            ),
            (("--near", "0.9", "--embeddings", "{other}"), "holds embeddings of /elsewhere, not of"),
            (("--neer", "0.9"), "unknown flag --neer"),
        ],
    )
    def test_flags(
        self,
        shards: str,
        embedded: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        more: tuple[str, ...],
        message: str,
    ) -> None:
        other = write_embeddings(tmp_path / "other", clustered(3, 8, 0), ["a", "b", "c"], [3], source="/elsewhere")
        given = [flag.format(shards=shards, embedded=embedded, other=other) for flag in more]
        refused(capsys, tmp_path, run(shards, tmp_path / "out", *given), message)

    def test_no_shards(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        refused(capsys, tmp_path, run(str(tmp_path / "none"), tmp_path / "out"), "holds no shards")

    def test_a_collection_that_is_not_finished(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        half = write_dataset(tmp_path / "half", finished=False)
        refused(capsys, tmp_path, run(half, tmp_path / "out"), "half is not finished: run its `gesso collect` again")

    def test_changed_settings(
        self, shards: str, embedded: str, found: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(found)
        assert run(shards, found, "--near", "0.9", "--embeddings", embedded) == 2
        assert "near was 0.95, is 0.9" in capsys.readouterr().err
        assert contents(found) == before

    def test_samples_without_a_hash(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        raw = write_dataset(tmp_path / "raw", 1)
        set_hashes(raw, lambda place: None if place == 3 else f"{place:064x}")
        assert run(raw, tmp_path / "out") == 2
        assert f"has no sha256 for the sample {kept_rows(raw)[3]['key']}" in capsys.readouterr().err
        assert not (tmp_path / "out/exact.parquet").exists()


def refused(capsys: pytest.CaptureFixture[str], folder: Path, code: int, message: str) -> None:
    lines = capsys.readouterr().err.strip().splitlines()
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("gesso: ")
    assert message in lines[0]
    assert not (folder / "out").exists()


def test_nothing_to_count_is_said_so(shards: str) -> None:
    job, _ = repeats.parse(command(shards, Path("out"))[1:])
    assert repeats.read_state(job)().line(None) == "grouping 36 samples by content"
