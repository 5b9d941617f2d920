"""Files found, read and written whole or not at all: on this machine and on a filesystem of Beam, in memory."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import files
from pipelines.files import Found
from tests.filesystems import Memory


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder, on each of the two kinds of filesystem."""
    Memory.objects.clear()
    yield str(tmp_path) if request.param == "local" else "memory://bucket/out"
    Memory.objects.clear()


def put(path: str, data: bytes) -> None:
    with files.write_whole(path) as stream:
        stream.write(data)


def read(path: str) -> bytes:
    with files.open_input(path) as stream:
        return stream.read()


def everything(root: str) -> list[str]:
    return [found.path.removeprefix(root + "/") for found in files.find(files.join(root, "**"))]


def test_what_is_written_is_read(root: str) -> None:
    path = files.join(root, "rejected", "00000.tar")
    assert not files.exists(path)
    put(path, b"\0\xff\r\n")
    assert files.exists(path)
    assert read(path) == b"\0\xff\r\n"
    assert everything(root) == ["rejected/00000.tar"]


def test_a_later_file_takes_the_place_of_an_earlier(root: str) -> None:
    path = files.join(root, "a")
    put(path, b"one")
    put(path, b"two")
    assert read(path) == b"two"
    assert everything(root) == ["a"]


def test_nothing_shows_before_the_end(root: str) -> None:
    path = files.join(root, "a")
    with files.write_whole(path) as stream:
        stream.write(b"half")
        assert not files.exists(path)
    assert read(path) == b"half"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_failure_leaves_everything_as_it_was(root: str, error: type[BaseException], before: bytes | None) -> None:
    path = files.join(root, "a")
    if before is not None:
        put(path, before)

    def fail() -> None:
        with files.write_whole(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert everything(root) == ([] if before is None else ["a"])
    assert before is None or read(path) == before


def test_two_writers_of_one_file_do_not_meet(root: str) -> None:
    path = files.join(root, "a")
    with files.write_whole(path) as first, files.write_whole(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert read(path) == b"first"
    assert everything(root) == ["a"]


def test_find_is_sorted_and_knows_sizes(root: str) -> None:
    for name, data in {"b.tar": b"123", "a.tar": b"1", "c.txt": b"12", "d/e.tar": b"1234"}.items():
        put(files.join(root, name), data)
    assert files.find(files.join(root, "*.tar")) == [
        Found(files.join(root, "a.tar"), 1),
        Found(files.join(root, "b.tar"), 3),
    ]
    assert files.find(files.join(root, "*", "*.tar")) == [Found(files.join(root, "d", "e.tar"), 4)]
    assert files.find(files.join(root, "a.tar")) == [Found(files.join(root, "a.tar"), 1)]
    assert files.find(files.join(root, "none*")) == []


def test_find_leaves_folders_out(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    assert files.find(str(tmp_path / "*.tar")) == []


def test_json(root: str) -> None:
    path = files.join(root, "a.json")
    value = {"ü": [1, 2.5, None, True], "b": {"c": "日本"}}
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert read(path) == (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def test_a_value_that_is_no_json_leaves_nothing(root: str) -> None:
    with pytest.raises(TypeError):
        files.write_json(files.join(root, "a.json"), {1, 2})
    assert everything(root) == []


def test_a_missing_file(root: str) -> None:
    path = files.join(root, "none")
    with pytest.raises(OSError, match="none"):
        files.open_input(path)
    files.remove(path)


def test_remove(root: str) -> None:
    path = files.join(root, "a")
    put(path, b"1")
    files.remove(path)
    assert not files.exists(path)
    assert everything(root) == []


def test_compressed_files_keep_their_own_bytes(root: str) -> None:
    path = files.join(root, "a.gz")
    put(path, b"no gzip at all")
    assert read(path) == b"no gzip at all"


def test_input_is_seekable(root: str) -> None:
    put(files.join(root, "a"), b"0123456789")
    with files.open_input(files.join(root, "a")) as stream:
        stream.seek(-3, io.SEEK_END)
        assert stream.read() == b"789"
        assert stream.seek(2) == 2
        assert stream.read(2) == b"23"


def test_a_local_path_is_relative_to_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put("a", b"1")
    put("b/c", b"2")
    assert (read("a"), read("b/c")) == (b"1", b"2")


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("out", "a"), "out/a"),
        (("out/", "a", "b"), "out/a/b"),
        (("/", "a"), "/a"),
        (("/", "a", "b"), "/a/b"),
        (("gs://bucket", "a"), "gs://bucket/a"),
        (("gs://bucket/x/", "a"), "gs://bucket/x/a"),
        ((".", "a"), "./a"),
    ],
)
def test_join(parts: tuple[str, ...], joined: str) -> None:
    assert files.join(*parts) == joined


@pytest.mark.parametrize(
    ("path", "local"), [("a", True), ("/a/b", True), ("C:\\a", True), ("gs://b/a", False), ("memory://b/a", False)]
)
def test_is_local(path: str, local: bool) -> None:
    assert files.is_local(path) == local


def test_ranges_are_read_here_and_there(root: str) -> None:
    path = files.join(root, "a")
    put(path, b"0123456789")
    ranges = files.Ranges(path)
    assert ranges.size == 10
    assert [ranges.read(7, 2), ranges.read(0, 3), ranges.read(8, 5), ranges.read(10, 1)] == [b"78", b"012", b"89", b""]


def test_ranges_of_no_file(root: str) -> None:
    with pytest.raises(OSError, match="none"):
        files.Ranges(files.join(root, "none"))


def test_only_empty_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(str(tmp_path / "full/a"), b"")
    files.remove_empty(*(str(tmp_path / name) for name in ("empty", "full", "none")))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
