"""The whole command: what is kept, where it goes, that bytes are read and written once, what it says to mistakes."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from gesso import cli, storage
from gesso.dataset import shards
from gesso.dedup.decision import Override
from gesso.pipelines.export import shard_writer
from gesso.pipelines.export.shuffle import key_hashes
from tests.datasets import write_dataset
from tests.overlaps import decide, write_overlap, write_repeats

SHARDS, LINKS = 3, 30
KEPT = SHARDS * LINKS * 6 // 10
FLAGS = ("--validation_size", "9", "--shard_size", "12")

Sample = dict[str, bytes]  # bodies by ending


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_dataset(tmp_path_factory.mktemp("source") / "raw", SHARDS, LINKS))


@pytest.fixture(scope="module")
def source(raw: Path) -> dict[str, Sample]:
    return {key: sample for path in sorted(raw.glob("*.tar")) for key, sample in samples(path).items()}


@pytest.fixture(scope="module")
def drops(raw: Path, source: dict[str, Sample], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An overlap with three duplicates, repeats (one also in the overlap), two keys in a text file, one unknown."""
    folder, keys = tmp_path_factory.mktemp("drops"), sorted(source)
    pairs = [("r1", keys[0], 0.9), ("r1", keys[1], 0.8), ("r2", keys[2], 0.7), ("r3", keys[3], 0.6)]
    overlap = write_overlap(folder / "overlap", str(raw), pairs)
    decide(overlap, 0.75, [Override("r3", keys[3], "duplicate")])
    repeats = write_repeats(folder / "repeats", str(raw), [keys[0], keys[20]], [keys[40]])
    (folder / "mine.txt").write_text(f"{keys[41]}\n{'f' * 32}\n")
    return [overlap, repeats, str(folder / "mine.txt")]


@pytest.fixture(scope="module")
def clean(raw: Path, drops: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one") / "clean"
    assert export(raw, output, *FLAGS, *dropping(drops)) == 0
    return output


def dropping(drops: list[str]) -> list[str]:
    return [flag for path in drops for flag in ("--drop", path)]


def export(raw: Path | str, output: Path | str, *more: str) -> int:
    return cli.main(["export", "--shards", str(raw), "--output", str(output), *more])


def samples(path: Path) -> dict[str, Sample]:
    """The bodies of a tar by key, in its order."""
    found: dict[str, Sample] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            stream = tar.extractfile(member)
            assert stream is not None
            found.setdefault(key, {})[ending] = stream.read()
    return found


def split(output: Path, name: str) -> dict[str, Sample]:
    return {key: sample for path in sorted((output / name).glob("*.tar")) for key, sample in samples(path).items()}


def contents(output: Path) -> dict[str, str]:
    """Checksums of all that is reproducible: everything but the clock in the markers."""
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.endswith("_stats.json")]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


