"""Unigram and bigrams: counts written out, losses by loops over tokens, and the entropies of known sources."""

from collections import Counter
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gesso.errors import UserError
from gesso.training.data.token_split import TokenSplit, open_token_split
from gesso.training.prior import baselines
from gesso.training.prior.baselines import HELD_OUT, SMOOTHINGS, Baselines, Counts
from tests.tokens import MakeCodes, uniform, write_tokens

K, GRID = 6, 4


def splits(folder: Path, codes: MakeCodes, counts: tuple[int, int] = (40, 9), **how: Any) -> list[TokenSplit]:
    path = write_tokens(folder, counts, vocabulary=K, grid=GRID, views=2, codes=codes, **how)
    return [open_token_split(path, split) for split in ("train", "validation")]


def skewed(random: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> Any:
    """Tokens that often repeat the one before them, in raster order."""
    draws = random.choice(vocabulary, shape, p=[0.5, 0.2, 0.1, 0.1, 0.1, 0.0]).reshape(*shape[:2], shape[2] * shape[3])
    for place in range(1, draws.shape[2]):
        repeated = random.random(shape[:2]) < 0.6
        draws[..., place] = np.where(repeated, draws[..., place - 1], draws[..., place])
    return draws.reshape(shape)


def columns(random: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> Any:
    """Each column one token: the row above tells all."""
    return np.broadcast_to(random.integers(0, vocabulary, (*shape[:2], 1, shape[3])), shape)


def all_pictures(split: TokenSplit) -> list[list[list[int]]]:
    """The tokens of each view of each sample."""
    return [views.reshape(len(views), -1).tolist() for shard in split.shards for views in split.codes(shard)]


def loss(counted: list[list[int]], evaluated: list[list[int]], shift: int, smoothing: float) -> float:
    """The definition, a token at a time."""
    single = Counter(token for tokens in counted for token in tokens)
    joint = Counter(pair for tokens in counted for pair in zip(tokens, tokens[shift:], strict=False))
    context = Counter(token for tokens in counted for token in tokens[:-shift])
    total, count = 0.0, 0
    for tokens in evaluated:
        for place, token in enumerate(tokens):
            p = (single[token] + 1) / (single.total() + K)
            if place >= shift:
                u = tokens[place - shift]
                p = (joint[u, token] + smoothing * p) / (context[u] + smoothing)
            total, count = total - log(p), count + 1
    return total / count


def defined(train: TokenSplit, validation: TokenSplit, shift: int) -> tuple[float, float]:
    """Loss and smoothing by the definition."""
    samples = list(enumerate(all_pictures(train)))
    kept = [tokens for number, views in samples if number % HELD_OUT for tokens in views]
    held = [tokens for number, views in samples if number % HELD_OUT == 0 for tokens in views]
    smoothing = min(SMOOTHINGS, key=lambda each: loss(kept, held, shift, each))
    evaluated = [views[0] for views in all_pictures(validation)]
    return loss(kept + held, evaluated, shift, smoothing), smoothing


class TestCounts:
    def test_of_a_few_tokens(self) -> None:
        counts = Counts(3, shift=2)
        counts.add(np.array([[0, 1, 2, 1], [0, 1, 2, 0]], np.uint16))
        counts.add(np.array([[2, 2, 2, 2]], np.uint16))
        assert counts.tokens.tolist() == [3, 3, 6]
        assert counts.without.tolist() == [2, 2, 2]
        assert counts.pairs.tolist() == [0 * 3 + 2, 1 * 3 + 0, 1 * 3 + 1, 2 * 3 + 2]
        assert counts.numbers.tolist() == [2, 1, 1, 2]
        assert counts.contexts().tolist() == [2, 2, 2]
        assert counts.of(np.array([8, 0, 2, 7])).tolist() == [2, 0, 2, 0]

    def test_of_nothing(self) -> None:
        counts = Counts(3, 1)
        counts.add(np.empty((0, 4), np.uint16))
        assert counts.of(np.array([0, 8])).tolist() == [0, 0]

    def test_merged_they_are_those_of_both(self) -> None:
        random = np.random.default_rng(0)
        whole, parts = Counts(9, 3), [Counts(9, 3), Counts(9, 3)]
        for part in parts:
            codes = random.integers(0, 9, (5, 16)).astype(np.uint16)
            part.add(codes)
            whole.add(codes)
        parts[0].merge(parts[1])
        for name in ("tokens", "without", "pairs", "numbers"):
            assert getattr(parts[0], name).tolist() == getattr(whole, name).tolist()

    def test_pairs_of_the_largest_vocabulary(self) -> None:
        counts = Counts(1 << 16, 1)
        counts.add(np.array([[65_535, 65_535, 0, 65_535]], np.uint16))
        assert [divmod(pair, 1 << 16) for pair in counts.pairs.tolist()] == [(0, 65_535), (65_535, 0), (65_535, 65_535)]


class TestMeasure:
    @pytest.mark.parametrize("codes", [uniform, skewed, columns])
    def test_it_is_the_definition(self, tmp_path: Path, codes: MakeCodes) -> None:
        train, validation = splits(tmp_path / "tokens", codes)
        found = baselines.measure(train, validation)
        assert (found.bigram, found.bigram_smoothing) == pytest.approx(defined(train, validation, 1), rel=1e-12)
        assert (found.vertical, found.vertical_smoothing) == pytest.approx(defined(train, validation, GRID), rel=1e-12)
        assert (found.counted, found.evaluated) == (40 * 2 * 16, 9 * 16)

    def test_uniform_tokens_cannot_be_told(self, tmp_path: Path) -> None:
        """The smoothing is then a large one, and no loss is under that of the source by more than chance."""
        found = baselines.measure(*splits(tmp_path / "tokens", uniform, (200, 40)))
        assert found[:3] == pytest.approx([log(K)] * 3, abs=0.01)
        assert min(found.bigram_smoothing, found.vertical_smoothing) >= 256

    def test_what_the_row_above_tells(self, tmp_path: Path) -> None:
        """Only the first row is uncertain: a quarter of the tokens."""
        found = baselines.measure(*splits(tmp_path / "tokens", columns, (200, 40)))
        assert found.unigram == pytest.approx(log(K), abs=0.05)
        assert found.vertical == pytest.approx(log(K) / GRID, abs=0.05)
        assert found.bigram > 1.5
        assert found.vertical_smoothing == SMOOTHINGS[0]

    def test_of_the_first_samples(self, tmp_path: Path) -> None:
        """Over the end of a shard, though the next has no samples."""
        train, validation = splits(tmp_path / "tokens", skewed, shard_size=6)
        found: Baselines = baselines.measure(train, validation, samples=9, validation_samples=7)
        assert (found.counted, found.evaluated) == (9 * 2 * 16, 7 * 16)
        views = all_pictures(train)[:9]
        tokens = Counter(token for each in views for one in each for token in one)
        heard = [token for each in all_pictures(validation)[:7] for token in each[0]]
        expected = -sum(log((tokens[token] + 1) / (9 * 2 * 16 + K)) for token in heard) / len(heard)
        assert found.unigram == pytest.approx(expected, rel=1e-12)

    def test_a_damaged_shard(self, tmp_path: Path) -> None:
        train, validation = splits(tmp_path / "tokens", skewed)
        (tmp_path / "tokens/validation/00000.npy").write_bytes(b"")
        with pytest.raises(UserError, match=r"validation/00000\.npy is no array of NumPy .*`gesso verify"):
            baselines.measure(train, validation)
