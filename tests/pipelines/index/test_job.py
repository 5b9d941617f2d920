"""The whole command on small tars: what it writes, that it goes on where it stopped, what it refuses."""

import gzip
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gesso import cli
from gesso.dataset import kinds
from gesso.dataset.schemas import index_schema
from tests.datasets import picture
from tests.tars import FORMATS, Files, sample, samples, tar_bytes, write_tar


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars of ten samples, one in each format, in the second some that are not taken."""
    folder = tmp_path_factory.mktemp("theirs")
    for number, form in enumerate(FORMATS):
        write_tar(folder / f"cc3m-train-{number:04d}.tar", files_of(number), form)
    return folder


def files_of(number: int) -> Files:
    files = samples(range(10 * number, 10 * number + 10))
    if number == 1:
        files += [("20x.jpg", picture(20)), ("21x.jpg", b"<html>"), ("21x.txt", b"page"), ("22x.txt", b"alone")]
        files += [("22x.npy", b"array"), ("README", b"text"), *sample("000000010", 99)]
    return files


@pytest.fixture(scope="module")
def indexed(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run wrote."""
    output = tmp_path_factory.mktemp("one") / "index"
    assert index(theirs, output) == 0
    return output


def flags(theirs: Path, output: Path, *more: str) -> list[str]:
    return ["index", f"{theirs}/*.tar", "--output", str(output), *more]


def index(theirs: Path, output: Path, *more: str) -> int:
    return cli.main(flags(theirs, output, *more))


def rows_of(output: Path, number: int) -> list[dict[str, Any]]:
    return pq.read_table(output / f"{number:05d}.parquet").to_pylist()


def contents(output: Path) -> dict[str, str]:
    """Checksums of all that is reproducible: everything but the clock in the markers."""
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.endswith("_stats.json")]
    return {str(path.relative_to(output)): sha256_of(path) for path in paths}


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


