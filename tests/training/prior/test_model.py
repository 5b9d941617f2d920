"""The prior's forward pass: what each output depends on, the losses, the numbers of parameters, initial weights."""

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.training.prior.counting import kinds, layout_of
from gesso.training.prior.masks import mask
from gesso.training.prior.model import Prior, loss
from gesso.training.prior.settings import PRESETS, PriorConfig, Tokens

CONFIG = PriorConfig(
    layers=4, heads=2, head_size=8, text_positions=5, kernel=3, tokens=Tokens(grid=4, codes=10, texts=20)
)
PARAMETERS = {
    "12b": 12_292_808_448,
    "5.6b": 5_684_974_848,
    "2.8b": 2_928_234_240,
    "1b": 1_096_320_000,
    "base": 123_247_104,
    "small": 33_193_728,
    "tiny": 7_497_728,
}


def build(config: PriorConfig = CONFIG, seed: int = 0) -> Prior:
    model = Prior(config)
    model.initialize(seed)
    return model.eval()


def inputs(count: int = 2) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    text = torch.randint(0, 20, (count, 5), generator=random)
    text[:, 0], text[:, 4] = 20, 24  # start-of-text, padding
    return text, torch.randint(0, 10, (count, 16), generator=random)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_so_many_parameters(preset: str) -> None:
    shape = {name: value for name, value in PRESETS[preset].items() if name in PriorConfig.__dataclass_fields__}
    with torch.device("meta"):
        model = Prior(PriorConfig(**shape))  # type: ignore[arg-type]
    assert sum(value.numel() for value in model.parameters()) == PARAMETERS[preset]


def test_an_output_depends_on_what_its_masks_let_through() -> None:
    """Through all layers: what a position sees, what those see, and so on."""
    model, (text, codes) = build(), inputs(1)
    embedded = model.embed(text, codes).detach().requires_grad_()
    model.embed = lambda *_: embedded  # type: ignore[method-assign]
    expected = torch.eye(CONFIG.positions)
    for kind in kinds(CONFIG):
        expected = mask(kind, layout_of(CONFIG)).float() @ expected
    weights = torch.randn(CONFIG.width)
    for position in range(CONFIG.positions):
        (seen,) = torch.autograd.grad(model.hidden(text, codes)[0, position] @ weights, embedded)
        assert torch.equal(seen[0].abs().sum(1) > 0, expected[position] > 0)


@torch.no_grad()
def test_losses_are_those_of_the_next_tokens() -> None:
    model, (text, codes) = build(), inputs()
    hidden = model.hidden(text, codes)
    words = F.log_softmax(model.text_logits(hidden[:, :4]), 2)
    images = F.log_softmax(model.image_logits(hidden[:, 4:20]), 2)
    nll = model(text, codes)
    expected = -sum(float(words[row, place, text[row, place + 1]]) for row in range(2) for place in range(3))
    assert float(nll.text) == pytest.approx(expected, rel=1e-5)
    expected = -sum(float(images[row, place, codes[row, place]]) for row in range(2) for place in range(16))
    assert float(nll.image) == pytest.approx(expected, rel=1e-5)
    assert float(loss(nll, 6, 32)) == pytest.approx(float(nll.text) / 6 / 8 + 7 * float(nll.image) / 32 / 8)


def test_padding_counts_on_request() -> None:
    text, codes = inputs()
    assert build().counted(text[:, 1:]).sum() == 6
    model = build(PriorConfig(**{**vars(CONFIG), "padding_loss": True}))
    assert model.counted(text[:, 1:]).all()
    assert model(text, codes).text > build()(text, codes).text


def test_a_new_model_knows_nothing() -> None:
    text, codes = inputs(8)
    nll = build()(text, codes)
    assert float(nll.text) / 24 == pytest.approx(log(25), abs=0.1)
    assert float(nll.image) / 128 == pytest.approx(log(10), abs=0.1)


def test_initial_weights_depend_on_name_and_seed_alone() -> None:
    deep = build(PriorConfig(**{**vars(CONFIG), "layers": 5}))
    first, again, other = build(), build(), build(seed=1)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert torch.equal(first.blocks[0].branch.q.weight, deep.blocks[0].branch.q.weight)
    assert not torch.equal(first.blocks[0].branch.q.weight, other.blocks[0].branch.q.weight)
    assert not torch.equal(first.blocks[0].branch.q.weight, first.blocks[0].branch.k.weight)
    assert float(first.text.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert float(first.blocks[1].branch.second.weight.std()) == pytest.approx(0.02 / 8**0.5, rel=0.1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_low_precision_is_near_and_keeps_the_rest_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    model, (text, codes) = build(), inputs()
    expected = model(text, codes)
    model.set_precision(dtype, dtype)
    found = model(text, codes)
    assert float(found.image) == pytest.approx(float(expected.image), rel=tolerance)
    assert {name for name, value in model.named_parameters() if value.dtype == dtype} == {
        f"blocks.{number}.branch.{layer}.weight"
        for number in range(8)
        for layer in (("first", "second") if number % 2 else ("q", "k", "v", "post"))
    }
    assert model.hidden(text, codes).dtype == torch.float32


def test_recomputed_gradients_are_the_same() -> None:
    text, codes = inputs()
    kept, recomputed = build().train(), build().train()
    recomputed.recompute()
    for model in (kept, recomputed):
        loss(model(text, codes), 6, 32).backward()
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_next_logits_are_those_of_the_full_pass() -> None:
    model, (text, codes) = build(), inputs()
    full = model.image_logits(model.hidden(text, codes)[:, 4:20])
    partial = codes.clone()
    partial[:, 7:] = 0
    assert torch.allclose(model.next_logits(text, partial, 7), full[:, 7], atol=1e-6)
