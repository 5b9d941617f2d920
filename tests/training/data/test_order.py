"""The order of samples: each once an epoch, the same wherever it begins, mixed over shards, within bounded windows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.training.data.order import Order, Places, State, windows

COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any)
WINDOWS = st.integers(1, 60)


def pairs(places: Places) -> list[tuple[int, int]]:
    return list(zip(places.shards.tolist(), places.rows.tolist(), strict=True))


def every(counts: Sequence[int]) -> list[tuple[int, int]]:
    return [(shard, row) for shard, count in enumerate(counts) for row in range(count)]


class TestOrder:
    @given(COUNTS, WINDOWS, st.integers(0, 3), st.integers(0, 3))
    def test_every_sample_once_an_epoch(self, counts: list[int], window: int, seed: int, epoch: int) -> None:
        order = Order(counts, seed, window)
        assert order.samples == sum(counts)
        assert sorted(pairs(order.take(State(seed, epoch), order.samples))) == every(counts)

    @given(COUNTS, WINDOWS, st.lists(st.integers(1, 30), min_size=1, max_size=6))
    def test_any_pieces_are_one_stream(self, counts: list[int], window: int, pieces: list[int]) -> None:
        """Taken in pieces, over the ends of windows and epochs, by orders that know of nothing before."""
        whole = Order(counts, 5, window).take(State(5), sum(pieces))
        state, taken = State(5), list[tuple[int, int]]()
        for count in pieces:
            taken += pairs(Order(counts, 5, window).take(state, count))
            state = state.advance(count, sum(counts))
        assert taken == pairs(whole)
        assert state == State(5, *divmod(sum(pieces), sum(counts)))
        assert whole.epochs.tolist() == [position // sum(counts) for position in range(sum(pieces))]

    @given(COUNTS, WINDOWS)
    def test_one_sample_is_found_as_many_are(self, counts: list[int], window: int) -> None:
        order = Order(counts, 1, window)
        taken = pairs(order.take(State(1, 2), order.samples))
        assert [order.locate(2, index) for index in range(order.samples)] == taken

    @given(st.integers(1, 8), st.integers(1, 40), COUNTS, WINDOWS)
    def test_ranks_share_an_epoch_without_repeats(self, ranks: int, batch: int, counts: list[int], window: int) -> None:
        """Consecutive batches, each cut into the ranks' parts, give the stream again."""
        order = Order(counts, 0, window)
        taken = list[tuple[int, int]]()
        for number in range(3):
            for rank in range(ranks):
                first, end = rank * batch // ranks, (rank + 1) * batch // ranks
                state = State(0).advance(number * batch + first, order.samples)
                taken += pairs(order.take(state, end - first)) if end > first else []
        assert taken == pairs(order.take(State(0), 3 * batch))

    def test_seed_and_epoch_decide(self) -> None:
        taken = {
            (seed, epoch): tuple(pairs(Order([50, 50], seed).take(State(seed, epoch), 100)))
            for seed in (0, 1)
            for epoch in (0, 1)
        }
        assert len(set(taken.values())) == 4
        assert tuple(pairs(Order([50, 50], 1).take(State(1, 1), 100))) == taken[1, 1]

    def test_the_very_order_under_a_seed(self) -> None:
        taken = Order([4, 0, 3, 5], seed=7, window=6).take(State(7, 1), 12)
        assert pairs(taken) == [
            (2, 0),
            (2, 2),
            (3, 0),
            (0, 3),
            (2, 1),
            (0, 1),
            (0, 2),
            (0, 0),
            (3, 3),
            (3, 1),
            (3, 4),
            (3, 2),
        ]

    def test_neighbours_come_from_many_shards(self) -> None:
        """In a window of ten shards, 64 consecutive samples are of nearly all ten, and no shard stays where it was."""
        taken = Order([1000] * 100, 3, window=10_000).take(State(3), 100_000)
        for start in range(0, 10_000, 64):
            assert len(set(taken.shards[start : start + 64].tolist())) >= 8
        steps = np.abs(np.diff(taken.rows))
        assert 300 < steps.mean() < 370  # of two random rows of a thousand: 333
        assert len(set(taken.shards[:10_000].tolist()) - set(range(10))) >= 5

    @pytest.mark.parametrize("counts", [[100] * 50, [7, 993] * 20, [5000, 10, 10, 10]])
    def test_what_is_read_at_a_time_is_bounded(self, counts: list[int]) -> None:
        """A window is the samples of whole shards: read, it is never touched again in its epoch."""
        order = Order(counts, 0, window=1000)
        taken = pairs(order.take(State(0), order.samples))
        last = {shard: place for place, (shard, _) in enumerate(taken)}
        first = {shard: place for place, (shard, _) in reversed(list(enumerate(taken)))}
        for place in range(0, len(taken), 97):
            held = sum(counts[shard] for shard in first if first[shard] <= place <= last[shard])
            assert held <= 2 * 1000 + max(counts)


class TestWindows:
    @pytest.mark.parametrize(
        ("counts", "least", "begins"),
        [
            ([4, 4, 4, 4], 8, [0, 2]),
            ([4, 4, 4, 4], 5, [0, 2]),
            ([4, 4, 4], 8, [0]),  # four would be too few
            ([4, 4, 4, 4, 4], 8, [0, 2]),
            ([9, 1, 9], 8, [0, 1]),
            ([1], 100, [0]),
        ],
    )
    def test_where_they_begin(self, counts: list[int], least: int, begins: list[int]) -> None:
        assert windows(counts, least) == begins

    @given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 100))
    def test_none_is_too_small_or_too_large(self, counts: list[int], least: int) -> None:
        begins = [*windows(counts, least), len(counts)]
        held = [sum(counts[begin:end]) for begin, end in pairwise(begins)]
        assert sum(held) == sum(counts)
        assert all(least <= count for count in held) or len(held) == 1
        assert all(count < 2 * least + max(counts) for count in held)


class TestState:
    @pytest.mark.parametrize(
        ("state", "count", "then"),
        [
            (State(3), 4, State(3, 0, 4)),
            (State(3, 1, 8), 2, State(3, 2, 0)),
            (State(3, 1, 8), 25, State(3, 4, 3)),
        ],
    )
    def test_it_goes_on_into_later_epochs(self, state: State, count: int, then: State) -> None:
        assert state.advance(count, 10) == then
