"""Loss scaling for fp16, one scale for all gradients, as the DALL-E paper trains its dVAE: scale, step, state."""

from collections.abc import Sequence

import torch
from torch import Tensor

INITIAL = 2.0**16
LEAST = 1.0  # gradients that overflow fp16 even at this scale are not the scale's fault
GROWTH_INTERVAL = 2000  # finite updates in a row


class LossScale:
    """Doubles after 2,000 finite updates in a row; halves after one that is not finite, which is skipped. Else 1."""

    def __init__(self, dynamic: bool) -> None:
        self.dynamic, self.value, self._finite = dynamic, INITIAL if dynamic else 1.0, 0

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.value if self.dynamic else loss

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divides gradients in place."""
        if self.dynamic:
            torch._foreach_mul_(list(gradients), 1 / self.value)

    def step(self, finite: bool) -> bool:
        """Adjusts the scale; `finite`: whether the update's gradients are. Returns whether to make the update."""
        if not self.dynamic:
            return finite
        self._finite = self._finite + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self._finite == GROWTH_INTERVAL:
            self.value, self._finite = self.value * 2, 0
        return finite

    @property
    def exhausted(self) -> bool:
        """Whether gradients that are not finite cannot be explained by the scale any more."""
        return self.value < LEAST or not self.dynamic

    def state(self) -> dict[str, float]:
        return {"value": self.value, "finite": self._finite} if self.dynamic else {}

    def restore(self, state: dict[str, float]) -> None:
        """Continues from a state; the empty state of a run in another precision leaves the initial scale."""
        if self.dynamic and state:
            self.value, self._finite = state["value"], int(state["finite"])