class TestWhatIsExported:
    def test_every_kept_sample_once_with_its_bytes(
        self, clean: Path, source: dict[str, Sample], drops: list[str]
    ) -> None:
        keys = sorted(source)
        gone = {keys[number] for number in (0, 1, 3, 20, 40, 41)}
        train, validation = split(clean, "train"), split(clean, "validation")
        assert len(validation) == 9
        assert not train.keys() & validation.keys()
        assert {**train, **validation} == {key: sample for key, sample in source.items() if key not in gone}

    def test_the_funnel_counts_each_dropped_sample_by_its_first_reason(self, clean: Path) -> None:
        manifest = read_json(clean / "manifest.json")
        assert manifest["funnel"] == {
            "samples_read": KEPT,
            "train": KEPT - 15,
            "validation": 9,
            "overlap": 3,
            "repeat_exact": 1,
            "repeat_near": 1,
            "listed": 1,
        }
        assert manifest["not_found"] == {"overlap": 0, "repeat_exact": 0, "repeat_near": 0, "listed": 1}
        assert manifest["source_funnel"]["success"] == KEPT
        assert (manifest["samples"], manifest["splits"]) == (KEPT - 6, {"train": KEPT - 15, "validation": 9})

    def test_listed_samples_that_are_not_there_are_reported(
        self, raw: Path, clean: Path, drops: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert export(raw, clean, *FLAGS, *dropping(drops)) == 0
        out = capsys.readouterr().out
        assert "1 samples that a drop list names (listed) are not in the shards" in out
        assert f"overlap                  3    {100 * 3 / KEPT:.1f}%" in out

    def test_the_references_to_leave_out(self, clean: Path) -> None:
        input_info = read_json(clean / "coco_overlap.json")
        assert input_info["leave_out"] == ["r1", "r3"]
        decided = input_info["overlaps"][0]
        assert (decided["threshold"], decided["who"], decided["left_out"], decided["references"]) == (0.75, "Ada", 2, 3)
        assert decided["model"]["name"] == "detector"

    def test_the_offsets_give_the_very_bytes(self, clean: Path, source: dict[str, Sample]) -> None:
        endings = {"image": "jpg", "caption": "txt", "json": "json"}
        for rows in clean.glob("*/*.parquet"):
            tar = rows.with_suffix(".tar").read_bytes()
            for row in pq.read_table(rows).to_pylist():
                found = {
                    ending: tar[row[f"{kind}_offset"] : row[f"{kind}_offset"] + row[f"{kind}_bytes"]]
                    for kind, ending in endings.items()
                }
                assert found == source[row["key"]]
                whole = io.BytesIO(tar[row["offset"] : row["offset"] + row["bytes"]])
                with tarfile.open(fileobj=whole) as sample:
                    assert sample.getnames() == [f"{row['key']}.{ending}" for ending in endings.values()]

    def test_the_rows_keep_their_columns_and_their_origin(self, raw: Path, clean: Path) -> None:
        before = {row["key"]: row for path in raw.glob("*.parquet") for row in pq.read_table(path).to_pylist()}
        rows = [row for path in clean.glob("*/*.parquet") for row in pq.read_table(path).to_pylist()]
        for row in rows:
            assert {name: row[name] for name in before[row["key"]]} == before[row["key"]]
            assert row["source_shard"] == int(row["key"][0], 16)
            tar = (raw / f"0000{row['source_shard']}.tar").read_bytes()
            assert tar[row["source_offset"] :].startswith(f"{row['key']}.jpg".encode())

    def test_the_samples_are_mixed_over_all_shards(self, clean: Path) -> None:
        """Expected: of 12 samples from three equal shards none has all from one; the order is no shard's own."""
        for path in clean.glob("train/*.parquet"):
            rows = pq.read_table(path)
            assert set(rows["source_shard"].to_pylist()) == {0, 1, 2}
            assert rows["key"].to_pylist() != sorted(rows["key"].to_pylist())

    def test_the_tar_is_that_of_the_collection(self, clean: Path, tmp_path: Path) -> None:
        rows = pq.read_table(clean / "validation/00000.parquet")
        found = samples(clean / "validation/00000.tar")
        assert list(found) == rows["key"].to_pylist()
        with (tmp_path / "again.tar").open("wb") as stream:
            tar = shards.TarWriter(shards.HashingWriter(stream))
            for key, sample in found.items():
                for ending, body in sample.items():
                    tar.add(f"{key}.{ending}", body)
            tar.end()
        assert (tmp_path / "again.tar").read_bytes() == (clean / "validation/00000.tar").read_bytes()

    def test_verify_and_status_know_it(self, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["verify", str(clean)]) == 0
        assert cli.main(["status", str(clean)]) == 0
        assert capsys.readouterr().out == f"{clean}: no problems\n48 of 48 images (100.0%)\nfinished\n"
        page = tmp_path / "page.html"
        assert cli.main(["report", str(clean), "--output", str(page)]) == 0
        assert "An export: clean, shuffled shards" in page.read_text()


class TestValidation:
    def test_it_is_the_smallest_hashes_of_the_keys(self, clean: Path, source: dict[str, Sample]) -> None:
        kept = [*split(clean, "train"), *split(clean, "validation")]
        hashes = dict(zip(kept, key_hashes(kept, person="validation").tolist(), strict=True))
        assert set(split(clean, "validation")) == set(sorted(kept, key=hashes.__getitem__)[:9])

    def test_neither_seed_nor_shards_have_a_say(self, raw: Path, clean: Path, drops: list[str], tmp_path: Path) -> None:
        other = ("--validation_size", "9", "--shard_size", "5", "--seed", "7")
        assert export(raw, tmp_path / "clean", *other, *dropping(drops)) == 0
        assert split(tmp_path / "clean", "validation").keys() == split(clean, "validation").keys()
        assert list(split(tmp_path / "clean", "train")) != list(split(clean, "train"))
        assert split(tmp_path / "clean", "train") == split(clean, "train")

    def test_it_may_be_empty(self, raw: Path, tmp_path: Path) -> None:
        assert export(raw, tmp_path / "clean", "--validation_size", "0") == 0
        assert sorted(path.name for path in (tmp_path / "clean").iterdir()) == [
            "README.md",
            "manifest.json",
            "plan.json",
            "train",
        ]
        assert len(split(tmp_path / "clean", "train")) == KEPT
        assert cli.main(["verify", str(tmp_path / "clean")]) == 0


class TestTheSameBytes:
    def test_again_with_the_drops_of_another_order_of_files(
        self, raw: Path, clean: Path, drops: list[str], tmp_path: Path
    ) -> None:
        assert export(raw, tmp_path / "clean", *FLAGS, *dropping(drops)) == 0
        assert contents(tmp_path / "clean") == contents(clean)

    @pytest.mark.slow
    def test_two_processes(self, raw: Path, clean: Path, drops: list[str], tmp_path: Path) -> None:
        workers = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
        command = [sys.executable, "-m", "gesso", "export", "--shards", str(raw)]
        command += ["--output", f"{tmp_path}/clean", *FLAGS, *dropping(drops), *workers]
        subprocess.run(command, check=True, capture_output=True)
        assert contents(tmp_path / "clean") == contents(clean)

    def test_a_finished_export_is_left_alone(
        self, raw: Path, clean: Path, drops: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in clean.rglob("*")}
        assert export(raw, clean, *FLAGS, *dropping(drops)) == 0
        assert "is finished: nothing to do" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in clean.rglob("*")} == before

    def test_only_what_is_missing_is_copied_again(self, raw: Path, clean: Path, drops: list[str]) -> None:
        before = contents(clean)
        kept = (clean / "train/00000.tar").stat().st_mtime_ns
        (clean / "train/00001.tar").write_bytes(b"damaged")
        (clean / "README.md").unlink()
        (clean / "train/00002.tar.tmp-0123456789ab").write_bytes(b"left behind")
        assert export(raw, clean, *FLAGS, *dropping(drops)) == 0
        assert contents(clean) == before
        assert (clean / "train/00000.tar").stat().st_mtime_ns == kept

    @pytest.mark.parametrize(
        "written",
        [
            "plan.json",
            "train/00001.tar",
            pytest.param("train/00001.parquet", marks=pytest.mark.slow),
            pytest.param("README.md", marks=pytest.mark.slow),
        ],
    )
    def test_killed_and_started_again(
        self, raw: Path, clean: Path, drops: list[str], tmp_path: Path, written: str
    ) -> None:
        """Killed between a file's last byte and its rename: before the plan, during it, while shards are written."""
        code = f"""
import os, signal, sys
from gesso import cli, storage
replace = storage._commit
def kill(source, target):
    if target.endswith({written!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
storage._commit = kill
sys.exit(cli.main(sys.argv[1:]))
"""
        command = [sys.executable, "-c", code, "export", "--shards", str(raw), "--output", f"{tmp_path}/clean"]
        killed = subprocess.run([*command, *FLAGS, *dropping(drops)], capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "clean/manifest.json").exists()
        assert export(raw, tmp_path / "clean", *FLAGS, *dropping(drops)) == 0
        assert contents(tmp_path / "clean") == contents(clean)

    def test_on_another_filesystem(self, raw: Path, clean: Path, tmp_path: Path) -> None:
        """Shards and output in an object store; the same samples are dropped, by a list."""
        memory = fsspec.filesystem("memory")
        memory.put(f"{raw}/", "memory://bucket/raw/", recursive=True)
        (tmp_path / "mine.txt").write_text("\n".join(pq.read_table(clean / "dropped.parquet")["uid"].to_pylist()))
        flags = (*FLAGS, "--drop", str(tmp_path / "mine.txt"))
        assert export("memory://bucket/raw", "memory://bucket/clean", *flags) == 0
        for path in [*clean.glob("*/*.tar"), *clean.glob("*/*.parquet")]:
            assert memory.cat_file(f"memory://bucket/clean/{path.relative_to(clean)}") == path.read_bytes()
        memory.store.clear()


