"""Batches of pictures for a dVAE: an endless shuffled stream to train on, and each sample once to evaluate. torch.

Threads read, decode and crop (batches.py). b: pictures of a rank's batch.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import NamedTuple

import cv2
import numpy as np
import torch

from gesso.errors import Rejected
from gesso.images import Pixels
from gesso.training.data.batches import BatchWorkers, Pending, Stream, sequential, sequential_cache, shuffled_cache
from gesso.training.data.order import WINDOW, Places, State
from gesso.training.data.randomness import random_of
from gesso.training.data.samples import EncodedSample, SampleReader, decode
from gesso.training.data.split import Split
from gesso.training.data.views import centre_view, dvae_view

View = Callable[[Pixels, int, str], Pixels]  # (pixels, epoch, key) → (size, size, 3)


class Batch(NamedTuple):
    """A rank's part of a batch, and the state of the global stream after the full batch."""

    pixels: torch.Tensor  # (b, size, size, 3) uint8
    keys: list[str]
    epochs: list[int]
    state: State


class ViewReader:
    """Reads samples and makes a view of each picture; threads may share it."""

    def __init__(self, split: Split, size: int, cached: int, view: View, captions: bool = False) -> None:
        cv2.setNumThreads(1)  # one thread per picture: OpenCV's own would compete
        self._reader = SampleReader(split, cached, captions)
        self._size, self._view = size, view

    def empty(self, count: int) -> Pixels:
        return np.empty((count, self._size, self._size, 3), np.uint8)

    def fill(self, pixels: Pixels, places: Places) -> list[EncodedSample]:
        """Writes a view of each sample into its row; returns the samples. Raises UserError for a damaged one."""
        found = self._reader.read(places.shards.tolist(), places.rows.tolist())
        for row, (sample, epoch) in enumerate(zip(found, places.epochs.tolist(), strict=True)):
            pixels[row] = self._prepare(sample, epoch)
        return found

    def _prepare(self, sample: EncodedSample, epoch: int) -> Pixels:
        try:
            return self._view(decode(sample.body, self._size), epoch, sample.key)
        except Rejected as rejected:
            raise self._reader.refusal(sample, rejected) from rejected


class Workers(BatchWorkers[Batch]):
    """Threads that fill batches of pictures."""

    def __init__(self, split: Split, size: int, threads: int, cached: int, view: View) -> None:
        super().__init__(threads)
        self._views = ViewReader(split, size, cached, view)

    def submit(self, places: Places, state: State) -> Pending[Batch]:
        pixels = self._views.empty(len(places.rows))

        def fill(piece: slice, taken: Places) -> list[str]:
            return [sample.key for sample in self._views.fill(pixels[piece], taken)]

        def batch(keys: list[str]) -> Batch:
            return Batch(torch.from_numpy(pixels), keys, places.epochs.tolist(), state)

        return Pending(self.start(fill, places), batch)


class Loader(Stream[Batch]):
    """An endless stream of batches by listing 1, from `state` or from the start."""

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
        processes: int = 0,
    ) -> None:
        def view(pixels: Pixels, epoch: int, key: str) -> Pixels:
            return dvae_view(pixels, size, random_of("augment", seed, epoch, key))

        def workers() -> Workers:
            return Workers(split, size, threads, shuffled_cache(split, window), view)

        super().__init__(split, workers, seed, batch_size, rank, ranks, state, window, processes)


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

    def view(pixels: Pixels, epoch: int, key: str) -> Pixels:
        return centre_view(pixels, size)

    workers = Workers(split, size, threads, sequential_cache(split, threads), view)
    with closing(sequential(workers, split, first, rank, ranks, batch_size)) as batches:
        for batch in batches:
            yield batch.keys, batch.pixels.numpy()
