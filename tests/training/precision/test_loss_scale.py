"""The loss scale: scale, step, state."""

import pytest
import torch

from gesso.training.precision import loss_scale
from gesso.training.precision.loss_scale import LossScale


def test_gradients_come_back_as_they_were() -> None:
    scale, x = LossScale(dynamic=True), torch.tensor([2.0], requires_grad=True)
    scale.scale((x**2).sum()).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [4 * 65536]
    scale.unscale([x.grad])
    assert x.grad.tolist() == [4]


def test_it_halves_and_skips_where_gradients_are_not_finite() -> None:
    scale = LossScale(dynamic=True)
    assert not scale.step(finite=False)
    assert scale.value == 2**15
    assert scale.step(finite=True)
    assert scale.value == 2**15


def test_it_doubles_after_finite_updates_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    scale = LossScale(dynamic=True)
    for finite in (True, True, False, True, True):
        scale.step(finite)
    assert scale.value == 2**15
    scale.step(True)
    assert scale.value == 2**16


def test_it_goes_on_from_its_state() -> None:
    scale, again = LossScale(dynamic=True), LossScale(dynamic=True)
    for finite in (False, True, True):
        scale.step(finite)
    again.restore(scale.state())
    assert again.state() == {"value": 2**15, "finite": 2}


def test_it_gives_up_below_one() -> None:
    scale = LossScale(dynamic=True)
    for _ in range(16):
        scale.step(finite=False)
    assert scale.value == 1
    assert not scale.exhausted
    scale.step(finite=False)
    assert scale.exhausted


def test_without_it_nothing_changes() -> None:
    scale, loss = LossScale(dynamic=False), torch.tensor(3.0)
    assert scale.scale(loss) is loss
    assert not scale.step(finite=False)
    assert scale.exhausted
    assert scale.value == 1
