"""Tars by the tools that people have: an index of them holds what `datasets` reads from them, up to an export."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds

from gesso import cli
from gesso.dedup import detector
from gesso.dedup.settings import DetectorConfig
from gesso.pipelines import verify
from tests import indexes
from tests.datasets import picture
from tests.overlaps import decide
from tests.servers import body, serve

COUNT, SHARD = 11, 6
DEEP = "/".join(["a folder of a long name, with a dot.v1"] * 4)


class Sample(NamedTuple):
    """What a reader gets."""

    caption: str
    picture: bytes


def caption(number: int) -> str:
    return f"number {number}, drawn — «ö»"


def by_img2dataset(folder: Path) -> None:
    """Its own command, on pictures that this machine serves; the last link is dead."""
    pytest.importorskip("img2dataset")
    with serve({f"/{number}.jpg": body(picture(number)) for number in range(COUNT)}) as web:
        links = [{"url": web.url(f"/{number}.jpg"), "caption": caption(number)} for number in range(COUNT + 1)]
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(links), folder / "links.parquet")
        settings = {"url_list": str(folder / "links.parquet"), "input_format": "parquet", "output_format": "webdataset"}
        settings |= {"output_folder": str(folder / "out"), "caption_col": "caption", "resize_mode": "no"}
        sizes = {"number_sample_per_shard": SHARD, "processes_count": 1, "thread_count": 4, "timeout": 6}
        script = f"import img2dataset\nif __name__ == '__main__':\n    img2dataset.download(**{settings | sizes!r})\n"
        (folder / "command.py").write_text(script)
        environment = {"NO_ALBUMENTATIONS_UPDATE": "1", "PATH": ""}
        subprocess.run([sys.executable, folder / "command.py"], check=True, env=environment, capture_output=True)
    for path in (folder / "out").glob("*.tar"):
        path.rename(folder / path.name)


def by_webdataset(folder: Path) -> None:
    """Its writer, with the caption in the json and a class besides."""
    folder.mkdir()
    for start in range(0, COUNT, SHARD):
        with wds.TarWriter(str(folder / f"part-{start}.tar")) as tar:
            for number in range(start, min(COUNT, start + SHARD)):
                fields = {"caption": caption(number), "n": number}
                key = f"été.2024/{number:06d}"
                tar.write({"__key__": key, "png": indexes.picture(4 * number + 1), "json": fields, "cls": number})


def by_gnu_tar(form: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        """A folder as it lies on a disk, its names long and after `./`."""
        (folder / "files" / DEEP).mkdir(parents=True)
        for number in range(COUNT):
            (folder / "files" / DEEP / f"{number:03d}.jpg").write_bytes(picture(number))
            (folder / "files" / DEEP / f"{number:03d}.txt").write_text(caption(number))
        command = ["tar", "--sort=name", f"--format={form}", "-cf", folder / "all.tar", "-C", folder / "files", "."]
        subprocess.run(command, check=True)

    return write


MAKERS = {
    "img2dataset": by_img2dataset,
    "webdataset": by_webdataset,
    "gnu": by_gnu_tar("gnu"),
    "pax": by_gnu_tar("pax"),
}


@pytest.fixture(scope="module", params=MAKERS)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tars."""
    folder = tmp_path_factory.mktemp(request.param) / "theirs"
    MAKERS[request.param](folder)
    return folder


@pytest.fixture(scope="module")
def index(theirs: Path) -> Path:
    output = theirs.parent / "index"
    assert cli.main(["index", f"{theirs}/*.tar", "--output", str(output)]) == 0
    return output


def by_datasets(paths: list[Path], cache: Path) -> dict[str, Sample]:
    """The samples of tars as `datasets` reads them."""
    import datasets

    files = {"train": sorted(map(str, paths))}
    loaded = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True, cache_dir=str(cache))
    suffix = next(name for name in ("jpg", "png") if name in loaded.features)
    rows = loaded.cast_column(suffix, datasets.Image(decode=False))
    return {
        row["__key__"].removeprefix("./"): Sample(row.get("txt") or row["json"]["caption"], row[suffix]["bytes"])
        for row in rows
    }


def export(source: Path, output: Path, *more: str) -> int:
    flags = ("--validation_size", "2", "--shard_size", "4")
    return cli.main(["export", "--shards", str(source), "--output", str(output), *flags, *more])


def test_datasets_reads_the_same(theirs: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tars, and the export of their index."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    expected = by_datasets(list(theirs.glob("*.tar")), tmp_path / "cache")
    assert sorted(each.caption for each in expected.values()) == sorted(map(caption, range(COUNT)))
    assert export(index, tmp_path / "clean") == 0
    assert by_datasets(list((tmp_path / "clean").glob("*/*.tar")), tmp_path / "cache") == expected
    assert verify.verify(str(index)) == verify.verify(str(tmp_path / "clean")) == []


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A detector that knows nothing: equal pictures are as similar as they can be, which is enough."""
    path, config = tmp_path_factory.mktemp("run") / detector.WEIGHTS, DetectorConfig("resnet50", 0.05, 32, 16)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        detector.save(detector.build(config), config, str(path))
    return str(path)


def test_from_index_to_export(index: Path, weights: str, tmp_path: Path) -> None:
    """A reference picture that is among theirs is found by its key, decided on and dropped."""
    sample = by_range(index)[3]
    (tmp_path / "references").mkdir()
    (tmp_path / "references/seen.jpg").write_bytes(sample[1])
    embed = ["--model", weights, "--device", "cpu", "--batch_size", "4"]
    threads = torch.get_num_threads()
    overlap = ["--reference", f"{tmp_path}/reference", "--top_k", "1", "--output", f"{tmp_path}/overlap"]
    commands = (
        ["embed", "--shards", str(index), "--output", f"{tmp_path}/embeddings", *embed],
        ["embed", "--images", f"{tmp_path}/references", "--views", "1", "--output", f"{tmp_path}/reference", *embed],
        ["match", "--embeddings", f"{tmp_path}/embeddings", *overlap],
    )
    assert list(map(cli.main, commands)) == [0, 0, 0]
    torch.set_num_threads(threads)
    (found,) = pq.read_table(tmp_path / "overlap/matches.parquet").to_pylist()
    assert (found["uid"], found["similarity"] > 0.999, found["phash_distance"]) == (sample[0], True, 0)
    decide(f"{tmp_path}/overlap", 0.999)
    assert export(index, tmp_path / "clean", "--drop", f"{tmp_path}/overlap") == 0
    keys = {row["key"] for path in (tmp_path / "clean").glob("*/*.parquet") for row in pq.read_table(path).to_pylist()}
    assert keys == {key for key, _ in by_range(index)} - {sample[0]}
    assert json.loads((tmp_path / "clean/coco_overlap.json").read_text())["leave_out"] == ["seen"]


def by_range(index: Path) -> list[tuple[str, bytes]]:
    """Keys and pictures by nothing but the index's rows."""
    manifest = json.loads((index / "manifest.json").read_text())
    found = []
    for entry in manifest["shards"]:
        content = (index / entry["tar"]["path"]).read_bytes()
        for row in pq.read_table(index / f"{entry['index']:05d}.parquet").to_pylist():
            if row["status"] == "success":
                found.append((row["key"], content[row["image_offset"] :][: row["image_bytes"]]))
    return found
