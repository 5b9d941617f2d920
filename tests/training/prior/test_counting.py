"""Parameters and operations against those of the model itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gesso.training.prior import counting
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig, Tokens

SHAPES = {"layers": 5, "heads": 2, "head_size": 8, "text_positions": 6, "kernel": 3}
TOKENS = Tokens(grid=4, codes=10, texts=20)


@pytest.mark.parametrize("position", [False, True])
def test_parameters_are_counted_by_kind(position: bool) -> None:
    config = PriorConfig(**SHAPES, text_position_embedding=position, tokens=TOKENS)
    model = Prior(config)
    counted = counting.parameters(config)
    inside = [value for block in model.blocks for value in block.matrices()]
    assert counted.matrices == sum(value.numel() for value in inside)
    assert counted.gains_and_biases == sum(value.numel() for value in model.parameters() if value.dim() == 1)
    assert counted.total == sum(value.numel() for value in model.parameters())


def test_operations_are_those_of_torch_but_for_masked_pairs_and_the_captions_unembedding() -> None:
    config = PriorConfig(**SHAPES, masks="causal", tokens=TOKENS)
    model, text = Prior(config, "dense"), torch.full((1, 6), 22)  # padding alone
    with FlopCounterMode(display=False) as counter:
        model(text, torch.zeros(1, 16, dtype=torch.int64)).image.backward()
    length = config.positions
    unmasked = 3 * 5 * 4 * config.width * (length**2 - length * (length + 1) // 2)
    assert counting.flops(config) == counter.get_total_flops() - unmasked


def test_the_papers_model_takes_94_tflop_a_pair() -> None:
    config = PriorConfig()
    linear = 3 * 2 * counting.parameters(config).matrices * 1280
    assert linear == pytest.approx(3 * 30.96e12, rel=1e-3)
    assert counting.flops(config) / linear == pytest.approx(1.013, abs=1e-3)
