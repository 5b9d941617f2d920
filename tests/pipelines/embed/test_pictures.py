"""Samples of shards and folders, and what is refused before anything is embedded."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from gesso import storage
from gesso.dataset.collection import open_collection
from gesso.errors import Rejected, UserError
from gesso.pipelines.embed import pictures
from tests import indexes
from tests.datasets import picture, write_dataset


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return Path(write_dataset(tmp_path / "raw"))


def foreign(folder: Path, samples: list[dict[str, bytes]]) -> Path:
    """A shard as img2dataset writes it: keys by position, a marker without sizes."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, sample in enumerate(samples):
            for suffix, body in sample.items():
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    marker = {"count": len(samples), "successes": len(samples), "status_dict": {"success": len(samples)}}
    (folder / "00000_stats.json").write_text(json.dumps(marker))
    return folder


def write_pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return folder


def write_annotations(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return str(path)


class TestShards:
    def test_ours(self, raw: Path) -> None:
        source = pictures.open_shards(str(raw))
        assert (source.kind, source.path, source.count) == ("shards", str(raw), 24)
        assert [(block.index, block.count) for block in source.blocks] == [(0, 12), (1, 12)]
        samples = list(source.blocks[1].samples())
        with tarfile.open(raw / "00001.tar") as tar:
            members = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        assert [sample.image_path for sample in samples] == [name for name in members if name.endswith(".jpg")]
        assert [sample.read() for sample in samples] == [members[sample.image_path] for sample in samples]
        assert {sample.fields["shard"] for sample in samples} == {1}
        value = [json.loads(members[f"{sample.key}.json"]) for sample in samples]
        assert [sample.fields["caption"] for sample in samples] == [row["caption"] for row in value]
        assert [sample.fields["phash"] for sample in samples] == [row["phash"] for row in value]

    def test_input_tells_other_shards(self, raw: Path, tmp_path: Path) -> None:
        first = pictures.open_shards(str(raw)).input
        other = pictures.open_shards(write_dataset(tmp_path / "other", 2, 30)).input
        manifest = hashlib.sha256((raw / "manifest.json").read_bytes()).hexdigest()
        sums = {"sha256": first[0]["sha256"], "manifest_sha256": manifest}
        assert pictures.open_shards(str(raw)).sha256 == open_collection(str(raw)).sha256 == manifest
        assert first == [{"path": str(raw), "shards": 2, "bytes": 122_880, **sums}]
        assert first[0]["sha256"] != other[0]["sha256"]

    def test_img2datasets_own(self, tmp_path: Path) -> None:
        value = {"url": "http://a.example/1", "caption": None, "width": 40, "key": "000000000"}
        folder = foreign(
            tmp_path / "theirs",
            [
                {"jpg": picture(1), "txt": b"from the text", "json": json.dumps(value).encode()},
                {"webp": b"a body", "json": b"{broken"},
                {"txt": b"a caption alone"},
            ],
        )
        samples = list(pictures.open_shards(str(folder)).blocks[0].samples())
        assert [(sample.key, sample.image_path) for sample in samples] == [
            ("000000000", "000000000.jpg"),
            ("000000001", "000000001.webp"),
            ("000000002", "000000002.jpg"),
        ]
        assert samples[0].fields == {**value, "caption": "from the text", "shard": 0}
        assert samples[1].fields == {"caption": None, "shard": 0}
        assert samples[1].read() == b"a body"
        with pytest.raises(Rejected) as caught:
            samples[2].read()
        assert caught.value.reason == "picture_missing"

    def test_no_shards(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no shards: give the --output of a `gesso collect`"):
            pictures.open_shards(str(tmp_path))

    def test_a_collection_that_goes_on(self, tmp_path: Path) -> None:
        output = write_dataset(tmp_path / "raw", finished=False)
        with pytest.raises(UserError, match="is not finished: run the same `gesso collect` again to resume it"):
            pictures.open_shards(output)

    def test_a_tar_without_a_marker(self, raw: Path) -> None:
        (raw / "00002.tar").write_bytes((raw / "00001.tar").read_bytes())
        with pytest.raises(UserError, match=r"00002\.tar has no marker with its size"):
            pictures.open_shards(str(raw))

    @pytest.mark.parametrize("left", [0, 512, 5000])
    def test_a_tar_of_another_size(self, raw: Path, left: int) -> None:
        (raw / "00001.tar").write_bytes((raw / "00001.tar").read_bytes()[:left])
        with pytest.raises(UserError, match=r"00001\.tar is missing or damaged: `gesso verify"):
            pictures.open_shards(str(raw))

    def test_a_shard_that_is_gone(self, raw: Path) -> None:
        for path in raw.glob("00001*"):
            path.unlink()
        with pytest.raises(UserError, match=r"00001\.tar is missing or damaged"):
            pictures.open_shards(str(raw))

    def test_tars_without_statistics_are_to_be_indexed(self, tmp_path: Path) -> None:
        indexes.write_sources(tmp_path)
        with pytest.raises(UserError, match=rf"`gesso index '{tmp_path}/\*\.tar' --output …` makes an index of them"):
            pictures.open_shards(str(tmp_path))

    def test_their_tar_that_is_cut_off(self, tmp_path: Path) -> None:
        folder = foreign(tmp_path / "theirs", [{"jpg": picture(n), "txt": b"x"} for n in range(4)])
        body = (folder / "00000.tar").read_bytes()
        (folder / "00000.tar").write_bytes(body[:3000])
        with pytest.raises(UserError, match=r"00000\.tar is cut off"):
            pictures.open_shards(str(folder))

    def test_their_tar_that_is_none(self, tmp_path: Path) -> None:
        folder = foreign(tmp_path / "theirs", [{"jpg": picture(1)}])
        (folder / "00000.tar").write_bytes(b"x" * 10_240)
        with pytest.raises(UserError, match=r"00000\.tar is not a tar"):
            pictures.open_shards(str(folder))

    def test_damage_in_the_middle_names_the_shard(self, raw: Path) -> None:
        body = bytearray((raw / "00000.tar").read_bytes())
        with tarfile.open(raw / "00000.tar") as tar:
            begin = tar.getmembers()[9].offset
        body[begin : begin + 512] = b"\xff" * 512
        (raw / "00000.tar").write_bytes(body)
        samples = pictures.open_shards(str(raw)).blocks[0].samples()
        with pytest.raises(UserError, match=r"00000\.tar is damaged \(3 samples can be read, its marker counts 12\)"):
            list(samples)


class TestIndex:
    @pytest.fixture
    def tars(self, tmp_path: Path) -> list[Path]:
        return indexes.write_sources(tmp_path / "theirs")

    def test_pictures_come_by_range(self, tars: list[Path], tmp_path: Path) -> None:
        source = pictures.open_shards(indexes.write_index(tmp_path / "index", tars))
        assert (source.kind, source.count, [block.path for block in source.blocks]) == (
            "shards",
            11,
            list(map(str, tars)),
        )
        samples = [sample for block in source.blocks for sample in block.samples()]
        assert [sample.key for sample in samples] == [indexes.key(number) for number in range(11)]
        assert [sample.read() for sample in samples] == [indexes.picture(number) for number in range(11)]
        assert [sample.image_path.rpartition(".")[2] for sample in samples[:4]] == ["jpg", "png", "webp", "gif"]
        assert [sample.fields["shard"] for sample in samples] == [0] * 6 + [1] * 5
        assert samples[3].fields["caption"] == "A picture of number 3 — «ö»"
        assert samples[3].fields["sha256"] == hashlib.sha256(indexes.picture(3)).hexdigest()

    def test_what_was_not_taken_is_no_sample(self, tmp_path: Path) -> None:
        tar = tmp_path / "a.tar"
        indexes.write_tar(tar, [("a", {"txt": b"no picture"}), indexes.sample(1)])
        (block,) = pictures.open_shards(indexes.write_index(tmp_path / "index", [tar])).blocks
        assert [sample.key for sample in block.samples()] == [indexes.key(1)]

    def test_input(self, tars: list[Path], tmp_path: Path) -> None:
        output = indexes.write_index(tmp_path / "index", tars)
        manifest = hashlib.sha256((tmp_path / "index/manifest.json").read_bytes()).hexdigest()
        source, size = pictures.open_shards(output), sum(tar.stat().st_size for tar in tars)
        assert source.input == [{"path": output, "manifest_sha256": manifest, "shards": 2, "bytes": size}]
        assert source.sha256 == manifest

    def test_tars_move_with_their_index(self, tars: list[Path], tmp_path: Path) -> None:
        indexes.write_index(tmp_path / "index", tars)
        (tmp_path / "other").mkdir()
        for name in ("index", "theirs"):
            (tmp_path / name).rename(tmp_path / "other" / name)
        (first, _) = pictures.open_shards(str(tmp_path / "other/index")).blocks
        assert next(first.samples()).read() == indexes.picture(0)

    @pytest.mark.parametrize(
        ("change", "message"), [(Path.unlink, "is gone"), (lambda tar: tar.write_bytes(b"x"), "has 1 bytes, ")]
    )
    def test_a_tar_that_has_changed(self, tars: list[Path], tmp_path: Path, change: Any, message: str) -> None:
        output = indexes.write_index(tmp_path / "index", tars)
        change(tars[1])
        with pytest.raises(UserError, match=rf"part-1\.tar {message}.*: bring it back, or run `gesso index`"):
            pictures.open_shards(output)

    def test_an_index_that_is_not_finished(self, tars: list[Path], tmp_path: Path) -> None:
        output = indexes.write_index(tmp_path / "index", tars)
        (tmp_path / "index/manifest.json").unlink()
        with pytest.raises(UserError, match="is not finished: run its `gesso index` again"):
            pictures.open_shards(output)


class TestFolder:
    def test_order_keys_and_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_pictures(tmp_path / "val", "b.JPG", "a.png", "deep/c.jpeg", "d.gif", "e.webp")
        (folder / "notes.txt").write_text("no picture")
        monkeypatch.setattr(pictures, "FOLDER_BLOCK", 2)
        source = pictures.open_folder(str(folder) + "/", None)
        assert (source.kind, source.path, source.count) == ("images", str(folder), 5)
        assert source.counted_only == {"other_file": 1, "file_missing": 0}
        samples = [list(block.samples()) for block in source.blocks]
        assert [[sample.image_path for sample in block] for block in samples] == [
            ["a.png", "b.JPG"],
            ["d.gif", "deep/c.jpeg"],
            ["e.webp"],
        ]
        assert [sample.key for block in samples for sample in block] == ["a", "b", "d", "c", "e"]
        assert samples[0][0].read() == (folder / "a.png").read_bytes()

    def test_captions_of_coco(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "val2014", "COCO_val2014_000000000042.jpg", "COCO_val2014_000000000073.jpg")
        names = [f"COCO_val2014_{number:012d}.jpg" for number in (42, 74)]
        annotations = write_annotations(
            tmp_path / "captions.json",
            [{"id": 42, "file_name": names[0], "coco_url": "http://c/42"}, {"id": 74, "file_name": names[1]}],
            [
                {"image_id": 42, "id": 9, "caption": "A dog. "},
                {"image_id": 42, "id": 3, "caption": "A rug"},
                {"image_id": 74, "id": 5, "caption": "Never seen"},
            ],
        )
        source = pictures.open_folder(str(folder), annotations)
        first, second = source.blocks[0].samples()
        assert (first.key, first.fields) == (
            "COCO_val2014_000000000042",
            {"caption": "A rug / A dog.", "url": "http://c/42"},
        )
        assert second.fields == {"caption": None, "url": None}
        assert source.counted_only == {"other_file": 0, "file_missing": 1}
        body = Path(annotations).read_bytes()
        digest = hashlib.sha256(body).hexdigest()
        assert source.input[1] == {"path": annotations, "bytes": len(body), "sha256": digest}

    def test_an_added_picture_changes_the_input(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg")
        before = pictures.open_folder(str(folder), None).input
        write_pictures(folder, "a.jpg", "b.jpg")
        assert pictures.open_folder(str(folder), None).input != before

    def test_two_pictures_with_the_same_key(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "val", "x/a.jpg", "y/a.png")
        with pytest.raises(UserError, match=r"x/a\.jpg and .*y/a\.png would have the same key: rename one of them"):
            pictures.open_folder(str(folder), None)

    @pytest.mark.parametrize("body", ["[]", "{}", "no json", '{"images": [{"id": 1}]}', '{"images": 3}'])
    def test_annotations_that_are_none(self, tmp_path: Path, body: str) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg")
        (tmp_path / "notes.json").write_text(body)
        with pytest.raises(UserError, match=r"notes\.json is not in COCO's format"):
            pictures.open_folder(str(folder), str(tmp_path / "notes.json"))

    def test_annotations_of_other_pictures(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg")
        annotations = write_annotations(tmp_path / "notes.json", [{"id": 1, "file_name": "b.jpg"}], [])
        with pytest.raises(UserError, match="has no picture of"):
            pictures.open_folder(str(folder), annotations)

    def test_no_annotation_file(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg")
        with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
            pictures.open_folder(str(folder), str(tmp_path / "none.json"))

    def test_no_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(UserError, match="holds no pictures"):
            pictures.open_folder(str(tmp_path), None)

    def test_a_picture_that_went_away(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "val", "a.jpg")
        (sample,) = pictures.open_folder(str(folder), None).blocks[0].samples()
        storage.remove(str(folder / "a.jpg"))
        with pytest.raises(UserError, match=r"a\.jpg cannot be read"):
            sample.read()


def test_an_empty_shard_has_no_samples(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "theirs", [])
    assert list(pictures.open_shards(str(folder)).blocks[0].samples()) == []
