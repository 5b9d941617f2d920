"""One process at a time writes to an output: a lock that names its holder and ends with its process. Standard library.

    OUTPUT/.lock    locked by flock while a command writes; {"command", "host", "pid", "user", "since"}

The kernel releases it when the process ends, however it ends, so that no lock is ever stale. Object stores have none:
there every file is put whole with the same bytes, so that two runs cost requests but do no harm.
"""

import fcntl
import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from gesso import storage
from gesso.errors import UserError

NAME = ".lock"


@contextmanager
def lock(output: str) -> Iterator[None]:
    """Holds the lock of `output` while the body runs. Raises UserError where another process holds it: who, since when.

    A folder that the body leaves empty, or that was not there, goes with the lock.
    """
    if not storage.is_local(output):
        yield
        return
    path = Path(storage.local(output), NAME)
    descriptor = _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        storage.remove_empty(output)


def holder(output: str) -> dict[str, Any] | None:
    """What the process that writes to `output` says of itself; None where there is none."""
    path = Path(storage.local(output), NAME)
    if not storage.is_local(output) or not path.exists():
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    finally:
        os.close(descriptor)
    return None


def name(about: dict[str, Any]) -> str:
    """A holder for people, from what it says of itself."""
    if not about:
        return "another process"
    return (
        f"`{about['command']}` (process {about['pid']} of {about['user']} on {about['host']}, since {about['since']})"
    )


def _acquire(path: Path) -> int:
    """The descriptor of the locked file. A file that its last holder has removed meanwhile is not it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            who = name(_read(path))
            raise UserError(f"{path.parent} is being written by {who}: wait for it, or stop it") from error
        if _is_current(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_about()).encode())
            return descriptor
        os.close(descriptor)


def _is_current(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _about() -> dict[str, Any]:
    return {
        "command": " ".join(["gesso", *sys.argv[1:3]]),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": _user(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user that has no name
        return f"user {os.getuid()}"


def _read(path: Path) -> dict[str, Any]:
    """The holder's words; empty where it has only just begun or just ended."""
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
