"""Validation losses: means over tokens, whatever the batches, and passes without a pair."""

import pytest
import torch

from gesso.processes import Group
from gesso.training.prior.evaluation import evaluate
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig, Tokens

CONFIG = PriorConfig(
    layers=2, heads=1, head_size=8, text_positions=4, kernel=3, tokens=Tokens(grid=2, codes=5, texts=6)
)
ALONE = Group(0, 1, torch.device("cpu"))
TEXT = torch.tensor([[6, 1, 2, 9], [6, 3, 8, 9], [6, 1, 2, 5]])  # 2, 1 and 3 tokens
CODES = torch.tensor([[0, 1, 2, 3], [4, 4, 4, 4], [1, 0, 1, 0]])


@pytest.mark.parametrize("sizes", [(3,), (1, 2), (2, 0, 1)])
def test_losses_are_means_over_tokens(sizes: tuple[int, ...]) -> None:
    model = Prior(CONFIG)
    model.initialize(0)
    pairs = list(zip(torch.split(TEXT, sizes), torch.split(CODES, sizes), strict=True))
    found = evaluate(model, model, pairs, ALONE)
    with torch.no_grad():
        whole = model(TEXT, CODES)
    text, image = float(whole.text) / 6, float(whole.image) / 12
    expected = {"val_loss": text / 8 + 7 * image / 8, "val_text_loss": text, "val_image_loss": image}
    assert found == pytest.approx(expected, rel=1e-6)
