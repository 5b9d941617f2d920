"""Captions as the text ids of a prior: the first T positions, BPE dropout by keyed random numbers. numpy alone.

slot   0               1 … n            n+1 … T-1
id     V               BPE, below V     V+n+1 … V+T-1
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gesso.training.data.randomness import random_of

Text = npt.NDArray[np.int64]  # (b, T)


class Tokenizer(Protocol):
    """What is needed of training/tokenizer/bpe.py."""

    def tokens(self, caption: str, most: int, random: np.random.Generator | None = None) -> list[int]: ...

    def ids(self, tokens: Sequence[int]) -> npt.NDArray[np.uint16]: ...


class Captions:
    """Writes captions as ids; threads may share it. `seed` of the dropout; None: no dropout."""

    def __init__(self, tokenizer: Tokenizer, length: int, seed: int | None) -> None:
        self._tokenizer, self._length, self._seed = tokenizer, length, seed

    def empty(self, count: int) -> Text:
        """Rows to write captions into, (count, T)."""
        return np.empty((count, self._length), np.int64)

    def write(self, text: Text, caption: str, epoch: int, key: str) -> bool:
        """Writes a caption into a row, (T,); whether it has more than T - 1 tokens, the others dropped."""
        random = None if self._seed is None else random_of("caption", self._seed, epoch, key)
        tokens = self._tokenizer.tokens(caption, self._length, random)
        text[:] = self._tokenizer.ids(tokens)[: self._length]
        return len(tokens) >= self._length
