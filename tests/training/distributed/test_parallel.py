"""A toy model over two processes, its roots below other modules: the gradients and outputs of one process alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from gesso.processes import Group, processes
from gesso.training.distributed.parallel import (
    Blocks,
    fill,
    full,
    gradient_sync,
    local,
    parallelize,
    reshard,
    total_norm,
)

PARTS = 3
BATCH = 4 * PARTS


class Toy(nn.Module):
    """Two roots, neither of which is a child of the model: one in a list, one in a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.ModuleList([self.root(5, 4)])
        self.second = nn.Sequential(nn.Tanh(), self.root(4, 3))

    @staticmethod
    def root(n_in: int, n_out: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(n_in, 7), nn.Tanh(), nn.Linear(7, n_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first[0](x))
        return out

    def blocks(self) -> Blocks:
        return {self.first[0]: [self.first[0][0]], self.second[1]: [self.second[1][2]]}


def inputs() -> Tensor:
    return torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(1))


def gradients(group: Group, parallel: str) -> dict[str, object]:
    """The gradients of an update in three parts, their norm, and the outputs before and after the weights change."""
    model = Toy()
    blocks = model.blocks()
    wrapped = parallelize(model, blocks, group, parallel)
    share = inputs().chunk(group.size)[group.rank]
    synced = []
    for number, part in enumerate(share.chunk(PARTS)):
        last = number == PARTS - 1
        with gradient_sync(wrapped, blocks, last):
            (wrapped(part).square().mean() / PARTS).backward()
        synced.append(all(value.grad is not None for value in model.parameters()))
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    norm = total_norm(found.values())
    with torch.no_grad():
        before = model(inputs())
        reshard(blocks)
        for value in local(model.parameters()):
            value.mul_(2)
        after = model(inputs())
    return {
        "gradients": {name: full(value).tolist() for name, value in found.items()},
        "norm": float(norm),
        "before": before.tolist(),
        "after": after.tolist(),
        "synced": synced,
        "sharded": [isinstance(root, FSDPModule) for root in blocks],
    }


def main() -> None:
    with processes() as group:
        found = gradients(group, sys.argv[1])
        Path(sys.argv[2], f"{group.rank}.json").write_text(json.dumps(found))
        group.agreed(False)  # until both are through: gloo's threads of one may still wait for the other


def spread(parallel: str, folder: Path) -> list[dict[str, object]]:
    """The same in two processes, by torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*start, "-m", "tests.training.distributed.test_parallel", parallel, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


ALONE = Group(0, 1, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_find_what_one_finds(parallel: str, tmp_path: Path) -> None:
    alone = gradients(ALONE, parallel)
    for found in spread(parallel, tmp_path):
        for name, value in alone["gradients"].items():  # type: ignore[attr-defined]
            assert torch.tensor(found["gradients"][name]) == pytest.approx(torch.tensor(value), abs=1e-6)  # type: ignore[index]
        assert found["norm"] == pytest.approx(alone["norm"], rel=1e-5)
        for when in ("before", "after"):
            assert torch.tensor(found[when]) == pytest.approx(torch.tensor(alone[when]), abs=1e-6)
        assert found["sharded"] == [parallel == "fsdp"] * 2
        # FSDP has gradients on the shards only after the sync of the last part; DDP adds them up in place.
        assert found["synced"] == ([False, False, True] if parallel == "fsdp" else [True] * 3)


def test_one_process_keeps_its_model() -> None:
    model = Toy()
    assert parallelize(model, model.blocks(), ALONE, "fsdp") is model
    assert not any(isinstance(module, FSDPModule) for module in model.modules())


def test_tensors_that_are_not_sharded() -> None:
    tensor = torch.zeros(2)
    (same,) = local([tensor])
    assert same is tensor
    assert full(tensor) is tensor
    fill(tensor, torch.tensor([3.0, 4.0]))
    assert tensor.tolist() == [3, 4]
    assert total_norm([tensor, torch.tensor([12.0])]) == 13


if __name__ == "__main__":
    main()
