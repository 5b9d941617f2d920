"""Stops a training that diverges: a loss that is not finite, or that jumps above its moving average. No torch."""

from math import isfinite

DECAY = 0.98  # of the moving average: about the last 50 updates
WARMUP = 50  # updates before spikes are looked for


class Diverged(Exception):
    """The training must stop: `reason` says why, `remedy` how to continue this run, if there is a way."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class SpikeDetector:
    """Compares each update's loss with the moving average of those before; `mean` is all of its state."""

    def __init__(self, threshold: float) -> None:
        self._threshold, self.mean = threshold, 0.0

    def check(self, step: int, loss: float) -> None:
        """Takes the loss of the update after `step` updates. Raises Diverged, and keeps its state then."""
        if not isfinite(loss):
            raise Diverged(f"the loss of update {step + 1} is {loss}")
        if step > WARMUP and loss > self.mean + self._threshold:
            jump = f"the loss of update {step + 1} jumped from {self.mean:.3f} to {loss:.3f}"
            raise Diverged(jump, "give a larger --spike to ignore it")
        decay = DECAY if step else 0.0
        self.mean = decay * self.mean + (1 - decay) * loss
