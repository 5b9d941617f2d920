"""A model spread over processes: whole in each (DDP) or in shares (FSDP). Is handed its blocks and knows no model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gesso.processes import Group

Blocks = Mapping[nn.Module, Sequence[nn.Module]]


def spread(model: nn.Module, blocks: Blocks, group: Group, parallel: str) -> nn.Module:
    """The model as all processes together train it; with FSDP the parameters of `model` itself become shares.

    `blocks`: for each part of the model that is called by itself, its residual blocks, which FSDP gathers one by one.
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
def gathering(model: nn.Module, last: bool) -> Iterator[None]:
    """Adds up gradients in each process alone, until the `last` part of an update."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    for half in model.children():
        if isinstance(half, FSDPModule):
            half.set_requires_gradient_sync(last)
    yield


def gathered_again(model: nn.Module) -> None:
    """Has the next forward pass gather the weights anew: a root may still hold those of its last one whole."""
    for half in model.children():
        if isinstance(half, FSDPModule):
            half.reshard()


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's part of each tensor, the same memory."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, in every process: all must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into `target`, or its share of it."""
    if isinstance(target, DTensor):
        value = cast(Tensor, distribute_tensor(value.to(target.device), target.device_mesh, target.placements))
    target.copy_(value)


def norm(tensors: Iterable[Tensor]) -> float:
    """The L2 norm of all tensors together."""
    return float(whole(nn.utils.get_total_norm(list(tensors))))
