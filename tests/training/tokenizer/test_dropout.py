"""BPE dropout of a word: its two ends, its law in closed form, and Hugging Face's, told apart where they differ."""

import heapq
import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import tokenizers

from gesso.training.tokenizer import bpe
from gesso.training.tokenizer.dropout import TRACED, Draws, Merges
from tests.captions import SCRIPTS, real

needs_captions = pytest.mark.skipif(not real(), reason="no shared captions to measure on")
ABC = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}


class Trained:
    """A tokenizer of Hugging Face's, its words of some captions, and our merges of the same file."""

    def __init__(self, captions: list[str], vocabulary: int) -> None:
        body = bpe.train(captions, vocabulary)
        model = json.loads(body)["model"]
        self.theirs = tokenizers.Tokenizer.from_str(body)
        self.vocabulary: dict[str, int] = model["vocab"]
        self.pairs: list[tuple[str, str]] = [(left, right) for left, right in model["merges"]]
        self.merges = Merges(self.vocabulary, self.pairs)
        self.captions = captions
        self.words = [self.words_of(caption) for caption in captions]

    def words_of(self, caption: str) -> list[str]:
        lower = self.theirs.normalizer.normalize_str(caption)
        return [word for word, _ in self.theirs.pre_tokenizer.pre_tokenize_str(lower)]


@pytest.fixture(scope="module")
def small() -> Trained:
    return Trained([*SCRIPTS.values()] * 3, 800)


@pytest.fixture(scope="module")
def large() -> Trained:
    return Trained(real(), 16_384)


class Queue:
    """Hugging Face's algorithm: a queue of merges, earliest learnt first, each taken out with a chance.

    With `outdated`, merges that later merges made impossible are drawn for like the others, as in their library: where
    one is not left out, those that were come back. Without, they are passed over undrawn.
    """

    def __init__(self, trained: Trained, outdated: bool) -> None:
        self._vocabulary, self._outdated = trained.vocabulary, outdated
        self._merges = {
            (trained.vocabulary[left], trained.vocabulary[right]): (rank, trained.vocabulary[left + right])
            for rank, (left, right) in enumerate(trained.pairs)
        }

    def ids(self, word: str, draw: Iterator[float], probability: float) -> list[int]:
        ids: dict[int, int] = {place: self._vocabulary[letter] for place, letter in enumerate(word)}
        queue: list[tuple[int, int, int]] = []
        self._add(queue, ids, list(pairwise(ids)))
        aside: list[tuple[int, int, int]] = []
        while queue:
            top = heapq.heappop(queue)
            possible = self._possible(ids, top)
            if not possible and not self._outdated:
                continue
            if next(draw) < probability:
                aside.append(top)
                continue
            for item in aside:
                heapq.heappush(queue, item)
            aside.clear()
            if possible:
                self._merge(queue, ids, top)
        return list(ids.values())

    def _possible(self, ids: dict[int, int], top: tuple[int, int, int]) -> bool:
        _, place, merged = top
        behind = [other for other in ids if other > place]
        return place in ids and bool(behind) and self._merges.get((ids[place], ids[behind[0]]), (0, -1))[1] == merged

    def _merge(self, queue: list[tuple[int, int, int]], ids: dict[int, int], top: tuple[int, int, int]) -> None:
        _, place, merged = top
        places = list(ids)
        at = places.index(place)
        ids[place] = merged
        del ids[places.pop(at + 1)]
        self._add(queue, ids, list(pairwise(places[max(0, at - 1) : at + 2])))

    def _add(self, queue: list[tuple[int, int, int]], ids: dict[int, int], pairs: list[tuple[int, int]]) -> None:
        for left, right in pairs:
            found = self._merges.get((ids[left], ids[right]))
            if found:
                heapq.heappush(queue, (found[0], left, found[1]))


def mean_and_error(numbers: list[int]) -> tuple[float, float]:
    return float(np.mean(numbers)), float(np.std(numbers) / len(numbers) ** 0.5)


def assert_agree(one: list[int], other: list[int]) -> None:
    """Two means, within four standard errors of their difference."""
    (first, error), (second, another) = mean_and_error(one), mean_and_error(other)
    assert abs(first - second) < 4 * (error**2 + another**2) ** 0.5, (first, second)


