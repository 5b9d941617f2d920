"""InfoNCE against closed forms, and several processes against one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import normalize

from gesso.dedup.contrast import TEMPERATURE, info_nce


def unit(rows: int, dimension: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_orthogonal_pictures_and_perfect_copies() -> None:
    half = torch.eye(4) / 2
    contrast = info_nce(half, half, torch.arange(4))
    assert contrast.loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / 4 / TEMPERATURE)), rel=1e-6)
    assert contrast.accuracy.item() == 1


def test_all_alike_is_a_guess_among_all() -> None:
    same = torch.ones(8, 4) / 2
    assert info_nce(same, same, torch.arange(8)).loss.item() == pytest.approx(math.log(8))


def test_swapped_copies_are_never_the_nearest() -> None:
    assert info_nce(torch.eye(4), torch.eye(4).roll(1, 0), torch.arange(4)).accuracy.item() == 0


def test_another_pair_of_the_same_picture_is_no_negative() -> None:
    same = torch.ones(2, 4) / 2
    assert info_nce(same, same, torch.tensor([7, 7])).loss.item() == 0


def test_gradients_are_those_of_the_formula() -> None:
    plain = unit(5, 8, 2).requires_grad_()
    altered = unit(5, 8, 3).requires_grad_()
    info_nce(plain, altered, torch.arange(5)).loss.backward()
    logits = (plain.detach().double() @ altered.detach().double().T) / TEMPERATURE
    identity = torch.eye(5, dtype=torch.float64)
    pull = (logits.softmax(1) - identity + logits.softmax(0) - identity) / (2 * 5 * TEMPERATURE)
    assert plain.grad is not None
    assert altered.grad is not None
    torch.testing.assert_close(plain.grad.double(), pull @ altered.detach().double(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(altered.grad.double(), pull.T @ plain.detach().double(), atol=1e-6, rtol=1e-4)


def one_process(rank: int, size: int, folder: str) -> None:
    """Its share of a batch through a shared linear map; notes the averaged gradient."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=size)
    found = gradient(slice(rank * 4 // size, (rank + 1) * 4 // size))
    dist.all_reduce(found["gradient"])
    dist.all_reduce(found["loss"])
    torch.save({name: value / size for name, value in found.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def gradient(share: slice) -> dict[str, Any]:
    weights = unit(8, 8, 0).requires_grad_()
    plain, altered, pictures = unit(4, 8, 1), unit(4, 8, 2), torch.tensor([0, 1, 2, 1])
    embedded = [normalize(half[share] @ weights, dim=1) for half in (plain, altered)]
    loss = info_nce(*embedded, pictures[share]).loss
    loss.backward()
    return {"gradient": weights.grad, "loss": loss.detach()}


@pytest.mark.slow
def test_two_processes_come_to_the_gradient_of_one(tmp_path: Path) -> None:
    spawn(one_process, (2, str(tmp_path)), nprocs=2)
    alone = gradient(slice(0, 4))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["loss"], alone["loss"])
        torch.testing.assert_close(found["gradient"], alone["gradient"], atol=1e-6, rtol=1e-4)
