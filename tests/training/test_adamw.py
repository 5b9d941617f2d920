"""AdamW: PyTorch's arithmetic to the bit in 32-bit mode, moments in 16 bits, and what half parameters need."""

from collections.abc import Iterator
from math import inf

import pytest
import torch
from torch import Tensor

from gesso.training.adamw import AdamW
from gesso.training.precision.formats import MEAN, VARIANCE, decode, encode

NAMES = ("matrix", "gain", "scalar")


def tensors(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: tuple[tuple[int, ...], ...] = ((7, 33), (5,), ())
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in zip(NAMES, shapes, strict=True)}


@pytest.mark.parametrize("decayed", [NAMES, ("matrix",), ()])
def test_it_is_pytorchs_to_the_bit_over_50_updates(decayed: tuple[str, ...]) -> None:
    parameters = tensors(0)
    theirs = {name: torch.nn.Parameter(value.clone()) for name, value in parameters.items()}
    groups = [{"params": [theirs[name]], "weight_decay": 0.045 if name in decayed else 0.0} for name in NAMES]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.96), eps=1e-8, foreach=False)
    ours = AdamW(parameters, (), decayed, 0.045, variance_limit=inf)
    for step in range(50):
        gradients, learning_rate = tensors(step + 1, 10.0 ** (step % 7 - 4)), 0.01 / (1 + step)
        for name, group in zip(NAMES, reference.param_groups, strict=True):
            theirs[name].grad, group["lr"] = gradients[name].clone(), learning_rate
        reference.step()
        ours.step(gradients.items(), learning_rate)
    for name in NAMES:
        assert torch.equal(parameters[name], theirs[name])
        assert torch.equal(ours.moments["mean"][name], reference.state[theirs[name]]["exp_avg"])
        assert torch.equal(ours.moments["variance"][name], reference.state[theirs[name]]["exp_avg_sq"])


def test_the_running_variance_is_clipped_before_it_is_used() -> None:
    parameters = {"a": torch.zeros(2)}
    optimizer = AdamW(parameters, (), (), 0.0, betas=(0.9, 0.96), eps=0.0)
    optimizer.step([("a", torch.tensor([100.0, 1.0]))], 1.0)
    assert optimizer.moments["variance"]["a"].tolist() == pytest.approx([5.0, 0.04])
    assert parameters["a"].tolist() == pytest.approx([-100 / (5 / 0.04) ** 0.5, -1.0])


