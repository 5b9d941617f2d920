"""Pictures to learn from: found in folders and shards, decoded by their place."""

import tarfile
from pathlib import Path

import pytest

from gesso.dedup import pictures
from gesso.errors import Rejected, UserError
from tests import indexes
from tests.datasets import picture, write_dataset


def test_folders_and_shards_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "own/deep").mkdir(parents=True)
    (tmp_path / "own/deep/b.JPG").write_bytes(picture(1))
    (tmp_path / "own/a.png").write_bytes(b"any bytes")
    (tmp_path / "own/notes.txt").write_text("no picture")
    shards = write_dataset(tmp_path / "raw", 1, 10)
    rejected = tmp_path / "raw/rejected"
    (rejected / "00000.thumbnails").rename(rejected / "00000.tar")  # as old collections have them
    found = pictures.find([str(tmp_path / "own"), shards])
    names = [Path(location.path).name for location in found]
    assert names[:2] == ["a.png", "b.JPG"]
    assert names[2:] == ["00000.tar"] * 6  # the kept samples, no thumbnail of a rejected one
    with tarfile.open(f"{shards}/00000.tar") as tar:
        bodies = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    assert [Path(location.path).read_bytes()[location.offset :][: location.size] for location in found[2:8]] == bodies


def test_an_index_has_its_pictures_in_the_tars_of_others(tmp_path: Path) -> None:
    indexes.write_tar(tmp_path / "theirs/part-2.tar", [("a", {"jpg": b"no picture", "txt": b"not taken"})])
    tars = [*indexes.write_sources(tmp_path / "theirs", (3, 2)), tmp_path / "theirs/part-2.tar"]
    index = indexes.write_index(tmp_path / "index", tars)
    found = pictures.find([index])
    assert [Path(each.path).read_bytes()[each.offset :][: each.size] for each in found] == [
        indexes.picture(number) for number in range(5)
    ]
    before = pictures.content_sha256([index], found)
    (tmp_path / "other").mkdir()
    for name in ("theirs", "index"):
        (tmp_path / name).rename(tmp_path / "other" / name)
    moved = str(tmp_path / "other/index")
    assert pictures.content_sha256([moved], pictures.find([moved])) == before
    (tmp_path / "other/theirs/part-1.tar").unlink()
    with pytest.raises(UserError, match=r"part-1\.tar is gone: bring it back"):
        pictures.find([moved])


def test_a_picture_is_decoded_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(3, 400, 300))
    (location,) = pictures.find([str(tmp_path)])
    assert pictures.decode(location, 96).shape == (96, 128, 3)
    assert pictures.decode(location, 1000).shape == (300, 400, 3)


@pytest.mark.parametrize(("body", "reason"), [(picture(3, 40, 30), "too_small"), (b"<html>", "not_an_image")])
def test_what_teaches_nothing_has_a_reason(tmp_path: Path, body: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(body)
    with pytest.raises(Rejected) as rejected:
        pictures.decode(pictures.find([str(tmp_path)])[0], 96)
    assert rejected.value.reason == reason


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture"):
        pictures.find([str(tmp_path)])


def test_a_shard_that_is_cut_off(tmp_path: Path) -> None:
    shard = Path(write_dataset(tmp_path / "raw", 1, 10)) / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"00000\.tar is cut off"):
        pictures.find([str(shard.parent)])
