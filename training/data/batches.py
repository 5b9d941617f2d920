"""Batches that threads fill: an endless shuffled stream, or each sample once in order. No torch of its own.

    stream  │ batch of B ──────────────────┬ batch of B …
    ranks   │ 0: B/R samples │ 1 │ … │ R-1 │               rank r takes positions r·B/R … (r+1)·B/R of every batch
    threads │ a few samples each ─▶ into their rows of the batch

What stands at a position of the stream depends on seed, epoch and the sample alone.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice, repeat
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from gesso.errors import UserError
from gesso.processes import keep_memory
from gesso.training.data.order import WINDOW, Order, Places, State
from gesso.training.data.shards import ShardSplit

CHUNK = 16  # samples of a thread's task: waking a thread costs as much as decoding a small picture
PREFETCH = 2  # batches that are prepared ahead, at least

B = TypeVar("B")

Fill = Callable[[slice, Places], list[str]]  # writes the samples of some rows of a batch; returns their keys


class Pending(NamedTuple, Generic[B]):
    """A batch that threads are filling."""

    keys: "list[Future[list[str]]]"
    batch: Callable[[list[str]], B]  # of all keys, when all is filled

    def result(self) -> B:
        """Waits for the threads. Raises UserError for a damaged sample."""
        return self.batch([key for part in self.keys for key in part.result()])


class BatchWorkers(ABC, Generic[B]):
    """Threads that fill batches."""

    def __init__(self, threads: int) -> None:
        keep_memory()  # both for batches and for a CPU training's tensors
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "load")

    @abstractmethod
    def submit(self, places: Places, state: State) -> Pending[B]:
        """Starts preparing some samples."""

    def prefetch(self, count: int) -> int:
        """How many batches of `count` samples to prepare ahead: enough for every thread."""
        return max(PREFETCH, -(-2 * CHUNK * self._threads // max(1, count)))

    def close(self) -> None:
        """Ends the threads; tasks that have not started are cancelled."""
        self._pool.shutdown(cancel_futures=True)

    def start(self, fill: Fill, places: Places) -> "list[Future[list[str]]]":
        """Calls `fill` on the threads, for a few rows of a batch at a time."""
        count = len(places.rows)
        step = max(1, min(CHUNK, -(-count // self._threads)))
        pieces = [slice(start, start + step) for start in range(0, count, step)]
        return [self._pool.submit(fill, piece, part(places, piece)) for piece in pieces]


class Stream(Generic[B]):
    """An endless stream of batches for training, from `state` or from the start.

    `batch_size` counts the samples of all ranks; it need not divide an epoch: a batch may cross into the next one.
    `processes` prepare batches, each with the workers' threads; 0: threads of this one. Iterating raises UserError for
    a damaged sample; `close` ends threads and processes.
    """

    def __init__(
        self,
        split: ShardSplit,
        workers: Callable[[], BatchWorkers[B]],
        seed: int,
        batch_size: int,
        rank: int,
        ranks: int,
        state: State | None,
        window: int = WINDOW,
        processes: int = 0,
    ) -> None:
        if batch_size < ranks:
            raise UserError(f"--batch_size is {batch_size} for {ranks} processes: give {ranks} or more")
        self._order = Order(split.counts, seed, window)
        self._state = state or State(seed)
        self._batch_size = batch_size
        self._first, self._end = rank * batch_size // ranks, (rank + 1) * batch_size // ranks
        self._workers, self._processes = workers, processes
        self._iterating: Generator[B, None, None] | None = None

    def __iter__(self) -> Iterator[B]:
        self.close()
        self._iterating = self._from_processes() if self._processes else self._share(0, 1)
        return self._iterating

    def close(self) -> None:
        if self._iterating:
            self._iterating.close()

    def _from_processes(self) -> Generator[B, None, None]:
        from gesso.training.data.loader_processes import from_processes

        yield from from_processes(self._share, self._processes)

    def _share(self, first: int, every: int) -> Generator[B, None, None]:
        """The batches first, first + every, … of the stream, by threads of this process."""
        with closing(self._workers()) as workers:
            submitted = self._pending(workers, first, every)
            yield from in_sequence(submitted, workers.prefetch(self._end - self._first))

    def _pending(self, workers: BatchWorkers[B], first: int, every: int) -> Iterator[Pending[B]]:
        epoch = self._order.samples
        state = self._state.advance(first * self._batch_size, epoch)
        while True:
            places = self._order.take(state.advance(self._first, epoch), self._end - self._first)
            yield workers.submit(places, state.advance(self._batch_size, epoch))
            state = state.advance(every * self._batch_size, epoch)


def sequential(
    workers: BatchWorkers[B], split: ShardSplit, first: int | None, rank: int, ranks: int, batch_size: int
) -> Generator[B, None, None]:
    """The `first` samples, or all, once in the manifest's order; ends the threads behind the last.

    Sample n goes to rank n % ranks; a rank's last batch may be smaller. Raises UserError for a damaged sample.
    """
    samples = split.samples if first is None else min(first, split.samples)
    places = places_of(split, range(rank, samples, ranks))
    starts = range(0, len(places.rows), batch_size)
    submitted = (workers.submit(part(places, slice(start, start + batch_size)), State(0)) for start in starts)
    with closing(workers):
        yield from in_sequence(submitted, workers.prefetch(batch_size))


def shuffled_cache(split: ShardSplit, window: int) -> int:
    """How many samples' rows a shuffled stream needs at a time: those of two windows."""
    return 2 * (window + max(split.counts))


def sequential_cache(split: ShardSplit, threads: int) -> int:
    """How many samples' rows are needed at a time where each thread may be at another shard."""
    return (threads + 1) * max(split.counts)


def part(places: Places, piece: slice) -> Places:
    return Places(*(column[piece] for column in places))


def places_of(split: ShardSplit, positions: Sequence[int]) -> Places:
    """Shards and rows of samples that are numbered over all shards."""
    starts = np.cumsum([0, *split.counts])
    numbers = np.asarray(positions, np.int64)
    shards = np.searchsorted(starts, numbers, side="right") - 1
    return Places(np.zeros_like(numbers), shards, numbers - starts[shards])


def in_sequence(submitted: Iterator[Pending[B]], ahead: int) -> Iterator[B]:
    """The batches in order, each when it is complete; `ahead` of them are in preparation at a time."""
    waiting = deque(islice(submitted, ahead))
    for pending in chain(submitted, repeat(None)):
        if pending:
            waiting.append(pending)
        if not waiting:
            return
        yield waiting.popleft().result()
