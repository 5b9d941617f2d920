"""The dVAE: the released modules' arithmetic, names and sizes; what its precision and recomputation change."""

from collections.abc import Callable

import dall_e
import pytest
import torch
from torch import Tensor, nn

from gesso.training.dvae import objective
from gesso.training.dvae.block import Block
from gesso.training.dvae.decoder import Decoder
from gesso.training.dvae.encoder import Encoder
from gesso.training.dvae.layers import Conv2d, set_precision
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig

# The least that the released modules accept.
CONFIG = DvaeConfig(image_size=32, vocabulary=512, width=64, input_width=64)
SMALL = DvaeConfig(image_size=16, vocabulary=6, width=4, input_width=4, blocks=1)


def released(half: str) -> nn.Module:
    sizes = {"n_hid": CONFIG.width, "vocab_size": CONFIG.vocabulary}
    module: nn.Module = dall_e.Encoder(**sizes) if half == "encoder" else dall_e.Decoder(n_init=64, **sizes)
    return module.requires_grad_(True)


def test_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        model = DVAE(DvaeConfig())
    counts = [sum(value.numel() for value in half.parameters()) for half in (model.encoder, model.decoder)]
    assert counts == [53_786_240, 43_829_766]
    assert sum(value.numel() for value in model.parameters()) == 97_616_006


def pixels_of(seed: int) -> Tensor:
    return objective.map_pixels(torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    ("half", "ours", "inputs"),
    [
        ("encoder", Encoder, lambda: pixels_of(1)),
        ("decoder", Decoder, lambda: torch.softmax(torch.randn(2, 512, 4, 4), 1)),
    ],
)
def test_outputs_and_gradients_are_the_released_modules(
    half: str, ours: type[nn.Module], inputs: Callable[[], Tensor]
) -> None:
    torch.manual_seed(0)
    theirs, x = released(half), inputs()
    module = ours(CONFIG)
    module.load_state_dict(theirs.state_dict())
    weight = torch.randn_like(theirs(x))
    results = []
    for model in (theirs, module):
        given = x.clone().requires_grad_(True)
        out = model(given)
        (out * weight).sum().backward()
        results.append([out, given.grad, *(value.grad for value in model.parameters())])
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_first_weights_are_normal_with_the_fan_in() -> None:
    torch.manual_seed(0)
    layer = Conv2d(64, 128, 3)
    assert float(layer.w.detach().std()) == pytest.approx(1 / 24, rel=0.01)
    assert float(layer.w.detach().mean()) == pytest.approx(0, abs=1e-3)
    assert layer.b.count_nonzero() == 0


def test_codes_are_the_likeliest_and_decode_to_pictures() -> None:
    torch.manual_seed(0)
    model = DVAE(SMALL)
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    logits = model.encoder(objective.map_pixels(pixels.movedim(3, 1)))
    codes = model.encode(pixels)
    assert codes.shape == (3, 2, 2)
    assert torch.equal(codes, logits.argmax(1))
    told = model.decoder(objective.harden(logits))
    assert torch.equal(model.decode(codes), objective.reconstruct(told))
    assert model.decode(codes).shape == (3, 3, 16, 16)


def terms_of(model: DVAE) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    noise = torch.empty(2, 2, 2, 6).exponential_()
    model.zero_grad()
    terms = model(pixels, noise, torch.tensor(0.5), torch.tensor(2.0))
    terms.loss.backward()
    assert torch.equal(terms.loss, terms.nll + 2 / 192 * terms.kl)
    return terms.loss, [value.grad.clone() for value in model.parameters() if value.grad is not None]


def test_recomputed_activations_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = DVAE(SMALL)
    loss, gradients = terms_of(model)
    model.recompute()
    again, recomputed = terms_of(model)
    assert torch.equal(loss, again)
    assert len(gradients) == len(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(gradients, recomputed, strict=True))


def test_the_first_and_last_of_the_codes_stay_in_float32() -> None:
    torch.manual_seed(0)
    model = DVAE(SMALL)
    exact, _ = terms_of(model)
    set_precision(model, torch.bfloat16)
    layers = [layer for layer in model.modules() if isinstance(layer, Conv2d)]
    wide = [layer for layer in layers if layer.compute == torch.float32]
    assert wide == [model.encoder.blocks.output.conv, model.decoder.blocks.input]
    assert model.encoder(torch.rand(1, 3, 16, 16)).dtype == torch.float32
    assert model.decoder(torch.rand(1, 6, 2, 2)).dtype == torch.bfloat16
    rounded, gradients = terms_of(model)
    assert rounded.dtype == torch.float32
    assert float(rounded) == pytest.approx(float(exact), abs=0.05)
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_gradients_of_the_whole_model_in_float64() -> None:
    """Finite differences of the loss by a few weights of every layer."""
    torch.manual_seed(0)
    model = DVAE(SMALL).double()
    set_precision(model, torch.float64)
    for layer in model.modules():
        if isinstance(layer, Conv2d):
            layer.b.data.normal_(std=0.1)  # at 0 a silent channel stands on the bend of its ReLU
    pixels = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    noise = torch.empty(1, 2, 2, 6, dtype=torch.float64).exponential_()
    scalars = torch.tensor(0.7, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)

    def loss() -> Tensor:
        total: Tensor = model(pixels, noise, *scalars).loss
        return total

    loss().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None
        place = int(value.grad.abs().argmax())
        flat = value.data.view(-1)
        before, step = float(flat[place]), 1e-6
        sides = []
        for side in (before + step, before - step):
            flat[place] = side
            sides.append(float(loss()))
        flat[place] = before
        expected = float(value.grad.view(-1)[place])
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(expected, rel=1e-4, abs=1e-9), name


def test_the_identity_follows_the_weights() -> None:
    torch.manual_seed(0)
    model = DVAE(SMALL)
    before = model.identity()
    assert before["vocabulary"] == 6
    assert DVAE(SMALL).identity()["weights_sha256"] != before["weights_sha256"]
    again = DVAE(SMALL)
    again.load_state_dict(model.state_dict())
    assert again.to(memory_format=torch.channels_last).identity() == before


def test_recompute_reaches_every_block() -> None:
    model = DVAE(DvaeConfig(image_size=16, vocabulary=6, width=4, input_width=4, blocks=2))
    model.recompute()
    blocks = [layer for layer in model.modules() if isinstance(layer, Block)]
    assert len(blocks) == 16
    assert all(block.recompute for block in blocks)
    assert {block.post_gain for block in blocks} == {1 / 64}
