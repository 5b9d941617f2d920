"""Files on this machine and on every filesystem that fsspec knows: list, read, read ranges, write whole or not at all.

A path with a scheme (`gs://`, `s3://`, `memory://`, …) goes through fsspec, which is imported for it alone. Every other
path is this machine's, and needs the standard library only: relative or absolute, with `file://` before it or not, `~`
for the home directory. A path is taken literally: `%`, `#`, `?`, `[`, `*` and blanks stand for themselves. So is what
follows `file://`, as fsspec takes it: `%20` is no blank. Only `glob` knows wildcards.

What cannot be read or written raises OSError with the path, on every filesystem. A scheme that fsspec does not know, or
whose library is not installed, raises UserError. Threads and forked processes may use all of it: fsspec keeps a client
for each process and, where the library is not asynchronous, for each thread. Listings are not cached.

What commit means:

- A local file is written beside its place under a unique name, flushed to the disk, and renamed: it appears whole or
  not at all, also when the machine stops.
- On an object store (`gs`, `s3`, `abfs`, `memory`, and each scheme that is not in RENAMING) a rename would be a copy
  and a delete, which can be seen half-done. There the bytes wait in a local temporary file and are put under their
  own name by one request, or by one upload in parts, which the store shows when it is complete. There is no temporary
  object, and s3fs and gcsfs abort an upload in parts that fails. Only a process that is killed in the middle of one
  leaves its parts, which no listing shows: on s3 a lifecycle rule of the bucket removes them, on gs and abfs the
  store does after a week.
- On a remote filesystem with a rename of its own (RENAMING) the file is written beside its place and renamed. Where a
  rename does not replace (all but sftp), the file that stands there is removed just before.
- A listing may show a file later than a read does: what a listing lacks is taken as not written, and is written again
  with the same bytes.
"""

import errno
import io
import json
import os
import re
import tempfile
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from glob import escape, has_magic
from glob import glob as glob_local
from pathlib import Path
from typing import IO, Any, NamedTuple

from gesso.errors import UserError

OPEN_FILES = 256  # a process may have 1,024 by default
BLOCK = 4 << 20  # bytes that a stream asks of a remote filesystem at once
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*://")
LOCAL = re.compile(r"\A(file|local)://")
RENAMING = ("dbfs", "ftp", "hdfs", "sftp", "smb", "ssh", "webhdfs")
REPLACING = ("sftp", "ssh")  # by posix-rename@openssh.com
OVERWRITING = ("abfs", "abfss", "az")  # where that must be said
LIBRARIES = {"gs": ("gcsfs", "gcp"), "gcs": ("gcsfs", "gcp"), "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}
ERRNOS = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
    PermissionError: errno.EACCES,
    TimeoutError: errno.ETIMEDOUT,
}


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
    return not SCHEME.match(path) or bool(LOCAL.match(path))


def local(path: str) -> str:
    """A local path as the operating system takes it: no `file://` before it, `~` as the home directory."""
    path = os.path.expanduser(LOCAL.sub("", path, count=1))
    return f"./{path}" if SCHEME.match(path) else path


def plain(path: str) -> str:
    """The path as a user would write it who needs neither `file://` nor `~`, without slashes at its end."""
    return _stripped(local(path) if is_local(path) else path) or path[-1:]


def join(directory: str, *names: str) -> str:
    return "/".join([_stripped(directory), *names])


def absolute(path: str) -> str:
    """The path from the machine's root, without a slash at its end; one with a scheme stays as it is."""
    return os.path.abspath(local(path)) if is_local(path) else _stripped(path)


def glob(pattern: str) -> list[Found]:
    """The files that a pattern matches, sorted by path, without hidden ones.

    The wildcards are `*`, `?`, `[a-z]`, and `**` for any number of folders. A file that has the pattern for its name is
    matched alone, and the leading folders that are there by their literal names hold no wildcards.
    """
    literal = _file(pattern)
    if literal:
        return [literal]
    folder = _literal_folder(pattern)
    rest = pattern.removeprefix(folder)
    if is_local(pattern):
        found = glob_local(escape(local(folder)) + rest, recursive=True)
        return sorted(_found_local(path) for path in found if os.path.isfile(path))
    with _remote(folder) as (filesystem, name):
        entries = filesystem.glob(f"{escape(name.rstrip('/'))}/{rest}", detail=True).values()
        return _shown(folder, name, entries)


