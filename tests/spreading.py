"""A pass of a prior on one of many processes that are not there: fake tensors, fake collectives."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gesso.processes import Group
from gesso.training.distributed.parallel import local
from gesso.training.distributed.sharding import blocks_of, spread
from gesso.training.prior import layers, model
from gesso.training.prior.memory import Setup
from gesso.training.prior.model import Prior, loss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Measured(NamedTuple):
    """Bytes of one process."""

    weights: int
    peak: int  # of what is allocated in the pass, weights and kept gradients left out
    sent: dict[str, int]  # to collectives, by their name, the larger of what goes in and comes out


class Allocations(TorchDispatchMode):
    """Counts what is alive after each operation, and what collectives are given."""

    def __init__(self, apart: set[int]) -> None:
        super().__init__()
        self.peak, self.sent = 0, Counter[str]()
        self._apart, self._alive = apart, dict[int, Any]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tensors(out):
            self._follow(value.untyped_storage())
        name = str(function)
        if name.startswith("c10d."):
            self.sent[name.split(".")[1]] += max(value.nbytes for value in tensors(args))
        self.peak = max(self.peak, sum(reference().nbytes() for reference in self._alive.values()))
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive and key not in self._apart:
            self._alive[key] = weakref.ref(storage)
            weakref.finalize(storage, self._alive.pop, key)


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


@contextmanager
def fake_processes(count: int) -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def arithmetic_of_a_gpu() -> Iterator[None]:
    """Without the float32 copies by which a CPU computes in half precision, and with fused attention."""
    attend = partial(F.scaled_dot_product_attention, is_causal=True)
    with (
        mock.patch.object(layers, "matmul", F.linear),
        mock.patch.object(model, "attend", lambda q, k, v, **_: attend(q, k, v)),
    ):
        yield


def measure(setup: Setup) -> Measured:
    """One pass, as under PowerSGD: matrices' gradients are freed as soon as they are there."""
    dtype = DTYPES[setup.training.precision]
    with fake_processes(setup.processes), arithmetic_of_a_gpu():
        with torch.device("meta"):
            prior = Prior(setup.config)
        prior.set_precision(dtype, dtype if dtype == torch.float16 else torch.float32)
        if setup.compute.recompute:
            prior.recompute()
        group = Group(0, setup.processes, torch.device("cpu"))
        whole = blocks_of(prior, list(prior.blocks))
        called = spread(prior, whole, group, "fsdp", setup.shards, dtype).model
        with FakeTensorMode(allow_non_fake_inputs=True):
            prior.to_empty(device="cpu")
            return measure_pass(prior, called, setup)


def measure_pass(prior: Prior, called: Any, setup: Setup) -> Measured:
    """A pass of captions that fill all positions. Fake tensors have no values, so that these are not counted."""
    config, samples = setup.config, setup.samples
    rows = torch.arange(samples).repeat_interleave(config.text_positions - 1)
    columns = torch.arange(config.text_positions - 1).repeat(samples)
    text = torch.zeros(samples, config.text_positions, dtype=torch.int64)
    codes = torch.zeros(samples, config.tokens.grid**2, dtype=torch.int64)
    apart = keep_gradients(prior)
    counted = mock.Mock(**{"nonzero.return_value": (rows, columns)})
    with mock.patch.object(prior, "counted", return_value=counted), Allocations(apart) as found:
        loss(called(text, codes), 1.0, 1.0).backward()
    return Measured(sum(value.nbytes for value in local(prior.parameters())), found.peak, dict(found.sent))


def keep_gradients(prior: Prior) -> set[int]:
    """Frees the matrices' gradients, adds the others' to a tensor; the storages of weights and gradients."""
    blocks = blocks_of(prior, list(prior.blocks))
    for value in blocks.matrices.values():
        value.register_post_accumulate_grad_hook(lambda value: setattr(value, "grad", None))
    for value in blocks.replicated.values():
        value.grad = torch.zeros_like(value)
    kept = [*local(prior.parameters()), *(value.grad for value in blocks.replicated.values() if value.grad is not None)]
    return {value.untyped_storage()._cdata for value in kept}