class TestEnds:
    def test_without_dropout_it_is_hugging_faces_bpe(self, small: Trained) -> None:
        check_ids(small)

    @needs_captions
    def test_on_thousands_of_real_captions(self, large: Trained) -> None:
        assert len(large.captions) > 2000
        check_ids(large)

    def test_at_probability_one_bytes_remain(self, small: Trained) -> None:
        for word in small.words[0]:
            ids = small.merges.ids(word, Draws(np.random.default_rng(0)), 1.0)
            assert ids == [small.vocabulary[letter] for letter in word]

    def test_no_word(self) -> None:
        assert Merges(ABC, []).ids("", Draws(np.random.default_rng(0)), 0.5) == []

    def test_equal_pairs_are_merged_from_the_left(self) -> None:
        merges = Merges({"a": 0, "aa": 1}, [("a", "a")])
        assert merges.ids("aaaaa", Draws(np.random.default_rng(0)), 0.0) == [1, 1, 0]


def check_ids(trained: Trained) -> None:
    for caption, words in zip(trained.captions, trained.words, strict=True):
        draw = Draws(np.random.default_rng(0))
        ours = [number for word in words for number in trained.merges.ids(word, draw, 0.0)]
        assert ours == trained.theirs.encode(caption).ids


class TestDraws:
    def test_they_are_the_generators(self) -> None:
        draw = Draws(np.random.default_rng(5))
        assert [next(draw) for _ in range(200)] == np.random.default_rng(5).random(200).tolist()

    def test_those_passed_over_are_gone_and_no_other(self) -> None:
        numbers = np.random.default_rng(5).random(1000).tolist()
        draw, place = Draws(np.random.default_rng(5)), 0
        for most in (0, 1, 5, 2, 100, 7, 3, 200):
            below = next((at for at, number in enumerate(numbers[place:]) if number < 0.1), 1000)
            assert draw.skip(most, 0.1) == min(most, below)
            place += min(most, below)
            assert next(draw) == numbers[place]
            place += 1


class TestLaw:
    def test_of_a_word_with_two_merges_that_compete(self) -> None:
        """abc with a+b, then b+c, then ab+c: what the algorithm of the paper gives, written out."""
        merges, p, count = Merges(ABC, [("a", "b"), ("b", "c"), ("ab", "c")]), 0.3, 20_000
        draw = Draws(np.random.default_rng(3))
        found = Counter(tuple(merges.ids("abc", draw, p)) for _ in range(count))
        expected = {
            (0, 1, 2): p * p,  # both left out
            (0, 4): p * (1 - p),  # a+b left out, b+c made; a+bc is no merge
            (3, 2): (1 - p) * p,  # a+b made, then ab+c left out
            (5,): (1 - p) * (1 - p),
        }
        assert found.keys() == expected.keys()
        for ids, share in expected.items():
            assert abs(found[ids] - count * share) < 4 * (count * share * (1 - share)) ** 0.5

    @pytest.mark.parametrize("probability", [0.0, 0.05, 0.2, 0.6, 1.0])
    def test_the_same_draws_give_what_the_queue_gives(self, small: Trained, probability: float) -> None:
        """Also for words whose merges are remembered, and for those that are too long for it."""
        queue = Queue(small, outdated=False)
        assert {len(word) > TRACED for words in small.words for word in words} == {False, True}
        for seed, words in enumerate(small.words):
            one, other = (Draws(np.random.default_rng(seed)) for _ in range(2))
            for word in words:
                assert small.merges.ids(word, one, probability) == queue.ids(word, other, probability)

    @needs_captions
    def test_the_mean_number_of_tokens(self, large: Trained) -> None:
        """Hugging Face's drops less than the paper's algorithm, by what its outdated merges bring back, and no more."""
        large.theirs.model.dropout = 0.1
        library, theirs, papers, ours = list[int](), list[int](), list[int](), list[int]()
        outdated, live = Queue(large, outdated=True), Queue(large, outdated=False)
        for number, (caption, words) in enumerate(zip(large.captions[::2], large.words[::2], strict=True)):
            library += [len(large.theirs.encode(caption)) for _ in range(3)]
            for kind, lengths, seed in ((outdated, theirs, 1), (live, papers, 2), (large.merges, ours, 3)):
                draw = Draws(np.random.default_rng([seed, number]))
                lengths.append(sum(len(kind.ids(word, draw, 0.1)) for word in words))
        large.theirs.model.dropout = None
        assert_agree(library, theirs)
        assert_agree(papers, ours)
        plain = np.mean([len(large.theirs.encode(caption)) for caption in large.captions[::2]])
        assert np.mean(ours) - plain > 1.4 * (np.mean(library) - plain)