def test_a_body_is_read_once_and_written_once(
    raw: Path, source: dict[str, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the tars' bytes: headers are read to plan, then each sample's range once; each tar is written once."""
    read, write, passed = storage.Ranges.read, shards.HashingWriter.write, Counter[str]()

    def count_read(ranges: storage.Ranges, offset: int, size: int) -> bytes:
        data = read(ranges, offset, size)
        passed["headers" if size == 512 else "samples"] += len(data)
        return data

    def count_write(hashing: shards.HashingWriter, data: bytes) -> int:
        passed["written"] += len(data)
        return write(hashing, data)

    monkeypatch.setattr(storage.Ranges, "read", count_read)
    monkeypatch.setattr(shards.HashingWriter, "write", count_write)
    assert export(raw, tmp_path / "clean", *FLAGS) == 0
    rows = pa.concat_tables(map(pq.read_table, sorted(tmp_path.glob("clean/*/*.parquet"))))
    tars = sum(path.stat().st_size for path in tmp_path.glob("clean/*/*.tar"))
    parquets = sum(path.stat().st_size for path in tmp_path.glob("clean/*/*.parquet"))
    assert passed["samples"] == sum(rows["source_bytes"].to_pylist()) == sum(rows["bytes"].to_pylist())
    assert passed["headers"] == 512 * (3 * len(source) + SHARDS)
    assert passed["written"] == tars + parquets


def test_groups_are_read_ahead_but_no_shard_is_held(
    raw: Path, clean: Path, drops: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little room one group at a time is read, and the bytes are the same."""
    monkeypatch.setattr(shard_writer, "PREFETCH_BYTES", 0)
    monkeypatch.setattr(shard_writer, "MAX_OPEN_TARS", 1)
    monkeypatch.setattr(shard_writer, "SAMPLES_PER_READ", 2)
    assert export(raw, tmp_path / "clean", *FLAGS, *dropping(drops)) == 0
    assert contents(tmp_path / "clean") == contents(clean)


class TestImg2datasetsShards:
    @pytest.fixture
    def foreign(self, tmp_path: Path) -> Path:
        """Two shards as img2dataset leaves them: webdataset's tars with clocks, members by name, png, no checksums."""
        folder = tmp_path / "foreign"
        folder.mkdir()
        for shard in range(2):
            rows, kept = [], 0
            with wds.TarWriter(str(folder / f"0000{shard}.tar")) as tar:
                for number in range(10):
                    key, good = f"0000{shard}000{number}", number % 3 != 0
                    row = {"url": f"http://a.example/{number}", "caption": f"number {number}", "key": key}
                    row |= {"status": "success" if good else "failed_to_download", "error_message": None}
                    rows.append(row)
                    if good:
                        body = io.BytesIO()
                        Image.new("RGB", (8, 8), (number, shard, 0)).save(body, "png")
                        tar.write({"__key__": key, "png": body.getvalue(), "txt": row["caption"], "json": row})
                        kept += 1
            error = pa.string() if shard else pa.null()  # the type of a column that is empty in one shard
            table = pa.Table.from_pylist(rows[::-1])
            at = table.schema.get_field_index("error_message")
            pq.write_table(table.set_column(at, "error_message", pa.nulls(10, error)), folder / f"0000{shard}.parquet")
            marker = {"count": 10, "successes": kept, "status_dict": {"success": kept}}
            (folder / f"0000{shard}_stats.json").write_text(json.dumps(marker))
        return folder

    def test_they_are_exported_in_our_form(self, foreign: Path, tmp_path: Path) -> None:
        assert export(foreign, tmp_path / "clean", "--validation_size", "3", "--shard_size", "20") == 0
        found = {**split(tmp_path / "clean", "train"), **split(tmp_path / "clean", "validation")}
        assert found == {key: body for path in foreign.glob("*.tar") for key, body in samples(path).items()}
        assert [list(sample) for sample in found.values()] == [["png", "txt", "json"]] * 12
        assert cli.main(["verify", str(tmp_path / "clean")]) == 0

    def test_keys_of_their_own_form_are_dropped(self, foreign: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("\ufeff000010004\n000099999\n")
        flags = ("--validation_size", "3", "--drop", str(tmp_path / "mine.txt"))
        assert export(foreign, tmp_path / "clean", *flags) == 0
        assert read_json(tmp_path / "clean/manifest.json")["not_found"] == {"listed": 1}
        assert "000010004" not in {**split(tmp_path / "clean", "train"), **split(tmp_path / "clean", "validation")}

    def test_a_key_of_a_failed_download_is_not_there(
        self, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.txt").write_text("000010003\n")
        assert export(foreign, tmp_path / "clean", "--drop", str(tmp_path / "mine.txt")) == 2
        assert "none of its 1 keys is in" in capsys.readouterr().err

    def test_a_key_of_gessos_form(self, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "mine.txt").write_text(f"000010004\n{'f' * 32}\n")
        assert export(foreign, tmp_path / "clean", "--drop", str(tmp_path / "mine.txt")) == 2
        message = f"holds '{'f' * 32}', which is no key: those of {foreign} are digits, like '000000008'"
        assert message in capsys.readouterr().err

    def test_a_shard_without_statistics(
        self, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (foreign / "00001_stats.json").unlink()
        assert export(foreign, tmp_path / "clean", "--validation_size", "3") == 2
        assert (
            "00001.tar has no complete 00001_stats.json: finish its download, or remove it" in capsys.readouterr().err
        )


class TestCard:
    def test_the_front_matter(self, clean: Path) -> None:
        yaml = pytest.importorskip("yaml")
        text = (clean / "README.md").read_text()
        _, head, _ = text.split("---\n", 2)
        front = yaml.safe_load(head)
        image, caption, fields, *_ = front.pop("dataset_info")["features"]
        assert (image, caption) == ({"name": "jpg", "dtype": "image"}, {"name": "txt", "dtype": "string"})
        names = pq.read_schema(clean / "train/00000.parquet").names
        assert [field["name"] for field in fields["struct"]] == names[: names.index("source_shard")]
        assert front == {
            "pretty_name": "Image-text pairs, collected by gesso",
            "license": "cc0-1.0",
            "task_categories": ["text-to-image"],
            "size_categories": ["n<1K"],
            "source_datasets": ["original"],
            "tags": ["webdataset", "image-text"],
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [
                        {"split": "train", "path": "train/*.tar"},
                        {"split": "validation", "path": "validation/*.tar"},
                    ],
                }
            ],
        }

    def test_what_a_reader_looks_for(self, clean: Path) -> None:
        text = (clean / "README.md").read_text()
        for line in (
            "| `rows_read` | 92 | rows of the tables of links |",
            "| `overlap` | 3 | duplicates of reference pictures, by a person's decision |",
            "| decided by | Ada, 2026-11-24T12:00:00+00:00 |",
            "| threshold (cosine) | 0.75 |",
            "| CC0-1.0 | 48 |",
            "The drop lists name samples that the shards do not hold: 1 of `listed`.",
        ):
            assert line in text


class TestMoved:
    """Shards and drop lists are tied by content: where they are says nothing."""

    @pytest.fixture
    def moved(self, raw: Path, source: dict[str, Sample], tmp_path: Path) -> Path:
        """Shards, an overlap and repeats of them as `gesso match` and `gesso repeats` tie them, all moved elsewhere."""
        made, keys = tmp_path / "made", sorted(source)
        shutil.copytree(raw, made / "raw")
        overlap = write_overlap(made / "overlap", str(made / "raw"), [("r1", keys[0], 0.9)])
        decide(overlap, 0.75)
        write_repeats(made / "repeats", str(made / "raw"), [keys[20]])
        sha256 = hashlib.sha256((raw / "manifest.json").read_bytes()).hexdigest()
        tie(made / "overlap", lambda manifest: manifest["training"]["source"].update(sha256=sha256))
        tie(made / "repeats", lambda manifest: manifest.update(shards_sha256=sha256))
        return made.rename(tmp_path / "elsewhere")

    def test_moved_data_is_taken(self, moved: Path, source: dict[str, Sample], tmp_path: Path) -> None:
        drops = dropping([str(moved / "overlap"), str(moved / "repeats")])
        assert export(moved / "raw", tmp_path / "clean", "--validation_size", "3", *drops) == 0
        funnel = read_json(tmp_path / "clean/manifest.json")["funnel"]
        assert (funnel["overlap"], funnel["repeat_exact"]) == (1, 1)

    def test_the_same_command_goes_on_from_elsewhere(
        self, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ("--validation_size", "3", "--drop")
        assert export(moved / "raw", tmp_path / "clean", *flags, str(moved / "repeats")) == 0
        monkeypatch.chdir(moved.rename(tmp_path / "again"))
        assert export("./raw", "../clean", *flags, "../again/repeats") == 0
        assert "is finished: nothing to do" in capsys.readouterr().out

    def test_other_content_is_refused_where_the_old_was(
        self, moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.rmtree(moved / "raw")
        write_dataset(moved / "raw", 2, 10)
        tie(moved / "repeats", lambda manifest: manifest.update(shards=str(moved / "raw")))
        assert export(moved / "raw", tmp_path / "clean", "--drop", str(moved / "repeats")) == 2
        line = capsys.readouterr().err.strip()
        assert f"was made for the shards in {moved}/raw, not for --shards {moved}/raw as they are now" in line

    def test_what_is_published_names_no_path_of_the_machine(self, clean: Path, raw: Path) -> None:
        for name in ("manifest.json", "plan.json", "README.md", "coco_overlap.json"):
            text = (clean / name).read_text()
            assert str(raw.parent) not in text
            assert '"/' not in text
            assert "`/" not in text
        inputs = read_json(clean / "manifest.json")["input"]
        assert inputs[0]["path"] == f"../../{raw.parent.name}/raw"
        assert [item["path"].rpartition("/")[2] for item in inputs] == ["raw", "overlap", "repeats", "mine.txt"]


def test_matches_of_embeddings_that_tell_no_source(
    raw: Path, source: dict[str, Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """clip-retrieval's own, on both sides: keys decide, those that are not there are counted, the card has no path."""
    overlap = write_overlap(tmp_path / "overlap", "/", [("r1", min(source), 0.9), ("r2", "000000007", 0.9)])
    decide(overlap, 0.75)
    unknown = {"kind": "clip-retrieval", "path": "/"}
    tie(Path(overlap), lambda manifest: manifest["training"].update(source=unknown))
    tie(Path(overlap), lambda manifest: manifest["reference"].update(source=unknown, embeddings="/coco/clip"))
    assert export(raw, tmp_path / "clean", "--validation_size", "3", "--drop", overlap) == 0
    assert read_json(tmp_path / "clean/manifest.json")["funnel"]["overlap"] == 1
    assert "1 samples that a drop list names (overlap) are not in the shards" in capsys.readouterr().out
    assert "| reference pictures | 2, `clip` |" in (tmp_path / "clean/README.md").read_text()


def tie(folder: Path, change: Callable[[Any], object]) -> None:
    manifest = read_json(folder / "manifest.json")
    change(manifest)
    storage.write_json(str(folder / "manifest.json"), manifest)


class TestMistakes:
    """One line, exit code 2, nothing written."""

    def refused(self, capsys: pytest.CaptureFixture[str], raw: Path | str, output: Path, *more: str) -> str:
        before = contents(output) if output.exists() else None
        capsys.readouterr()
        assert export(raw, output, *(more or FLAGS)) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("gesso: ")
        assert (contents(output) if output.exists() else None) == before
        return last

    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        """Shards of this test alone, to be damaged."""
        return Path(write_dataset(tmp_path / "raw", 2, 10))

    def test_more_validation_samples_than_are_kept(
        self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = self.refused(capsys, raw, tmp_path / "clean", "--validation_size", "54")
        assert "--validation_size is 54, but only 54 samples are kept: give a smaller one" in message

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--validation_size", "-1"), "--validation_size is -1: give 0 or more"),
            (("--shard_size", "0"), "--shard_size is 0: give 1 or more"),
            (("--seed", "-3"), "--seed is -3: give 0 or more"),
            (("--sead", "3"), "unknown flag --sead"),
            (("--drop", "none.txt"), "--drop none.txt cannot be read"),
        ],
    )
    def test_flags(
        self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
    ) -> None:
        assert message in self.refused(capsys, raw, tmp_path / "clean", *flags)

    @pytest.mark.parametrize(
        ("below", "relation"), [("", "is"), ("/clean", "is inside"), ("/a/clean", "is inside"), ("/..", "contains")]
    )
    def test_an_output_that_is_in_its_source_or_around_it(
        self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str, relation: str
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/link").symlink_to(own)
        before, output = contents(tmp_path), f"{tmp_path}/elsewhere/link{below}"
        assert export(own, output, "--validation_size", "2") == 2
        said = capsys.readouterr().err
        assert said == f"gesso: --output {output} {relation} --shards {own}: give a directory apart from it\n"
        assert contents(tmp_path) == before

    def test_an_output_whose_name_begins_as_the_sources(self, own: Path) -> None:
        assert export(own, f"{own}_clean", "--validation_size", "2") == 0

    def test_prose_as_a_drop_list(
        self, raw: Path, source: dict[str, Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.txt").write_text(
            f"{min(source)}\n\nThe quick brown fox jumps over the lazy dog, and over it again.\n"
        )
        message = self.refused(capsys, raw, tmp_path / "clean", *FLAGS, "--drop", str(tmp_path / "mine.txt"))
        assert message == (
            f"gesso: --drop {tmp_path}/mine.txt holds 'The quick brown fox jumps over the lazy dog, and over it ag…', "
            f"which is no key: those of {raw} are 32 hex digits, like '{min(source)}'; give one a line, or parquet "
            "with a column key"
        )

    def test_keys_of_other_shards(
        self, raw: Path, source: dict[str, Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pq.write_table(pa.table({"key": ["f" * 32, "e" * 32]}), tmp_path / "mine.parquet")
        message = self.refused(capsys, raw, tmp_path / "clean", *FLAGS, "--drop", str(tmp_path / "mine.parquet"))
        assert message == (
            f"gesso: --drop {tmp_path}/mine.parquet: none of its 2 keys is in {raw}. Its first is '{'f' * 32}', "
            f"a key there is '{min(source)}': give keys of these shards"
        )

    def test_an_overlap_without_a_decision(self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_overlap(tmp_path / "overlap", str(raw), [("r", "u", 0.5)])
        message = self.refused(capsys, raw, tmp_path / "clean", *FLAGS, "--drop", path)
        assert f"run `gesso review {path}`" in message

    def test_no_shards(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "holds no shards" in self.refused(capsys, tmp_path / "none", tmp_path / "clean")

    def test_unfinished_shards(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_dataset(tmp_path / "raw", 2, 10, finished=False)
        assert "is not finished: run its `gesso collect` again" in self.refused(capsys, path, tmp_path / "clean")

    def test_a_missing_tar(self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (own / "00001.tar").unlink()
        assert "00001.tar is missing: `gesso verify" in self.refused(capsys, own, tmp_path / "clean")

    def test_a_truncated_tar(self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        os.truncate(own / "00001.tar", 10_000)
        message = self.refused(capsys, own, tmp_path / "clean")
        assert "00001.tar has 10,000 bytes, not" in message

    @pytest.mark.parametrize(("at", "message"), [(0, "00001.tar is no tar from byte 0 on (bad checksum)"), (512, None)])
    def test_a_damaged_header(
        self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int, message: str | None
    ) -> None:
        """Damage to a header is seen; damage to a body is not looked for: `gesso verify` does that."""
        body = bytearray((own / "00001.tar").read_bytes())
        body[at] ^= 1
        (own / "00001.tar").write_bytes(body)
        if message is None:
            assert export(own, tmp_path / "clean", "--validation_size", "2") == 0
        else:
            assert message in self.refused(capsys, own, tmp_path / "clean", "--validation_size", "2")
            assert not (tmp_path / "clean").exists()

    def test_rows_that_are_not_the_tars(self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (own / "manifest.json").unlink()
        (own / "plan.json").unlink()
        rows = pq.read_table(own / "00001.parquet")
        pq.write_table(rows.slice(0, 5), own / "00001.parquet")
        for path in own.glob("*_stats.json"):
            path.write_text(json.dumps({**read_json(path), "files": {}}))
        message = self.refused(capsys, own, tmp_path / "clean", "--validation_size", "2")
        assert "00001.parquet has" in message
        assert "its tar 6" in message

    def test_rows_that_are_no_parquet(self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = own / "00001.parquet"
        path.write_bytes(path.stat().st_size * b"x")
        message = self.refused(capsys, own, tmp_path / "clean", "--validation_size", "2")
        assert "00001.parquet cannot be read" in message

    def test_an_output_with_other_things_in_it(
        self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "train").mkdir()
        (tmp_path / "train/thesis.tex").write_text("years of work")
        assert "already holds train/thesis.tex" in self.refused(capsys, raw, tmp_path)

    def test_changed_settings(
        self, raw: Path, clean: Path, drops: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ("--validation_size", "8", "--shard_size", "12", *dropping(drops))
        assert "validation_size was 9, is 8" in self.refused(capsys, raw, clean, *flags)
        assert "input: " in self.refused(capsys, raw, clean, *FLAGS)

    @pytest.mark.parametrize("change", ["size", "order"])
    def test_a_source_that_changed_after_the_plan(
        self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
    ) -> None:
        output, flags = tmp_path / "clean", ("--validation_size", "2")
        assert export(own, output, *flags) == 0
        (output / "train/00000.tar").unlink()
        if change == "size":
            with (own / "00001.tar").open("ab") as stream:
                stream.write(bytes(512))
            assert "00001.tar has" in self.refused(capsys, own, output, *flags)
            return
        found = list(samples(own / "00001.tar").items())
        size = (own / "00001.tar").stat().st_size
        with (own / "00001.tar").open("wb") as stream:
            tar = shards.TarWriter(shards.HashingWriter(stream))
            for key, sample in found[::-1]:
                for ending, body in sample.items():
                    tar.add(f"{key}.{ending}", body)
            tar.end()
        assert (own / "00001.tar").stat().st_size == size
        assert "00001.tar has changed since the export was planned" in self.refused(capsys, own, output, *flags)

    def test_rows_that_changed_after_the_plan(
        self, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, flags = tmp_path / "clean", ("--validation_size", "2")
        assert export(own, output, *flags) == 0
        pq.write_table(pa.table({"key": ["a"]}), output / "train/00000.parquet")
        assert "is not the file that was planned" in self.refused(capsys, own, output, *flags)


class TestVerify:
    def test_damage_is_reported(self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "clean"
        assert export(raw, output, *FLAGS) == 0
        body = bytearray((output / "train/00000.tar").read_bytes())
        body[600] ^= 1
        (output / "train/00000.tar").write_bytes(body)
        (output / "validation/00000.parquet").unlink()
        (output / "train/00001_stats.json").unlink()
        (output / "train/00099.tar").write_bytes(b"")
        capsys.readouterr()
        assert cli.main(["verify", str(output)]) == 1
        assert capsys.readouterr().out.splitlines() == [
            "train/00000.tar: sha256 differs from manifest.json",
            "validation/00000.parquet: missing",
            "train/00001_stats.json: missing",
            "train/00099.tar: not in manifest.json",
            f"{output}: 4 problems",
        ]

    def test_an_unfinished_export(self, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "clean"
        assert export(raw, output, *FLAGS) == 0
        (output / "manifest.json").unlink()
        (output / "train/00001.tar").unlink()
        capsys.readouterr()
        assert cli.main(["verify", str(output)]) == 1
        assert "unfinished: 1 of 5 shards are missing; run the same `gesso export` again" in capsys.readouterr().out
