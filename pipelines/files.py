"""Files on this machine or on any filesystem that Beam knows: find, read, write whole or not at all.

A path with a scheme (`gs://`, `hdfs://`, `s3://`) goes through Beam, which is imported for it alone; every other path
is the machine's own and needs the standard library only.
"""

import glob as stdlib_glob
import json
import os
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple


class Found(NamedTuple):
    """A file that a pattern matched."""

    path: str
    size: int  # bytes


def is_local(path: str) -> bool:
    return "://" not in path


def join(directory: str, *names: str) -> str:
    return "/".join([directory.rstrip("/"), *names]) if directory != "/" else "/" + "/".join(names)


def absolute(path: str) -> str:
    """The path from the machine's root, without a slash at its end; one with a scheme stays as it is."""
    return os.path.abspath(path) if is_local(path) else path.rstrip("/")


def find(pattern: str) -> list[Found]:
    """The files that a glob matches, sorted by path; an empty list where it matches none."""
    if is_local(pattern):
        paths = [path for path in stdlib_glob.glob(pattern, recursive=True) if os.path.isfile(path)]
        return sorted(Found(path, os.path.getsize(path)) for path in paths)
    matches = _beam().match([pattern])[0].metadata_list
    return sorted(Found(match.path, match.size_in_bytes) for match in matches)


def exists(path: str) -> bool:
    return os.path.exists(path) if is_local(path) else bool(_beam().exists(path))


def open_input(path: str) -> IO[bytes]:
    """The file's own bytes, seekable, never decompressed. Raises OSError."""
    if is_local(path):
        return open(path, "rb")
    from apache_beam.io.filesystem import BeamIOError, CompressionTypes

    try:
        return _beam().open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except BeamIOError as error:
        raise OSError(str(error)) from error


class Ranges:
    """A file that is read here and there: `read` takes from any thread, on local disks nothing but what is asked for.

    Closes when nobody holds it any more. On other filesystems Beam's streams read ahead as they like.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        if is_local(path):
            descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            self.size = os.fstat(descriptor).st_size
            self._read = partial(_read_local, descriptor)
        else:
            stream, lock = open_input(path), threading.Lock()
            weakref.finalize(self, stream.close)
            self.size = stream.seek(0, os.SEEK_END)
            self._read = partial(_read_stream, stream, lock)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer where the file ends before."""
        return self._read(offset, size)


def _read_local(descriptor: int, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, offset)


def _read_stream(stream: IO[bytes], lock: threading.Lock, offset: int, size: int) -> bytes:
    with lock:
        stream.seek(offset)
        return stream.read(size)


@contextmanager
def write_whole(path: str) -> Iterator[IO[bytes]]:
    """A file that appears under `path` complete or not at all: a unique temporary name, then a rename.

    On an object store the temporary object is renamed by the store (copy and delete).
    """
    temporary = f"{path}.tmp-{uuid.uuid4().hex[:12]}"
    make_parent(path)
    try:
        with _create(temporary) as stream:
            yield stream
            if is_local(path):
                stream.flush()
                os.fsync(stream.fileno())
    except BaseException:
        remove(temporary)
        raise
    _replace(temporary, path)


def write_json(path: str, value: Any) -> None:
    with write_whole(path) as stream:
        stream.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: str) -> Any:
    with open_input(path) as stream:
        return json.loads(stream.read())


def remove(path: str) -> None:
    """Removes a file if it is there."""
    if is_local(path):
        Path(path).unlink(missing_ok=True)
    elif exists(path):
        _beam().delete([path])


def remove_empty(*folders: str) -> None:
    """Removes local folders that are there and empty; object stores have none."""
    for folder in folders:
        if is_local(folder) and os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)


def make_parent(path: str) -> None:
    """Makes the folders above a local path; object stores have none."""
    if is_local(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)


def _beam() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _create(path: str) -> IO[bytes]:
    if is_local(path):
        return open(path, "wb")
    from apache_beam.io.filesystem import CompressionTypes

    return _beam().create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _replace(source: str, target: str) -> None:
    if is_local(target):
        os.replace(source, target)
        return
    if exists(target):
        _beam().delete([target])
    _beam().rename([source], [target])
