"""Batches of captions and pictures for a prior, from an export, whose dVAE encodes them while training. torch.

    position ─ shard, row ─┬─ caption ─ BPE dropout keyed by (seed, epoch, key) ─▶ text    (b, T)
                           └─ JPEG ─ listing 2 keyed by (seed, epoch, key) ──────▶ pixels  (b, size, size, 3)

b: samples of a rank's batch, T: text positions. Threads do it (batches.py).
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch

from gesso.images import Pixels
from gesso.training.data.batches import BatchWorkers, Pending, Stream, sequential, sequential_cache, shuffled_cache
from gesso.training.data.captions import Captions, Tokenizer
from gesso.training.data.loader import View, ViewReader
from gesso.training.data.order import WINDOW, Places, State
from gesso.training.data.randomness import random_of
from gesso.training.data.split import Split
from gesso.training.data.views import prior_view


class PairBatch(NamedTuple):
    """A rank's part of a batch, and the state of the global stream after the full batch."""

    text: torch.Tensor  # (b, T) int64, ids below V + T
    pixels: torch.Tensor  # (b, size, size, 3) uint8
    keys: list[str]
    epochs: list[int]
    state: State
    truncated: int  # captions of more than T - 1 tokens, whose others are dropped


class PairWorkers(BatchWorkers[PairBatch]):
    """Threads that fill batches of captions and pictures."""

    def __init__(self, views: ViewReader, captions: Captions, threads: int) -> None:
        super().__init__(threads)
        self._views, self._captions = views, captions

    def submit(self, places: Places, state: State) -> Pending[PairBatch]:
        count = len(places.rows)
        text, pixels, truncated = self._captions.empty(count), self._views.empty(count), np.empty(count, np.bool_)

        def fill(piece: slice, taken: Places) -> list[str]:
            samples = self._views.fill(pixels[piece], taken)
            truncated[piece] = [
                self._captions.write(row, sample.caption, epoch, sample.key)
                for row, sample, epoch in zip(text[piece], samples, taken.epochs.tolist(), strict=True)
            ]
            return [sample.key for sample in samples]

        def batch(keys: list[str]) -> PairBatch:
            tensors = torch.from_numpy(text), torch.from_numpy(pixels)
            return PairBatch(*tensors, keys, places.epochs.tolist(), state, int(truncated.sum()))

        return Pending(self.start(fill, places), batch)


class PairLoader(Stream[PairBatch]):
    """An endless stream of batches with BPE dropout, from `state` or from the start.

    `size`: side of the pictures that the dVAE takes, `text_length`: T, 256 at most.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        tokenizer: Tokenizer,
        text_length: int,
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
            return prior_view(pixels, size, random_of("view", seed, epoch, key))

        def workers() -> PairWorkers:
            captions, cached = Captions(tokenizer, text_length, seed), shuffled_cache(split, window)
            return pair_workers(split, size, captions, threads, cached, view)

        super().__init__(split, workers, seed, batch_size, rank, ranks, state, window, processes)


def sequential_pairs(
    split: Split,
    size: int,
    tokenizer: Tokenizer,
    text_length: int,
    first: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    threads: int = 2,
    batch_size: int = 64,
) -> Generator[PairBatch, None, None]:
    """The `first` samples, or all, in the manifest's order: captions without dropout, view 0 of `gesso encode`.

    Its view with seed 0, its default. Sample n goes to rank n % ranks; a rank's last batch may be smaller. Raises
    UserError for a damaged sample.
    """

    def view(pixels: Pixels, epoch: int, key: str) -> Pixels:
        return prior_view(pixels, size, random_of("encode", 0, 0, key))

    captions, cached = Captions(tokenizer, text_length, None), sequential_cache(split, threads)
    workers = pair_workers(split, size, captions, threads, cached, view)
    yield from sequential(workers, split, first, rank, ranks, batch_size)


def pair_workers(split: Split, size: int, captions: Captions, threads: int, cached: int, view: View) -> PairWorkers:
    return PairWorkers(ViewReader(split, size, cached, view, captions=True), captions, threads)
