"""The whole command on small shards and folders: what it writes, that it goes on where it stopped, what it refuses."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from gesso import cli, images
from gesso.dataset.schemas import METADATA_FIELDS
from gesso.dedup import detector, models, views
from gesso.dedup.settings import DetectorConfig, ModelSettings
from gesso.pipelines.embed import blocks
from gesso.pipelines.embed.pictures import Sample
from gesso.pipelines.embed.settings import EmbedSettings
from tests.datasets import picture, write_dataset
from tests.pipelines.embed.test_pictures import foreign, write_annotations, write_pictures

CONFIG = DetectorConfig(backbone="resnet50", width=0.05, image_size=32, dimension=16)
TOLERANCE = 2e-3  # of a float16 and of the order in which a batch's sums are taken


@pytest.fixture(scope="module", autouse=True)
def cores() -> Iterator[None]:
    """An embedder leaves torch with one thread for each forward pass."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("run") / detector.WEIGHTS
    with torch.random.fork_rng():
        torch.manual_seed(1)
        detector.save(detector.build(CONFIG), CONFIG, str(path))
    return str(path)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_dataset(tmp_path_factory.mktemp("raw"), 3))


@pytest.fixture(scope="module")
def embedded(raw: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run wrote."""
    output = tmp_path_factory.mktemp("one") / "embeddings"
    assert embed(raw, output, weights) == 0
    return output


def flags(raw: Path, output: Path, weights: str, *more: str) -> list[str]:
    given = ["--shards", str(raw), "--output", str(output), "--model", weights, "--device", "cpu", "--batch_size", "5"]
    return ["embed", *given, *more]


def embed(raw: Path, output: Path, weights: str, *more: str) -> int:
    return cli.main(flags(raw, output, weights, *more))


def embed_folder(folder: Path, output: Path, weights: str, *more: str) -> int:
    return cli.main(["embed", "--images", str(folder), "--output", str(output), "--model", weights, *more])


def compiled() -> dict[str, str]:
    """An environment in which a second start finds compiled modules: torch's are many."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def contents(output: Path) -> dict[str, str]:
    """Checksums of all that is reproducible: everything but the clock in the markers."""
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.endswith("_stats.json")]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept(raw: Path, index: int) -> list[dict[str, object]]:
    rows = pq.read_table(raw / f"{index:05d}.parquet").to_pylist()
    return [row for row in rows if row["status"] == "success"]


