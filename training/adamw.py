"""AdamW in float32 arithmetic on parameters of any float, moments in float32 or in the paper's 16-bit formats. torch.

`torch.optim.AdamW` gives half parameters half moments and half arithmetic. In float16 its eps of 1e-8 rounds to 0, and
an element whose gradients were all 0 becomes 0/0.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.training.precision.formats import MEAN, VARIANCE, decode, encode


class Coefficients(NamedTuple):
    """What an update multiplies by and adds; the same for all elements of a parameter."""

    factor: float  # of the gradient
    keep: float  # of the parameter: 1 - learning rate × weight decay
    betas: tuple[float, float]
    variance_limit: float
    variance_correction: float  # the root of 1 - beta2^updates
    eps: float
    step_size: float  # learning rate / (1 - beta1^updates)


class AdamW:
    """AdamW with decoupled weight decay (paper section 4), the arithmetic and its order that of `torch.optim.AdamW`.

    `parameters` are plain tensors by name (of a spread model, a process's shards), changed in place. `decayed` names
    those that decay, `narrow` those whose moments are int16 codes, 1-6-9 and 0-6-10; all other moments are float32. The
    running variance is clipped to `variance_limit`. For a resume, fill `moments` in place and set `updates`.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        narrow: Collection[str],
        decayed: Collection[str],
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.96),
        eps: float = 1e-8,
        variance_limit: float = 5.0,
    ) -> None:
        self._parameters, self._decayed, self._weight_decay = parameters, frozenset(decayed), weight_decay
        self._betas, self._eps, self._variance_limit = betas, eps, variance_limit
        self.updates = 0
        dtypes = {name: torch.int16 if name in frozenset(narrow) else torch.float32 for name in parameters}
        self.moments = {
            kind: {
                name: torch.zeros(value.shape, dtype=dtypes[name], device=value.device)
                for name, value in parameters.items()
            }
            for kind in ("mean", "variance")
        }

    @torch.no_grad()
    def step(self, gradients: Iterable[tuple[str, Tensor]], learning_rate: float, factor: float = 1.0) -> None:
        """Updates the parameters that `gradients` names, by `factor` (of clipping) times their finite gradients.

        The gradients are taken one at a time, may be of any float type, and are not changed. A caller whose gradients
        are not finite skips the update: 16-bit moments saturate, and so would hide them.
        """
        self.updates += 1
        common = self._coefficients(learning_rate, factor)
        decaying = common._replace(keep=1 - learning_rate * self._weight_decay)
        for name, gradient in gradients:
            mean, variance = self.moments["mean"][name], self.moments["variance"][name]
            coefficients = decaying if name in self._decayed else common
            update = update_narrow if mean.dtype == torch.int16 else update_wide
            update(self._parameters[name], gradient, mean, variance, coefficients)

    def _coefficients(self, learning_rate: float, factor: float) -> Coefficients:
        first, second = (1 - beta**self.updates for beta in self._betas)
        limit, eps = self._variance_limit, self._eps
        return Coefficients(factor, 1.0, self._betas, limit, second**0.5, eps, learning_rate / first)


def update_wide(parameter: Tensor, gradient: Tensor, mean: Tensor, variance: Tensor, by: Coefficients) -> None:
    """An update of a parameter and its float32 moments in place. The parameter is rounded once, at the end."""
    scaled = gradient.to(torch.float32, copy=True).mul_(by.factor)
    mean.lerp_(scaled, 1 - by.betas[0])
    variance.mul_(by.betas[1]).addcmul_(scaled, scaled, value=1 - by.betas[1]).clamp_(max=by.variance_limit)
    denominator = torch.sqrt(variance, out=scaled).div_(by.variance_correction).add_(by.eps)  # in the same memory
    value = parameter.float().mul_(by.keep)  # of a float32 parameter: itself
    value.addcdiv_(mean, denominator, value=-by.step_size)
    if value is not parameter:
        parameter.copy_(value)


def update_narrow(parameter: Tensor, gradient: Tensor, mean: Tensor, variance: Tensor, by: Coefficients) -> None:
    """The same with moments in codes: they are decoded, take part in this update unrounded, and are encoded again."""
    wide_mean, wide_variance = decode(mean, MEAN), decode(variance, VARIANCE)
    update_wide(parameter, gradient, wide_mean, wide_variance, by)
    encode(wide_mean, MEAN, out=mean)
    encode(wide_variance, VARIANCE, out=variance)
