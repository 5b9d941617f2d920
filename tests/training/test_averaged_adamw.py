"""AdamW with averaged weights, against torch's own AdamW and the recurrence of the average."""

import copy

import torch
from torch import Tensor, nn

from gesso.training.averaged_adamw import AveragedAdamW
from gesso.training.checkpoint import Tensors

BETAS, EPS, DECAY, EMA = (0.9, 0.98), 1e-6, 0.2, 0.75
INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def decays(parameter: Tensor) -> bool:
    return parameter.dim() > 1


def build(module: nn.Module) -> AveragedAdamW:
    return AveragedAdamW(module, EMA, DECAY, BETAS, EPS, decays)


def learn(module: nn.Module, optimizer: AveragedAdamW, updates: range) -> None:
    for update in updates:
        optimizer.zero_grad()
        module(INPUTS).square().sum().backward()
        optimizer.step(0.1 / (update + 1))


def copied(tensors: Tensors) -> Tensors:
    return {kind: {name: value.clone() for name, value in named.items()} for kind, named in tensors.items()}


def test_it_is_torchs_adamw_whose_gains_do_not_decay() -> None:
    ours, theirs = model(), model()
    expected = copy.deepcopy(dict(theirs.named_parameters()))
    groups = [
        {"params": [value for value in theirs.parameters() if decays(value) == decaying], "weight_decay": decay}
        for decaying, decay in ((True, DECAY), (False, 0.0))
    ]
    adamw = torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    optimizer = build(ours)
    for update in range(5):
        learn(ours, optimizer, range(update, update + 1))
        adamw.zero_grad()
        theirs(INPUTS).square().sum().backward()
        for group in adamw.param_groups:
            group["lr"] = 0.1 / (update + 1)
        adamw.step()
        expected = {
            name: EMA * expected[name] + (1 - EMA) * value for name, value in dict(theirs.named_parameters()).items()
        }
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(optimizer.parameters[name], value)
        torch.testing.assert_close(optimizer.tensors()["average"][name], expected[name])


def test_averaged_weights_are_the_models_for_a_while() -> None:
    module = model()
    optimizer = build(module)
    learn(module, optimizer, range(3))
    before = copied(optimizer.tensors())
    with optimizer.averaged():
        assert not module.training
        assert all(torch.equal(value, before["average"][name]) for name, value in module.named_parameters())
    assert module.training
    assert all(torch.equal(value, before["model"][name]) for name, value in module.named_parameters())


def test_restored_it_goes_on_with_the_same_bits() -> None:
    through, module = model(), model()
    optimizer = build(through)
    learn(through, optimizer, range(3))
    saved = copied(optimizer.tensors())
    learn(through, optimizer, range(3, 6))
    again = build(module)
    tensors = again.tensors()
    for kind, named in saved.items():
        for name, value in named.items():
            with torch.no_grad():
                tensors[kind][name].copy_(value)
    again.restore(saved)
    learn(module, again, range(3, 6))
    for kind, named in optimizer.tensors().items():
        assert all(torch.equal(value, again.tensors()[kind][name]) for name, value in named.items()), kind
