"""Batches that other processes prepare, by torch's DataLoader. torch.

On a GPU machine the training's own thread launches thousands of kernels an update, and threads that read and crop
pictures beside it would take turns with it at Python's lock.
"""

import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gesso.errors import UserError

B = TypeVar("B")

Share = Callable[[int, int], Iterator[B]]  # (first, every) → batches first, first + every, … of the stream
AHEAD = 2  # batches that each process prepares ahead


class _Strided(IterableDataset[B | UserError]):
    """In process p of P the batches p, p + P, …; a mistake of the user's in the place of the batch that it stops."""

    def __init__(self, share: Share[B]) -> None:
        self._share = share

    def __iter__(self) -> Iterator[B | UserError]:
        worker: Any = get_worker_info()
        try:
            yield from self._share(worker.id, worker.num_workers)
        except UserError as error:
            yield error


def from_processes(share: Share[B], processes: int) -> Iterator[B]:
    """All batches in the order of the stream; ending the iteration ends the processes, which are forks of this one.

    Raises UserError for a damaged sample.
    """
    loader = DataLoader(
        _Strided(share),
        batch_size=None,
        num_workers=processes,
        collate_fn=_unchanged,
        multiprocessing_context="fork",
        worker_init_fn=_ignore_stops,
        prefetch_factor=AHEAD,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _ignore_stops(worker: int) -> None:
    """What stops a job comes to all its processes: the training saves and ends these itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _unchanged(batch: B) -> B:
    return batch
