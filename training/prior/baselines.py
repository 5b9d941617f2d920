"""Unigram and bigrams of image tokens: what a prior must beat to have learned more than counts. numpy alone.

    unigram    p(t)     = (c(t) + 1) / (n + K)
    bigram     p(t | u) = (c(u, t) + α·p(t)) / (c(u) + α)        u: the token before it in raster order
    vertical   p(t | u) = the same                               u: the token above it

c: counts over all views of the training split, n their sum, K: vocabulary. α: the additive smoothing towards the
unigram, chosen by the likelihood of training samples held out of the counts. Tokens without a context, the first one
or the first row, have the unigram's probability. Captions play no part.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gesso.training.data.token_split import Codes, TokenSplit

Numbers = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

SMOOTHINGS = tuple(4.0**power for power in range(-3, 9))  # α, in tokens: 1/64 … 65,536
HELD_OUT = 16  # one training sample of so many is held out to choose α


class Baselines(NamedTuple):
    """Mean negative log-likelihoods of the validation split's tokens at view 0, nats a token."""

    unigram: float
    bigram: float
    vertical: float
    bigram_smoothing: float  # α
    vertical_smoothing: float
    counted: int  # training tokens
    evaluated: int  # validation tokens


class Counts:
    """Counts of tokens, and of pairs of a token and its context, which stands `shift` places before it."""

    def __init__(self, vocabulary: int, shift: int) -> None:
        self.vocabulary, self.shift = vocabulary, shift
        self.tokens = np.zeros(vocabulary, np.int64)
        self.without = np.zeros(vocabulary, np.int64)  # tokens that have no context
        self.pairs = np.empty(0, np.int64)  # context · K + token, each once, sorted
        self.numbers = np.empty(0, np.int64)  # how often each of them occurs

    def add(self, codes: Codes) -> None:
        """Counts pictures, (n, N) tokens in raster order."""
        codes = codes.astype(np.int64)
        self.tokens += np.bincount(codes.ravel(), minlength=self.vocabulary)
        self.without += np.bincount(codes[:, : self.shift].ravel(), minlength=self.vocabulary)
        pairs = codes[:, : -self.shift] * self.vocabulary + codes[:, self.shift :]
        self._add_pairs(*np.unique(pairs, return_counts=True))

    def merge(self, other: "Counts") -> None:
        self.tokens += other.tokens
        self.without += other.without
        self._add_pairs(other.pairs, other.numbers)

    def of(self, pairs: Numbers) -> Numbers:
        """How often each of some pairs occurs."""
        if not len(self.pairs):
            return np.zeros_like(pairs)
        places = np.searchsorted(self.pairs, pairs).clip(max=len(self.pairs) - 1)
        return np.where(self.pairs[places] == pairs, self.numbers[places], 0)

    def contexts(self) -> Values:
        """How often each token is the context of another: (K,)."""
        return np.bincount(self.pairs // self.vocabulary, self.numbers, self.vocabulary).astype(np.float64)

    def _add_pairs(self, pairs: Numbers, numbers: Numbers) -> None:
        self.pairs, places = np.unique(np.concatenate([self.pairs, pairs]), return_inverse=True)
        self.numbers = np.bincount(places, np.concatenate([self.numbers, numbers])).astype(np.int64)


def measure(
    train: TokenSplit, validation: TokenSplit, samples: int | None = None, validation_samples: int | None = None
) -> Baselines:
    """Counts the first `samples` of the training split, or all, and evaluates on the first of the validation split.

    Memory: 16 bytes for each distinct pair, and a shard. Raises UserError for a damaged shard.
    """
    shifts = {"bigram": 1, "vertical": train.grid}
    kept, held, evaluated = ([Counts(train.vocabulary, shift) for shift in shifts.values()] for _ in range(3))
    for numbers, codes in pictures(train, samples):
        is_held = numbers % HELD_OUT == 0
        for view in range(train.views):
            add(kept, codes[~is_held, view])
            add(held, codes[is_held, view])
    for _, codes in pictures(validation, validation_samples):
        add(evaluated, codes[:, 0])
    (bigram, α), (vertical, β) = (best(*counts) for counts in zip(kept, held, evaluated, strict=True))
    counted, tokens = (int(counts[0].tokens.sum()) for counts in (kept, evaluated))
    return Baselines(unigram_nll(kept[0], evaluated[0]), bigram, vertical, α, β, counted, tokens)


def best(kept: Counts, held: Counts, evaluated: Counts) -> tuple[float, float]:
    """The loss of `evaluated` by all counts, and the smoothing that suits `held` best; merges `held` into `kept`."""
    smoothing = min(SMOOTHINGS, key=lambda each: nll(kept, held, each))
    kept.merge(held)
    return nll(kept, evaluated, smoothing), smoothing


def add(tables: list[Counts], codes: Codes) -> None:
    for table in tables:
        table.add(codes)


def pictures(split: TokenSplit, first: int | None) -> Iterator[tuple[Numbers, Codes]]:
    """Numbers and codes (n, views, N) of the `first` samples, or all, a shard at a time."""
    start, end = 0, split.samples if first is None else min(first, split.samples)
    for shard in split.shards:
        count = min(shard.count, end - start)
        if count:
            codes = split.codes(shard)[:count]
            yield np.arange(start, start + count), codes.reshape(count, split.views, -1)
        start += count


def unigram(counts: Counts) -> Values:
    """Probabilities (K,) of the tokens, with one more of each counted."""
    return (counts.tokens + 1) / (counts.tokens.sum() + counts.vocabulary)


def unigram_nll(counts: Counts, evaluated: Counts) -> float:
    """Nats a token."""
    return float(-(evaluated.tokens @ np.log(unigram(counts))) / evaluated.tokens.sum())


def nll(counts: Counts, evaluated: Counts, smoothing: float) -> float:
    """Nats a token by the counts of pairs; 0 where there is nothing to evaluate."""
    probabilities = unigram(counts)
    contexts, tokens = np.divmod(evaluated.pairs, counts.vocabulary)
    joint = counts.of(evaluated.pairs) + smoothing * probabilities[tokens]
    each = np.log(joint / (counts.contexts()[contexts] + smoothing))
    total = evaluated.numbers @ each + evaluated.without @ np.log(probabilities)
    return float(-total / max(1, evaluated.tokens.sum()))
