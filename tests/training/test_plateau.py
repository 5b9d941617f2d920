"""The learning rate: ramp, plateaus, halvings."""

from math import inf, nan

import pytest

from gesso.training.plateau import LearningRate

PEAK, WARMUP = 4.5e-4, 5000


def learning_rate(patience: int = 2, threshold: float = 0.01, halvings: int = 5) -> LearningRate:
    return LearningRate(PEAK, WARMUP, patience, threshold, halvings)


def halved_at(rate: LearningRate, losses: list[float]) -> list[int]:
    """Which of the losses, all after the ramp, halve the rate."""
    return [number for number, loss in enumerate(losses) if rate.observe(WARMUP + 1 + number, loss)]


def test_it_rises_linearly_from_0_to_the_peak() -> None:
    rate = learning_rate()
    assert [rate.rate(step) for step in (0, 1250, 2500)] == [0.0, PEAK / 4, PEAK / 2]
    assert [rate.rate(step) for step in (5000, 5001, 430_000)] == [PEAK] * 3
    assert LearningRate(PEAK, 0, 1, 0.0).rate(0) == PEAK


def test_it_is_halved_after_patience_losses_without_an_improvement() -> None:
    rate = learning_rate()
    assert halved_at(rate, [5.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0]) == [5, 7]
    assert rate.rate(10_000) == PEAK / 4


def test_an_improvement_is_at_least_the_threshold_below_the_best() -> None:
    assert halved_at(learning_rate(threshold=0.5), [4.0, 3.75, 3.5, 3.25, 3.0]) == []
    assert halved_at(learning_rate(threshold=0.5), [4.0, 3.75, 3.625]) == [2]
    assert halved_at(learning_rate(threshold=0.5), [4.0, 6.0, 5.0]) == [2]  # not below the last, but below the best


def test_without_a_threshold_an_equal_loss_is_no_improvement() -> None:
    assert halved_at(learning_rate(threshold=0.0), [4.0, 4.0, 3.75, 3.75, 3.75]) == [4]


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_not_finite_never_improves(bad: float) -> None:
    assert halved_at(learning_rate(), [4.0, bad, 3.0, bad, bad]) == [4]
    rate = learning_rate()
    assert halved_at(rate, [bad, bad]) == [1]
    assert rate.best == inf


def test_it_is_halved_five_times_at_most() -> None:
    rate = learning_rate(patience=1)
    assert halved_at(rate, [4.0] * 12) == [1, 2, 3, 4, 5]
    assert rate.rate(10_000) == PEAK / 32
    assert halved_at(learning_rate(halvings=0), [4.0] * 12) == []


def test_losses_of_the_ramp_are_ignored() -> None:
    rate = learning_rate(patience=1)
    assert not any(rate.observe(step, 1.0) for step in (1000, 2000, 5000))
    assert halved_at(rate, [4.0, 3.0, 2.0]) == []


def test_it_goes_on_from_its_state() -> None:
    rate, again = learning_rate(patience=3), learning_rate(patience=3)
    halved_at(rate, [4.0] * 6)
    assert rate.state() == {"best": 4.0, "waited": 2, "halved": 1}
    again.restore(rate.state())
    assert again.rate(10_000) == PEAK / 2
    assert halved_at(again, [4.0]) == [0]
