"""The gradient of an update from those of all processes: by plain all-reduce, or by PowerSGD. torch; knows no model.

    backward ─ reduce-scatter, block by block ─┬─ all-reduce over the replicas ─────────────────── plain
                                               └─ ÷ scale ─▶ error buffers ─▶ P, Q' all-reduced ─── PowerSGD
    gains, biases, embeddings ─ one float32 all-reduce
    ─▶ norm, and which blocks are finite ─▶ float32 gradients, one matrix at a time ─▶ the optimizer

The loss is divided by the size of the full batch, so the gradient is the sum over all processes. `scales` are those of
the blocks (blocks,), by which backward has multiplied the gradients of all their parameters.
"""

from collections.abc import Iterator
from functools import partial
from math import inf
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from gesso.processes import Group
from gesso.training.distributed.parallel import local
from gesso.training.distributed.powersgd import PowerSGD, finite
from gesso.training.distributed.sharding import Blocks, Parameters, Spread


class Reduced(NamedTuple):
    """What is known of an update's gradient before it is applied; the same in every process. On the device."""

    norm: Tensor  # of the unscaled gradient, a float64 scalar; inf where any part of it is not finite
    finite: Tensor  # bool (blocks,): whether all gradients of a block are


class Traffic(NamedTuple):
    """Bytes that this process handed to all-reduces over the replicas, and those that compression has spared."""

    sent: int
    saved: int


class Reduction(Protocol):
    """After each backward pass: `reduce`, then `gradients` unless the update is skipped, then `finish`."""

    def reduce(self) -> Reduced:
        """Completes the reduction. Collective."""

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """The unscaled gradient of each parameter by name, this process's shard of it, float32."""

    def finish(self, made: bool) -> None:
        """Ends the update, made or skipped, and frees the gradients."""

    def traffic(self) -> Traffic:
        """Of the last update."""

    def errors(self) -> dict[str, Tensor]:
        """What has not been applied yet, summed over the replicas, by name of the matrix, float32. Collective."""

    def restore(self, errors: dict[str, Tensor]) -> None:
        """Continues from such sums."""


class Common:
    """What both ways share: parameters and their blocks, the float32 bucket, what the processes agree on."""

    def __init__(self, blocks: Blocks, spread: Spread, group: Group, scales: Tensor) -> None:
        self._blocks, self._spread, self._group, self._scales = blocks.blocks, spread, group, scales
        self._matrices, self._replicated, self._outside = blocks.matrices, blocks.replicated, blocks.outside
        self._owners = {name: k for k, block in enumerate(blocks.blocks) for name in (*block.matrices, *block.others)}
        self._bucket, self._views = build_bucket(self._replicated)
        sizes = [sum(value.numel() for value in block.others.values()) for block in blocks.blocks]
        self._sizes, self._inside = torch.tensor(sizes, device=self._bucket.device), sum(sizes)
        outside, names = len(blocks.blocks), (*self._matrices, *self._replicated)
        self._rows = torch.tensor([self._owners.get(name, outside) for name in names], device=self._bucket.device)
        self._clear()

    def _clear(self) -> None:
        """Frees the blocks' gradients, and sets the others' to zero: views of the bucket, to which backward adds."""
        self._bucket.zero_()
        for value in (*self._matrices.values(), *self._replicated.values()):
            value.grad = None
        for name, value in self._outside.items():
            value.grad = self._views[name]

    def _reduce_replicated(self) -> Tensor:
        """Unscales and sums the gradients of the replicated parameters; returns their norms, (parameters,)."""
        others = {name: value for block in self._blocks for name, value in block.others.items()}
        torch._foreach_copy_([self._views[name] for name in others], [gradient_of(value) for value in others.values()])
        units = torch.repeat_interleave(self._scales, self._sizes, output_size=self._inside)
        self._bucket[: self._inside].div_(units)
        if self._spread.ordinal is not None:  # DDP has reduced them
            dist.all_reduce(self._bucket)
        return torch.stack(torch._foreach_norm(list(self._views.values())))

    def _agree(self, finite: Tensor, squared: Tensor, replicated: Tensor) -> Reduced:
        """What holds over all processes. `finite`: of each matrix; `squared`: the squared norm of this process's
        shards; `replicated`: the norms of the other parameters, the same everywhere."""
        outside = len(self._blocks)
        broken = torch.cat([~finite, ~replicated.isfinite()]).float()
        counts = broken.new_zeros(outside + 1).index_add_(0, self._rows, broken)
        total = self._group.total(torch.cat([counts, squared.view(1) / self._spread.replicas]))
        all_squared = total[-1] + replicated.square().sum()
        whole = (total[:-1].sum() == 0) & (all_squared >= 0)
        return Reduced(torch.where(whole, all_squared, inf).double().sqrt(), total[:outside] == 0)


