"""AdamW: PyTorch's arithmetic to the bit in 32-bit mode, moments in 16 bits, and what half parameters need."""

import weakref
from collections.abc import Iterator
from math import inf

import pytest
import torch
from torch import Tensor

from gesso.training.adamw import GROUPED, AdamW
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


@pytest.mark.parametrize("limit", [600, 5000])
def test_groups_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of parameters of two dtypes, with both kinds of moments, some decaying, in groups of several and of one."""
    generator = torch.Generator().manual_seed(0)
    dtypes = {f"{dtype}/{side}": dtype for dtype in (torch.float16, torch.float32) for side in (3, 20, 5, 1, 30)}
    shapes = {name: (int(name.split("/")[1]), 11) for name in dtypes}
    narrow, decayed = [name for name in dtypes if name[-1] != "5"], [name for name in dtypes if name[-1] != "3"]

    def trained(limit: int) -> dict[str, Tensor]:
        generator.manual_seed(0)
        monkeypatch.setitem(GROUPED, "cpu", limit)
        parameters = {name: torch.randn(shapes[name], generator=generator).to(dtypes[name]) for name in dtypes}
        optimizer = AdamW(parameters, narrow, decayed, 0.1)
        for _ in range(3):
            optimizer.step([(name, torch.randn(shapes[name], generator=generator)) for name in dtypes], 0.01)
        moments = {f"{kind} {name}": value for kind, all in optimizer.moments.items() for name, value in all.items()}
        return {**parameters, **moments}

    grouped, alone = trained(limit), trained(0)
    assert all(torch.equal(value, alone[name]) for name, value in grouped.items())


def test_no_more_gradients_than_a_group_and_the_next_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPED, "cpu", 20)
    parameters = {str(number): torch.zeros(size) for number, size in enumerate((8, 12, 1, 30, 5, 15, 1))}
    held: list[weakref.ref[Tensor]] = []
    most = []

    def gradients() -> Iterator[tuple[str, Tensor]]:
        for name, value in parameters.items():
            gradient = torch.ones(value.shape)
            held.append(weakref.ref(gradient))
            most.append([int(other.numel()) for other in (ref() for ref in held) if other is not None])
            yield name, gradient
            del gradient

    AdamW(parameters, (), (), 0.0).step(gradients(), 0.01)
    assert most == [[8], [8, 12], [8, 12, 1], [1, 30], [30, 5], [5, 15], [5, 15, 1]]
    assert all(value.all() for value in parameters.values())


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