class TestShards:
    def test_rows_are_the_samples_in_their_order(self, raw: Path, embedded: Path) -> None:
        table = pq.read_table(embedded / "metadata/metadata_00001.parquet")
        assert [(field.name, field.type) for field in table.schema] == [(f.name, f.type) for f in METADATA_FIELDS]
        names = ("key", "caption", "url", "width", "height", "original_width", "original_height", "sha256", "phash")
        expected = [{name: row[name] for name in names} for row in kept(raw, 1)]
        rows = table.to_pylist()
        assert [{name: row[name] for name in names} for row in rows] == expected
        assert [row["image_path"] for row in rows] == [f"{row['key']}.jpg" for row in rows]
        assert {row["shard"] for row in rows} == {1}

    def test_a_vector_is_that_of_its_picture_alone(self, raw: Path, embedded: Path, weights: str) -> None:
        model = models.open_model(ModelSettings(weights, device="cpu"))
        vectors = np.load(embedded / "img_emb/img_emb_00002.npy")
        assert (vectors.shape, vectors.dtype) == ((12, 16), np.float16)
        with tarfile.open(raw / "00002.tar") as tar:
            for vector, row in zip(vectors, kept(raw, 2), strict=True):
                body = tar.extractfile(f"{row['key']}.jpg").read()  # type: ignore[union-attr]
                pixels = images.decode(body, images.read_header(body), 40)
                alone = model.embed(model.prepare(pixels)[None])[0]
                np.testing.assert_allclose(vector.astype(float), alone.astype(float), atol=TOLERANCE)

    def test_manifest_and_markers(self, raw: Path, embedded: Path, weights: str) -> None:
        manifest = json.loads((embedded / "manifest.json").read_text())
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        model = {"name": "detector", "pretrained": None, "sha256": digest, "image_size": 32, "dimension": 16}
        assert {name: manifest[name] for name in ("format", "kind", "model", "source", "samples", "funnel")} == {
            "format": 1,
            "kind": "embeddings",
            "model": model,
            "source": {"kind": "shards", "path": f"../../{raw.name}", "sha256": sha256_of(raw / "manifest.json")},
            "samples": 36,
            "funnel": {"rows_read": 36, "success": 36},
        }
        assert [(shard["index"], shard["count"], shard["successes"]) for shard in manifest["shards"]] == [
            (0, 12, 12),
            (1, 12, 12),
            (2, 12, 12),
        ]
        written = {name: entry for shard in manifest["shards"] for name, entry in shard["files"].items()}
        sums = contents(embedded)
        assert {name: entry["sha256"] for name, entry in written.items()} == {name: sums[name] for name in written}
        assert sorted(sums) == sorted([*written, "plan.json", "manifest.json"])
        marker = json.loads((embedded / "00000_stats.json").read_text())
        told = {name: marker[name] for name in ("status_dict", "rejected", "device", "precision")}
        assert told == {"status_dict": {"success": 12}, "rejected": [], "device": "cpu", "precision": "fp32"}

    def test_read_as_clip_retrieval_reads(self, embedded: Path) -> None:
        """Blocks in the order of their names, mapped; rows side by side: a row of one is a row of the other."""
        vectors = [np.load(path, mmap_mode="r") for path in sorted((embedded / "img_emb").glob("*.npy"))]
        rows = pd.concat(pd.read_parquet(path) for path in sorted((embedded / "metadata").glob("*.parquet")))
        assert sum(map(len, vectors)) == len(rows) == 36
        assert all(isinstance(block, np.memmap) and block.flags.c_contiguous for block in vectors)
        assert {"image_path", "caption", "url"} <= set(rows.columns)
        nearest = (np.concatenate(vectors).astype(np.float32) @ vectors[1][4].astype(np.float32)).argmax()
        assert rows.iloc[nearest]["key"] == rows[rows["shard"] == 1].iloc[4]["key"]

    def test_samples_that_cannot_be_embedded_are_told(self, tmp_path: Path, weights: str) -> None:
        bomb = picture(1)[:-2]
        folder = foreign(
            tmp_path / "theirs",
            [
                {"jpg": picture(1), "txt": b"first"},
                {"jpg": b"no picture", "txt": b"second"},
                {"txt": b"third"},
                {"jpg": bomb[: len(bomb) // 2], "txt": b"fourth"},
                {"png": picture(5), "json": b'{"width": "wide", "caption": 5, "sha256": null}'},
            ],
        )
        assert embed(folder, tmp_path / "out", weights) == 0
        rows = pq.read_table(tmp_path / "out/metadata/metadata_00000.parquet").to_pylist()
        pixels = images.decode(picture(5), images.read_header(picture(5)), 1 << 16)
        assert rows[1] == {
            "key": "000000004",
            "image_path": "000000004.png",
            "shard": 0,
            "caption": None,
            "url": None,
            "width": 40,
            "height": 30,
            "original_width": None,
            "original_height": None,
            "sha256": hashlib.sha256(picture(5)).hexdigest(),
            "phash": images.perceptual_hash(pixels),
            "view": 0,
        }
        assert [row["caption"] for row in rows] == ["first", None]
        assert len(np.load(tmp_path / "out/img_emb/img_emb_00000.npy")) == 2
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        reasons = {"not_an_image": 1, "picture_missing": 1, "undecodable": 1}
        assert manifest["funnel"] == {"rows_read": 5, "success": 2, **reasons}
        marker = json.loads((tmp_path / "out/00000_stats.json").read_text())
        assert [(item["key"], item["reason"]) for item in marker["rejected"]] == [
            ("000000001", "not_an_image"),
            ("000000002", "picture_missing"),
            ("000000003", "undecodable"),
        ]

    def test_a_shard_without_samples(self, tmp_path: Path, weights: str) -> None:
        assert embed(foreign(tmp_path / "theirs", []), tmp_path / "out", weights) == 0
        assert np.load(tmp_path / "out/img_emb/img_emb_00000.npy").shape == (0, 16)
        assert pq.read_table(tmp_path / "out/metadata/metadata_00000.parquet").num_rows == 0


class TestFolder:
    def test_pictures_with_captions(self, tmp_path: Path, weights: str) -> None:
        folder = write_pictures(tmp_path / "val2017", "000000000042.jpg", "000000000073.jpg")
        (folder / "000000000099.jpg").write_bytes(b"damaged")
        (folder / "index.html").write_text("no picture")
        annotations = write_annotations(
            tmp_path / "captions.json",
            [{"id": n, "file_name": f"{n:012d}.jpg", "coco_url": f"http://c/{n}"} for n in (42, 73, 99, 100)],
            [{"id": 1, "image_id": 42, "caption": "a rug"}],
        )
        assert embed_folder(folder, tmp_path / "out", weights, "--annotations", annotations) == 0
        rows = pq.read_table(tmp_path / "out/metadata/metadata_00000.parquet").to_pylist()
        told = [[row[name] for name in ("key", "image_path", "shard", "caption", "url")] for row in rows]
        assert told == [
            *6 * [["000000000042", "000000000042.jpg", None, "a rug", "http://c/42"]],
            *6 * [["000000000073", "000000000073.jpg", None, None, "http://c/73"]],
        ]
        sums = [hashlib.sha256(picture(n)).hexdigest() for n in (0, 1)]
        assert [row["sha256"] for row in rows] == [*6 * [sums[0]], *6 * [sums[1]]]
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        told = {"kind": "images", "path": f"../{folder.name}", "sha256": manifest["input"][0]["sha256"]}
        assert manifest["source"] == told
        assert manifest["funnel"] == {
            "rows_read": 5,
            "success": 2,
            "other_file": 1,
            "file_missing": 1,
            "not_an_image": 1,
        }

    def test_a_rotated_picture_is_embedded_upright(self, tmp_path: Path, weights: str) -> None:
        """The same picture stored on its side with an EXIF orientation has the same vector."""
        from PIL import Image

        (tmp_path / "val").mkdir()
        noise = np.random.default_rng(3).integers(0, 256, (8, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        upright = Image.fromarray(noise)
        exif = Image.Exif()
        exif[images.EXIF_ORIENTATION] = 6
        upright.save(tmp_path / "val/a.png")
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "val/b.png", exif=exif)
        assert embed_folder(tmp_path / "val", tmp_path / "out", weights) == 0
        vectors = np.load(tmp_path / "out/img_emb/img_emb_00000.npy")
        np.testing.assert_array_equal(vectors[:6], vectors[6:])
        rows = pq.read_table(tmp_path / "out/metadata/metadata_00000.parquet").to_pylist()
        assert {(row["width"], row["height"]) for row in rows} == {(48, 64)}


class TestViews:
    """The rows of a picture's views stand together; all but the vector is the whole picture's."""

    def test_a_folders_pictures_have_six(
        self, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg", "b.jpg")
        assert embed_folder(folder, tmp_path / "six", weights) == 0
        assert "six, 6 views of each picture; next: gesso match" in capsys.readouterr().out
        rows = pq.read_table(tmp_path / "six/metadata/metadata_00000.parquet").to_pylist()
        vectors = np.load(tmp_path / "six/img_emb/img_emb_00000.npy")
        assert [row["view"] for row in rows] == 2 * list(range(6))
        model = models.open_model(ModelSettings(weights))
        for number in range(2):
            pixels = images.decode(picture(number), images.read_header(picture(number)), 1 << 16)
            own = slice(6 * number, 6 * number + 6)
            whole = (pixels.shape[1], pixels.shape[0], images.perceptual_hash(pixels))
            assert {(row["width"], row["height"], row["phash"]) for row in rows[own]} == {whole}
            for vector, box in zip(vectors[own], views.VIEWS[6], strict=True):
                alone = model.embed(model.prepare(views.crop(pixels, box))[None])[0]
                np.testing.assert_allclose(vector.astype(float), alone.astype(float), atol=TOLERANCE)
        manifest = json.loads((tmp_path / "six/manifest.json").read_text())
        assert (manifest["settings"]["views"], manifest["samples"]) == (6, 2)
        assert (manifest["shards"][0]["count"], manifest["shards"][0]["successes"]) == (2, 2)
        assert manifest["funnel"] == {"rows_read": 2, "success": 2}

    def test_the_whole_is_the_same_with_and_without_others(self, tmp_path: Path, weights: str) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg", "b.jpg", "c.jpg")
        found = {}
        for count in (1, 6, 15):
            assert embed_folder(folder, tmp_path / str(count), weights, "--views", str(count)) == 0
            found[count] = np.load(tmp_path / f"{count}/img_emb/img_emb_00000.npy").reshape(3, count, 16)
        np.testing.assert_array_equal(found[15][:, :6], found[6])
        np.testing.assert_array_equal(found[6][:, :1], found[1])
        assert "views" not in json.loads((tmp_path / "1/manifest.json").read_text())["settings"]

    def test_shards_have_one_unless_it_is_asked_for(
        self, raw: Path, embedded: Path, weights: str, tmp_path: Path
    ) -> None:
        for name in ("plan.json", "manifest.json"):
            assert "views" not in json.loads((embedded / name).read_text())["settings"]
        assert embed(raw, tmp_path / "out", weights, "--views", "6") == 0
        assert json.loads((tmp_path / "out/plan.json").read_text())["settings"]["views"] == 6
        one, six = (pq.read_table(path / "metadata/metadata_00001.parquet") for path in (embedded, tmp_path / "out"))
        assert six["key"].to_pylist() == np.repeat(one["key"].to_pylist(), 6).tolist()

    @pytest.mark.parametrize(("count", "least"), [(1, 40), (6, 58), (15, 80)])
    def test_a_crop_has_the_pixels_that_the_model_needs(self, weights: str, count: int, least: int) -> None:
        """Decoded with its hash known, a large JPEG is scaled down, but not below what the smallest crop needs."""
        body = picture(0, 600, 320)
        model = models.open_model(ModelSettings(weights))
        sample = Sample("a", "a.jpg", lambda: body, {"phash": 16 * "0"})
        pixels = images.decode(body, images.read_header(body), least)
        expected = [model.prepare(views.crop(pixels, box)) for box in views.VIEWS[count]]
        prepared = blocks.prepare_sample(sample, model, count).pixels
        assert prepared is not None
        np.testing.assert_array_equal(prepared, np.stack(expected))
        assert pixels.shape[0] == {40: 40, 58: 80, 80: 80}[least]

    def test_other_numbers_are_refused(self, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg")
        assert embed_folder(folder, tmp_path / "out", weights, "--views", "5") == 2
        assert capsys.readouterr().err == "gesso: --views is 5: give 1, 6 or 15\n"
        assert not (tmp_path / "out").exists()

    def test_begun_with_another_number(
        self, raw: Path, embedded: Path, weights: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(embedded)
        assert embed(raw, embedded, weights, "--views", "6") == 2
        assert "views was 1, is 6; give the old ones" in capsys.readouterr().err
        assert contents(embedded) == before


class TestAgain:
    def test_finished_embeddings_are_left_alone(
        self, raw: Path, embedded: Path, weights: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in embedded.rglob("*")}
        assert embed(raw, embedded, weights) == 0
        assert "is finished: nothing to do" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in embedded.rglob("*")} == before

    def test_only_what_is_missing_is_done_again(self, raw: Path, embedded: Path, weights: str) -> None:
        before = contents(embedded)
        others = [embedded / f"{index:05d}_stats.json" for index in (0, 2)]
        times = [path.stat().st_mtime_ns for path in others]
        (embedded / "img_emb/img_emb_00001.npy").write_bytes(b"damaged")
        assert embed(raw, embedded, weights) == 0
        assert contents(embedded) == before
        assert [path.stat().st_mtime_ns for path in others] == times

    @pytest.mark.parametrize("threads", ["1", "3"])
    def test_the_bytes_do_not_depend_on_the_threads(
        self, raw: Path, embedded: Path, weights: str, tmp_path: Path, threads: str
    ) -> None:
        assert embed(raw, tmp_path / "out", weights, "--threads", threads) == 0
        assert contents(tmp_path / "out") == contents(embedded)

    def test_nor_on_the_order_in_which_pictures_are_decoded(
        self, raw: Path, embedded: Path, weights: str, tmp_path: Path
    ) -> None:
        """Blocks in the reverse order, and each batch's pictures in the reverse order, one after the other."""
        from concurrent.futures import Future

        from gesso.pipelines.embed import pictures

        class Backwards(blocks.BlockEmbedder):
            def _submit(self, batch: list[pictures.Sample]) -> "Future[blocks.EmbeddedSamples]":
                decoded = [blocks.prepare_sample(sample, self.model, 1) for sample in reversed(batch)]
                decoding: list[Future[blocks.PreparedSample]] = [Future() for _ in batch]
                for future, item in zip(reversed(decoding), decoded, strict=True):
                    future.set_result(item)
                return self._model_threads.submit(blocks.embed_batch, decoding, self.model)

        embedder = Backwards(ModelSettings(weights, device="cpu"), EmbedSettings(5, 2))
        for block in reversed(pictures.open_shards(str(raw)).blocks):
            embedder.embed_block(str(tmp_path), block)
        names = [name for name in contents(embedded) if "/" in name]
        assert contents(tmp_path) == {name: contents(embedded)[name] for name in names}

    def test_killed_and_started_again_it_ends_with_the_same_bytes(
        self, raw: Path, embedded: Path, weights: str, tmp_path: Path
    ) -> None:
        """The kill comes while the second block's rows are written, its vectors are whole under another name."""
        code = f"""
import os, signal
from gesso import cli
from gesso.pipelines.embed import blocks
begin = blocks.pa.RecordBatch.from_pylist
class Deadly:
    from_pylist = staticmethod(lambda rows, schema: rows[0]["shard"] == 1 and os.kill(os.getpid(), {signal.SIGKILL})
        or begin(rows, schema))
class Arrow:
    RecordBatch, schema = Deadly, blocks.pa.schema
blocks.pa = Arrow
cli.main({flags(raw, tmp_path / "out", weights)!r})
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=compiled())
        assert process.returncode == -signal.SIGKILL
        left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert "manifest.json" not in left
        assert "00001_stats.json" not in left
        assert [name for name in left if ".tmp-" in name]
        assert embed(raw, tmp_path / "out", weights) == 0
        assert contents(tmp_path / "out") == contents(embedded)

    @pytest.mark.slow
    def test_two_processes_write_the_same_bytes(self, raw: Path, embedded: Path, weights: str, tmp_path: Path) -> None:
        beam = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
        command = [sys.executable, "-m", "gesso", *flags(raw, tmp_path / "out", weights), *beam]
        subprocess.run(command, check=True, capture_output=True, env=compiled())
        assert contents(tmp_path / "out") == contents(embedded)


class TestMistakes:
    """One line, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            ([], "give either --shards or --images"),
            (["--shards", "{raw}", "--images", "{t}"], "give either --shards or --images"),
            (
                ["--shards", "{raw}", "--annotations", "x.json"],
                "--annotations is for --images: shards have their own captions",
            ),
            (["--shards", "{t}/none"], "holds no shards"),
            (["--shards", "{cut}"], "00000.tar is cut off"),
            (["--images", "{t}/none"], "holds no pictures"),
            (["--shards", "{raw}", "--model", "ViT-B32"], "a model of open_clip: similar names are ViT-B-32"),
            (["--shards", "{raw}", "--model", "ViT-B-32"], "ViT-B-32 needs weights"),
            (["--shards", "{raw}", "--model", "{t}/none.safetensors"], "none.safetensors"),
            (["--shards", "{raw}", "--device", "tpu"], "--device is 'tpu': give one of auto, cpu, cuda"),
            (["--shards", "{raw}", "--batch_size", "0"], "--batch_size is 0: give 1 or more"),
            (["--shards", "{raw}", "--bach_size", "3"], "unknown flag --bach_size"),
        ],
    )
    def test_one_line(
        self,
        raw: Path,
        weights: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        argv: list[str],
        message: str,
    ) -> None:
        cut = foreign(tmp_path / "cut", [{"jpg": picture(1)}])
        (cut / "00000.tar").write_bytes((cut / "00000.tar").read_bytes()[:1024])
        given = [item.format(raw=raw, t=tmp_path, cut=cut) for item in argv]
        model = [] if "--model" in given else ["--model", weights]
        assert cli.main(["embed", *given, *model, "--output", str(tmp_path / "out")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("gesso: ")
        assert message in lines[0]
        assert not (tmp_path / "out").exists()

    def test_a_shard_that_is_damaged_in_its_middle(
        self, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = Path(write_dataset(tmp_path / "raw"))
        body = bytearray((raw / "00001.tar").read_bytes())
        with tarfile.open(raw / "00001.tar") as tar:
            begin = tar.getmembers()[6].offset
        body[begin : begin + 512] = b"\xff" * 512
        (raw / "00001.tar").write_bytes(body)
        assert embed(raw, tmp_path / "out", weights) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith(f"gesso: {raw}/00001.tar is damaged (2 samples can be read, its marker counts 12)")
        assert not (tmp_path / "out/manifest.json").exists()
        assert not (tmp_path / "out/00001_stats.json").exists()

    def test_other_settings_and_another_model_are_refused(
        self, raw: Path, embedded: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(embedded)
        other = DetectorConfig(backbone="resnet50", width=0.05, image_size=64, dimension=16)
        detector.save(detector.build(other), other, str(tmp_path / "other.safetensors"))
        assert embed(raw, embedded, str(tmp_path / "other.safetensors"), "--precision", "bf16") == 2
        error = capsys.readouterr().err
        assert "was begun with other settings: sha256 was '" in error
        assert "image_size was 32, is 64; precision was 'auto', is 'bf16'" in error
        assert contents(embedded) == before

    def test_other_shards_are_refused(
        self, raw: Path, embedded: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = Path(write_dataset(tmp_path / "raw"))
        assert embed(other, embedded, weights) == 2
        assert " is not the same shards (184,320 bytes then, 122,880 now); " in capsys.readouterr().err

    def test_the_same_command_goes_on_after_a_move(
        self, raw: Path, embedded: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        moved, output = (Path(shutil.copytree(path, tmp_path / path.name)) for path in (raw, embedded))
        assert embed(moved, output, weights) == 0
        assert f"{output} is finished: nothing to do" in capsys.readouterr().out

    def test_a_directory_with_other_things_in_it_is_refused(
        self, raw: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        assert embed(raw, tmp_path, weights) == 2
        assert "already holds thesis.tex" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
