"""Batches for training, an endless shuffled stream, and for evaluation, each sample once. Threads, no processes.

    stream  │ batch of B ──────────────────┬ batch of B …
    ranks   │ 0: B/R samples │ 1 │ … │ R-1 │               rank r takes positions r·B/R … (r+1)·B/R of every batch
    threads │ a few samples each ─ read ─ decode ─ view ─▶ into their rows of the batch

b: pictures of a rank's batch. The pixels at a position of the stream depend on seed, epoch and the sample alone.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice, repeat
from typing import NamedTuple

import cv2
import numpy as np
import torch

from gesso.errors import Rejected, UserError
from gesso.images import Pixels
from gesso.processes import keep_memory
from gesso.training.data.order import WINDOW, Order, Places, State
from gesso.training.data.randomness import random_of
from gesso.training.data.samples import EncodedSample, SampleReader, decode
from gesso.training.data.split import Split
from gesso.training.data.views import centre_view, dvae_view

CHUNK = 16  # samples of a thread's task: waking a thread costs as much as decoding a small picture
PREFETCH = 2  # batches that are prepared ahead, at least

View = Callable[[Pixels, int, str], Pixels]  # (pixels, epoch, key) → (size, size, 3)


class Batch(NamedTuple):
    """A rank's part of a batch, and the state of the global stream after the full batch."""

    pixels: torch.Tensor  # (b, size, size, 3) uint8
    keys: list[str]
    epochs: list[int]
    state: State


class Pending(NamedTuple):
    """A batch that threads are filling."""

    pixels: Pixels
    keys: "list[Future[list[str]]]"
    epochs: list[int]
    state: State

    def result(self) -> Batch:
        """Waits for the threads. Raises UserError for a damaged sample."""
        keys = [key for part in self.keys for key in part.result()]
        return Batch(torch.from_numpy(self.pixels), keys, self.epochs, self.state)


class Workers:
    """Threads that fill batches."""

    def __init__(self, split: Split, size: int, threads: int, cached: int, view: View) -> None:
        cv2.setNumThreads(1)  # one thread per picture: OpenCV's own would compete
        keep_memory()  # both for pictures and for a CPU training's tensors
        self._reader = SampleReader(split, cached)
        self._size, self._threads, self._view = size, threads, view
        self._pool = ThreadPoolExecutor(threads, "load")

    def submit(self, places: Places, state: State) -> Pending:
        """Starts preparing some samples."""
        count = len(places.rows)
        pixels = np.empty((count, self._size, self._size, 3), np.uint8)
        step = max(1, min(CHUNK, -(-count // self._threads)))
        pieces = [slice(start, start + step) for start in range(0, count, step)]
        tasks = [
            self._pool.submit(self._fill, pixels[piece], Places(*(column[piece] for column in places)))
            for piece in pieces
        ]
        return Pending(pixels, tasks, places.epochs.tolist(), state)

    def prefetch(self, count: int) -> int:
        """How many batches of `count` samples to prepare ahead: enough for every thread."""
        return max(PREFETCH, -(-2 * CHUNK * self._threads // max(1, count)))

    def close(self) -> None:
        """Ends the threads; tasks that have not started are cancelled."""
        self._pool.shutdown(cancel_futures=True)

    def _fill(self, pixels: Pixels, places: Places) -> list[str]:
        """Writes a view of each sample into its row; returns the keys. Raises UserError for a damaged sample."""
        found = self._reader.read(places.shards.tolist(), places.rows.tolist())
        for row, (sample, epoch) in enumerate(zip(found, places.epochs.tolist(), strict=True)):
            pixels[row] = self._prepare(sample, epoch)
        return [sample.key for sample in found]

    def _prepare(self, sample: EncodedSample, epoch: int) -> Pixels:
        try:
            return self._view(decode(sample.body, self._size), epoch, sample.key)
        except Rejected as rejected:
            raise self._reader.refusal(sample, rejected) from rejected


class Loader:
    """An endless stream of batches for training, from `state` or from the start.

    `batch_size` counts the samples of all ranks; it need not divide an epoch: a batch may cross into the next one.
    Iterating raises UserError for a damaged sample; `close` ends the threads.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        seed: int,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        state: State | None = None,
        threads: int = 2,
        window: int = WINDOW,
    ) -> None:
        def view(pixels: Pixels, epoch: int, key: str) -> Pixels:
            return dvae_view(pixels, size, random_of("augment", seed, epoch, key))

        if batch_size < ranks:
            raise UserError(f"--batch_size is {batch_size} for {ranks} processes: give {ranks} or more")
        self._order = Order(split.counts, seed, window)
        self._state = state or State(seed)
        self._batch_size = batch_size
        self._first, self._end = rank * batch_size // ranks, (rank + 1) * batch_size // ranks
        self._workers = Workers(split, size, threads, 2 * (window + max(split.counts)), view)

    def __iter__(self) -> Iterator[Batch]:
        return in_sequence(self._pending(), self._workers.prefetch(self._end - self._first))

    def close(self) -> None:
        self._workers.close()

    def _pending(self) -> Iterator[Pending]:
        state, epoch = self._state, self._order.samples
        while True:
            places = self._order.take(state.advance(self._first, epoch), self._end - self._first)
            state = state.advance(self._batch_size, epoch)
            yield self._workers.submit(places, state)


def sequential_batches(
    split: Split,
    size: int,
    first: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    threads: int = 2,
    batch_size: int = 64,
) -> Generator[tuple[list[str], Pixels], None, None]:
    """Keys and centre views (b, size, size, 3) uint8 of the `first` samples, or all, in the manifest's order.

    Sample n goes to rank n % ranks; a rank's last batch may be smaller. Raises UserError for a damaged sample.
    """
    samples = split.samples if first is None else min(first, split.samples)
    places = places_of(split, range(rank, samples, ranks))
    held = (threads + 1) * max(split.counts)
    workers = Workers(split, size, threads, held, lambda pixels, epoch, key: centre_view(pixels, size))
    submitted = (
        workers.submit(Places(*(column[start : start + batch_size] for column in places)), State(0))
        for start in range(0, len(places.rows), batch_size)
    )
    with closing(workers):
        for batch in in_sequence(submitted, workers.prefetch(batch_size)):
            yield batch.keys, batch.pixels.numpy()


def places_of(split: Split, positions: Sequence[int]) -> Places:
    """Shards and rows of samples that are numbered over all shards."""
    starts = np.cumsum([0, *split.counts])
    numbers = np.asarray(positions, np.int64)
    shards = np.searchsorted(starts, numbers, side="right") - 1
    return Places(np.zeros_like(numbers), shards, numbers - starts[shards])


def in_sequence(submitted: Iterator[Pending], ahead: int) -> Iterator[Batch]:
    """The batches in order, each when it is complete; `ahead` of them are in preparation at a time."""
    waiting = deque(islice(submitted, ahead))
    for pending in chain(submitted, repeat(None)):
        if pending:
            waiting.append(pending)
        if not waiting:
            return
        yield waiting.popleft().result()
