"""The learning rate: a ramp, then half a cosine to 0."""

import pytest

from gesso.training.contrastive.schedule import learning_rate
from gesso.training.contrastive.settings import TrainSettings

SETTINGS = TrainSettings(learning_rate=1.0, warmup=10, learning_rate_steps=110)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.5), (110, 0.0), (500, 0.0)])
def test_rates(step: int, rate: float) -> None:
    assert learning_rate(step, SETTINGS) == pytest.approx(rate)


def test_without_a_ramp() -> None:
    assert learning_rate(0, TrainSettings(learning_rate=1.0, warmup=0, learning_rate_steps=1)) == 1.0
