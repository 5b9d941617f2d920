"""Files found, read and written whole or not at all: on this machine, in memory, and on stores that fail in between."""

import argparse
import errno
import io
import json
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as registered
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso import flags, storage
from gesso.errors import UserError
from gesso.storage import Found

ODD = "a b%20#?[1]*ü"
PART = 4  # bytes


class StoreError(Exception):
    """What a library raises that has not heard of OSError."""


class Store(AsyncFileSystem):
    """An object store as s3fs and gcsfs show one: uploads in parts, seen when complete; ranges within an object alone.

    `failing` names the request that fails from now on, and after how many that do not.
    """

    protocol = "store"
    objects: ClassVar[dict[str, bytes]] = {}
    uploads: ClassVar[list[list[bytes]]] = []  # begun, and neither completed nor aborted
    requests: ClassVar[Counter[str]] = Counter()
    failing: ClassVar[dict[str, int]] = {}

    def request(self, name: str) -> None:
        self.requests[name] += 1
        if name in self.failing and self.requests[name] > self.failing[name]:
            raise StoreError(f"{name} was refused\nby the server")

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        self.request("info")
        path = self._strip_protocol(path)
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if any(name.startswith(path + "/") for name in self.objects):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.request("list")
            self.dircache[path] = found = self.listed(path)
            if not found:
                raise FileNotFoundError(path)
        else:
            found = self.dircache[path]
        return found if detail else [entry["name"] for entry in found]

    def listed(self, path: str) -> list[dict[str, Any]]:
        if path in self.objects:
            return [{"name": path, "size": len(self.objects[path]), "type": "file"}]
        found = {}
        for name, body in self.objects.items():
            first, slash, _ = name.removeprefix(path + "/").partition("/")
            if name.startswith(path + "/"):
                kind = "directory" if slash else "file"
                found[first] = {"name": f"{path}/{first}", "size": 0 if slash else len(body), "type": kind}
        return list(found.values())

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        self.request("get")
        path = self._strip_protocol(path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        body = self.objects[path]
        if start is not None and (start >= len(body) or end is None or end <= start):
            raise StoreError("416: the range is not satisfiable")
        return body[start:end]

    async def _put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        upload = list[bytes]()
        self.uploads.append(upload)
        try:
            with open(lpath, "rb") as stream:
                while part := stream.read(PART):
                    self.request("put")
                    upload.append(part)
            self.request("complete")
            self.objects[self._strip_protocol(rpath)] = b"".join(upload)
        finally:
            self.uploads.remove(upload)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        self.request("delete")
        del self.objects[self._strip_protocol(path)]


class Renaming(MemoryFileSystem):
    """A filesystem whose files grow while they are written, and which renames. Stands for two that cannot be had."""

    protocol = ("sftp", "smb")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    replaces = True
    failing: str | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        """Without the host, as theirs do."""
        path = path.partition("://host")[2] if "://" in path else path
        return path.rstrip("/")

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        super().put_file(lpath, rpath, **kwargs)
        if self.failing == "put":
            self.store[rpath].truncate(3)
            raise StoreError("the connection is gone")

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        if self.failing == "rename" or (path2 in self.store and not self.replaces):
            raise StoreError(f"{path2} is there")
        self.store[path2] = self.store.pop(path1)


@pytest.fixture
def store() -> Iterator[type[Store]]:
    fsspec.register_implementation("store", Store, clobber=True)
    yield Store
    for held in (Store.objects, Store.uploads, Store.requests, Store.failing):
        held.clear()
    Store.clear_instance_cache()


@pytest.fixture(params=["sftp", "smb"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder on a filesystem that renames; sftp's rename replaces, smb's does not."""
    monkeypatch.setitem(registered, request.param, Renaming)
    monkeypatch.setattr(Renaming, "replaces", request.param == "sftp")
    yield f"{request.param}://host/out"
    Renaming.store.clear()
    Renaming.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "memory", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path, store: type[Store]) -> Iterator[str]:
    """A folder, on each kind of filesystem."""
    yield {"local": str(tmp_path), "memory": "memory://bucket/out", "store": "store://bucket/out"}[request.param]
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


@pytest.mark.parametrize("name", [ODD, "[ab]", "*", "~", "a::b", "c://d", "%41", "ü", "a\nb"])
def test_a_name_is_taken_literally(tmp_path: Path, store: type[Store], name: str) -> None:
    for top in (str(tmp_path), "store://bucket/out"):
        folder = storage.join(top, name.replace("/", "_"))
        other, path = storage.join(top, "a", "x"), storage.join(folder, "x y[1]?.tar")
        put(other, b"other")
        put(path, b"12345")
        assert storage.files(folder) == storage.walk(folder) == storage.glob(path) == [Found(path, 5)]
        assert storage.glob(storage.join(folder, "*.tar")) == [Found(path, 5)]
        assert storage.glob(storage.join(folder, "**", "?*[]?].tar")) == [Found(path, 5)]
        assert storage.sizes(folder) == {"x y[1]?.tar": 5}
        assert (storage.read(path), storage.exists(path), storage.Ranges(path).size) == (b"12345", True, 5)
        storage.remove(path)
        assert (storage.files(folder), storage.exists(path), storage.read(other)) == ([], False, b"other")


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda name: not name.startswith(".")
)


@settings(deadline=None)  # of files, on a machine that others use, too
@given(NAMES, NAMES)
def test_any_name_is_taken_literally(folder: str, name: str) -> None:
    fsspec.register_implementation("store", Store, clobber=True)
    with tempfile.TemporaryDirectory() as here:
        for top in (here, "store://bucket"):
            path = storage.join(top, folder, name)
            put(path, name.encode())
            assert storage.files(storage.join(top, folder)) == storage.walk(top) == storage.glob(path)
            assert storage.walk(top) == [Found(path, len(name.encode()))]
            assert storage.read(path) == storage.read_ranges([storage.Range(path, 0, 999)])[0] == name.encode()
            storage.remove(path)
            assert storage.walk(top) == []


class TestSpellings:
    """One file by the names that a user may give it."""

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("form", ["{0}/{1}", "file://{0}/{1}", "local://{0}/{1}", "~/{1}", "file://~/{1}", "{1}"])
    def test_every_verb_takes_them(self, home: Path, form: str) -> None:
        folder = form.format(home, ODD)
        path = storage.join(folder, "a.json")
        storage.make_parent(path)
        assert (home / ODD).is_dir()
        storage.write_json(path, 1)
        assert (home / ODD / "a.json").read_bytes() == b"1\n"
        assert storage.read_json(path) == 1
        assert storage.exists(path)
        assert storage.exists(folder)
        assert storage.read(path) == read(path) == storage.Ranges(path).read(0, 9) == b"1\n"
        assert storage.read_ranges([storage.Range(path, 0, 1)]) == [b"1"]
        assert storage.sizes(folder) == {"a.json": 2}
        for found in (storage.files(folder), storage.walk(folder), storage.glob(path), storage.glob(folder + "/*")):
            assert [(os.path.realpath(item.path), item.size) for item in found] == [(f"{home}/{ODD}/a.json", 2)]
        assert storage.absolute(path) == storage.absolute(storage.plain(path)) == f"{home}/{ODD}/a.json"
        storage.remove(path)
        storage.remove_empty(folder)
        assert list(home.iterdir()) == []

    @pytest.mark.parametrize(
        ("given", "plain"),
        [
            ("a/b/", "a/b"),
            ("/", "/"),
            ("///", "/"),
            (".", "."),
            ("file:///a%20b/", "/a%20b"),
            ("file:///a#b?c", "/a#b?c"),
            ("~/a/", "{home}/a"),
            ("~", "{home}"),
            ("./~/a", "./~/a"),
            ("file://file://a", "./file://a"),
            ("file:a", "file:a"),
            ("gs://b/a/", "gs://b/a"),
            ("gs://b//", "gs://b"),
            ("memory://", "memory://"),
            ("./gs://b/a", "./gs://b/a"),
        ],
    )
    def test_plain(self, home: Path, given: str, plain: str) -> None:
        assert storage.plain(given) == plain.format(home=home)
        assert storage.plain(storage.plain(given)) == storage.plain(given)

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
    def test_plain_changes_nothing_twice(self, path: str) -> None:
        assert storage.plain(storage.plain(path)) == storage.plain(path)

    def test_flags_are_read_so(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        parser = argparse.ArgumentParser("gesso x")
        parser.add_argument("--output", type=flags.path)
        assert parser.parse_args(["--output", f"file://~/{ODD}/"]).output == f"{home}/{ODD}"
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(["--output", ""])
        assert capsys.readouterr().err.endswith("argument --output: it is empty: give a path\n")


class TestGlob:
    def test_a_file_of_that_name_is_no_pattern(self, root: str) -> None:
        for name in ("[ab].csv", "a.csv", "b.csv"):
            put(storage.join(root, name), b"1")
        assert storage.glob(storage.join(root, "[ab].csv")) == [Found(storage.join(root, "[ab].csv"), 1)]
        storage.remove(storage.join(root, "[ab].csv"))
        assert [item.path for item in storage.glob(storage.join(root, "[ab].csv"))] == [
            storage.join(root, name) for name in ("a.csv", "b.csv")
        ]

    def test_a_folder_of_that_name_is_no_pattern(self, root: str) -> None:
        for name in ("a/1.csv", "[ab]/2.csv"):
            put(storage.join(root, name), b"1")
        assert storage.glob(storage.join(root, "[ab]", "*.csv")) == [Found(storage.join(root, "[ab]", "2.csv"), 1)]
        assert storage.glob(storage.join(root, "[a]", "*.csv")) == [Found(storage.join(root, "a", "1.csv"), 1)]

    def test_any_number_of_folders(self, root: str) -> None:
        for name in ("1.csv", "x/2.csv", "x/y/3.csv", "x/.y/4.csv", "x/y/5.tsv"):
            put(storage.join(root, name), b"1")
        found = [item.path.removeprefix(root + "/") for item in storage.glob(storage.join(root, "**", "*.csv"))]
        assert found == ["1.csv", "x/2.csv", "x/y/3.csv"]


def test_a_folders_folders(root: str) -> None:
    for name in ("b/x", "a/deep/y", ".hidden/z", "file"):
        put(storage.join(root, name), b"1")
    assert storage.folders(root) == [storage.join(root, "a"), storage.join(root, "b")]
    assert storage.folders(storage.join(root, "b")) == []
    assert storage.folders(storage.join(root, "none")) == []
    assert storage.folders(storage.join(root, "file")) == []


def test_hidden_files_are_not_listed(root: str) -> None:
    for name in ("a", ".b", ".c/d", "e/.f/g", "e/h"):
        put(storage.join(root, name), b"1")
    assert [item.path for item in storage.files(root)] == [storage.join(root, "a")]
    assert everything(root) == ["a", "e/h"]


def test_a_dangling_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    assert storage.walk(str(tmp_path)) == storage.files(str(tmp_path)) == []


def test_a_folder_below_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(str(tmp_path / "a/b"), b"1")

    def scandir(path: str, scan: Callable[..., Any] = os.scandir) -> Any:
        if str(path).endswith("/a"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="/a'"):
        storage.walk(str(tmp_path))


def test_a_folder_stands_where_a_file_goes(tmp_path: Path) -> None:
    put(str(tmp_path / "a/b"), b"1")
    with pytest.raises(IsADirectoryError):
        put(str(tmp_path / "a"), b"2")
    assert everything(str(tmp_path)) == ["a/b"]


class TestObjectStore:
    root = "store://bucket/out"

    def test_no_object_but_the_written(self, store: type[Store]) -> None:
        put(f"{self.root}/a", b"0123456789")
        assert store.objects == {"bucket/out/a": b"0123456789"}
        assert store.requests == {"put": 3, "complete": 1}

    @pytest.mark.parametrize("before", [None, b"before"])
    @pytest.mark.parametrize(("request_name", "after"), [("put", 0), ("put", 2), ("complete", 0)])
    def test_an_upload_that_fails_leaves_nothing(
        self, store: type[Store], request_name: str, after: int, before: bytes | None
    ) -> None:
        if before is not None:
            put(f"{self.root}/a", before)
        objects = dict(store.objects)
        store.requests.clear()
        store.failing[request_name] = after
        with pytest.raises(OSError, match=f"StoreError: {request_name} was refused: 'store://bucket/out/a'"):
            put(f"{self.root}/a", b"0123456789")
        assert (store.objects, store.uploads) == (objects, [])

    def test_a_body_that_fails_asks_for_nothing(self, store: type[Store]) -> None:
        with pytest.raises(ZeroDivisionError), storage.write_whole(f"{self.root}/a") as stream:
            stream.write(bytes([1 // 0]))
        assert (store.objects, store.requests) == ({}, {})

    def test_what_others_write_is_seen_at_once(self, store: type[Store]) -> None:
        put(f"{self.root}/a", b"1")
        assert storage.sizes(self.root) == {"a": 1}
        store.objects |= {"bucket/out/b": b"22", "bucket/out/c/d": b"333"}
        assert storage.sizes(self.root) == {"a": 1, "b": 2}
        assert storage.exists(f"{self.root}/b")
        assert everything(self.root) == ["a", "b", "c/d"]

    def test_no_more_is_read_than_is_wanted(self, store: type[Store]) -> None:
        put(f"{self.root}/a", b"0123456789")
        store.requests.clear()
        ranges = storage.Ranges(f"{self.root}/a")
        assert [ranges.read(2, 3), ranges.read(9, 5), ranges.read(10, 5), ranges.read(3, 0)] == [b"234", b"9", b"", b""]
        assert store.requests == {"info": 1, "get": 2}
        wanted = [storage.Range(f"{self.root}/a", offset, size) for offset, size in ((0, 1), (4, 0), (8, 9))]
        assert storage.read_ranges(wanted) == [b"0", b"", b"89"]
        assert store.requests == {"info": 1, "get": 4}

    def test_a_stream_asks_for_blocks(self, store: type[Store], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "BLOCK", 16)
        body = bytes(range(100))
        put(f"{self.root}/a", body)
        store.requests.clear()
        with storage.open_input(f"{self.root}/a") as stream:
            assert [stream.read(3), stream.read(3), stream.tell()] == [body[:3], body[3:6], 6]
            assert store.requests == {"info": 1, "get": 1}
            stream.seek(50)
            assert stream.read() == body[50:]
            assert stream.read(1) == b""
            stream.seek(-2, io.SEEK_END)
            assert stream.read(9) == body[98:]
            with pytest.raises(OSError, match="Invalid argument"):
                stream.seek(-101, io.SEEK_END)
        assert store.requests["get"] <= 4

    def test_an_object_that_has_changed_since(self, store: type[Store]) -> None:
        put(f"{self.root}/a", b"0123456789")
        ranges = storage.Ranges(f"{self.root}/a")
        put(f"{self.root}/a", b"01234")
        with pytest.raises(OSError, match="6 bytes from 3 on were asked for, 2 came: 'store://bucket/out/a'"):
            ranges.read(3, 6)

    @pytest.mark.parametrize(
        ("request_name", "act"),
        [
            ("info", storage.exists),
            ("info", storage.open_input),
            ("info", storage.Ranges),
            ("info", storage.glob),
            ("list", storage.files),
            ("list", storage.sizes),
            ("list", storage.walk),
            ("get", storage.read),
            ("get", storage.read_json),
            ("get", lambda path: storage.read_ranges([storage.Range(path, 0, 1)])),
            ("delete", storage.remove),
        ],
    )
    def test_what_a_library_raises_is_an_oserror(
        self, store: type[Store], request_name: str, act: Callable[[str], Any]
    ) -> None:
        path = f"{self.root}/a" if request_name != "list" else self.root
        put(f"{self.root}/a", b"1")
        store.failing[request_name] = 0
        with pytest.raises(OSError, match=rf"^\[Errno 5\] StoreError: {request_name} was refused: '{path}'$"):
            act(path)

    def test_in_threads(self, store: type[Store]) -> None:
        for number in range(8):
            put(f"{self.root}/{number}", b"%d" % number)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: storage.read(f"{self.root}/{number % 8}"), range(400)))
        assert found == [b"%d" % (number % 8) for number in range(400)]

    def test_in_a_forked_process(self, store: type[Store], tmp_path: Path) -> None:
        put(f"{self.root}/a", b"0123456789")
        put(str(tmp_path / "b"), b"abc")
        ranges, fork = storage.Ranges(f"{self.root}/a"), multiprocessing.get_context("fork")
        assert ranges.read(0, 1) == b"0"  # so that the parent has a client and its thread
        receive, send = fork.Pipe(duplex=False)

        def child() -> None:
            local = storage.read_ranges([storage.Range(str(tmp_path / "b"), 1, 2)])
            send.send([ranges.read(1, 2), storage.read(f"{self.root}/a"), everything(self.root), local])

        with storage.open_files._lock:  # as another thread would
            process = fork.Process(target=child)
            process.start()
        assert receive.recv() == [b"12", b"0123456789", ["a"], [b"bc"]]
        process.join()


class TestRenaming:
    def test_nothing_but_the_file(self, renaming: str) -> None:
        put(f"{renaming}/a", b"one")
        put(f"{renaming}/a", b"two")
        put(f"{renaming}/b/c", b"three")
        assert {name: body.getvalue() for name, body in Renaming.store.items()} == {
            "/out/a": b"two",
            "/out/b/c": b"three",
        }
        assert everything(renaming) == ["a", "b/c"]
        assert storage.glob(f"{renaming}/*/c") == [Found(f"{renaming}/b/c", 5)]

    @pytest.mark.parametrize("failing", ["put", "rename"])
    def test_a_failure_leaves_no_part(self, renaming: str, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Renaming, "failing", failing)
        with pytest.raises(OSError, match="StoreError"):
            put(f"{renaming}/a", b"0123456789")
        assert Renaming.store == {}

    def test_a_failed_upload_leaves_what_was_there(self, renaming: str, monkeypatch: pytest.MonkeyPatch) -> None:
        put(f"{renaming}/a", b"before")
        monkeypatch.setattr(Renaming, "failing", "put")
        with pytest.raises(OSError, match="StoreError: the connection is gone"):
            put(f"{renaming}/a", b"0123456789")
        assert {name: body.getvalue() for name, body in Renaming.store.items()} == {"/out/a": b"before"}


class TestSchemes:
    def test_unknown(self) -> None:
        with pytest.raises(UserError, match=r"^nowhere://a/b: no filesystem has the scheme nowhere://: give a path"):
            storage.exists("nowhere://a/b")

    def test_refused_before_the_work(self) -> None:
        with pytest.raises(UserError, match="nowhere"), storage.write_whole("nowhere://a/b"):
            pytest.fail("the body has run")

    @pytest.mark.parametrize(
        ("scheme", "way"),
        [
            ("s3", "pip install 's3fs', or gesso with its extra s3"),
            ("gs", "pip install 'gcsfs', or gesso with its extra gcp"),
            ("abfs", "Install what abfs needs"),
        ],
    )
    def test_a_library_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch, scheme: str, way: str) -> None:
        def fail(scheme: str) -> None:
            raise ImportError(f"Install what {scheme} needs")

        monkeypatch.setattr(fsspec, "get_filesystem_class", fail)
        with pytest.raises(UserError) as raised:
            storage.read(f"{scheme}://bucket/a")
        assert str(raised.value) == f"{scheme}://bucket/a needs a library that is not installed: {way}"

    def test_no_version_is_taken_from_a_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("gcsfs")
        pytest.importorskip("s3fs")
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        filesystem, name = storage._filesystem("gs://bucket/a#1")
        assert filesystem.split_path(name) == ("bucket", "a#1", None)
        with pytest.raises(UserError, match="S3FileSystem takes a part of it for no part of the name"):
            storage._filesystem("s3://bucket/a?versionId=1")
