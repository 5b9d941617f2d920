"""Every kind of damage to every kind of file, by the exact lines that tell it."""

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso import cli, storage
from gesso.dataset import layout, manifest, shards
from gesso.dataset.schemas import plan_schema
from gesso.dataset.shards import Outcome
from gesso.errors import UserError
from gesso.pipelines.verify import main, verify
from tests.datasets import rename_as_before
from tests.embeddings import clustered, write_embeddings

SHARDS = 3
PAIRS = 4  # of a shard: two kept, one not there, one too small

KEPT = {"status": "success", "reason": None, "width": 4, "height": 3, "sha256": "ab", "reencoded": True}
OUTCOMES = (
    Outcome(KEPT, b"JPEG one" * 200),
    Outcome({"status": "failed_to_download", "reason": "http_404", "error_message": "Not Found"}),
    Outcome({"status": "failed_to_resize", "reason": "too_small", "error_message": "3×4"}, b"thumbnail"),
    Outcome(KEPT, b"JPEG two" * 200),
)


def key_of(index: int, pair: int) -> str:
    return f"{index:016x}{pair:016x}"


def plan_of(index: int) -> pa.RecordBatch:
    rows = [
        {"key": key_of(index, pair), "url": f"http://a.example/{pair}", "caption": f"a dog, number {pair}"}
        for pair in range(PAIRS)
    ]
    return pa.RecordBatch.from_pylist(rows, plan_schema())


def write_shard(output: Path, index: int) -> None:
    written, counts = shards.write_shard(str(output), index, [plan_of(index)], OUTCOMES.__getitem__, ())
    shards.commit(str(output), index, written, counts, 1.0, 2.0)


