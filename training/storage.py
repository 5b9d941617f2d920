"""Files here or on any filesystem that fsspec knows: read whole, in ranges, listed; written whole or not at all.

A path with a scheme (`gs://`, `s3://`, `memory://`) goes through fsspec, which is imported for it alone; every other
path is the machine's own. What cannot be read raises OSError. Threads may share all of it.
"""

import json
import os
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import IO, Any, NamedTuple

from pipelines import files
from pipelines.files import is_local

OPEN_FILES = 256  # a process may have 1,024 by default


class Range(NamedTuple):
    """A part of a file."""

    path: str
    offset: int
    size: int  # bytes


class OpenFiles:
    """Local files that are read here and there, of which the last used stay open."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = OrderedDict[str, files.Ranges]()
        self._lock = Lock()

    def read(self, wanted: Range) -> bytes:
        return self._file(wanted.path).read(wanted.offset, wanted.size)

    def _file(self, path: str) -> files.Ranges:
        with self._lock:
            found = self._open.pop(path, None) or files.Ranges(path)
            self._open[path] = found
            if len(self._open) > self._limit:
                self._open.popitem(last=False)  # a thread that still reads from it holds it open
        return found


open_files = OpenFiles(OPEN_FILES)


def exists(path: str) -> bool:
    return os.path.exists(path) if is_local(path) else bool(_remote(path)[0].exists(path))


def sizes(folder: str) -> dict[str, int]:
    """Bytes of each file in a folder by its name, from one listing; nothing where there is no such folder."""
    try:
        return _sizes_local(folder) if is_local(folder) else _sizes_remote(folder)
    except (FileNotFoundError, NotADirectoryError):
        return {}


def open_input(path: str) -> IO[bytes]:
    """The file's bytes from the first to the last."""
    return open(path, "rb") if is_local(path) else _remote(path)[0].open(path, "rb")


def read(path: str) -> bytes:
    if not is_local(path):
        return bytes(_remote(path)[0].cat_file(path))
    with open(path, "rb") as stream:
        return stream.read()


def read_json(path: str) -> Any:
    """Raises ValueError where the file is no JSON."""
    return json.loads(read(path))


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
    """A file that appears under `path` complete or not at all: a unique temporary name, then a rename."""
    return files.write_whole(path) if is_local(path) else _write_remote(path)


def write_json(path: str, value: Any) -> None:
    with write_whole(path) as stream:
        stream.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def remove(path: str) -> None:
    """Removes a file if it is there."""
    if is_local(path):
        files.remove(path)
    elif exists(path):
        _remote(path)[0].rm_file(path)


def _sizes_local(folder: str) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in sorted(entries, key=lambda e: e.name) if entry.is_file()}


def _sizes_remote(folder: str) -> dict[str, int]:
    filesystem, path = _remote(folder)
    filesystem.invalidate_cache(path)
    found = [entry for entry in filesystem.ls(path, detail=True) if entry["type"] == "file" and entry["name"] != path]
    return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in sorted(found, key=lambda e: e["name"])}


@contextmanager
def _write_remote(path: str) -> Iterator[IO[bytes]]:
    filesystem, target = _remote(path)
    temporary = f"{target}.tmp-{uuid.uuid4().hex[:12]}"
    filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
    try:
        with filesystem.open(temporary, "wb") as stream:
            yield stream
        filesystem.mv(temporary, target)
    except BaseException:
        if filesystem.exists(temporary):
            filesystem.rm_file(temporary)
        raise


def _remote(path: str) -> tuple[Any, str]:
    """The filesystem of a path, one for all threads, and the path in its own words."""
    import fsspec

    return fsspec.core.url_to_fs(path)
