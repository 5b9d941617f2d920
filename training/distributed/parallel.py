"""A model spread over processes: replicated (DDP) or sharded (FSDP). It is handed its blocks and knows no model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gesso.processes import Group

# Each module whose forward pass is called from outside (a root), with those blocks of it that FSDP gathers one by one.
Blocks = Mapping[nn.Module, Sequence[nn.Module]]


def parallelize(model: nn.Module, blocks: Blocks, group: Group, parallel: str) -> nn.Module:
    """The module to call in training; with `fsdp` the parameters below the roots become shards in place.

    `parallel`: `ddp` or `fsdp`; one process alone needs neither.
    """
    if group.size == 1:
        return model
    if parallel == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    model.to(memory_format=torch.contiguous_format)  # FSDP takes no other
    mesh = init_device_mesh(group.device.type, (group.size,))
    for root, inside in blocks.items():
        for block in inside:
            fully_shard(block, mesh=mesh)
        fully_shard(root, mesh=mesh)
    return model


@contextmanager
def gradient_sync(model: nn.Module, roots: Iterable[nn.Module], last: bool) -> Iterator[None]:
    """Sums gradients over processes only in the `last` part of an update; before it, each process adds up its own.

    `model` is what `parallelize` returned, `roots` are the keys of its blocks.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    for root in sharded(roots):
        root.set_requires_gradient_sync(last)
    yield


def reshard(roots: Iterable[nn.Module]) -> None:
    """Has the next forward pass gather the weights again: FSDP may keep a root's gathered weights of the last pass."""
    for root in sharded(roots):
        root.reshard()


def sharded(roots: Iterable[nn.Module]) -> list[FSDPModule]:
    return [root for root in roots if isinstance(root, FSDPModule)]


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's shard of each tensor, the same memory; a tensor that is not sharded is its own."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def full(tensor: Tensor) -> Tensor:
    """The full tensor, in every process. Collective: all processes must call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(parameter: Tensor, shard: Tensor) -> Tensor:
    """`shard`, the same memory, as the part of a tensor that is sharded as `parameter` is; maybe on another device."""
    if not isinstance(parameter, DTensor):
        return shard
    mesh, shape, stride = mesh_on(parameter.device_mesh, shard.device.type), parameter.shape, parameter.stride()
    return DTensor.from_local(shard, mesh, parameter.placements, run_check=False, shape=shape, stride=stride)


@lru_cache
def mesh_on(mesh: DeviceMesh, device_type: str) -> DeviceMesh:
    """The same processes as a mesh of another kind of device."""
    if mesh.device_type == device_type:
        return mesh
    return DeviceMesh.from_group(mesh.get_group(), device_type, mesh=mesh.mesh.tolist())


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copies a full tensor into `target`, or this process's part of it where `target` is sharded."""
    if isinstance(target, DTensor):
        value = cast(Tensor, distribute_tensor(value.to(target.device), target.device_mesh, target.placements))
    target.copy_(value)


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all tensors together, over all processes, a scalar. Collective where tensors are sharded."""
    return full(nn.utils.get_total_norm(list(tensors)))
