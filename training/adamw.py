"""AdamW in float32 arithmetic on parameters of any float, moments in float32 or in the paper's 16-bit formats. torch.

`torch.optim.AdamW` gives half parameters half moments and half arithmetic. In float16 its eps of 1e-8 rounds to 0, and
an element whose gradients were all 0 becomes 0/0.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.training.precision.formats import MEAN, VARIANCE, Format, decode, encode

# Elements of parameters that are updated together, unless one alone has more: on a GPU few launches, with temporary
# tensors no larger than for a shard of the 12B prior's largest matrix; on a CPU what its cache holds.
GROUPED = {"cuda": 2**23, "cpu": 2**18}

Gradients = list[tuple[str, Tensor]]


class Coefficients(NamedTuple):
    """What an update multiplies by and adds; the same for all elements of a parameter."""

    factor: float  # of the gradients
    keep: Sequence[float]  # of each parameter: 1 - learning rate × weight decay
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
        self._limit = min((GROUPED.get(value.device.type, 0) for value in parameters.values()), default=0)
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

        The gradients are taken a few at a time (GROUPED), may be of any float type, and are not changed. A caller whose
        gradients are not finite skips the update: 16-bit moments saturate, and so would hide them.
        """
        self.updates += 1
        for group in grouped(gradients, self._kind, self._limit):
            self._update(group, self._coefficients([name for name, _ in group], learning_rate, factor))

    def _kind(self, name: str) -> tuple[torch.dtype, torch.dtype]:
        """Parameters of a kind can be updated together."""
        return self.moments["mean"][name].dtype, self._parameters[name].dtype

    def _update(self, group: Gradients, by: Coefficients) -> None:
        means, variances = ([named[name] for name, _ in group] for named in self.moments.values())
        update = update_narrow if means[0].dtype == torch.int16 else update_wide
        update([self._parameters[name] for name, _ in group], [each for _, each in group], means, variances, by)

    def _coefficients(self, names: Sequence[str], learning_rate: float, factor: float) -> Coefficients:
        first, second = (1 - beta**self.updates for beta in self._betas)
        limit, eps, kept = self._variance_limit, self._eps, 1 - learning_rate * self._weight_decay
        keep = [kept if name in self._decayed else 1.0 for name in names]
        return Coefficients(factor, keep, self._betas, limit, second**0.5, eps, learning_rate / first)


def grouped(gradients: Iterable[tuple[str, Tensor]], kind: Callable[[str], object], limit: int) -> Iterator[Gradients]:
    """Gradients one after another of a kind, of `limit` elements at most or one alone.

    A group is emptied when the next one is asked for: no more gradients than it and one are held.
    """
    group: Gradients = []
    elements = 0
    for name, gradient in gradients:
        elements += gradient.numel()
        if group and (elements > limit or kind(name) != kind(group[0][0])):
            yield group
            group.clear()
            elements = gradient.numel()
        group.append((name, gradient))
    if group:
        yield group


def update_wide(
    parameters: list[Tensor], gradients: list[Tensor], means: list[Tensor], variances: list[Tensor], by: Coefficients
) -> None:
    """An update of parameters of one dtype and their float32 moments in place. They are rounded once, at the end."""
    scaled = torch._foreach_mul(widened(gradients), by.factor)
    torch._foreach_lerp_(means, scaled, 1 - by.betas[0])
    torch._foreach_mul_(variances, by.betas[1])
    torch._foreach_addcmul_(variances, scaled, scaled, value=1 - by.betas[1])
    torch._foreach_clamp_max_(variances, by.variance_limit)
    denominators = torch._foreach_sqrt(variances)
    torch._foreach_div_(denominators, by.variance_correction)
    torch._foreach_add_(denominators, by.eps)
    values = widened(parameters)
    torch._foreach_mul_(values, by.keep)
    torch._foreach_addcdiv_(values, means, denominators, value=-by.step_size)
    if values is not parameters:
        torch._foreach_copy_(parameters, values)


def update_narrow(
    parameters: list[Tensor], gradients: list[Tensor], means: list[Tensor], variances: list[Tensor], by: Coefficients
) -> None:
    """The same with moments in codes: they are decoded, take part in this update unrounded, and are encoded again."""
    (mean, wide_means), (variance, wide_variances) = decoded(means, MEAN), decoded(variances, VARIANCE)
    update_wide(parameters, gradients, wide_means, wide_variances, by)
    for codes, values, format in ((means, mean, MEAN), (variances, variance, VARIANCE)):
        torch._foreach_copy_(codes, parts(encode(values, format), codes))


def decoded(codes: list[Tensor], format: Format) -> tuple[Tensor, list[Tensor]]:
    """The numbers of all codes, (elements,), and the same memory in their shapes."""
    values = decode(torch.cat([each.flatten() for each in codes]), format)
    return values, parts(values, codes)


def parts(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Those of a flat tensor, in the shapes of `like`, the same memory."""
    split = torch.split(flat, [each.numel() for each in like])
    return [part.view(each.shape) for part, each in zip(split, like, strict=True)]


def widened(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of one dtype in float32; those that are so already, themselves."""
    if tensors[0].dtype == torch.float32:
        return tensors
    wide = [torch.empty_like(each, dtype=torch.float32) for each in tensors]
    torch._foreach_copy_(wide, tensors)
    return wide
