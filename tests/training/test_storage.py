"""Files on this machine and on fsspec's filesystem in memory: the same answers from both."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipelines.files import join
from training import storage
from training.storage import OpenFiles, Range


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder of either kind."""
    if request.param == "local":
        yield str(tmp_path)
        return
    yield "memory://storage/some"
    fsspec.filesystem("memory").store.clear()


def write(path: str, body: bytes) -> str:
    with storage.write_whole(path) as stream:
        stream.write(body)
    return path


def test_what_is_written_is_read(folder: str) -> None:
    path = write(join(folder, "deep", "a.bin"), b"0123456789")
    assert storage.exists(path)
    assert storage.read(path) == b"0123456789"
    with storage.open_input(path) as stream:
        assert (stream.read(3), stream.read()) == (b"012", b"3456789")


def test_ranges(folder: str) -> None:
    one, other = write(join(folder, "a"), b"0123456789"), write(join(folder, "b"), b"abc")
    ranges = [Range(one, 8, 2), Range(other, 0, 1), Range(one, 0, 4), Range(other, 1, 9), Range(one, 5, 0)]
    assert storage.read_ranges(ranges) == [b"89", b"a", b"0123", b"bc", b""]
    assert storage.read_ranges([]) == []


def first_byte(path: str) -> bytes:
    return storage.read_ranges([Range(path, 0, 1)])[0]


def test_json(folder: str) -> None:
    storage.write_json(join(folder, "a.json"), {"name": "«ö»", "steps": [1, 2]})
    assert storage.read_json(join(folder, "a.json")) == {"name": "«ö»", "steps": [1, 2]}
    assert storage.read(join(folder, "a.json")).decode() == '{\n "name": "«ö»",\n "steps": [\n  1,\n  2\n ]\n}\n'
    write(join(folder, "b.json"), b"{")
    with pytest.raises(ValueError, match="Expecting"):
        storage.read_json(join(folder, "b.json"))


def test_a_folders_files_and_their_sizes(folder: str) -> None:
    for name, size in (("b", 3), ("a", 0), ("deep/c", 5)):
        write(join(folder, name), b"x" * size)
    assert list(storage.sizes(folder).items()) == [("a", 0), ("b", 3)]
    assert storage.sizes(folder + "/") == storage.sizes(folder)
    assert storage.sizes(join(folder, "deep")) == {"c": 5}
    assert storage.sizes(join(folder, "none")) == {}
    assert storage.sizes(join(folder, "b")) == {}


def test_what_is_not_there(folder: str) -> None:
    path = join(folder, "none")
    assert not storage.exists(path)
    for read in (
        storage.read,
        storage.open_input,
        storage.read_json,
        lambda name: storage.read_ranges([Range(name, 0, 1)]),
    ):
        with pytest.raises(FileNotFoundError):
            read(path)


def test_a_file_takes_the_place_of_another_when_it_is_whole(folder: str) -> None:
    path = write(join(folder, "a"), b"old")
    with storage.write_whole(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert storage.read(path) == b"old"
    assert storage.read(path) == b"new"
    assert list(storage.sizes(folder)) == ["a"]


def break_off(path: str, error: BaseException) -> None:
    with storage.write_whole(path) as stream:
        stream.write(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_breaks_off_leaves_nothing(folder: str, error: BaseException) -> None:
    path = write(join(folder, "a"), b"old")
    with pytest.raises(type(error)):
        break_off(path, error)
    assert storage.read(path) == b"old"
    assert list(storage.sizes(folder)) == ["a"]


def test_remove(folder: str) -> None:
    path = write(join(folder, "a"), b"x")
    storage.remove(path)
    assert not storage.exists(path)
    storage.remove(path)


class TestOpenFiles:
    def test_the_last_used_stay_open_up_to_a_limit(self, tmp_path: Path) -> None:
        paths = [write(str(tmp_path / f"{number}"), b"%d" % number) for number in range(40)]
        before, opened = len(os.listdir("/proc/self/fd")), OpenFiles(4)
        assert [opened.read(Range(path, 0, 9)) for path in paths] == [b"%d" % number for number in range(40)]
        assert len(os.listdir("/proc/self/fd")) == before + 4
        del opened
        assert len(os.listdir("/proc/self/fd")) == before

    def test_threads_that_push_each_others_files_out(self, tmp_path: Path) -> None:
        paths = [write(str(tmp_path / f"{number}"), b"%d" % number) for number in range(8)]
        opened = OpenFiles(1)
        wanted = [number % 8 for number in range(2000)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: opened.read(Range(paths[number], 0, 9)), wanted))
        assert found == [b"%d" % number for number in wanted]
