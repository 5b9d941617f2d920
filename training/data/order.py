"""The shuffled order of samples: a pure function of (seed, epoch) and the sizes of a split's shards. numpy alone.

    shards, permuted    │ 7   2   9 │ 4   0   8 │ 1   3   6   5 │    by (seed, epoch)
    windows of whole ones   0           1            2               at least `window` samples each
    samples of a window, permuted together                           by (seed, epoch, window)

Only the permutation of a window is in memory, whatever the size of the data set. Another version of numpy may give
other permutations, so a run should keep the version that it began with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gesso.training.data.randomness import random_of

WINDOW = 1 << 18  # samples that are shuffled together

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class State:
    """A position in the endless stream of samples: all that is saved of a loader."""

    seed: int
    epoch: int = 0
    index: int = 0  # of the next sample in its epoch

    def advance(self, count: int, samples: int) -> "State":
        """The position `count` samples later, where an epoch has `samples`."""
        epochs, index = divmod(self.index + count, samples)
        return State(self.seed, self.epoch + epochs, index)


class Places(NamedTuple):
    """Some samples as columns: each one's epoch, shard (position in `counts`) and row."""

    epochs: Numbers
    shards: Numbers
    rows: Numbers


class Layout(NamedTuple):
    """An epoch's shards in their order, and where its windows begin."""

    shards: Numbers  # permuted
    starts: Numbers  # samples before each shard of this order, and the sum of all
    windows: Numbers  # the position in the order at which each window begins, and the number of shards


class Order:
    """The order of a split's samples. `counts`: samples of each shard."""

    def __init__(self, counts: Sequence[int], seed: int, window: int = WINDOW) -> None:
        self._counts = np.asarray(counts, np.int64)
        self._seed, self._window = seed, window
        self.samples = int(self._counts.sum())
        self._layout = lru_cache(2)(self._lay_out)
        self._samples = lru_cache(2)(self._permute)

    def locate(self, epoch: int, index: int) -> tuple[int, int]:
        """Shard and row of one sample of an epoch."""
        found = self._part(epoch, index, index + 1)
        return int(found.shards[0]), int(found.rows[0])

    def take(self, state: State, count: int) -> Places:
        """The `count` samples that follow a position of the stream."""
        assert state.seed == self._seed, state
        parts = [self._part(*span) for span in self._spans(state, count)]
        return Places(*map(np.concatenate, zip(*parts, strict=True)))

    def _spans(self, state: State, count: int) -> Iterator[tuple[int, int, int]]:
        """Epoch, first index and end of each piece of the stream that lies within one window."""
        while count:
            layout = self._layout(state.epoch)
            ends = layout.starts[layout.windows[1:]]
            end = min(state.index + count, int(ends[np.searchsorted(ends, state.index, side="right")]))
            yield state.epoch, state.index, end
            count -= end - state.index
            state = state.advance(end - state.index, self.samples)

    def _part(self, epoch: int, first: int, end: int) -> Places:
        """The samples of a piece that lies within one window."""
        layout = self._layout(epoch)
        starts = layout.starts[layout.windows]
        window = int(np.searchsorted(starts, first, side="right")) - 1
        positions = starts[window] + self._samples(epoch, window)[first - starts[window] : end - starts[window]]
        places = np.searchsorted(layout.starts, positions, side="right") - 1
        return Places(np.full(end - first, epoch), layout.shards[places], positions - layout.starts[places])

    def _lay_out(self, epoch: int) -> Layout:
        shards = random_of("shards", self._seed, epoch, "").permutation(np.flatnonzero(self._counts))
        counts = self._counts[shards]
        starts = np.concatenate([[0], np.cumsum(counts)])
        return Layout(shards, starts, np.array([*windows(counts.tolist(), self._window), len(shards)]))

    def _permute(self, epoch: int, window: int) -> npt.NDArray[Any]:
        layout = self._layout(epoch)
        start, end = layout.starts[layout.windows[window : window + 2]]
        return random_of("window", self._seed, epoch, str(window)).permutation(np.arange(end - start, dtype=np.int32))


def windows(counts: Sequence[int], least: int) -> list[int]:
    """The first shard of each window: as few shards as have `least` samples; a smaller rest joins the last window."""
    starts, samples = [0], 0
    for place, count in enumerate(counts):
        if samples >= least:
            starts.append(place)
            samples = 0
        samples += count
    return starts[:-1] if samples < least and len(starts) > 1 else starts
