"""One loss scale for all gradients: what fp16 needs of a dVAE (paper section 2). Three verbs: scale, step, state."""

from collections.abc import Sequence

import torch
from torch import Tensor

BEGIN = 2.0**16
LEAST = 1.0  # below it fp16 holds the gradients of no loss
GROW_AFTER = 2000  # finite updates in a row


class LossScale:
    """Doubles after 2,000 finite updates, halves after one that is not and is left out. 1 where not `dynamic`."""

    def __init__(self, dynamic: bool) -> None:
        self.dynamic, self.value, self._finite = dynamic, BEGIN if dynamic else 1.0, 0

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.value if self.dynamic else loss

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divides gradients in place."""
        if self.dynamic:
            torch._foreach_mul_(list(gradients), 1 / self.value)

    def step(self, finite: bool) -> bool:
        """Adjusts itself to an update's gradients; whether the update is to be made."""
        if not self.dynamic:
            return finite
        self._finite = self._finite + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self._finite == GROW_AFTER:
            self.value, self._finite = self.value * 2, 0
        return finite

    @property
    def exhausted(self) -> bool:
        """Whether it has fallen so far that smaller gradients cannot be the reason any more."""
        return self.value < LEAST or not self.dynamic

    def state(self) -> dict[str, float]:
        return {"value": self.value, "finite": self._finite} if self.dynamic else {}

    def restore(self, state: dict[str, float]) -> None:
        """Goes on from a state; begins anew behind a run of another precision, which has none."""
        if self.dynamic and state:
            self.value, self._finite = state["value"], int(state["finite"])
