"""The cosine schedules of learning rate, temperature and KL weight: pure functions of the update."""

from math import cos, pi
from typing import NamedTuple

from gesso.training.dvae.settings import TrainSettings


class Rates(NamedTuple):
    """The scheduled values of an update."""

    learning_rate: float
    temperature: float
    beta: float


def cosine(step: int, start: float, end: float, steps: int) -> float:
    """From `start` at update 0 along half a cosine to `end` at update `steps`, constant after it."""
    return end + (start - end) * (1 + cos(pi * min(1.0, step / steps))) / 2


def rates(step: int, settings: TrainSettings) -> Rates:
    """The rates of update `step`, counted from 0."""
    return Rates(
        cosine(step, settings.learning_rate, settings.final_learning_rate, settings.learning_rate_steps),
        cosine(step, settings.temperature, settings.final_temperature, settings.temperature_steps),
        cosine(step, 0.0, settings.beta, settings.beta_steps),
    )
