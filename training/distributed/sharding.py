"""A model of residual blocks over machines: matrices sharded within each, gradients summed over all. It knows no model.

    processes of one replica     0  1  …  S-1     each holds 1/S of every matrix: gathered block by block, and their
    the next replica             S  …             gradients reduce-scattered
    processes of one ordinal     0, S, 2S, …      hold the same shard: gradients are all-reduced over these

FSDP2 with a one-dimensional mesh of its own for each replica, so that the reduction over replicas is ours. Gains,
biases and embeddings, float32, are replicated everywhere.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from gesso.errors import UserError
from gesso.processes import Group

Parameters = dict[str, nn.Parameter]


class Block(NamedTuple):
    """A residual block: its matrices, and its other parameters, float32, by their names in the model."""

    module: nn.Module
    matrices: Parameters
    others: Parameters


class Blocks(NamedTuple):
    """The parameters of a model: those of each block, and those outside, float32."""

    blocks: Sequence[Block]
    outside: Parameters

    @property
    def replicated(self) -> Parameters:
        """All parameters that are no matrices of blocks."""
        inside = {name: value for block in self.blocks for name, value in block.others.items()}
        return {**inside, **self.outside}

    @property
    def matrices(self) -> Parameters:
        return {name: value for block in self.blocks for name, value in block.matrices.items()}


class Spread(NamedTuple):
    """How a model is spread."""

    model: nn.Module  # to call in training
    replicas: int  # groups of processes that hold all weights together
    shards: int  # processes of a group
    divisor: float = (
        1.0  # by which the matrices' gradients are divided before they are summed, against overflow in fp16
    )
    ordinal: Any = None  # the process group over the replicas, of those that hold the same shard; None without FSDP


def blocks_of(model: nn.Module, modules: Sequence[nn.Module]) -> Blocks:
    """The parameters of a model by its residual blocks; matrices are those that `matrices()` of a module gives."""
    names = {value: name for name, value in model.named_parameters()}
    blocks = []
    for module in modules:
        matrices = {names[value]: value for value in module.matrices()}  # type: ignore[operator]
        others = {names[value]: value for value in module.parameters() if names[value] not in matrices}
        blocks.append(Block(module, matrices, others))
    inside = {name for block in blocks for name in (*block.matrices, *block.others)}
    return Blocks(blocks, {name: value for value, name in names.items() if name not in inside})


def shard_count(group: Group, parallel: str, shards: int, local: int, width: int) -> int:
    """The processes that share the weights. Raises UserError where they do not divide all processes, or the width.

    `shards`: as the user gave it, 0 for the `local` processes of a machine.
    """
    count = 1 if parallel == "ddp" else (shards or local)
    if parallel == "ddp" and shards > 1:
        raise UserError(f"--shards is {shards}: give --parallel fsdp, ddp replicates the weights")
    if group.size % count:
        raise UserError(f"--shards is {count}: give a divisor of {group.size}, the number of processes")
    if width % count:
        raise UserError(f"--shards is {count}: give a divisor of {width}, the width of the model")
    return count


def spread(model: nn.Module, blocks: Blocks, group: Group, parallel: str, shards: int, compute: torch.dtype) -> Spread:
    """Spreads a model, in place; `compute`: dtype of the gathered matrices."""
    if group.size == 1:
        return Spread(model, 1, 1)
    divisor = float(group.size if parallel == "ddp" else shards) if compute == torch.float16 else 1.0
    if parallel == "ddp":
        replicated = nn.parallel.DistributedDataParallel(model)
        replicated.register_comm_hook(divisor, sum_bucket)
        return Spread(replicated, group.size, 1, divisor)
    mesh = init_device_mesh(group.device.type, (group.size // shards, shards), mesh_dim_names=("replicas", "shards"))
    ignored = set(blocks.replicated.values())
    for module in (*(block.module for block in blocks.blocks), model):
        shard(module, mesh["shards"], ignored, compute, divisor)
    return Spread(model, group.size // shards, shards, divisor, mesh.get_group("replicas"))


def shard(module: nn.Module, mesh: Any, ignored: set[nn.Parameter], compute: torch.dtype, divisor: float) -> None:
    """One group of FSDP, whose gradients are divided by `divisor` and summed."""
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if compute == torch.bfloat16:
        policy = MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False)
    fully_shard(module, mesh=mesh, shard_placement_fn=widest, mp_policy=policy, ignored_params=ignored)
    assert isinstance(module, FSDPModule)
    module.set_gradient_divide_factor(divisor)
    module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def widest(matrix: nn.Parameter) -> Shard:
    """A matrix is split along its longer side: PowerSGD then sends least (DALL-E paper, E.2, table 1)."""
    return Shard(1 if matrix.shape[1] > matrix.shape[0] else 0)


def sum_bucket(
    divisor: float,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """DDP's all-reduce as a sum; gradients in fp16 are divided by `divisor` before it."""
    buffer = bucket.buffer()
    if buffer.dtype == torch.float16:
        buffer.div_(divisor)
    future = dist.all_reduce(buffer, async_op=True).get_future()
    return future.then(lambda done: done.value()[0])
