"""Batches of captions and pictures for a contrastive model, from an export. torch.

    position ─ shard, row ─┬─ caption ─ BPE dropout keyed by (seed, epoch, key) ─▶ text    (b, T)
                           └─ JPEG ─ listing 2 keyed by (seed, epoch, key) ──────▶ pixels  (b, S, S, 3)

b: samples of a rank's batch, T: text positions, S: image size. Threads do it (training/data/batches.py).
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch

from gesso.images import Pixels
from gesso.training.contrastive.captions import Captions, caption_hash, picture_hash
from gesso.training.contrastive.settings import Run
from gesso.training.data.batches import BatchWorkers, Pending, Stream, sequential, sequential_cache, shuffled_cache
from gesso.training.data.loader import View, ViewReader
from gesso.training.data.order import WINDOW, Places, State
from gesso.training.data.randomness import random_of
from gesso.training.data.samples import EncodedSample
from gesso.training.data.split import Split
from gesso.training.data.views import prior_view
from gesso.training.tokenizer.bpe import Tokenizer

MOST_EVALUATED = 256  # pairs of a process in one forward pass of an evaluation


class Batch(NamedTuple):
    """A rank's part of a batch, and the state of the global stream after the full batch."""

    text: torch.Tensor  # (b, T) int64
    pixels: torch.Tensor  # (b, S, S, 3) uint8
    same: torch.Tensor  # (b, 2) int64: hashes of picture and caption
    state: State
    truncated: int  # captions that were cut


class Workers(BatchWorkers[Batch]):
    """Threads that fill batches of captions and pictures."""

    def __init__(self, views: ViewReader, captions: Captions, threads: int) -> None:
        super().__init__(threads)
        self._views, self._captions = views, captions

    def submit(self, places: Places, state: State) -> Pending[Batch]:
        count = len(places.rows)
        text, pixels = self._captions.empty(count), self._views.empty(count)
        same, truncated = np.empty((count, 2), np.int64), np.empty(count, np.bool_)

        def fill(piece: slice, taken: Places) -> list[str]:
            samples = self._views.fill(pixels[piece], taken)
            same[piece] = [hashes(sample) for sample in samples]
            truncated[piece] = [
                self._captions.write(row, sample.caption, epoch, sample.key)
                for row, sample, epoch in zip(text[piece], samples, taken.epochs.tolist(), strict=True)
            ]
            return [sample.key for sample in samples]

        def batch(keys: list[str]) -> Batch:
            tensors = torch.from_numpy(text), torch.from_numpy(pixels), torch.from_numpy(same)
            return Batch(*tensors, state, int(truncated.sum()))

        return Pending(self.start(fill, places), batch)


def hashes(sample: EncodedSample) -> tuple[int, int]:
    """What a sample's picture and caption are known by."""
    return picture_hash(sample.key), caption_hash(sample.caption)


class Pairs:
    """One process's access to the pairs: batches for training, and passes for evaluation."""

    def __init__(self, run: Run, rank: int, ranks: int, train: Split, validation: Split) -> None:
        self._run, self._share = run, (rank, ranks)
        self._train, self._validation = train, validation
        self._tokenizer = Tokenizer.open(run.tokenizer)

    def stream(self, state: State) -> Stream[Batch]:
        """An endless stream of this process's parts of batches, from `state`."""
        run, seed = self._run, self._run.training.seed

        def view(pixels: Pixels, epoch: int, key: str) -> Pixels:
            return prior_view(pixels, run.model.image_size, random_of("view", seed, epoch, key))

        def workers() -> Workers:
            return self._workers(self._train, shuffled_cache(self._train, WINDOW), view, seed)

        return Stream(self._train, workers, seed, run.training.batch_size, *self._share, state)

    def validation(self) -> Generator[Batch, None, None]:
        """This process's share of the validation pairs, without dropout, in one view each."""
        run, split = self._run, self._validation

        def view(pixels: Pixels, epoch: int, key: str) -> Pixels:
            return prior_view(pixels, run.model.image_size, random_of("encode", 0, 0, key))

        workers = self._workers(split, sequential_cache(split, run.loop.workers), view, None)
        yield from sequential(workers, split, run.loop.validation_samples, *self._share, MOST_EVALUATED)

    def _workers(self, split: Split, cached: int, view: View, dropout: int | None) -> Workers:
        config, threads = self._run.model, self._run.loop.workers
        captions = Captions(self._tokenizer, config.texts, config.text_positions, dropout)
        return Workers(ViewReader(split, config.image_size, cached, view, captions=True), captions, threads)
