"""Thumbnails of an index: its pictures come by byte range from the tars of others."""

from pathlib import Path

import pytest

from gesso import images
from gesso.dedup.review import thumbnails
from gesso.dedup.review.thumbnails import ThumbnailRequest
from gesso.pipelines.embed import pictures
from tests import indexes

SIDE = 32


@pytest.fixture
def index(tmp_path: Path) -> str:
    return indexes.write_index(tmp_path / "index", indexes.write_sources(tmp_path / "theirs", (6, 5)))


def requests(index: str) -> list[ThumbnailRequest]:
    """One for each sample, by what its embedding's metadata tells."""
    samples = (sample for block in pictures.open_shards(index).blocks for sample in block.samples())
    told = ((sample.fields["shard"], sample.image_path) for sample in samples)
    return [ThumbnailRequest(number, shard, path, SIDE) for number, (shard, path) in enumerate(told)]


def make(folder: Path, index: str, wanted: list[ThumbnailRequest]) -> dict[int, str]:
    found = dict[int, str]()
    for failed in thumbnails.make_thumbnails(str(folder), thumbnails.split_tasks(index, wanted)):
        found |= failed
    return found


def test_of_the_four_formats_and_of_long_keys(index: str, tmp_path: Path) -> None:
    assert make(tmp_path / "thumbs", index, requests(index)) == {}
    for number in range(11):
        body = indexes.picture(number)
        small = (tmp_path / "thumbs" / thumbnails.thumbnail_name(number)).read_bytes()
        assert small == images.thumbnail(body, images.read_header(body), SIDE)


def test_what_is_not_there_has_a_reason(index: str, tmp_path: Path) -> None:
    wanted = requests(index)
    wanted[2] = wanted[2]._replace(path="unknown.jpg")
    wanted[3] = wanted[3]._replace(path=None)
    (tmp_path / "theirs/part-1.tar").unlink()
    absent, unreadable = dict.fromkeys((2, 3), "absent"), dict.fromkeys(range(6, 11), "unreadable")
    assert make(tmp_path / "thumbs", index, wanted) == absent | unreadable
