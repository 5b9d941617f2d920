"""Files found, read and written whole or not at all: on this machine and on fsspec's filesystem in memory."""

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from gesso import storage
from gesso.storage import Found


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder, on each of the two kinds of filesystem."""
    yield str(tmp_path) if request.param == "local" else "memory://bucket/out"
    fsspec.filesystem("memory").store.clear()


def put(path: str, data: bytes) -> None:
    with storage.write_whole(path) as stream:
        stream.write(data)


def read(path: str) -> bytes:
    with storage.open_input(path) as stream:
        return stream.read()


def everything(root: str) -> list[str]:
    return [found.path.removeprefix(root + "/") for found in storage.walk(root)]


def test_what_is_written_is_read(root: str) -> None:
    path = storage.join(root, "rejected", "00000.tar")
    assert not storage.exists(path)
    put(path, b"\0\xff\r\n")
    assert storage.exists(path)
    assert read(path) == b"\0\xff\r\n"
    assert everything(root) == ["rejected/00000.tar"]


def test_a_later_file_takes_the_place_of_an_earlier(root: str) -> None:
    path = storage.join(root, "a")
    put(path, b"one")
    put(path, b"two")
    assert read(path) == b"two"
    assert everything(root) == ["a"]


def test_nothing_shows_before_the_end(root: str) -> None:
    path = storage.join(root, "a")
    with storage.write_whole(path) as stream:
        stream.write(b"half")
        assert not storage.exists(path)
    assert read(path) == b"half"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_failure_leaves_everything_as_it_was(root: str, error: type[BaseException], before: bytes | None) -> None:
    path = storage.join(root, "a")
    if before is not None:
        put(path, before)

    def fail() -> None:
        with storage.write_whole(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert everything(root) == ([] if before is None else ["a"])
    assert before is None or read(path) == before


def test_two_writers_of_one_file_do_not_meet(root: str) -> None:
    path = storage.join(root, "a")
    with storage.write_whole(path) as first, storage.write_whole(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert read(path) == b"first"
    assert everything(root) == ["a"]


def test_glob_is_sorted_and_knows_sizes(root: str) -> None:
    for name, data in {"b.tar": b"123", "a.tar": b"1", "c.txt": b"12", "d/e.tar": b"1234"}.items():
        put(storage.join(root, name), data)
    assert storage.glob(storage.join(root, "*.tar")) == [
        Found(storage.join(root, "a.tar"), 1),
        Found(storage.join(root, "b.tar"), 3),
    ]
    assert storage.glob(storage.join(root, "*", "*.tar")) == [Found(storage.join(root, "d", "e.tar"), 4)]
    assert storage.glob(storage.join(root, "a.tar")) == [Found(storage.join(root, "a.tar"), 1)]
    assert storage.glob(storage.join(root, "none*")) == []


def test_glob_leaves_folders_out(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    assert storage.glob(str(tmp_path / "*.tar")) == []


def test_json(root: str) -> None:
    path = storage.join(root, "a.json")
    value = {"ü": [1, 2.5, None, True], "b": {"c": "日本"}}
    storage.write_json(path, value)
    assert storage.read_json(path) == value
    assert read(path) == (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def test_a_value_that_is_no_json_leaves_nothing(root: str) -> None:
    with pytest.raises(TypeError):
        storage.write_json(storage.join(root, "a.json"), {1, 2})
    assert everything(root) == []


def test_a_missing_file(root: str) -> None:
    path = storage.join(root, "none")
    with pytest.raises(OSError, match="none"):
        storage.open_input(path)
    storage.remove(path)


def test_remove(root: str) -> None:
    path = storage.join(root, "a")
    put(path, b"1")
    storage.remove(path)
    assert not storage.exists(path)
    assert everything(root) == []


def test_compressed_files_keep_their_own_bytes(root: str) -> None:
    path = storage.join(root, "a.gz")
    put(path, b"no gzip at all")
    assert read(path) == b"no gzip at all"


def test_input_is_seekable(root: str) -> None:
    put(storage.join(root, "a"), b"0123456789")
    with storage.open_input(storage.join(root, "a")) as stream:
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
    assert storage.join(*parts) == joined


@pytest.mark.parametrize(
    ("path", "local"), [("a", True), ("/a/b", True), ("C:\\a", True), ("gs://b/a", False), ("memory://b/a", False)]
)
def test_is_local(path: str, local: bool) -> None:
    assert storage.is_local(path) == local


def test_ranges_are_read_here_and_there(root: str) -> None:
    path = storage.join(root, "a")
    put(path, b"0123456789")
    ranges = storage.Ranges(path)
    assert ranges.size == 10
    assert [ranges.read(7, 2), ranges.read(0, 3), ranges.read(8, 5), ranges.read(10, 1)] == [b"78", b"012", b"89", b""]


def test_ranges_of_no_file(root: str) -> None:
    with pytest.raises(OSError, match="none"):
        storage.Ranges(storage.join(root, "none"))


def test_only_empty_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(str(tmp_path / "full/a"), b"")
    storage.remove_empty(*(str(tmp_path / name) for name in ("empty", "full", "none")))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def written(path: str, body: bytes) -> str:
    put(path, body)
    return path


def test_ranges(root: str) -> None:
    one, other = written(storage.join(root, "a"), b"0123456789"), written(storage.join(root, "b"), b"abc")
    ranges = [
        storage.Range(one, 8, 2),
        storage.Range(other, 0, 1),
        storage.Range(one, 0, 4),
        storage.Range(other, 1, 9),
        storage.Range(one, 5, 0),
    ]
    assert storage.read_ranges(ranges) == [b"89", b"a", b"0123", b"bc", b""]
    assert storage.read_ranges([]) == []


def test_a_folders_files_and_their_sizes(root: str) -> None:
    for name, size in (("b", 3), ("a", 0), ("deep/c", 5)):
        written(storage.join(root, name), b"x" * size)
    assert list(storage.sizes(root).items()) == [("a", 0), ("b", 3)]
    assert storage.sizes(root + "/") == storage.sizes(root)
    assert storage.sizes(storage.join(root, "deep")) == {"c": 5}
    assert storage.sizes(storage.join(root, "none")) == {}
    assert storage.sizes(storage.join(root, "b")) == {}


class TestOpenFiles:
    def test_the_last_used_stay_open_up_to_a_limit(self, tmp_path: Path) -> None:
        paths = [written(str(tmp_path / f"{number}"), b"%d" % number) for number in range(40)]
        before, opened = len(os.listdir("/proc/self/fd")), storage.OpenFiles(4)
        assert [opened.read(storage.Range(path, 0, 9)) for path in paths] == [b"%d" % number for number in range(40)]
        assert len(os.listdir("/proc/self/fd")) == before + 4
        del opened
        assert len(os.listdir("/proc/self/fd")) == before

    def test_threads_that_push_each_others_files_out(self, tmp_path: Path) -> None:
        paths = [written(str(tmp_path / f"{number}"), b"%d" % number) for number in range(8)]
        opened = storage.OpenFiles(1)
        wanted = [number % 8 for number in range(2000)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: opened.read(storage.Range(paths[number], 0, 9)), wanted))
        assert found == [b"%d" % number for number in wanted]
