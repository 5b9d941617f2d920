"""The cosine schedules of step size, temperature and KL weight: pure functions of the update."""

from math import cos, pi
from typing import NamedTuple

from gesso.training.dvae.settings import LearnSettings


class Rates(NamedTuple):
    """What an update is made with."""

    learning_rate: float
    temperature: float
    beta: float


def cosine(step: int, begin: float, end: float, steps: int) -> float:
    """From `begin` at update 0 along half a cosine to `end` at update `steps`, which it keeps."""
    return end + (begin - end) * (1 + cos(pi * min(1.0, step / steps))) / 2


def rates(step: int, learn: LearnSettings) -> Rates:
    """The rates of update `step`, counted from 0."""
    return Rates(
        cosine(step, learn.learning_rate, learn.final_learning_rate, learn.learning_rate_steps),
        cosine(step, learn.temperature, learn.final_temperature, learn.temperature_steps),
        cosine(step, 0.0, learn.beta, learn.beta_steps),
    )