def test_the_factor_multiplies_gradients_and_leaves_the_callers_alone() -> None:
    one, other = tensors(0), tensors(0)
    gradients = tensors(1)
    AdamW(one, (), NAMES, 0.1).step(gradients.items(), 0.01, factor=0.25)
    assert torch.equal(gradients["matrix"], tensors(1)["matrix"])
    AdamW(other, (), NAMES, 0.1).step(tensors(1, 0.25).items(), 0.01)
    assert all(torch.equal(one[name], other[name]) for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("narrow", [("a",), ()])
def test_half_parameters_are_updated_in_float32_and_rounded_once(dtype: torch.dtype, narrow: tuple[str, ...]) -> None:
    half, gradient = tensors(0)["matrix"].to(dtype), tensors(1)["matrix"]
    wide = half.float()
    AdamW({"a": half}, narrow, ("a",), 0.045).step([("a", gradient)], 0.01)
    AdamW({"a": wide}, narrow, ("a",), 0.045).step([("a", gradient)], 0.01)
    assert half.dtype == dtype
    assert torch.equal(half, wide.to(dtype))
    assert not torch.equal(half.float(), wide)


@pytest.mark.parametrize("narrow", [("a",), ()])
def test_an_element_without_gradients_stays_where_it_is(narrow: tuple[str, ...]) -> None:
    parameter = torch.ones(2, dtype=torch.float16)
    optimizer = AdamW({"a": parameter}, narrow, (), 0.0)
    for _ in range(3):
        optimizer.step([("a", torch.tensor([0.0, 1.0], dtype=torch.float16))], 0.01)
    assert parameter[0] == 1  # with eps in float16: 0/0
    assert parameter[1] < 1


def test_16_bit_moments_are_encoded_after_each_update() -> None:
    narrow, wide = {"a": torch.zeros(50)}, {"a": torch.zeros(50)}
    ours, reference = AdamW(narrow, ("a",), (), 0.0), AdamW(wide, (), (), 0.0)
    mean, variance = reference.moments["mean"]["a"], reference.moments["variance"]["a"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradient = torch.randn(50, generator=generator)
        ours.step([("a", gradient)], 0.01)
        reference.step([("a", gradient)], 0.01)
        assert torch.equal(narrow["a"], wide["a"])
        assert torch.equal(ours.moments["mean"]["a"], encode(mean, MEAN))
        assert torch.equal(ours.moments["variance"]["a"], encode(variance, VARIANCE))
        mean.copy_(decode(encode(mean, MEAN), MEAN))
        variance.copy_(decode(encode(variance, VARIANCE), VARIANCE))


def test_moments_are_contiguous_in_the_asked_type() -> None:
    optimizer = AdamW({"a": torch.zeros(3, 4).T.half(), "b": torch.zeros(3).bfloat16()}, ("a",), (), 0.0)
    for kind in ("mean", "variance"):
        codes, wide = optimizer.moments[kind]["a"], optimizer.moments[kind]["b"]
        assert (codes.dtype, codes.is_contiguous(), codes.shape) == (torch.int16, True, (4, 3))
        assert codes.view(torch.float16).shape == (4, 3)  # as collectives take them
        assert wide.dtype == torch.float32


def test_it_goes_on_from_moments_and_the_number_of_updates() -> None:
    straight, first = tensors(0), tensors(0)
    whole = AdamW(straight, ("matrix",), NAMES, 0.1)
    before = AdamW(first, ("matrix",), NAMES, 0.1)
    for step in range(3):
        whole.step(tensors(step + 1).items(), 0.01)
        before.step(tensors(step + 1).items(), 0.01)
    after = AdamW(first, ("matrix",), NAMES, 0.1)
    for kind, moments in after.moments.items():
        for name, value in moments.items():
            value.copy_(before.moments[kind][name])
    after.updates = before.updates
    whole.step(tensors(9).items(), 0.01)
    after.step(tensors(9).items(), 0.01)
    assert after.updates == 4
    assert all(torch.equal(straight[name], first[name]) for name in NAMES)


def test_gradients_are_taken_one_at_a_time() -> None:
    parameters = tensors(0)
    before = {name: value.clone() for name, value in parameters.items()}

    def gradients() -> Iterator[tuple[str, Tensor]]:
        for number, (name, gradient) in enumerate(tensors(1).items()):
            changed = [each for each in NAMES if not torch.equal(parameters[each], before[each])]
            assert changed == list(NAMES[:number])  # all before this one are done, none after it
            yield name, gradient

    AdamW(parameters, (), NAMES, 0.1).step(gradients(), 0.01)
    assert not torch.equal(parameters["scalar"], before["scalar"])


def test_parameters_that_are_not_named_are_not_changed() -> None:
    parameters = tensors(0)
    optimizer = AdamW(parameters, (), NAMES, 0.1)
    optimizer.step([("gain", torch.ones(5))], 0.01)
    assert torch.equal(parameters["matrix"], tensors(0)["matrix"])
    assert not optimizer.moments["mean"]["matrix"].any()


def trained(narrow: tuple[str, ...]) -> float:
    """The mean squared error of a small network on a fixed task after 200 updates."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    parameters = dict(model.named_parameters())
    x = torch.randn(256, 8)
    y = (x[:, :1] * x[:, 1:2]).sin()
    optimizer = AdamW(parameters, narrow, (), 0.0)
    for _ in range(200):
        loss = (model(x) - y).square().mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        optimizer.step(zip(parameters, gradients, strict=True), 0.01)
    return loss.item()


def test_16_bit_moments_train_like_32_bit_ones() -> None:
    wide, narrow = trained(()), trained(("0.weight", "2.weight"))
    assert wide < 0.02  # from 0.3
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=0.1)