class PlainReduction(Common):
    """All-reduce in the dtype of the gradients, block by block during backward under FSDP and DDP."""

    def __init__(self, blocks: Blocks, spread: Spread, group: Group, scales: Tensor) -> None:
        super().__init__(blocks, spread, group, scales)
        self._half = next(iter(self._matrices.values())).dtype == torch.float16
        self._divisor, self._sent = float(spread.replicas) if self._half and spread.ordinal is not None else 1.0, 0
        if spread.ordinal is not None and spread.replicas > 1:
            for block in blocks.blocks:
                assert isinstance(block.module, FSDPModule)
                block.module.set_all_reduce_hook(self._all_reduce)

    def reduce(self) -> Reduced:
        replicated = self._reduce_replicated()
        gradients = [gradient_of(value) for value in self._matrices.values()]
        norms = torch.stack(torch._foreach_norm(gradients, dtype=torch.float32))
        return self._agree(norms.isfinite(), (norms / self._units()).square().sum(), replicated)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        for (name, value), unit in zip(self._matrices.items(), self._units().unbind(), strict=True):
            gradient = gradient_of(value)
            yield name, gradient.float() / unit if self._half else gradient  # others have units of 1
        yield from self._views.items()

    def finish(self, made: bool) -> None:
        self._clear()

    def traffic(self) -> Traffic:
        sent, self._sent = self._sent, 0
        return Traffic(sent, 0)

    def errors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, errors: dict[str, Tensor]) -> None:
        """There is nothing to continue from."""

    def _all_reduce(self, flat: Tensor) -> None:
        """The hook of FSDP: gets the reduce-scattered gradients of a block in one tensor."""
        dist.all_reduce(flat.div_(self._divisor), group=self._spread.ordinal)
        self._sent += flat.numel() * flat.element_size()

    def _units(self) -> Tensor:
        """What the gradient of each matrix is multiplied by, (matrices,)."""
        return self._scales[self._rows[: len(self._matrices)]] / (self._spread.divisor * self._divisor)


class PowerReduction(Common):
    """PowerSGD over the replicas (DALL-E paper, E.2). A gradient goes into its error buffer as soon as it is there.

    FSDP calls a parameter's post-accumulate hook after each reduce-scatter: nothing of its internals is needed.
    """

    def __init__(self, blocks: Blocks, spread: Spread, group: Group, scales: Tensor, compressor: PowerSGD) -> None:
        super().__init__(blocks, spread, group, scales)
        self._compressor = compressor
        self._finite: dict[str, Tensor] = {}
        if spread.ordinal is not None:
            for name, value in self._matrices.items():
                value.register_post_accumulate_grad_hook(partial(self._accumulate, name))  # type: ignore[no-untyped-call]

    def reduce(self) -> Reduced:
        replicated = self._reduce_replicated()
        if self._spread.ordinal is None:
            for name, value in self._matrices.items():
                self._accumulate(name, value)
        self._compressor.compress(self._sum)
        whole = torch.stack([self._finite[name] for name in self._matrices])
        return self._agree(whole, self._compressor.squared_norm(), replicated)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        yield from ((name, self._compressor.gradient(name)) for name in self._matrices)
        yield from self._views.items()

    def finish(self, made: bool) -> None:
        self._compressor.feedback(made)
        self._clear()

    def traffic(self) -> Traffic:
        alone = self._spread.replicas == 1
        return Traffic(0, 0) if alone else Traffic(self._compressor.sent, self._compressor.saved)

    def errors(self) -> dict[str, Tensor]:
        return dict(self._compressor.summed(self._sum))

    def restore(self, errors: dict[str, Tensor]) -> None:
        self._compressor.restore(errors.items())

    def _accumulate(self, name: str, value: Tensor) -> None:
        """Adds a gradient that is finite to its error buffer, and frees it."""
        gradient = gradient_of(value).float() * (self._spread.divisor / self._scales[self._owners[name]])
        self._finite[name] = whole = finite(gradient)
        self._compressor.accumulate(name, torch.where(whole, gradient, 0.0))
        value.grad = None

    def _sum(self, tensors: list[Tensor]) -> None:
        """Sums over the replicas, in place."""
        for tensor in tensors if self._spread.replicas > 1 else []:
            dist.all_reduce(tensor, group=self._spread.ordinal)


def gradient_of(value: Tensor) -> Tensor:
    """This process's shard of it."""
    assert value.grad is not None
    return local([value.grad])[0]


def build_bucket(parameters: Parameters) -> tuple[Tensor, dict[str, Tensor]]:
    """A float32 tensor for the gradients of all parameters, and the part of each by name."""
    sizes = [value.numel() for value in parameters.values()]
    flat = torch.zeros(sum(sizes), device=next(iter(parameters.values())).device)
    parts = zip(parameters.items(), torch.split(flat, sizes), strict=True)
    return flat, {name: part.view(value.shape) for (name, value), part in parts}


def build_reduction(
    blocks: Blocks, spread: Spread, group: Group, scales: Tensor, compressor: PowerSGD | None
) -> Reduction:
    if compressor is None:
        return PlainReduction(blocks, spread, group, scales)
    return PowerReduction(blocks, spread, group, scales, compressor)
