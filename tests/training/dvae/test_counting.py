"""What is counted on the meta device, against counting by hand."""

import pytest
import torch
from torch import nn

from gesso.training.dvae.counting import count, kept_bytes
from gesso.training.dvae.dry_run import memory
from gesso.training.dvae.layers import Conv2d
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig
from gesso.training.dvae.train import parse

SMALL = DvaeConfig(image_size=16, vocabulary=6, width=4, input_width=4, blocks=1)


def operations_by_hand(config: DvaeConfig) -> int:
    """Two for each weight and position forward, four backward; but none for the gradient of the pixels themselves."""
    found = 0
    model = DVAE(config)

    def add(layer: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal found
        assert isinstance(layer, Conv2d)
        each = 2 * layer.w.numel() * out.shape[2] * out.shape[3]
        found += each * (2 if layer is model.encoder.blocks.input else 3)

    for layer in model.modules():
        if isinstance(layer, Conv2d):
            layer.register_forward_hook(add)
    noise = torch.ones(1, config.grid, config.grid, config.vocabulary)
    model(torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8), noise, *torch.ones(2).unbind())
    return found


def test_operations() -> None:
    assert count(SMALL).flops == operations_by_hand(SMALL)


def test_the_papers_model() -> None:
    cost = count(DvaeConfig())
    assert cost.parameters == 97_616_006
    assert cost.flops == 1_735_837_876_224


def test_recomputing_keeps_less() -> None:
    config = DvaeConfig(image_size=32, vocabulary=16, width=16, input_width=8)
    plain, again = count(config), count(config, recompute=True)
    assert again.activations < 0.6 * plain.activations
    assert again.flops == plain.flops


def test_lower_precision_keeps_less() -> None:
    config = DvaeConfig(image_size=32, vocabulary=16, width=16, input_width=8)
    assert count(config, torch.float16).activations < count(config).activations


def test_weights_in_lower_precision_are_kept_once() -> None:
    config = DvaeConfig(image_size=32, vocabulary=16, width=16, input_width=8)
    assert count(config).copies < 100  # temperature and beta
    cost = count(config, torch.bfloat16)
    with torch.device("meta"):
        model = DVAE(config)
    narrow = sum(layer.w.numel() for layer in model.modules() if isinstance(layer, Conv2d) and not layer.always_float32)
    assert 0 <= cost.copies - 2 * narrow < 100


def test_what_autograd_keeps_is_counted_once() -> None:
    layer = nn.Linear(3, 5)
    x = torch.ones(2, 3)
    assert kept_bytes(layer, x) == 2 * 3 * 4  # the input alone: weights are there anyway
    assert kept_bytes(nn.Sequential(nn.ReLU(), nn.ReLU()), x.clone().requires_grad_(True)) == 2 * 2 * 3 * 4


@pytest.mark.parametrize(("parallel", "share"), [("ddp", 1), ("fsdp", 4)])
def test_memory_by_kind(parallel: str, share: int) -> None:
    run, _ = parse(["--dry_run", "--preset", "paper", "--parallel", parallel, "--batch_size", "8"])
    cost = count(run.dvae)
    lines = memory(run, cost, processes=4)
    assert lines[0] == f"parameters                 {97_616_006 * 4 / share / 2**20:>13,.0f} MiB"
    assert lines[5] == f"weights in lower precision {0:>13,} MiB"
    assert lines[6] == f"activations of 2 pictures  {cost.activations * 2 / 2**20:>13,.0f} MiB"
    assert lines[7].endswith("MiB; processes: 4")
