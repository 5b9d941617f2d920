"""The processes of a job under torchrun: joining, reductions, stopping on SIGTERM or Ctrl-C, memory. torch; no Beam."""

import ctypes
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from gesso.errors import UserError

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
# What gloo and NCCL say where a process of the group is gone.
LOST = re.compile("Connection (reset|closed) by peer|remote process exited|Socket Timeout")


class Group(NamedTuple):
    """The processes of a job: their number, this one's rank and device."""

    rank: int
    size: int
    device: torch.device

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each; `values` itself where there is a single process."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def first(self, function: Callable[[], T]) -> T:
        """Runs `function` in the first process alone and returns its result in every process.

        A UserError of it is raised in the first process; the others exit with code 2.
        """
        if self.size == 1:
            return function()
        result: list[Any] = [None]
        if self.rank == 0:
            try:
                result = [function()]
            except UserError as error:
                result = [error]
        dist.broadcast_object_list(result, device=torch.device("cpu"))
        if isinstance(result[0], UserError):
            raise result[0] if self.rank == 0 else SystemExit(2)
        found: T = result[0]
        return found

    def agreed(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(float(flag), device=self.device)))


@contextmanager
def processes(timeout: timedelta | None = None) -> Iterator[Group]:
    """Joins the processes that torchrun started; a single process without torchrun.

    `timeout`: how long a collective operation waits for the others; torch's default where None.
    """
    cuda = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        yield Group(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    join("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout)
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    except RuntimeError as error:
        if LOST.search(str(error)):
            raise UserError(
                "another process of this job has ended, its own message says why; torchrun's --max_restarts starts all "
                "of them again"
            ) from error
        raise
    finally:
        dist.destroy_process_group()
        gc.collect()  # what FSDP's circles still hold of the group would abort the interpreter's exit, 8 times of 30


def join(backend: str, timeout: timedelta | None) -> None:
    """Joins the process group of torchrun, under names of its own after each restart of the processes.

    torchrun's store keeps the addresses of processes that were killed, which gloo of torch 2.15 would connect to.
    """
    store, rank, size = next(rendezvous("env://"))
    attempt = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=timeout)


def keep_memory() -> None:
    """Has glibc keep freed memory instead of returning it to the system. Does nothing with another C library.

    Page faults of newly mapped tensors take a CPU training longer than its arithmetic (tests/benchmarks/dvae.py).
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


def kept_bytes(model: torch.nn.Module, *inputs: Tensor) -> int:
    """Bytes of the tensors that autograd saves for the backward pass, weights excluded, shared storage counted once."""
    weights = {id(value) for value in model.parameters()}
    held = dict[int, Tensor]()

    def keep(value: Tensor) -> Tensor:
        base = value._base if value._base is not None else value
        if id(base) not in weights:
            held[id(base)] = base
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model(*inputs)
    return sum(value.numel() * value.element_size() for value in held.values())


def free_memory(device: torch.device) -> int:
    """Bytes that each process of this machine may still take: of its GPU, or its share of the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_memory(needed: float, device: torch.device, way_out: str) -> None:
    """Raises UserError where a process needs more bytes than are free, before anything is allocated."""
    free = free_memory(device)
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB in each process, and {free / 2**30:.1f} GiB are free"
        raise UserError(f"this training needs {sizes}: {way_out}")


def exit_code(received: list[int]) -> int:
    """Of a training that these signals have stopped, if any: 130 for Ctrl-C, by which a shell ends its loop, too."""
    return 130 if signal.SIGINT in received else 0


def announce_step(output: str, group: Group, step: int) -> None:
    """Says from which update a training goes on."""
    if group.rank == 0 and step:
        print(f"{output}: goes on after update {step:,}", file=sys.stderr, flush=True)
