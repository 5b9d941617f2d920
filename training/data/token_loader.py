"""Batches of captions and codes for a prior, from tokens: an endless shuffled stream, and each sample once. torch.

    position ─ shard, row ─┬─ caption ─ BPE dropout keyed by (seed, epoch, key) ─▶ text   (b, T)
                           └─ codes of the view keyed by (seed, epoch, key) ─────▶ codes  (b, N)

b: samples of a rank's batch, T: text positions, N = g² codes in raster order. Threads do it (batches.py).
"""

from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np
import torch

from gesso.training.data.batches import BatchWorkers, Pending, Stream, sequential, sequential_cache, shuffled_cache
from gesso.training.data.captions import Captions, Tokenizer
from gesso.training.data.order import WINDOW, Places, State
from gesso.training.data.randomness import seed_of
from gesso.training.data.token_samples import TokenReader
from gesso.training.data.token_split import TokenSplit

Choose = Callable[[int, str], int]  # (epoch, key) → view


class TokenBatch(NamedTuple):
    """A rank's part of a batch, and the state of the global stream after the full batch."""

    text: torch.Tensor  # (b, T) int64, ids below V + T
    codes: torch.Tensor  # (b, N) int64
    keys: list[str]
    epochs: list[int]
    state: State
    truncated: int  # captions of more than T - 1 tokens, whose others are dropped


class TokenWorkers(BatchWorkers[TokenBatch]):
    """Threads that fill batches of captions and codes."""

    def __init__(self, split: TokenSplit, captions: Captions, threads: int, cached: int, choose: Choose) -> None:
        super().__init__(threads)
        self._split, self._captions, self._choose = split, captions, choose
        self._reader = TokenReader(split, cached)

    def submit(self, places: Places, state: State) -> Pending[TokenBatch]:
        count = len(places.rows)
        text, codes = self._captions.empty(count), np.empty((count, self._split.grid**2), np.int64)
        truncated = np.empty(count, np.bool_)

        def fill(piece: slice, taken: Places) -> list[str]:
            epochs, shards, rows = (column.tolist() for column in taken)
            samples = self._reader.captions(shards, rows)
            truncated[piece] = [
                self._captions.write(row, sample.caption, epoch, sample.key)
                for row, sample, epoch in zip(text[piece], samples, epochs, strict=True)
            ]
            views = [self._choose(epoch, sample.key) for sample, epoch in zip(samples, epochs, strict=True)]
            codes[piece] = self._reader.codes(shards, rows, views)
            return [sample.key for sample in samples]

        def batch(keys: list[str]) -> TokenBatch:
            tensors = torch.from_numpy(text), torch.from_numpy(codes)
            return TokenBatch(*tensors, keys, places.epochs.tolist(), state, int(truncated.sum()))

        return Pending(self.start(fill, places), batch)


class TokenLoader(Stream[TokenBatch]):
    """An endless stream of batches with BPE dropout, from `state` or from the start. `text_length`: T, 256 at most."""

    def __init__(
        self,
        split: TokenSplit,
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
        def choose(epoch: int, key: str) -> int:
            return seed_of("view", seed, epoch, key) % split.views

        def workers() -> TokenWorkers:
            captions = Captions(tokenizer, text_length, seed)
            return TokenWorkers(split, captions, threads, shuffled_cache(split, window), choose)

        super().__init__(split, workers, seed, batch_size, rank, ranks, state, window, processes)


def sequential_tokens(
    split: TokenSplit,
    tokenizer: Tokenizer,
    text_length: int,
    first: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    threads: int = 2,
    batch_size: int = 64,
) -> Generator[TokenBatch, None, None]:
    """The `first` samples, or all, in the manifest's order: captions without dropout, codes of view 0.

    Sample n goes to rank n % ranks; a rank's last batch may be smaller. Raises UserError for a damaged sample.
    """
    captions = Captions(tokenizer, text_length, None)
    workers = TokenWorkers(split, captions, threads, sequential_cache(split, threads), lambda epoch, key: 0)
    yield from sequential(workers, split, first, rank, ranks, batch_size)
