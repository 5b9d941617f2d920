"""The learning rate of the prior: a linear ramp, then halved at plateaus of the validation loss. No torch.

The paper halves it five times, each at a plateau of the loss (section 4), and does not say what a plateau is. Here:
`patience` evaluations in a row of which none is below the best before them by `threshold`.
"""

from math import inf, isfinite


class LearningRate:
    """`warmup` is in updates, `patience` in evaluations, `threshold` in the loss's unit, nats."""

    def __init__(self, peak: float, warmup: int, patience: int, threshold: float, halvings: int = 5) -> None:
        self._peak, self._warmup = peak, warmup
        self._patience, self._threshold, self._most = patience, threshold, halvings
        self.best, self.waited, self.halved = inf, 0, 0

    def rate(self, step: int) -> float:
        """The learning rate of update `step`: 0 at 0, `peak` at `warmup`, then by the losses observed so far."""
        ramp = step / self._warmup if step < self._warmup else 1.0
        return self._peak * ramp / 2**self.halved

    def observe(self, step: int, loss: float) -> bool:
        """Takes the validation loss after `step` updates; returns whether it halves the learning rate.

        Losses of the ramp are ignored: they fall by themselves. A loss that is not finite is no improvement. After a
        halving the best loss stays, and the count begins anew.
        """
        if step <= self._warmup:
            return False
        improved = isfinite(loss) and loss < self.best and loss <= self.best - self._threshold
        self.best, self.waited = (loss, 0) if improved else (self.best, self.waited + 1)
        if self.waited < self._patience or self.halved == self._most:
            return False
        self.waited, self.halved = 0, self.halved + 1
        return True

    def state(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited, "halved": self.halved}

    def restore(self, state: dict[str, float]) -> None:
        self.best, self.waited, self.halved = state["best"], int(state["waited"]), int(state["halved"])