class TestIndex:
    def test_every_picture_stands_where_its_row_says(self, theirs: Path, indexed: Path) -> None:
        for number in range(3):
            name = f"cc3m-train-{number:04d}.tar"
            data = (theirs / name).read_bytes()
            table = pq.read_table(indexed / f"{number:05d}.parquet")
            assert table.schema.remove_metadata() == index_schema()
            taken = [row for row in table.to_pylist() if row["status"] == "success"]
            assert [row["key"] for row in taken] == [f"{n:09d}" for n in range(10 * number, 10 * number + 10)]
            for n, row in zip(range(10 * number, 10 * number + 10), taken, strict=True):
                body = data[row["image_offset"] : row["image_offset"] + row["image_bytes"]]
                assert body == picture(n)
                assert row["sha256"] == hashlib.sha256(body).hexdigest()
                assert (row["caption"], row["url"]) == (
                    f"a picture of the number {n} — «ö»",
                    f"http://host.example/{n}.jpg",
                )
                assert (row["original_width"], row["source_tar"], row["source_key"]) == (300 + n, name, row["key"])

    def test_what_is_not_taken_has_a_reason(self, indexed: Path) -> None:
        refused = [(row["key"], row["reason"]) for row in rows_of(indexed, 1) if row["status"] != "success"]
        assert refused == [
            ("20x", "caption_missing"),
            ("21x", "not_an_image"),
            ("22x", "picture_missing"),
            ("000000010", "duplicate_key"),
        ]

    def test_manifest_plan_and_markers(self, theirs: Path, indexed: Path) -> None:
        manifest, plan = read(indexed / "manifest.json"), read(indexed / "plan.json")
        names = [f"cc3m-train-{number:04d}.tar" for number in range(3)]
        tars = [
            {
                "path": f"../../{theirs.name}/{name}",
                "bytes": (theirs / name).stat().st_size,
                "sha256": sha256_of(theirs / name),
            }
            for name in names
        ]
        assert (manifest["format"], manifest["kind"], manifest["samples"]) == (1, "index", 30)
        assert [(shard["index"], shard["count"], shard["successes"], shard["tar"]) for shard in manifest["shards"]] == [
            (0, 10, 10, tars[0]),
            (1, 14, 10, tars[1]),
            (2, 10, 10, tars[2]),
        ]
        reasons = {"caption_missing": 1, "duplicate_key": 1, "not_an_image": 1, "picture_missing": 1}
        assert manifest["funnel"] == {"rows_read": 34, "success": 30, **reasons}
        assert manifest["members_skipped"] == {"no_extension": 1}
        (record,) = manifest["input"]
        assert (record["kind"], record["path"], record["tars"]) == ("tars", f"../../{theirs.name}", 3)
        assert record["bytes"] == sum(tar["bytes"] for tar in tars)
        assert plan == {name: manifest[name] for name in ("kind", "settings", "input")} | {"shards": 3}
        files = {name: entry for shard in manifest["shards"] for name, entry in shard["files"].items()}
        sums = contents(indexed)
        assert {name: entry["sha256"] for name, entry in files.items()} == {name: sums[name] for name in files}
        assert sorted(sums) == sorted([*files, "plan.json", "manifest.json"])
        marker = read(indexed / "00001_stats.json")
        assert {
            name: marker[name] for name in ("count", "successes", "failed_to_download", "failed_to_resize", "rejected")
        } == {
            "count": 14,
            "successes": 10,
            "failed_to_download": 0,
            "failed_to_resize": 1,
            "rejected": 3,
        }
        assert (marker["tar"], marker["files"]) == (tars[1], {"00001.parquet": files["00001.parquet"]})
        assert kinds.find(str(indexed))[1].name == "index"

    def test_what_it_prints(self, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert index(theirs, tmp_path / "out", "--caption", "json.caption", "--extra_columns", "original_width") == 0
        assert capsys.readouterr().out.splitlines() == [
            "rows_read                  34  100.0%",
            "success                    30   88.2%",
            "caption_missing             1    2.9%",
            "duplicate_key               1    2.9%",
            "not_an_image                1    2.9%",
            "picture_missing             1    2.9%",
            "files of samples that are not carried (--carry ENDING): txt 30",
            "members of no sample: no_extension 1",
            "values left out, not of their column's type (--extra_columns NAME:TYPE): json_original_width 31",
            f"an index in {tmp_path}/out; next: gesso embed --shards {tmp_path}/out --output …",
        ]
        assert rows_of(tmp_path / "out", 0)[3]["caption"] == "json of 3"
        assert rows_of(tmp_path / "out", 0)[3]["json_original_width"] is None

    def test_columns_and_keys(self, tmp_path: Path) -> None:
        for name, label in (("x", b"1"), ("y", b"2")):
            write_tar(
                tmp_path / f"theirs/{name}/00000.tar", [*sample("000", 1), ("000.cls", label), ("000.npy", b"\xff")]
            )
        more = ("--keys", "shard", "--carry", "cls,npy:binary", "--extra_columns", "original_width:int")
        assert index(tmp_path / "theirs/*", tmp_path / "out", *more) == 0
        found = [rows_of(tmp_path / "out", number)[0] for number in (0, 1)]
        assert [(row["key"], row["source_tar"], row["source_key"], row["cls"], row["npy"]) for row in found] == [
            ("x/00000/000", "x/00000.tar", "000", "1", b"\xff"),
            ("y/00000/000", "y/00000.tar", "000", "2", b"\xff"),
        ]
        assert found[0]["json_original_width"] == 301

    def test_nothing_taken(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_tar(tmp_path / "theirs/a.tar", [("0.jpg", picture(0)), ("1.jpg", picture(1))])
        assert index(tmp_path / "theirs", tmp_path / "out") == 0
        assert capsys.readouterr().err.splitlines()[-1] == (
            "warning: no sample was taken of 2; most ended as caption_missing: "
            "The sample has no caption where captions were looked for."
        )


class TestUnpack:
    def test_a_compressed_tar_is_written_whole(self, theirs: Path, indexed: Path, tmp_path: Path) -> None:
        for path in theirs.glob("*.tar"):
            (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        given = ["index", str(tmp_path), "--output", str(tmp_path.parent / "unpacked"), "--unpack"]
        output = tmp_path.parent / "unpacked"
        assert cli.main(given) == 0
        assert [rows_of(output, number) for number in range(3)] == [rows_of(indexed, number) for number in range(3)]
        for number, shard in enumerate(read(output / "manifest.json")["shards"]):
            name = f"cc3m-train-{number:04d}.tar"
            assert shard["tar"]["path"] == f"tars/{name}"
            assert (output / "tars" / name).read_bytes() == (theirs / name).read_bytes()
            assert shard["tar"]["sha256"] == sha256_of(theirs / name)
        before = contents(output)
        (output / "tars/cc3m-train-0001.tar").rename(output / "tars/cc3m-train-0001.tar.tmp-0123456789ab")
        assert cli.main(given) == 0
        assert contents(output) == before

    def test_one_that_breaks_off_leaves_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        packed = gzip.compress(tar_bytes(samples(range(200))))
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs/a.tgz").write_bytes(packed[: len(packed) // 2])
        given = ["index", str(tmp_path / "theirs"), "--output", str(tmp_path / "out"), "--unpack"]
        assert cli.main(given) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"gesso: {tmp_path}/theirs/a.tgz cannot be unpacked (Compressed file ended before the end-of-stream marker "
            "was reached): fetch it again, or leave it out of the pattern"
        )
        assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == ["plan.json"]


class TestAgain:
    def test_a_finished_index_is_left_alone(
        self, theirs: Path, indexed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in indexed.rglob("*")}
        assert index(theirs, indexed) == 0
        assert "is finished: nothing to do" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in indexed.rglob("*")} == before

    def test_only_what_is_missing_is_done_again(self, theirs: Path, indexed: Path) -> None:
        before = contents(indexed)
        others = [indexed / f"{number:05d}_stats.json" for number in (0, 2)]
        times = [path.stat().st_mtime_ns for path in others]
        (indexed / "00001.parquet").write_bytes(b"damaged")
        assert index(theirs, indexed) == 0
        assert contents(indexed) == before
        assert [path.stat().st_mtime_ns for path in others] == times

    def test_killed_and_started_again_it_ends_with_the_same_bytes(
        self, theirs: Path, indexed: Path, tmp_path: Path
    ) -> None:
        """The kill comes while the second tar's rows are written."""
        output = tmp_path / theirs.parent.name / "index"
        code = f"""
import os, signal
from gesso import cli
from gesso.pipelines.index import indexer
real = indexer.next_batch
def deadly(rows):
    batch = real(rows)
    if batch and batch[0]["source_tar"] == "cc3m-train-0001.tar":
        os.kill(os.getpid(), {signal.SIGKILL})
    return batch
indexer.next_batch = deadly
cli.main({flags(theirs, output)!r})
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert process.returncode == -signal.SIGKILL
        left = [path.name for path in output.rglob("*") if path.is_file()]
        assert "manifest.json" not in left
        assert "00001_stats.json" not in left
        assert [name for name in left if ".tmp-" in name]
        assert index(theirs, output) == 0
        assert rows_alone(contents(output)) == rows_alone(contents(indexed))
        assert sorted(contents(output)) == sorted(contents(indexed))

    @pytest.mark.slow
    def test_two_processes_write_the_same_bytes(self, theirs: Path, indexed: Path, tmp_path: Path) -> None:
        beam = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
        command = [sys.executable, "-m", "gesso", *flags(theirs, tmp_path / "out", *beam)]
        subprocess.run(command, check=True, capture_output=True)
        assert rows_alone(contents(tmp_path / "out")) == rows_alone(contents(indexed))


def rows_alone(found: dict[str, str]) -> dict[str, str]:
    """Without the files that hint where the tars are."""
    return {name: digest for name, digest in found.items() if name.endswith(".parquet")}


class TestMistakes:
    """One line, exit code 2, nothing written."""

    def told(self, given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
        assert cli.main(["index", *given]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gesso: ")]
        return line.removeprefix("gesso: ")

    def test_the_output_is_not_among_the_tars(
        self, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(theirs)
        (tmp_path / "link").symlink_to(theirs)
        for output in (theirs, tmp_path / "link"):
            told = self.told([str(theirs), "--output", str(output)], capsys)
            assert told == f"--output {output} is the folder of tars that are indexed: give another"
        assert contents(theirs) == before

    def test_a_tar_that_is_cut_off(self, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = (theirs / "cc3m-train-0000.tar").read_bytes()
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs/a.tar").write_bytes(data[: len(data) // 2])
        assert self.told([f"{tmp_path}/theirs", "--output", f"{tmp_path}/x/out"], capsys) == (
            f"{tmp_path}/theirs/a.tar is cut off in 000000005.txt: fetch it again, or leave it out of the pattern"
        )
        assert not (tmp_path / "x").exists()

    def test_a_tar_without_an_end_is_taken(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs/a.tar").write_bytes(tar_bytes(sample("0", 0)))
        assert index(tmp_path / "theirs", tmp_path / "out") == 0
        first = capsys.readouterr().out.splitlines()[0]
        assert first == f"{tmp_path}/theirs/a.tar: no end-of-archive block, but every member is whole: taken"
        assert [row["status"] for row in rows_of(tmp_path / "out", 0)] == ["success"]

    def test_tars_that_were_joined(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        one, other = (write_tar(tmp_path / f"{n}.tar", sample(str(n), n)).read_bytes() for n in (0, 1))
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs/a.tar").write_bytes(one + other)
        told = self.told([str(tmp_path / "theirs"), "--output", str(tmp_path / "out")], capsys)
        assert told.startswith(f"{tmp_path}/theirs/a.tar goes on behind its end, within ")
        assert not (tmp_path / "out/00000.parquet").exists()

    def test_one_key_in_two_tars(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Not the first: the whole job finds it, and has no manifest."""
        write_tar(tmp_path / "theirs/a.tar", samples([0, 5]))
        write_tar(tmp_path / "theirs/b.tar", samples([1, 5]))
        assert self.told([str(tmp_path / "theirs"), "--output", str(tmp_path / "out")], capsys) == (
            f"the key '000000005' is in {tmp_path}/theirs/a.tar and in {tmp_path}/theirs/b.tar: give --keys shard "
            "(and another --output, where this one is begun), so that keys begin with the name of their tar"
        )
        assert not (tmp_path / "out/manifest.json").exists()

    def test_other_settings_and_other_tars(
        self, theirs: Path, indexed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.told(flags(theirs, indexed, "--decode")[1:], capsys) == (
            f"{indexed} was begun with other settings: decode was False, is True; "
            "give the old ones to go on, or another --output to begin anew"
        )
        path = write_tar(tmp_path / "other/cc3m-train-0000.tar", files_of(0))
        told = self.told([str(path), "--output", str(indexed)], capsys)
        assert told.startswith(f"{indexed} was begun with other settings: input: {tmp_path}/other in the place of ")

    def test_an_output_of_another_kind(self, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "plan.json").write_text('{"kind": "repeats"}')
        assert self.told(flags(theirs, tmp_path)[1:], capsys) == (
            f"--output {tmp_path} holds lists of repeats already; `gesso index` writes an index of shards: give another"
        )
