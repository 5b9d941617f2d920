"""Faults of this machine as one line, and the limit of open files."""

import errno
import os
import resource
import socket
import subprocess
import sys

import pytest

from gesso.errors import Rejected, UserError
from gesso.machine import local_fault


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "x", "/d/00000.tar"), "No space left on device (/d/00000.tar): free some space"),
        (PermissionError(errno.EACCES, "x", "/d"), "Permission denied (/d): this user lacks the permission"),
        (OSError(errno.EMFILE, "x"), "Too many open files: raise `ulimit -n`"),
        (MemoryError(), "Cannot allocate memory: end other programs"),
        (ValueError("jpeg: Insufficient memory (case 4)"), "Cannot allocate memory: end other programs"),
        (socket.gaierror(socket.EAI_MEMORY, "x"), "Cannot allocate memory: end other programs"),
        (ExceptionGroup("x", [ExceptionGroup("y", [OSError(errno.EMFILE, "x")])]), "Too many open files: "),
        (UserError("a line of its own"), "a line of its own"),
    ],
)
def test_a_fault_of_this_machine_is_one_line(error: Exception, line: str) -> None:
    fault = local_fault(error)
    assert isinstance(fault, UserError)
    assert str(fault).startswith(line)
    assert "\n" not in str(fault)


@pytest.mark.parametrize(
    "error",
    [
        None,
        OSError("image file is truncated"),
        ConnectionRefusedError(errno.ECONNREFUSED, "x"),
        OSError(errno.ENETUNREACH, "x"),
        socket.gaierror(socket.EAI_AGAIN, "x"),
        ValueError("x"),
        Rejected("undecodable"),
    ],
)
def test_what_is_no_fault_of_this_machine(error: Exception | None) -> None:
    assert local_fault(error) is None


def test_the_cause_of_a_rejection_is_looked_into() -> None:
    rejection = Rejected("not_an_image")
    rejection.__cause__ = OSError(errno.EMFILE, "x")
    assert "Too many open files" in str(local_fault(rejection))


def test_the_limit_of_open_files_is_raised_as_far_as_it_may() -> None:
    program = "import gesso.machine as m, resource; left = m.raise_file_limit(); print(left, *resource.getrlimit(7))"
    command = [sys.executable, "-c", program]
    limit = 512
    told = subprocess.run(
        command,
        check=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit)),
    ).stdout.split()
    assert resource.RLIMIT_NOFILE == 7
    assert [int(number) for number in told[1:]] == [limit, limit]
    assert limit - len(os.listdir("/dev/fd")) - 16 < int(told[0]) < limit
