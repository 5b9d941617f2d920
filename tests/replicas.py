"""Replicas of a distributed training as threads of one process, with a sum over them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from gesso.training.distributed.powersgd import AllReduce

T = TypeVar("T")


def together(count: int, work: Callable[[int, AllReduce], T]) -> list[T]:
    """Runs `work` in a thread for each replica; all of them must make the same calls of their all-reduce."""
    barrier = Barrier(count, timeout=60)
    handed: list[list[Tensor]] = [[]] * count

    def all_reduce_of(replica: int) -> AllReduce:
        def all_reduce(tensors: list[Tensor]) -> None:
            handed[replica] = tensors
            barrier.wait()
            totals = [torch.stack(parts).sum(0) for parts in zip(*handed, strict=True)]
            barrier.wait()
            for tensor, total in zip(tensors, totals, strict=True):
                tensor.copy_(total)

        return all_reduce

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda replica: work(replica, all_reduce_of(replica)), range(count)))
