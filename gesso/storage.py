"""Files on this machine and on every filesystem that fsspec knows: list, read, read ranges, write whole or not at all.

A path with a scheme (`gs://`, `s3://`, `memory://`) goes through fsspec, which is imported for it alone. Every other
path is the machine's own, `file://` before it or not, and needs the standard library only. A path is taken literally:
`%`, `#`, `?`, `[` and blanks mean themselves, but for the wildcards of `glob`. What cannot be read raises OSError.
Threads may share all of it.

What commit means. A local file is written beside its place under a unique name, flushed to the disk, and renamed: it
appears whole or not at all, also when the machine stops. On an object store a rename would be a copy and a delete,
which can be seen half-done; there the bytes wait in a local temporary file and are put under their own name in one
request or one multipart upload, which the store shows when it is complete. A listing may show it later than a read
does: what a listing lacks is taken as not written, and is written again with the same bytes.
"""

import json
import os
import tempfile
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from glob import glob as glob_local
from pathlib import Path
from typing import IO, Any, NamedTuple

OPEN_FILES = 256  # a process may have 1,024 by default
LOCAL = ("file://", "local://")


class Found(NamedTuple):
    """A file, as a listing shows it."""

    path: str
    size: int  # bytes


class Range(NamedTuple):
    """A part of a file."""

    path: str
    offset: int
    size: int  # bytes


def is_local(path: str) -> bool:
    return "://" not in path or path.startswith(LOCAL)


def local(path: str) -> str:
    """A local path as the operating system takes it: no `file://` before it, `~` as the home directory."""
    for scheme in LOCAL:
        path = path.removeprefix(scheme)
    return os.path.expanduser(path) if path.startswith("~") else path


def join(directory: str, *names: str) -> str:
    return "/".join([directory.rstrip("/"), *names]) if directory != "/" else "/" + "/".join(names)


def absolute(path: str) -> str:
    """The path from the machine's root, without a slash at its end; one with a scheme stays as it is."""
    return os.path.abspath(local(path)) if is_local(path) else path.rstrip("/")


def glob(pattern: str) -> list[Found]:
    """The files that a pattern matches, sorted by path; a file that has the pattern for its name is matched alone.

    The wildcards are `*`, `?`, `[a-z]`, and `**` for any number of folders.
    """
    if exists(pattern) and (literal := _file(pattern)):
        return [literal]
    if is_local(pattern):
        return sorted(_found_local(path) for path in glob_local(local(pattern), recursive=True) if os.path.isfile(path))
    filesystem, path = _remote(pattern)
    filesystem.invalidate_cache()
    return _found_remote(pattern, filesystem.glob(path, detail=True).values())


