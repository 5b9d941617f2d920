"""A small prior over four processes, replicas and shards: gradients, norm and finite blocks of one process alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gesso.processes import Group, processes
from gesso.training.distributed.parallel import full, gradient_sync, local, sharded_like
from gesso.training.distributed.powersgd import PowerSGD
from gesso.training.distributed.reduction import build_reduction
from gesso.training.distributed.sharding import blocks_of, spread
from gesso.training.precision.resblock_scale import ResblockScales
from gesso.training.prior.model import Prior, loss
from gesso.training.prior.settings import PriorConfig, Tokens

CONFIG = PriorConfig(
    layers=2, heads=2, head_size=4, text_positions=4, kernel=3, tokens=Tokens(grid=3, codes=7, texts=11)
)
BATCH, PARTS = 8, 2
# parallel, shards, precision, compression (rank over the shards together; 8 is full)
CASES: dict[str, tuple[str, int, str, int]] = {
    "ddp": ("ddp", 1, "fp32", 0),
    "four shards": ("fsdp", 4, "fp32", 0),
    "two by two": ("fsdp", 2, "fp32", 0),
    "four replicas": ("fsdp", 1, "fp32", 0),
    "fp16 two by two": ("fsdp", 2, "fp16", 0),
    "fp16 ddp": ("ddp", 1, "fp16", 0),
    "full rank, two by two": ("fsdp", 2, "fp32", 64),
    "full rank, fp16": ("fsdp", 2, "fp16", 64),
    "a quarter of the rank": ("fsdp", 2, "fp32", 2),
}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    text = torch.randint(0, 11, (BATCH, 4), generator=random)
    text[::3, 2:] = torch.tensor([13, 14])  # padding
    return text, torch.randint(0, 7, (BATCH, 9), generator=random)


def update(group: Group, parallel: str, shards: int, precision: str, rank: int, broken: bool = False) -> dict[str, Any]:
    """The reduced gradients of an update in two parts."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    model = Prior(CONFIG)
    model.initialize(seed=3)
    model.set_precision(dtype, dtype)
    spreaded = spread(model, blocks_of(model, list(model.blocks)), group, parallel, shards, dtype)
    blocks = blocks_of(model, list(model.blocks))
    scales = ResblockScales(4, group.size, group.device, precision == "fp16")
    scales.scale(model.blocks)
    shapes = {name: tuple(local([value])[0].shape) for name, value in blocks.matrices.items()}
    compressor = (
        PowerSGD(shapes, rank // shards, spreaded.replicas, 0, group.device, torch.float32, "fp32") if rank else None
    )
    reduction = build_reduction(blocks, spreaded, group, scales.values, compressor)
    text, codes = (part.chunk(group.size)[group.rank] for part in batch())
    counted = int(model.counted(batch()[0][:, 1:]).sum())
    if broken and group.rank == group.size - 1:
        break_block(model, 2)
    for part in range(PARTS):
        with gradient_sync(spreaded.model, [model], last=part == PARTS - 1):
            nll = spreaded.model(text.chunk(PARTS)[part], codes.chunk(PARTS)[part])
            loss(nll, counted, BATCH * 9).backward()
    reduced = reduction.reduce()
    parameters = dict(model.named_parameters())
    found = {name: full(sharded_like(parameters[name], value)).tolist() for name, value in reduction.gradients()}
    reduction.finish(made=True)
    return {
        "norm": float(reduced.norm),
        "finite": reduced.finite.tolist(),
        "gradients": found,
        "traffic": reduction.traffic(),
    }


def break_block(model: Prior, number: int) -> None:
    """Has a NaN come into the gradients inside of one block."""
    branch = model.blocks[number].branch
    branch.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * float("nan"),))


def main() -> None:
    with processes() as group:
        for name, case in CASES.items():
            for broken in (False, True):
                found = update(group, *case, broken=broken)
                if group.rank == 0:
                    print(json.dumps({"name": name, "broken": broken, **found}))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], dict[str, Any]]:
    """Every case in four processes, by torchrun."""
    script = tmp_path_factory.mktemp("four") / "run.py"
    script.write_text("from tests.training.distributed.test_reduction import main\nmain()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4", str(script)]
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {(each["name"], each["broken"]): each for each in found}


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return update(Group(0, 1, torch.device("cpu")), "ddp", 1, "fp32", 0)


@pytest.mark.parametrize("name", [name for name in CASES if "quarter" not in name])
def test_four_processes_find_the_gradient_of_one(name: str, four: Any, one: dict[str, Any]) -> None:
    """Up to rounding, and where gradients are compressed up to the 1e-6 that PowerSGD adds to P."""
    tolerance = 1e-3 if "fp16" in name else 5e-5 if "rank" in name else 1e-6
    found = four[name, False]
    assert found["finite"] == [True] * 4
    assert found["norm"] == pytest.approx(one["norm"], rel=tolerance)
    for parameter, expected in one["gradients"].items():
        gradient = torch.tensor(found["gradients"][parameter])
        error = (gradient - torch.tensor(expected)).norm() / one["norm"]
        assert error < tolerance, parameter


@pytest.mark.parametrize("name", CASES)
def test_a_nan_in_one_block_of_one_process_is_known_everywhere(name: str, four: Any) -> None:
    found = four[name, True]
    assert found["norm"] == float("inf")
    before = [True, True] if "fp16" in name else [False, False]  # only in fp16 is what leaves a block filtered
    assert found["finite"] == [*before, False, True]


def test_bytes_between_replicas_are_counted(four: Any) -> None:
    matrices = 2 * 12 * 8 * 8
    assert four["four shards", False]["traffic"] == [0, 0]
    assert four["four replicas", False]["traffic"] == [4 * matrices, 0]
    assert four["fp16 two by two", False]["traffic"] == [2 * matrices // 2, 0]
    sent, saved = four["a quarter of the rank", False]["traffic"]
    assert sent + saved == 4 * matrices // 2
    assert sent == 4 * 2 * (4 * 1 * (8 + 4) + 2 * 1 * (8 + 16))
