"""Which losses stop a training, and what they are compared with."""

from math import inf, nan

import pytest

from gesso.training import spikes
from gesso.training.spikes import Diverged, SpikeDetector


def trained(losses: list[float], threshold: float = 2.0) -> SpikeDetector:
    detector = SpikeDetector(threshold)
    for step, loss in enumerate(losses):
        detector.check(step, loss)
    return detector


def test_the_mean_starts_at_the_first_loss_and_moves_by_a_fiftieth() -> None:
    assert trained([3.0]).mean == 3.0
    assert trained([3.0, 4.0]).mean == pytest.approx(3.02)
    assert trained([3.0, 4.0, 3.02]).mean == pytest.approx(3.02)


@pytest.mark.parametrize("loss", [nan, inf, -inf])
def test_a_loss_that_is_not_finite(loss: float) -> None:
    detector = trained([3.0])
    with pytest.raises(Diverged) as raised:
        detector.check(1, loss)
    assert (raised.value.reason, raised.value.remedy) == (f"the loss of update 2 is {loss}", "")
    assert detector.mean == 3.0


def test_a_spike_is_over_the_threshold_and_after_the_warmup() -> None:
    detector = trained([3.0] * (spikes.WARMUP + 1))
    detector.check(spikes.WARMUP + 1, 5.0)  # by exactly the threshold
    mean = detector.mean
    with pytest.raises(Diverged) as raised:
        detector.check(spikes.WARMUP + 2, 5.1)
    assert raised.value.reason == "the loss of update 53 jumped from 3.040 to 5.100"
    assert raised.value.remedy == "give a larger --spike to ignore it"
    assert detector.mean == mean


def test_in_the_warmup_the_loss_may_jump() -> None:
    assert trained([3.0] * spikes.WARMUP + [99.0]).mean == pytest.approx(3.0 + 0.02 * 96)