def begin(output: Path) -> None:
    """A directory with a plan and no shard."""
    for index in range(SHARDS):
        storage.make_parent(f"{output}/plan/x")
        pq.write_table(pa.Table.from_batches([plan_of(index)]), output / f"plan/{index:05d}.plan")
    planned, rows = Counter({"links": SHARDS * PAIRS}), Counter({"rows_read": SHARDS * PAIRS})
    record = {"settings": {"engine": "gesso", "image_size": 4}, "input": [{"path": "links.parquet", "bytes": 9}]}
    storage.write_json(f"{output}/plan.json", manifest.plan_record(record, planned, rows, SHARDS))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished dataset of three shards."""
    begin(tmp_path / "out")
    for index in range(SHARDS):
        write_shard(tmp_path / "out", index)
    manifest.finish(str(tmp_path / "out"))
    return tmp_path / "out"


def flip(path: Path, at: int = 100) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def swap(one: Path, other: Path) -> None:
    bodies = one.read_bytes(), other.read_bytes()
    one.write_bytes(bodies[1])
    other.write_bytes(bodies[0])


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def size(path: Path) -> str:
    return f"{path.stat().st_size:,}"


def replace_whole(output: Path, name: str, body: bytes) -> None:
    """Another body, with the marker and the manifest set right, so that only its content can tell."""
    path = output / name
    path.write_bytes(body)
    hashing = shards.HashingWriter(io.BytesIO())
    hashing.write(body)
    index = int(path.stem)
    edit(output / layout.marker_name(index), lambda marker: marker["files"].update({name: hashing.summary()}))
    edit(
        output / "manifest.json", lambda manifest: manifest["shards"][index]["files"].update({name: hashing.summary()})
    )


def make_tar(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    tar = shards.TarWriter(shards.HashingWriter(stream))
    for name, body in members:
        tar.add(name, body)
    tar.end()
    return stream.getvalue()


def read_tar(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def test_whole_dataset(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(str(output)) == []
    assert main([f"{output}/"]) == 0
    assert capsys.readouterr().out == f"{output}: no problems\n"


def test_names_of_older_outputs(output: Path) -> None:
    rename_as_before(output)
    assert (output / "rejected/00000.tar").exists()
    assert verify(str(output)) == []
    flip(output / "rejected/00001.tar")
    assert verify(str(output)) == ["rejected/00001.tar: sha256 differs from manifest.json"]
    for name in ("manifest.json", "00000_stats.json", "plan/00000.parquet"):
        (output / name).unlink()
    assert verify(str(output)) == [
        "plan/00000.plan: missing",
        "unfinished: 1 of 3 shards are missing: 00000; run the same `gesso collect` again",
        "rejected/00001.tar: sha256 differs from 00001_stats.json",
    ]


def test_damaged_dataset(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(output / "00001.tar")
    assert cli.main(["verify", str(output)]) == 1
    problem = f"00001.tar: sha256 differs from manifest.json\n{output}: 1 problem\n"
    assert capsys.readouterr().out == problem


def test_bytes_are_told(output: Path) -> None:
    totals, passed = [], []
    verify(str(output), totals.append, passed.append)
    files_of = [path for path in output.rglob("0*.*") if path.suffix != ".json" and path.parent.name != "plan"]
    assert totals == [sum(passed)] == [sum(path.stat().st_size for path in files_of)]


class TestFiles:
    """Tar, rows, rejected pictures."""

    @pytest.mark.parametrize("name", ["00000.tar", "00001.parquet", "rejected/00002.thumbnails"])
    @pytest.mark.parametrize("at", [0, 600, -600])
    def test_flipped_bit(self, output: Path, name: str, at: int) -> None:
        flip(output / name, at)
        assert verify(str(output)) == [f"{name}: sha256 differs from manifest.json"]

    @pytest.mark.parametrize("name", ["00000.tar", "00001.parquet", "rejected/00002.thumbnails"])
    @pytest.mark.parametrize("left", [0, 512, 1000])
    def test_cut_off(self, output: Path, name: str, left: int) -> None:
        before = size(output / name)
        cut(output / name, left)
        assert verify(str(output)) == [f"{name}: {left:,} bytes, in manifest.json {before}"]

    @pytest.mark.parametrize("name", ["00000.tar", "00001.parquet", "rejected/00002.thumbnails"])
    def test_deleted(self, output: Path, name: str) -> None:
        (output / name).unlink()
        assert verify(str(output)) == [f"{name}: missing"]

    def test_swapped(self, output: Path) -> None:
        swap(output / "00000.tar", output / "00002.tar")
        problem = [f"{name}: sha256 differs from manifest.json" for name in ("00000.tar", "00002.tar")]
        assert verify(str(output)) == problem

    @pytest.mark.parametrize("name", ["00007.tar", "copy.parquet", "rejected/00007.thumbnails", "00007_stats.json"])
    def test_stray(self, output: Path, name: str) -> None:
        (output / name).write_bytes(b"")
        assert verify(str(output)) == [f"{name}: not in manifest.json"]

    def test_other_files_are_the_users(self, output: Path) -> None:
        (output / "report.html").write_text("")
        assert verify(str(output)) == []

    def test_every_damage_is_told(self, output: Path) -> None:
        (output / "00000.tar").unlink()
        flip(output / "00001.parquet")
        flip(output / "00002.tar")
        assert verify(str(output)) == [
            "00000.tar: missing",
            "00001.parquet: sha256 differs from manifest.json",
            "00002.tar: sha256 differs from manifest.json",
        ]


class TestContents:
    """Files whose checksums are right and whose contents are not."""

    def test_sample_is_missing(self, output: Path) -> None:
        replace_whole(output, "00001.tar", make_tar(read_tar(output / "00001.tar")[3:]))
        problem = "00001.tar: 1 of 00001.parquet's samples are missing, 0 are not among its successes"
        assert verify(str(output)) == [problem]

    def test_sample_too_many(self, output: Path) -> None:
        members = read_tar(output / "00001.tar") + [(f"{'f' * 32}.{kind}", b"") for kind in ("jpg", "txt", "json")]
        replace_whole(output, "00001.tar", make_tar(members))
        problem = "00001.tar: 0 of 00001.parquet's samples are missing, 1 are not among its successes"
        assert verify(str(output)) == [problem]

    def test_file_of_a_sample_is_missing(self, output: Path) -> None:
        replace_whole(output, "00001.tar", make_tar(read_tar(output / "00001.tar")[:-1]))
        assert verify(str(output)) == [f"00001.tar: sample {key_of(1, 3)} is jpg, txt"]

    def test_files_of_a_sample_stand_apart(self, output: Path) -> None:
        one, *rest = read_tar(output / "00001.tar")
        replace_whole(output, "00001.tar", make_tar([*rest, one]))
        assert verify(str(output)) == [f"00001.tar: sample {key_of(1, 0)} is txt, json"]

    def test_samples_out_of_order(self, output: Path) -> None:
        members = read_tar(output / "00001.tar")
        replace_whole(output, "00001.tar", make_tar(members[3:] + members[:3]))
        assert verify(str(output)) == [f"00001.tar: sample {key_of(1, 0)} comes after {key_of(1, 3)}"]

    def test_rejected_pictures_too(self, output: Path) -> None:
        replace_whole(output, "rejected/00001.thumbnails", make_tar(read_tar(output / "rejected/00001.thumbnails")[1:]))
        assert verify(str(output)) == [f"rejected/00001.thumbnails: sample {key_of(1, 2)} is txt, json"]

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda body: body[:2000], f"cut off in {key_of(1, 0)}.jpg"),
            (lambda body: body[:3600], "not a tar from byte 3,584 on: truncated header"),
            (lambda body: body[:3584], "not a tar from byte 3,584 on: empty header"),
            (lambda body: body[:5] + b"x" + body[6:], "not a tar from byte 0 on: bad checksum"),
            (lambda body: body.rstrip(b"\0") + bytes(-len(body.rstrip(b"\0")) % 512 + 512), "cut off at its end"),
            (lambda body: body + b"more", "has data after its end at byte 9,728"),
        ],
        ids=["picture", "header", "no end", "name", "one block", "more"],
    )
    def test_tar_is_none(self, output: Path, change: Callable[[bytes], bytes], problem: str) -> None:
        replace_whole(output, "00001.tar", change((output / "00001.tar").read_bytes()))
        assert verify(str(output)) == [f"00001.tar: {problem}"]

    def test_rows_are_no_parquet(self, output: Path) -> None:
        replace_whole(output, "00001.parquet", b"PAR1 and more")
        (problem,) = verify(str(output))
        assert problem.startswith("00001.parquet: not parquet: Parquet magic bytes not found in footer.")

    def test_rows_lack_a_column(self, output: Path) -> None:
        self.rewrite_rows(output, lambda table: table.drop_columns("status"))
        assert verify(str(output)) == ["00001.parquet: has no column status of strings"]

    def test_row_without_a_key(self, output: Path) -> None:
        keys = pa.array([None, *(key_of(1, pair) for pair in range(1, PAIRS))])
        self.rewrite_rows(output, lambda table: table.set_column(0, "key", keys))
        assert verify(str(output)) == ["00001.parquet: has a row without a key"]

    def test_rows_out_of_order(self, output: Path) -> None:
        self.rewrite_rows(output, lambda table: table.take([3, 2, 1, 0]))
        assert verify(str(output)) == ["00001.parquet: rows are not in the order of their keys"]

    def test_row_is_missing(self, output: Path) -> None:
        self.rewrite_rows(output, lambda table: table.take([0, 2, 3]))
        assert verify(str(output)) == [
            "00001_stats.json: count: 00001.parquet has 3, not 4",
            "00001_stats.json: failed_to_download: 00001.parquet has 0, not 1",
            "00001_stats.json: status_dict: 00001.parquet has other reasons",
        ]

    def test_no_rows_at_all(self, output: Path) -> None:
        self.rewrite_rows(output, lambda table: table.slice(0, 0))
        problem = "00001.tar: 0 of 00001.parquet's samples are missing, 2 are not among its successes"
        assert verify(str(output))[0] == problem

    def rewrite_rows(self, output: Path, change: Callable[[pa.Table], pa.Table]) -> None:
        stream = io.BytesIO()
        pq.write_table(change(pq.read_table(output / "00001.parquet")), stream)
        replace_whole(output, "00001.parquet", stream.getvalue())


class TestMarker:
    def test_deleted(self, output: Path) -> None:
        (output / "00001_stats.json").unlink()
        assert verify(str(output)) == ["00001_stats.json: missing"]

    def test_cut_off(self, output: Path) -> None:
        cut(output / "00001_stats.json", 30)
        (problem,) = verify(str(output))
        assert problem.startswith("00001_stats.json: not JSON: ")

    def test_flipped_bit(self, output: Path) -> None:
        (output / "00001_stats.json").write_bytes(b"\xff{}")
        (problem,) = verify(str(output))
        assert problem.startswith("00001_stats.json: not JSON: 'utf-8' codec")

    @pytest.mark.parametrize("text", ["[]", "{}", '{"count": "4"}'])
    def test_other_form(self, output: Path, text: str) -> None:
        (output / "00001_stats.json").write_text(text)
        assert verify(str(output)) == ["00001_stats.json: does not have the fields that it should"]

    def test_counts_edited(self, output: Path) -> None:
        edit(output / "00001_stats.json", lambda marker: marker.update(successes=9))
        assert verify(str(output)) == [
            "00001_stats.json: successes differs from manifest.json",
            "manifest.json: samples differs from plan.json and the markers",
            "00001_stats.json: successes: 00001.parquet has 2, not 9",
        ]

    def test_reasons_edited(self, output: Path) -> None:
        edit(output / "00001_stats.json", lambda marker: marker["status_dict"].update(http_404=3))
        assert verify(str(output)) == [
            "manifest.json: funnel differs from plan.json and the markers",
            "the funnel does not add up: 12 rows read, 14 accounted for",
            "00001_stats.json: status_dict: 00001.parquet has other reasons",
        ]

    def test_checksum_edited(self, output: Path) -> None:
        edit(output / "00001_stats.json", lambda marker: marker["files"]["00001.tar"].update(sha256="0"))
        assert verify(str(output)) == ["00001_stats.json: files differs from manifest.json"]

    def test_swapped(self, output: Path) -> None:
        swap(output / "00000_stats.json", output / "00001_stats.json")
        problem = [f"0000{index}_stats.json: files differs from manifest.json" for index in (0, 1)]
        assert verify(str(output)) == problem


class TestManifest:
    def test_checksum_edited(self, output: Path) -> None:
        def change(manifest: Any) -> None:
            manifest["shards"][1]["files"]["00001.parquet"]["sha256"] = "0"

        edit(output / "manifest.json", change)
        assert verify(str(output)) == [
            "00001_stats.json: files differs from manifest.json",
            "00001.parquet: sha256 differs from manifest.json",
        ]

    def test_file_struck_out(self, output: Path) -> None:
        edit(output / "manifest.json", lambda manifest: manifest["shards"][1]["files"].pop("00001.tar"))
        assert verify(str(output)) == [
            "00001_stats.json: files differs from manifest.json",
            "00001.tar: not in manifest.json",
        ]

    def test_shard_struck_out(self, output: Path) -> None:
        edit(output / "manifest.json", lambda manifest: manifest["shards"].pop(1))
        assert verify(str(output)) == [
            "manifest.json: samples differs from plan.json and the markers",
            "manifest.json: funnel differs from plan.json and the markers",
            "manifest.json: lists 2 shards, plan.json has 3",
            "the funnel does not add up: 12 rows read, 8 accounted for",
            "00001.parquet: not in manifest.json",
            "00001.tar: not in manifest.json",
            "00001_stats.json: not in manifest.json",
            "rejected/00001.thumbnails: not in manifest.json",
        ]

    @pytest.mark.parametrize(
        ("field", "value"),
        [("samples", 7), ("settings", {"image_size": 5}), ("input", []), ("funnel", {"rows_read": 1, "success": 1})],
    )
    def test_field_edited(self, output: Path, field: str, value: Any) -> None:
        edit(output / "manifest.json", lambda manifest: manifest.update({field: value}))
        assert verify(str(output)) == [f"manifest.json: {field} differs from plan.json and the markers"]

    def test_same_shard_twice(self, output: Path) -> None:
        edit(output / "manifest.json", lambda manifest: manifest["shards"].append(manifest["shards"][0]))
        assert verify(str(output)) == ["manifest.json: its shards do not have the fields that gesso writes"]

    def test_no_json(self, output: Path) -> None:
        cut(output / "manifest.json", 50)
        flip(output / "00002.tar")
        manifest, tar = verify(str(output))
        assert manifest.startswith("manifest.json: not JSON: ")
        assert tar == "00002.tar: sha256 differs from 00002_stats.json"


class TestPlan:
    def test_deleted(self, output: Path) -> None:
        (output / "plan.json").unlink()
        assert verify(str(output)) == ["plan.json: missing"]

    def test_edited(self, output: Path) -> None:
        edit(output / "plan.json", lambda plan: plan.update(rows_read=13))
        assert verify(str(output)) == [
            "manifest.json: funnel differs from plan.json and the markers",
            "the funnel does not add up: 13 rows read, 12 accounted for",
        ]


class TestUnfinished:
    @pytest.fixture
    def begun(self, tmp_path: Path) -> Path:
        begin(tmp_path)
        write_shard(tmp_path, 1)
        return tmp_path

    LACKING = "unfinished: 2 of 3 shards are missing: 00000 00002; run the same `gesso collect` again"

    def test_names_what_is_missing(self, begun: Path) -> None:
        assert verify(str(begun)) == [self.LACKING]
        assert main([str(begun)]) == 1

    def test_checks_what_is_there(self, begun: Path) -> None:
        flip(begun / "00001.tar")
        assert verify(str(begun)) == [self.LACKING, "00001.tar: sha256 differs from 00001_stats.json"]

    def test_damaged_marker(self, begun: Path) -> None:
        cut(begun / "00001_stats.json", 0)
        problem = "00001_stats.json: not JSON: Expecting value: line 1 column 1 (char 0)"
        assert verify(str(begun)) == [problem, self.LACKING]

    def test_plan_of_a_missing_shard(self, begun: Path) -> None:
        (begun / "plan/00002.plan").unlink()
        assert verify(str(begun)) == ["plan/00002.plan: missing", self.LACKING]

    def test_files_of_a_shard_under_way_are_no_damage(self, begun: Path) -> None:
        (begun / "00000.tar").write_bytes(b"half")
        assert verify(str(begun)) == [self.LACKING]

    def test_only_the_manifest_is_missing(self, output: Path) -> None:
        (output / "manifest.json").unlink()
        problem = "unfinished: manifest.json is missing; run the same `gesso collect` again"
        assert verify(str(output)) == [problem]

    def test_many_missing_shards(self, tmp_path: Path) -> None:
        begin(tmp_path)
        edit(tmp_path / "plan.json", lambda plan: plan.update(shards=1234))
        missing = " ".join(f"{index:05d}" for index in range(10))
        problem = f"unfinished: 1,234 of 1,234 shards are missing: {missing} …; run the same `gesso collect` again"
        assert verify(str(tmp_path))[-1] == problem


class TestForeign:
    """What img2dataset wrote by itself: keys are positions, in the order of completion; times in pax headers."""

    @pytest.fixture
    def theirs(self, tmp_path: Path) -> Path:
        for index in range(2):
            self.write(tmp_path, f"{index:05d}")
        return tmp_path

    def write(self, output: Path, stem: str) -> None:
        keys = [f"{stem}0002", f"{stem}0000", f"{stem}0001"]
        statuses = ["success", "success", "failed_to_download"]
        pq.write_table(pa.table({"url": keys, "key": keys, "status": statuses}), output / f"{stem}.parquet")
        with tarfile.open(output / f"{stem}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for name in [f"{key}.{kind}" for key in keys[:2] for kind in ("jpg", "json", "txt")]:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = 700, 1.5  # type: ignore[assignment]
                tar.addfile(info, io.BytesIO(bytes(700)))
        counts = {"count": 3, "successes": 2, "failed_to_download": 1, "failed_to_resize": 0}
        storage.write_json(f"{output}/{stem}_stats.json", counts | {"status_dict": {"success": 2, "HTTP Error 404": 1}})

    def test_whole(self, theirs: Path) -> None:
        assert verify(str(theirs)) == []

    def test_cut_off(self, theirs: Path) -> None:
        cut(theirs / "00001.tar", 7000)
        (problem,) = verify(str(theirs))
        assert problem == "00001.tar: cut off in 000010002.txt"

    def test_sample_is_missing(self, theirs: Path) -> None:
        pq.write_table(pq.read_table(theirs / "00001.parquet").slice(1), theirs / "00001.parquet")
        assert verify(str(theirs)) == [
            "00001.tar: 0 of 00001.parquet's samples are missing, 1 are not among its successes",
            "00001_stats.json: count: 00001.parquet has 2, not 3",
            "00001_stats.json: successes: 00001.parquet has 1, not 2",
        ]

    def test_deleted(self, theirs: Path) -> None:
        (theirs / "00000.tar").unlink()
        (theirs / "00001.parquet").unlink()
        assert verify(str(theirs)) == ["00000.tar: missing", "00001.parquet: missing"]

    def test_no_statistics(self, theirs: Path) -> None:
        (theirs / "00001_stats.json").unlink()
        assert verify(str(theirs)) == [f"00001.{kind}: its shard has no _stats.json" for kind in ("parquet", "tar")]


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_dataset(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds no dataset: give the --output of a `gesso collect`"):
        verify(f"{tmp_path}/{name}")


def test_needs_no_beam_and_no_pictures() -> None:
    import subprocess
    import sys

    script = "import sys, gesso.pipelines.verify; sys.exit(bool({'apache_beam', 'cv2', 'aiohttp'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True)


class TestEmbeddings:
    """Directories that hold no shards: every file that the manifest lists."""

    def test_whole(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = write_small_embeddings(tmp_path / "embeddings")
        assert cli.main(["verify", output]) == 0
        assert capsys.readouterr().out == f"{output}: no problems\n"

    def test_damaged(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = Path(write_small_embeddings(tmp_path / "embeddings"))
        block = output / "img_emb/img_emb_00001.npy"
        block.write_bytes(block.read_bytes()[:-1] + b"?")
        (output / "metadata/metadata_00000.parquet").unlink()
        assert cli.main(["verify", str(output)]) == 1
        assert capsys.readouterr().out.splitlines() == [
            "metadata/metadata_00000.parquet: missing",
            "img_emb/img_emb_00001.npy: sha256 differs from manifest.json",
            f"{output}: 2 problems",
        ]


def write_small_embeddings(folder: Path) -> str:
    return write_embeddings(folder, clustered(6, 8, 0), [f"{n:032x}" for n in range(6)], [4, 2])
