"""Faults and limits of this machine, apart from those of the records that it works on. Imports only our errors."""

import errno
import os
import resource
import socket

from gesso.errors import UserError

ADVICE = {
    errno.EMFILE: "raise `ulimit -n`, or lower --concurrency",
    errno.ENFILE: "the whole machine has too many files open: end other programs, or lower --concurrency",
    errno.ENOSPC: "free some space, or point TMPDIR or --output to a larger disk",
    errno.EDQUOT: "free some space, or point TMPDIR or --output to a larger disk",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "this user lacks the permission",
    errno.ENOMEM: "end other programs, or lower --concurrency and --decode_threads",
    errno.ENOBUFS: "end other programs, or lower --concurrency",
}
OUT_OF_MEMORY = "nsufficient memory"  # in the messages of OpenCV and libjpeg
UNLIMITED_FILES = 1 << 16  # what is taken where the limit is infinite: kernels have one of their own


def local_fault(error: BaseException | None) -> UserError | None:
    """The one line about a fault of this machine that is `error`, one of its group, or its cause; None for others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None or isinstance(error, UserError):
        return error
    number = error_number(error)
    if number is None:
        return local_fault(error.__cause__)
    path = getattr(error, "filename", None)
    return UserError(f"{os.strerror(number)}{f' ({path})' if path else ''}: {ADVICE[number]}")


def error_number(error: BaseException) -> int | None:
    """Which fault of this machine an exception is, as one of `ADVICE`'s numbers."""
    if isinstance(error, MemoryError) or OUT_OF_MEMORY in str(error):
        return errno.ENOMEM
    if isinstance(error, socket.gaierror):
        return errno.ENOMEM if error.errno == socket.EAI_MEMORY else None
    return error.errno if isinstance(error, OSError) and error.errno in ADVICE else None


def raise_file_limit() -> int:
    """Raises the number of files this process may open to what its user may have; returns how many are left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = UNLIMITED_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return (most if soft == resource.RLIM_INFINITY else soft) - len(os.listdir("/dev/fd"))
