"""Pictures by byte range: few reads, whatever lies between them."""

from pathlib import Path
from typing import Any

import pytest

from gesso import storage
from gesso.dataset import index
from gesso.errors import UserError
from tests import indexes

KIB = 1 << 10


def test_neighbours_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(number % 251 for number in range(400 * KIB))
    (tmp_path / "a.tar").write_bytes(content)
    reads: list[tuple[int, int]] = []
    read = storage.Ranges.read
    monkeypatch.setattr(
        storage.Ranges, "read", lambda self, offset, size: (reads.append((offset, size)), read(self, offset, size))[1]
    )
    places = [(512, 100), (1024, 0), (1024 + 64 * KIB, 700), (200 * KIB, 5), (200 * KIB + 512, 100 * KIB)]
    assert list(index.read_bodies(str(tmp_path / "a.tar"), places)) == [content[at : at + size] for at, size in places]
    assert reads == [(512, 512 + 64 * KIB + 700), (200 * KIB, 100 * KIB + 512)]


def test_a_read_has_a_limit() -> None:
    places = [(number * index.READ // 4, index.READ // 4) for number in range(6)] + [(2 * index.READ, 3 * index.READ)]
    assert [len(group) for group in index.groups(places)] == [4, 2, 1]


def test_a_tar_that_ends_before(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match=r"a\.tar ends before byte 1,010: it has changed since it was indexed"):
        list(index.read_bodies(str(tmp_path / "a.tar"), [(10, 5), (900, 110)]))


def test_rows_of_taken_samples(tmp_path: Path) -> None:
    indexes.write_tar(tmp_path / "a.tar", [("a", {"txt": b"no picture"}), indexes.sample(1), indexes.sample(2)])
    output = indexes.write_index(tmp_path / "index", [tmp_path / "a.tar"])
    assert index.read_taken(output, 0, ["key"]).to_pydict() == {"key": [indexes.key(1), indexes.key(2)]}
    assert index.read_taken(output, 0).column_names[-3:] == ["image_offset", "image_bytes", "image_format"]
    (tmp_path / "index/00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"00000\.parquet cannot be read .*`gesso verify` tells what is damaged"):
        index.read_taken(output, 0)


def test_the_tars_of_what_is_no_index(tmp_path: Path) -> None:
    assert (index.read_tars(str(tmp_path)), index.is_index(str(tmp_path))) == ({}, False)
    for value in ({"shards": []}, {"kind": "embeddings"}):
        storage.write_json(str(tmp_path / "manifest.json"), value)
        assert (index.read_tars(str(tmp_path)), index.is_index(str(tmp_path))) == ({}, False)


@pytest.fixture
def made(tmp_path: Path) -> Any:
    return indexes.write_index(tmp_path / "index", indexes.write_sources(tmp_path / "theirs"))


def test_the_tars_of_an_index(made: str, tmp_path: Path) -> None:
    found = index.read_tars(made)
    assert [tar.path for tar in found.values()] == [str(tmp_path / f"theirs/part-{number}.tar") for number in range(2)]
    index.check_tars(made, found.values())
