"""The processes of one job on PyTorch: who they are, how they agree, how they are told to stop. torch; no Beam."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gesso.errors import UserError

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


class Group(NamedTuple):
    """The processes of a job and this one's part."""

    rank: int
    size: int
    device: torch.device

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each; `values` itself where there is one alone."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def first(self, do: Callable[[], T]) -> T:
        """What `do` gives to the first process, which runs it alone, in every process. What it refuses is told once."""
        if self.size == 1:
            return do()
        told: list[Any] = [None]
        if self.rank == 0:
            try:
                told = [do()]
            except UserError as error:
                told = [error]
        dist.broadcast_object_list(told, device=torch.device("cpu"))
        if isinstance(told[0], UserError):
            raise told[0] if self.rank == 0 else SystemExit(2)
        found: T = told[0]
        return found

    def agreed(self, wish: bool) -> bool:
        """Whether any process wishes so."""
        return wish if self.size == 1 else bool(self.total(torch.tensor(float(wish), device=self.device)))


@contextmanager
def processes(patience: timedelta | None = None) -> Iterator[Group]:
    """Joins what torchrun has started; alone without it. `patience`: how long they wait for each other, or torch's."""
    cuda = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        yield Group(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=patience)
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def keep_memory() -> None:
    """Has glibc keep what tensors leave, for the next of their size: to fault it in anew takes a CPU training longer
    than its arithmetic (measured in tests/benchmarks/dvae.py). Does nothing with another C library.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def stopping() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or Ctrl-C comes, so that the update under way is finished and saved.

    A second Ctrl-C interrupts at once.
    """
    received: list[int] = []

    def receive(number: int, _: Any) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
