"""Per-resblock gradient scaling (DALL-E paper, arXiv 2102.12092, 2.4 and D): scale, step, state. torch.

    forward    x (fp32) ─┬─────────────── identity ───────────────┬─▶ + ─▶
                         └─ enter ─ norm ─▶ fp16 ─ block ─▶ fp32 ─ leave ─┘
    backward   leave: gradient × scale, non-finite values → 0          (then fp16 through the block)
               enter: gradient ÷ scale, non-finite values → 0          (then added to the identity's gradient)

Gradients of activations shrink from block to block beyond what fp16's 5 exponent bits hold, so each residual block has
a scale of its own. Inside a block nothing is filtered: what overflows there makes gradients of its parameters that are
not finite, and these lower its scale. What leaves a block is filtered, so that it does not lower those of all before.
"""

from collections.abc import Sequence
from math import log2, sqrt
from typing import Any

import torch
from torch import Tensor

INITIAL, LEAST, MOST = 2.0**13, 2.0**7, 2.0**24  # of a block's scale, over the number of replicas
GROWTH = 2 ** (1 / 1000)  # after an update in which every gradient of the block is finite
SHRINKAGE = 1 / sqrt(2)
PAUSE = 125  # updates after a division within which a scale is not divided again


class Leave(torch.autograd.Function):
    """The end of a block's branch: backward multiplies by the block's scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return filtered(gradients[0] * ctx.saved_tensors[0]), None


class Enter(torch.autograd.Function):
    """The beginning of a block's branch: backward divides by the block's scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return filtered(gradients[0] / ctx.saved_tensors[0]), None


def filtered(gradient: Tensor) -> Tensor:
    """Zero in the place of values that are not finite."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


class ResblockScales:
    """The scales of all residual blocks; `values[k]` is that of block k, float32, a tensor that is changed in place.

    `replicas`: parts of a batch whose gradients are summed; each has about 1/replicas of the gradient. Where it is not
    `dynamic`, as for bf16 and fp32, there are no scales, and all values are 1.
    """

    def __init__(self, blocks: int, replicas: int, device: torch.device, dynamic: bool = True) -> None:
        self._replicas, self.dynamic = replicas, dynamic
        self.values = torch.full((blocks,), INITIAL * replicas if dynamic else 1.0, device=device)
        self._since = torch.full((blocks,), PAUSE, dtype=torch.int64, device=device)  # updates since the last division

    def scale(self, blocks: Sequence[Any]) -> None:
        """Gives each residual block its scale, by which its branch's gradients are multiplied from now on."""
        for block, value in zip(blocks, self.values.unbind(), strict=True):
            block.gradient_scale = value if self.dynamic else None

    def step(self, finite: Tensor) -> None:
        """Adjusts the scales; `finite`: bool (blocks,), whether all of a block's gradients are, in every process.

        The update is made only where all are.
        """
        if self.dynamic:
            divided = ~finite & (self._since >= PAUSE)
            self.values.mul_(torch.where(finite, GROWTH, torch.where(divided, SHRINKAGE, 1.0)))
            self.values.clamp_(LEAST * self._replicas, MOST * self._replicas)
            self._since.add_(1).masked_fill_(divided, 0)

    def state(self) -> dict[str, Any]:
        """Scales over the number of replicas, which may be another one on a resume; empty where there are none."""
        if not self.dynamic:
            return {}
        return {"values": (self.values / self._replicas).cpu(), "since": self._since.cpu()}

    def restore(self, state: dict[str, Any]) -> None:
        if self.dynamic:
            self.values.copy_(state["values"] * self._replicas)
            self._since.copy_(state["since"])

    def metrics(self) -> dict[str, float]:
        """log2 of each scale over the number of replicas, 7 to 24, as `scale/000` for block 0; empty without scales."""
        values = (self.values / self._replicas).tolist() if self.dynamic else []
        return {f"scale/{number:03d}": log2(value) for number, value in enumerate(values)}