def files(folder: str) -> list[Found]:
    """The files directly in a folder, sorted by path, without hidden ones; none where there is no such folder."""
    try:
        return _files_local(local(folder)) if is_local(folder) else _files_remote(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def folders(folder: str) -> list[str]:
    """The folders directly in a folder, sorted, without hidden ones; none where there is no such folder."""
    try:
        return _folders_local(local(folder)) if is_local(folder) else _folders_remote(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(folder: str) -> list[Found]:
    """The files below a folder at any depth, sorted by path, without hidden files and folders."""
    if is_local(folder):
        return sorted(_walk_local(local(folder)))
    with _remote(folder) as (filesystem, name):
        return _shown(folder, name, filesystem.find(name, detail=True).values())


def exists(path: str) -> bool:
    return os.path.exists(local(path)) if is_local(path) else _entry(path) is not None


def sizes(folder: str) -> dict[str, int]:
    """Bytes of each file directly in a folder by its name; nothing where there is no such folder."""
    return {item.path.rpartition("/")[2]: item.size for item in files(folder)}


def open_input(path: str) -> IO[bytes]:
    """The file's own bytes, seekable, never decompressed."""
    return open(local(path), "rb") if is_local(path) else io.BufferedReader(_Input(path), BLOCK)


def read(path: str) -> bytes:
    if not is_local(path):
        with _remote(path) as (filesystem, name):
            return bytes(filesystem.cat_file(name))
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
            self.size = _size_remote(path)
            self._read = partial(_read_remote, path)

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


def _forget_open_files() -> None:
    """A forked process begins anew: another thread may have held the lock."""
    global open_files
    open_files = OpenFiles(OPEN_FILES)


os.register_at_fork(after_in_child=_forget_open_files)


def read_ranges(ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of each range, fewer where a file ends before; those of a remote filesystem in one go.

    All paths are local or all are of one filesystem. None of a remote file begins behind its end.
    """
    if not ranges or is_local(ranges[0].path):
        return [open_files.read(wanted) for wanted in ranges]
    asked = [wanted for wanted in ranges if wanted.size]
    parts = iter(_ranges_remote(asked) if asked else [])
    return [next(parts) if wanted.size else b"" for wanted in ranges]


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
        with _remote(path) as (filesystem, name):
            filesystem.rm_file(name)


def remove_empty(*folders: str) -> None:
    """Removes local folders that are there and empty; object stores have none."""
    for folder in map(local, filter(is_local, folders)):
        if os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)


def make_parent(path: str) -> None:
    """Makes the folders above a local path; object stores have none."""
    if is_local(path):
        os.makedirs(os.path.dirname(local(path)) or ".", exist_ok=True)


def _stripped(path: str) -> str:
    """The path without slashes at its end, but for those of its scheme."""
    match = SCHEME.match(path)
    scheme = match[0] if match else ""
    return scheme + path[len(scheme) :].rstrip("/")


def _file(path: str) -> Found | None:
    """The file of exactly this name, if there is one."""
    if is_local(path):
        return _found_local(local(path)) if os.path.isfile(local(path)) else None
    entry = _entry(path)
    return Found(path, entry["size"]) if entry and entry["type"] == "file" else None


def _literal_folder(pattern: str) -> str:
    """The leading folders of a pattern that hold no wildcards or are there by their literal names; a slash behind."""
    match = SCHEME.match(pattern)
    end = match.end() if match else 0
    while (slash := pattern.find("/", end)) >= 0:
        if has_magic(pattern[end:slash]) and not exists(pattern[:slash]):
            break
        end = slash + 1
    return pattern[:end]


def _read_local(descriptor: int, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, offset)


def _found_local(path: str) -> Found:
    return Found(path, os.path.getsize(path))


def _files_local(folder: str) -> list[Found]:
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        return sorted(Found(join(folder, entry.name), entry.stat().st_size) for entry in shown)


def _folders_local(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            join(folder, entry.name) for entry in entries if not entry.name.startswith(".") and entry.is_dir()
        )


def _walk_local(folder: str) -> Iterator[Found]:
    for path, folders, names in os.walk(folder, onerror=_raise_unless_missing, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [join(path, name) for name in names if not name.startswith(".")]
        yield from (_found_local(file) for file in shown if os.path.isfile(file))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _write_local(path: str) -> Iterator[IO[bytes]]:
    temporary = _beside(path)
    make_parent(path)
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _commit(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _beside(path: str) -> str:
    return f"{path}.tmp-{uuid.uuid4().hex[:12]}"


def _commit(temporary: str, path: str) -> None:
    os.replace(temporary, path)


@contextmanager
def _remote(path: str) -> Iterator[tuple[Any, str]]:
    """The filesystem of a path and the path in its words; what fails in the body is raised as OSError."""
    try:
        filesystem, name = _filesystem(path)
        yield filesystem, name
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise _failure(error, path) from error


def _filesystem(path: str) -> tuple[Any, str]:
    """What fsspec keeps for this process. The path is no chain (`::`) and names no version (gcsfs's `#1`)."""
    kind = _kind(path)
    options = kind._get_kwargs_from_urls(path)
    options.pop("version_aware", None)
    filesystem = kind(**options)
    listings = getattr(filesystem, "dircache", None)
    if listings is not None:
        listings.use_listings_cache = False  # others write, too; no argument does it for every filesystem
    name = kind._strip_protocol(path)
    if any(name.count(mark) != path.count(mark) for mark in "?#") or (path.startswith("s3") and "?versionId=" in path):
        raise UserError(f"{path}: {kind.__name__} takes a part of it for no part of the name: choose another name")
    return filesystem, name


def _kind(path: str) -> Any:
    """The class of fsspec that a scheme stands for."""
    import fsspec

    scheme = path.partition("://")[0]
    try:
        return fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise UserError(f"{path}: no filesystem has the scheme {scheme}://: give a path, or gs://, s3:// …") from error
    except ImportError as error:
        library, extra = LIBRARIES.get(scheme, (None, None))
        install = f"pip install '{library}', or gesso with its extra {extra}" if library else str(error)
        raise UserError(f"{path} needs a library that is not installed: {install}") from error


def _failure(error: Exception, path: str) -> OSError:
    """The error as the standard library would raise it: errno decides the class."""
    number = next((number for kind, number in ERRNOS.items() if isinstance(error, kind)), None)
    number = number or getattr(error, "errno", None) or errno.EIO
    if number == errno.ENOENT:
        return OSError(number, os.strerror(number), path)
    message = str(getattr(error, "strerror", None) or error).strip()
    reason = message.splitlines()[0] if message else "no reason given"
    return OSError(number, reason if isinstance(error, OSError) else f"{type(error).__name__}: {reason}", path)


def _entry(path: str) -> Any:
    """What fsspec tells of a remote file or folder; None where there is none."""
    try:
        with _remote(path) as (filesystem, name):
            return filesystem.info(name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _shown(folder: str, name: str, entries: Iterable[Any]) -> list[Found]:
    """The files among fsspec's entries, which are below the folder `name`, as paths that begin as `folder` does."""
    above = name.strip("/")
    named = [(entry["name"].lstrip("/"), entry) for entry in entries if entry["type"] == "file"]
    below = [(path.removeprefix(above).lstrip("/"), entry["size"]) for path, entry in named if path != above]
    return sorted(Found(join(folder, rest), size) for rest, size in below if not re.search(r"(^|/)\.", rest))


def _files_remote(folder: str) -> list[Found]:
    with _remote(folder) as (filesystem, name):
        return _shown(folder, name, filesystem.ls(name, detail=True))


def _folders_remote(folder: str) -> list[str]:
    with _remote(folder) as (filesystem, name):
        entries = [entry for entry in filesystem.ls(name, detail=True) if entry["type"] == "directory"]
    names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in entries)
    return sorted(join(folder, each) for each in names if not each.startswith("."))


def _size_remote(path: str) -> int:
    with _remote(path) as (filesystem, name):
        size = filesystem.info(name)["size"]
        if size is None:
            raise OSError(errno.EIO, "its size is unknown")
        return int(size)


def _read_remote(path: str, offset: int, size: int) -> bytes:
    if not size:
        return b""
    with _remote(path) as (filesystem, name):
        part = bytes(filesystem.cat_file(name, start=offset, end=offset + size))
        if len(part) != size:
            raise OSError(errno.EIO, f"{size:,} bytes from {offset:,} on were asked for, {len(part):,} came")
        return part


def _ranges_remote(ranges: Sequence[Range]) -> list[bytes]:
    with _remote(ranges[0].path) as (filesystem, _):
        paths = [filesystem._strip_protocol(wanted.path) for wanted in ranges]
        starts, ends = [wanted.offset for wanted in ranges], [wanted.offset + wanted.size for wanted in ranges]
        return [bytes(part) for part in filesystem.cat_ranges(paths, starts, ends, on_error="raise")]


class _Input(io.RawIOBase):
    """A remote file from its beginning on, for io.BufferedReader."""

    def __init__(self, path: str) -> None:
        self._ranges, self._place = Ranges(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + (0, self._place, self._ranges.size)[whence]
        if place < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._place = place
        return place

    def readinto(self, buffer: Any) -> int:
        part = self._take(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def readall(self) -> bytes:
        return self._take(self._ranges.size)

    def _take(self, size: int) -> bytes:
        part = self._ranges.read(self._place, size)
        self._place += len(part)
        return part


@contextmanager
def _write_remote(path: str) -> Iterator[IO[bytes]]:
    with _remote(path):
        pass  # a scheme that is not known is refused before the work
    with tempfile.NamedTemporaryFile() as waiting:
        yield waiting
        waiting.flush()
        with _remote(path) as (filesystem, name):
            _put(filesystem, path.partition("://")[0], waiting.name, name)


def _put(filesystem: Any, scheme: str, file: str, name: str) -> None:
    """A local file as the remote file `name`, in one step."""
    if scheme in RENAMING:
        _put_beside(filesystem, file, name, scheme in REPLACING)
    elif scheme == "memory":  # its put_file shows a file that grows
        filesystem.pipe_file(name, Path(file).read_bytes())
    else:
        filesystem.put_file(file, name, **({"overwrite": True} if scheme in OVERWRITING else {}))


def _put_beside(filesystem: Any, file: str, name: str, replaces: bool) -> None:
    temporary = _beside(name)
    filesystem.makedirs(filesystem._parent(name), exist_ok=True)
    try:
        filesystem.put_file(file, temporary)
        if not replaces and filesystem.exists(name):
            filesystem.rm_file(name)
        filesystem.mv(temporary, name)
    except BaseException:
        with suppress(Exception):
            filesystem.rm_file(temporary)
        raise
