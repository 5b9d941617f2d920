"""The learning rate of a contrastive training: a linear ramp, then half a cosine to 0; a function of the update."""

from gesso.training.contrastive.settings import TrainSettings
from gesso.training.dvae.schedules import cosine


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The rate of update `step`, counted from 0."""
    ramp = min(1.0, (step + 1) / max(1, settings.warmup))
    rest = max(1, settings.learning_rate_steps - settings.warmup)
    return ramp * cosine(max(0, step - settings.warmup), settings.learning_rate, 0.0, rest)
