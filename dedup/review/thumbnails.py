"""Thumbnails of references and samples: each tar is read once, and only the requested members are decoded.

Of an index the pictures come by their byte ranges.

A picture that cannot be read is not an error: its reason is recorded, and the page shows a placeholder.
"""

import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from gesso import images, storage
from gesso.dataset import index
from gesso.dataset.layout import tar_name
from gesso.errors import Rejected, UserError

THREADS = min(16, 4 * (os.cpu_count() or 1))  # decoding releases the interpreter lock; the rest waits for disks
FOLDER_FILES = 64  # pictures of a folder in one task
PER_FOLDER = 1000  # thumbnails in one folder
ABSENT, UNREADABLE = "absent", "unreadable"  # not in its tar or the metadata; its file cannot be read


class ThumbnailRequest(NamedTuple):
    """A thumbnail to make."""

    number: int
    shard: int | None  # None: the picture is a file of a folder
    path: str | None  # of the tar's member, or of the file below the folder; None: unknown
    side: int  # maximum of the long side, pixels


class Task(NamedTuple):
    """Thumbnails that are made together: of one tar, or of some files of a folder."""

    source: str
    tar: bool
    requests: list[ThumbnailRequest]
    indexed_by: str | None = None  # the index whose rows tell of the tar


def thumbnail_name(number: int) -> str:
    """A thumbnail's path below its series' folder: by number, since keys need not be valid file names."""
    return f"{number // PER_FOLDER:03d}/{number:06d}.jpg"


def existing(folder: str) -> set[int]:
    """The numbers of the thumbnails that exist."""
    return {int(os.path.basename(item.path)[:-4]) for item in storage.walk(folder) if item.path.endswith(".jpg")}


def split_tasks(source: str, requests: list[ThumbnailRequest]) -> list[Task]:
    """The requests as tasks, one for each tar, so that it is read once."""
    shards, files = defaultdict[int, list[ThumbnailRequest]](list), list[ThumbnailRequest]()
    for item in requests:
        if item.shard is None:
            files.append(item)
        else:
            shards[item.shard].append(item)
    tars = index.read_tars(source) if shards else {}
    tar_tasks = [
        Task(tars[number].path, True, asked, source)
        if number in tars
        else Task(storage.join(source, tar_name(number)), True, asked)
        for number, asked in sorted(shards.items())
    ]
    file_tasks = [Task(source, False, files[at : at + FOLDER_FILES]) for at in range(0, len(files), FOLDER_FILES)]
    return tar_tasks + file_tasks


def make_thumbnails(folder: str, work: list[Task]) -> Iterator[dict[int, str]]:
    """Runs the tasks on threads; yields the failures of each: number → reason."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda task: run_task(folder, task), work)


def run_task(folder: str, task: Task) -> dict[int, str]:
    failed = {item.number: ABSENT for item in task.requests}
    read = read_indexed if task.indexed_by else read_members if task.tar else read_files
    contents = read(task)
    for item, body in contents:
        if body is None:
            failed[item.number] = UNREADABLE
            continue
        try:
            thumbnail = images.thumbnail(body, images.read_header(body), item.side)
        except Rejected as error:
            failed[item.number] = error.reason
            continue
        with storage.write_whole(storage.join(folder, thumbnail_name(item.number))) as stream:
            stream.write(thumbnail)
        del failed[item.number]
    return failed


def read_members(task: Task) -> Iterator[tuple[ThumbnailRequest, bytes | None]]:
    """The requested members of a tar, read until all are found; None for those behind a damaged part."""
    missing = {item.path: item for item in task.requests if item.path is not None}
    try:
        with storage.open_input(task.source) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            while missing and (member := tar.next()):
                tar.members = []  # type: ignore[attr-defined] # members are not looked up again: free their memory
                if member.name in missing and (body := tar.extractfile(member)):
                    yield missing.pop(member.name), body.read()
    except (OSError, tarfile.ReadError):
        yield from ((item, None) for item in missing.values())


def read_indexed(task: Task) -> Iterator[tuple[ThumbnailRequest, bytes | None]]:
    """The requested pictures of an index's tar, in its order; None for those that cannot be read."""
    missing = {item.path: item for item in task.requests if item.path is not None}
    try:
        rows = index.read_taken(task.indexed_by or "", task.requests[0].shard or 0, [*index.NAMES, *index.PLACES])
        columns = zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True)
        named = [(index.image_name(*row[:2]), row[2:]) for row in columns]
        wanted = [(name, place) for name, place in named if name in missing]
        bodies = index.read_bodies(task.source, [place for _, place in wanted])
        for (name, _), body in zip(wanted, bodies, strict=True):
            yield missing.pop(name), body
    except UserError:
        yield from ((item, None) for item in missing.values())


def read_files(task: Task) -> Iterator[tuple[ThumbnailRequest, bytes | None]]:
    for item in task.requests:
        if item.path is None:
            continue
        try:
            with storage.open_input(storage.join(task.source, item.path)) as stream:
                body = stream.read()
        except OSError:
            yield item, None
        else:
            yield item, body
