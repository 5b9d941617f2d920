"""Pictures by their place: the very bytes, rows in bounded memory, words for what is damaged; what they decode to."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gesso.errors import Rejected, UserError
from gesso.training.data.samples import SampleReader, decode
from gesso.training.data.split import Split, open_split
from tests.exports import caption, picture, write_export


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_export(tmp_path_factory.mktemp("made") / "clean", (24, 8), shard_size=10))


@pytest.fixture
def clean(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(made, tmp_path / "clean"))


class TestSampleReader:
    @pytest.mark.parametrize("cached", [1, 1000])
    def test_the_very_bytes(self, made: Path, cached: int) -> None:
        split = open_split(str(made), "train")
        shards = [place for place, shard in enumerate(split.shards) for _ in range(shard.count)]
        rows = [row for shard in split.shards for row in range(shard.count)]
        found = SampleReader(split, cached).read(shards[::-1] + shards, rows[::-1] + rows)
        number = {caption(number): number for number in range(32)}
        captions = [text for shard in split.shards for text in split.rows(shard, ["caption"])[0].to_pylist()]
        keys = [key for shard in split.shards for key in split.rows(shard, ["key"])[0].to_pylist()]
        assert [sample.key for sample in found] == keys[::-1] + keys
        assert [sample.body for sample in found[24:]] == [picture(number[text]) for text in captions]
        assert found[0].tar == f"{made}/train/00002.tar"

    def test_rows_stay_in_memory_within_bounds(self, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        split, read = open_split(str(made), "train"), list[int]()
        rows = Split.rows

        def counted(self: Split, shard: Any, columns: Any) -> pa.Table:
            read.append(shard.index)
            return rows(self, shard, columns)

        monkeypatch.setattr(Split, "rows", counted)
        assert split.counts == [10, 4, 10]
        reader = SampleReader(split, cached=20)
        for shard in (0, 0, 1, 0, 2, 0, 1, 1):  # the second, used least lately, gives way to the third
            reader.read([shard], [0])
        assert read == [0, 1, 2, 1]

    def test_a_tar_that_has_been_cut_off_meanwhile(self, clean: Path) -> None:
        split = open_split(str(clean), "train")
        tar = clean / "train/00000.tar"
        rows = pq.read_table(clean / "train/00000.parquet").to_pylist()
        tar.write_bytes(tar.read_bytes()[: rows[3]["image_offset"] + 100])
        reader = SampleReader(split, 1000)
        assert [sample.key for sample in reader.read([0, 0], [0, 2])] == [rows[0]["key"], rows[2]["key"]]
        size = f"{rows[3]['image_bytes']:,}"
        words = rf"train/00000\.tar: sample {rows[3]['key']} is truncated at 100 of {size} bytes: `gesso"
        with pytest.raises(UserError, match=words):
            reader.read([0, 0], [2, 3])

    def test_a_tar_that_is_gone(self, clean: Path) -> None:
        split = open_split(str(clean), "train")
        (clean / "train/00002.tar").unlink()
        with pytest.raises(UserError, match=r"train: a shard cannot be read \(.*00002\.tar.*\): `gesso verify") as told:
            SampleReader(split, 1000).read([0, 2], [0, 0])
        assert "\n" not in str(told.value)

    def test_the_words_for_a_picture_that_is_none(self, made: Path) -> None:
        reader = SampleReader(open_split(str(made), "train"), 1000)
        (sample,) = reader.read([1], [0])
        broken = reader.refusal(sample, Rejected("undecodable", "jpeg: bad"))
        named = f"{made}/train/00001.tar: sample {sample.key}"
        assert str(broken).startswith(f"{named} does not decode (jpeg: bad): `gesso verify")
        small = reader.refusal(sample, Rejected("too_small", "40×30: short side under 64"))
        assert str(small) == (
            f"{named} is 40×30: short side under 64: give a smaller --image_size, or collect with --min_side"
        )


class TestDecode:
    @pytest.mark.parametrize(
        ("size", "short"), [(256, 400), (200, 400), (134, 400), (133, 200), (64, 100), (33, 50), (8, 50)]
    )
    def test_a_jpeg_comes_at_12_8_of_the_view_or_more(self, size: int, short: int) -> None:
        assert decode(picture(2, side=400), size).shape == (short, short, 3)

    def test_orientation_is_undone(self) -> None:
        """img2dataset may keep a picture as its camera wrote it."""
        exif, stream = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6  # the camera lay on its side
        lying = np.zeros((60, 80, 3), np.uint8)
        lying[:, 40:] = 255
        Image.fromarray(lying).save(stream, "JPEG", exif=exif)
        upright = decode(stream.getvalue(), 64)
        assert upright.shape == (80, 60, 3)
        assert (upright[:30].max(), upright[50:].min()) == (0, 255)

    def test_no_picture(self) -> None:
        with pytest.raises(Rejected) as rejected:
            decode(b"<html>", 64)
        assert rejected.value.reason == "not_an_image"
