"""Small pictures of references and samples, made once: each tar is read once, and only the members that are wanted.

A picture that cannot be shown is no error: it is named with its reason, and the page shows a placeholder.
"""

import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from gesso import images, storage
from gesso.dataset.layout import tar_name
from gesso.errors import Rejected

THREADS = min(16, 4 * (os.cpu_count() or 1))  # decoding leaves the interpreter lock; the rest waits for disks
FOLDER_FILES = 64  # pictures of a folder that one task makes
PER_FOLDER = 1000  # thumbnails side by side
ABSENT, UNREADABLE = "absent", "unreadable"  # not in its tar or metadata; its file cannot be opened


class Wanted(NamedTuple):
    """A picture to make small."""

    number: int
    shard: int | None  # None: a file of a folder
    path: str | None  # of the tar's member, or below the folder; None: not known
    side: int  # pixels, of the long side at most


class Task(NamedTuple):
    """Pictures that are read together: those of one tar, or some of a folder."""

    source: str
    tar: bool
    wanted: list[Wanted]


def name_of(number: int) -> str:
    """Below a series' folder. Numbers, because keys may hold what no file name can."""
    return f"{number // PER_FOLDER:03d}/{number:06d}.jpg"


def present(folder: str) -> set[int]:
    """The numbers of the thumbnails that are there."""
    return {int(os.path.basename(item.path)[:-4]) for item in storage.walk(folder) if item.path.endswith(".jpg")}


def tasks(source: str, wanted: list[Wanted]) -> list[Task]:
    """The work, cut so that each tar is read once."""
    shards, loose = defaultdict[int, list[Wanted]](list), list[Wanted]()
    for item in wanted:
        if item.shard is None:
            loose.append(item)
        else:
            shards[item.shard].append(item)
    of_tars = [Task(storage.join(source, tar_name(index)), True, shards[index]) for index in sorted(shards)]
    of_folder = [Task(source, False, loose[at : at + FOLDER_FILES]) for at in range(0, len(loose), FOLDER_FILES)]
    return of_tars + of_folder


def make(folder: str, work: list[Task]) -> Iterator[dict[int, str]]:
    """Does the tasks in some threads; yields, for each, what could not be shown: number → reason."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda task: make_some(folder, task), work)


def make_some(folder: str, task: Task) -> dict[int, str]:
    lost = {item.number: ABSENT for item in task.wanted}
    bodies = of_tar(task) if task.tar else of_folder(task)
    for item, body in bodies:
        if body is None:
            lost[item.number] = UNREADABLE
            continue
        try:
            small = images.thumbnail(body, images.read_header(body), item.side)
        except Rejected as error:
            lost[item.number] = error.reason
            continue
        with storage.write_whole(storage.join(folder, name_of(item.number))) as stream:
            stream.write(small)
        del lost[item.number]
    return lost


def of_tar(task: Task) -> Iterator[tuple[Wanted, bytes | None]]:
    """The wanted members of a tar, which is left as soon as all are found; none of what stands behind a damage."""
    missing = {item.path: item for item in task.wanted if item.path is not None}
    try:
        with storage.open_input(task.source) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            while missing and (member := tar.next()):
                tar.members = []  # type: ignore[attr-defined] # of its tens of thousands of members none is asked for twice
                if member.name in missing and (body := tar.extractfile(member)):
                    yield missing.pop(member.name), body.read()
    except (OSError, tarfile.ReadError):
        yield from ((item, None) for item in missing.values())


def of_folder(task: Task) -> Iterator[tuple[Wanted, bytes | None]]:
    for item in task.wanted:
        if item.path is None:
            continue
        try:
            with storage.open_input(storage.join(task.source, item.path)) as stream:
                body = stream.read()
        except OSError:
            yield item, None
        else:
            yield item, body
