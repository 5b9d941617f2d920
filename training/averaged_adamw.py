"""AdamW with the moving average of the weights, both in float32 on the device; weights may be sharded. torch.

For models that take little of a device's memory; the prior's is in adamw.py and average.py.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gesso.training.checkpoint import Tensors
from gesso.training.distributed.parallel import Blocks, local, reshard

MOMENTS = ("exp_avg", "exp_avg_sq")


class AveragedAdamW:
    """Optimises a model's parameters, once they are where and as they stay.

    `ema`: decay of the average per update. `decays` tells by a parameter whether it decays. `blocks`: of a model that
    is sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        ema: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        decays: Callable[[Tensor], bool] = lambda parameter: True,
        blocks: Blocks | None = None,
    ) -> None:
        self._model, self._weight, self._blocks = model, 1 - ema, blocks or {}
        self.parameters = dict(model.named_parameters())
        self._average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._adamw = build_adamw(list(self.parameters.values()), weight_decay, betas, eps, decays)

    @property
    def gradients(self) -> list[Tensor]:
        return [value.grad for value in self.parameters.values() if value.grad is not None]

    def zero_grad(self) -> None:
        self._adamw.zero_grad()

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update of weights and average."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        torch._foreach_lerp_(local(self._average.values()), local(self.parameters.values()), self._weight)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights, in evaluation mode."""
        weights, average = local(self.parameters.values()), local(self._average.values())
        saved = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, average)
        self._model.eval()
        try:
            yield
        finally:
            self._model.train()
            reshard(self._blocks)
            with torch.no_grad():
                torch._foreach_copy_(weights, saved)

    def tensors(self) -> Tensors:
        """Weights, their moving average, and AdamW's state; the same memory."""
        states = {name: self._adamw.state[value] for name, value in self.parameters.items()}
        return {
            "model": {name: value.detach() for name, value in self.parameters.items()},
            "average": self._average,
            **{kind: {name: state[kind] for name, state in states.items()} for kind in MOMENTS},
            "steps": {"adam": next(iter(states.values()))["step"]},
        }

    def restore(self, tensors: Tensors) -> None:
        """Continues from `tensors()` with loaded values: all parameters are updated together."""
        for each in self._adamw.state.values():
            each["step"].copy_(tensors["steps"]["adam"])


def build_adamw(
    parameters: list[Tensor],
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    decays: Callable[[Tensor], bool],
) -> torch.optim.AdamW:
    """AdamW whose moments exist before the first update, so that every checkpoint holds the same tensors."""
    groups = [
        {"params": [value for value in parameters if decays(value)], "weight_decay": weight_decay},
        {"params": [value for value in parameters if not decays(value)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=betas, eps=eps, fused=True)
    for value in parameters:
        moments = {kind: torch.zeros_like(value) for kind in MOMENTS}
        optimizer.state[value] = {"step": torch.zeros((), device=value.device), **moments}
    return optimizer