def files(folder: str) -> list[Found]:
    """The files directly in a folder, sorted by path, without hidden ones; none where there is no such folder."""
    try:
        return _files_local(local(folder)) if is_local(folder) else _files_remote(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(folder: str) -> list[Found]:
    """The files below a folder at any depth, sorted by path, without hidden files and folders."""
    if is_local(folder):
        return sorted(_walk_local(local(folder)))
    filesystem, path = _remote(folder)
    filesystem.invalidate_cache()
    found = _found_remote(folder, filesystem.find(path, detail=True).values())
    depth = len(folder.rstrip("/")) + 1
    return [item for item in found if not any(part.startswith(".") for part in item.path[depth:].split("/"))]


def exists(path: str) -> bool:
    return os.path.exists(local(path)) if is_local(path) else bool(_remote(path)[0].exists(path))


def sizes(folder: str) -> dict[str, int]:
    """Bytes of each file directly in a folder by its name; nothing where there is no such folder."""
    return {item.path.rpartition("/")[2]: item.size for item in files(folder)}


def open_input(path: str) -> IO[bytes]:
    """The file's own bytes, seekable, never decompressed."""
    return open(local(path), "rb") if is_local(path) else _remote(path)[0].open(path, "rb")


def read(path: str) -> bytes:
    if not is_local(path):
        return bytes(_remote(path)[0].cat_file(path))
    with open(local(path), "rb") as stream:
        return stream.read()


def read_json(path: str) -> Any:
    """Raises ValueError where the file is no JSON."""
    return json.loads(read(path))


class Ranges:
    """A file that is read here and there: `read` takes from any thread, and asks for no more than is wanted.

    Closes when nobody holds it any more.
    """

    def __init__(self, path: str) -> None:
        if is_local(path):
            descriptor = os.open(local(path), os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            self.size = os.fstat(descriptor).st_size
            self._read = partial(_read_local, descriptor)
        else:
            filesystem, name = _remote(path)
            self.size = int(filesystem.info(name)["size"])
            self._read = partial(_read_remote, filesystem, name)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer where the file ends before."""
        return self._read(offset, min(size, max(0, self.size - offset)))


class OpenFiles:
    """Local files that are read here and there, of which the last used stay open."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = OrderedDict[str, Ranges]()
        self._lock = threading.Lock()

    def read(self, wanted: Range) -> bytes:
        return self._file(wanted.path).read(wanted.offset, wanted.size)

    def _file(self, path: str) -> Ranges:
        with self._lock:
            found = self._open.pop(path, None) or Ranges(path)
            self._open[path] = found
            if len(self._open) > self._limit:
                self._open.popitem(last=False)  # a thread that still reads from it holds it open
        return found


open_files = OpenFiles(OPEN_FILES)


def read_ranges(ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of each range, fewer where a file ends before; those of a remote filesystem in one go.

    All paths are local or all are of one filesystem.
    """
    if not ranges or is_local(ranges[0].path):
        return [open_files.read(wanted) for wanted in ranges]
    paths, starts, counts = zip(*ranges, strict=True)
    ends = [start + count for start, count in zip(starts, counts, strict=True)]
    return [bytes(part) for part in _remote(paths[0])[0].cat_ranges(list(paths), list(starts), ends, on_error="raise")]


def write_whole(path: str) -> AbstractContextManager[IO[bytes]]:
    """A file that appears under `path` complete or not at all; what stands there is replaced in the same moment."""
    return _write_local(local(path)) if is_local(path) else _write_remote(path)


def write_json(path: str, value: Any) -> None:
    with write_whole(path) as stream:
        stream.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def remove(path: str) -> None:
    """Removes a file if it is there."""
    if is_local(path):
        Path(local(path)).unlink(missing_ok=True)
    elif exists(path):
        _remote(path)[0].rm_file(path)


def remove_empty(*folders: str) -> None:
    """Removes local folders that are there and empty; object stores have none."""
    for folder in filter(is_local, folders):
        if os.path.isdir(local(folder)) and not os.listdir(local(folder)):
            os.rmdir(local(folder))


def make_parent(path: str) -> None:
    """Makes the folders above a local path; object stores have none."""
    if is_local(path):
        os.makedirs(os.path.dirname(local(path)) or ".", exist_ok=True)


def _read_local(descriptor: int, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, offset)


def _read_remote(filesystem: Any, path: str, offset: int, size: int) -> bytes:
    return bytes(filesystem.cat_file(path, start=offset, end=offset + size)) if size else b""


def _file(path: str) -> Found | None:
    """The file of exactly this name, None where it is a folder."""
    if is_local(path):
        return _found_local(local(path)) if os.path.isfile(local(path)) else None
    filesystem, name = _remote(path)
    return next(iter(_found_remote(path, [filesystem.info(name)])), None)


def _found_local(path: str) -> Found:
    return Found(path, os.path.getsize(path))


def _found_remote(path: str, entries: Iterable[Any]) -> list[Found]:
    """The files among fsspec's entries, named as `path` is."""
    scheme = path.partition("://")[0]
    shown = [entry for entry in entries if entry["type"] == "file"]
    return sorted(Found(f"{scheme}://{entry['name'].lstrip('/')}", entry["size"]) for entry in shown)


def _files_local(folder: str) -> list[Found]:
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        return sorted(Found(join(folder, entry.name), entry.stat().st_size) for entry in shown)


def _files_remote(folder: str) -> list[Found]:
    filesystem, path = _remote(folder)
    filesystem.invalidate_cache(path)
    inside = [entry for entry in filesystem.ls(path, detail=True) if entry["name"].rstrip("/") != path.rstrip("/")]
    found = _found_remote(folder, inside)
    return [item for item in found if not item.path.rpartition("/")[2].startswith(".")]


def _walk_local(folder: str) -> Iterator[Found]:
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (_found_local(join(path, name)) for name in names if not name.startswith("."))


@contextmanager
def _write_local(path: str) -> Iterator[IO[bytes]]:
    temporary = f"{path}.tmp-{uuid.uuid4().hex[:12]}"
    make_parent(path)
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _commit(temporary, path)


def _commit(temporary: str, path: str) -> None:
    os.replace(temporary, path)


@contextmanager
def _write_remote(path: str) -> Iterator[IO[bytes]]:
    filesystem, target = _remote(path)
    with tempfile.NamedTemporaryFile() as spool:
        yield spool
        spool.flush()
        filesystem.put_file(spool.name, target)


def _remote(path: str) -> tuple[Any, str]:
    """The filesystem of a path, one for all threads, and the path in its own words."""
    import fsspec

    return fsspec.core.url_to_fs(path)
