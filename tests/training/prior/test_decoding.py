"""Cached decoding gives the logits of the full forward pass at every position."""

import pytest
import torch
from torch import Tensor

from gesso.training.prior.decoding import Decoder, cache_bytes
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig, Tokens

PAPER = PriorConfig(layers=5, heads=2, head_size=8, text_positions=256, tokens=Tokens(32, 50, 100))
SMALL = PriorConfig(layers=4, heads=2, head_size=8, text_positions=6, kernel=3, tokens=Tokens(4, 20, 30))


def spread(config: PriorConfig) -> Prior:
    """A prior with initial weights that make the logits differ, gains and biases among them."""
    prior = Prior(config)
    prior.initialize(0)
    random = torch.Generator().manual_seed(1)
    for value in prior.parameters():
        value.data *= 5 if value.dim() == 2 else 1
        value.data += 0 if value.dim() == 2 else 0.1 * torch.randn(value.shape, generator=random)
    return prior.eval().requires_grad_(False)


def inputs(config: PriorConfig, captions: int, candidates: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    text = torch.randint(0, config.text_ids, (captions, config.text_positions), generator=random)
    rows = captions * candidates
    return text, torch.randint(0, config.tokens.codes, (rows, config.tokens.grid**2), generator=random)


def by_full_pass(prior: Prior, text: Tensor, codes: Tensor) -> Tensor:
    """The logits of all image tokens, (b, N, K), in the dtype of the weights: `Residual` itself rounds to float32."""
    x = prior.embed(text, codes)
    for block in prior.residuals():
        x = x + block.branch(block.norm(x))
    return prior.image_logits(prior.norm(x)[:, prior.config.text_positions - 1 : -1])


def by_steps(decoder: Decoder, text: Tensor, codes: Tensor, as_tensor: bool = False, given: int = 0) -> Tensor:
    """The logits from the token after the given ones on."""
    logits = [decoder.prefill(text, codes[0, :given])]
    for position in range(given, codes.shape[1] - 1):
        logits.append(decoder.advance(codes[:, position], torch.tensor([position]) if as_tensor else position))
    return torch.stack(logits, 1)


@pytest.mark.parametrize("text_position_embedding", [False, True])
@pytest.mark.parametrize("masks", ["sparse", "causal"])
def test_the_full_pass_at_all_1024_positions(masks: str, text_position_embedding: bool) -> None:
    config = PriorConfig(**{**vars(PAPER), "masks": masks, "text_position_embedding": text_position_embedding})
    prior = spread(config).double()
    text, codes = inputs(config, 2, 2)
    expected = by_full_pass(prior, text.repeat_interleave(2, 0), codes)
    found = by_steps(Decoder(prior, 2, 2), text, codes)
    assert found.dtype == torch.float64
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("given", [1, 33, 480, 1023])
def test_first_codes_that_are_given(given: int) -> None:
    prior = spread(PAPER).double()
    text, codes = inputs(PAPER, 1, 2)
    codes[1, :given] = codes[0, :given]
    expected = by_full_pass(prior, text.expand(2, -1), codes)[:, given:]
    found = by_steps(Decoder(prior, 1, 2), text, codes, given=given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


class TestSmall:
    def test_a_position_in_a_tensor_gives_the_same_numbers(self) -> None:
        """What a CUDA graph replays."""
        text, codes = inputs(SMALL, 2, 3)
        decoder = Decoder(spread(SMALL), 2, 3)
        assert torch.equal(by_steps(decoder, text, codes), by_steps(decoder, text, codes, as_tensor=True))

    def test_nothing_is_left_of_the_pictures_before(self) -> None:
        text, codes = inputs(SMALL, 1, 2)
        decoder = Decoder(spread(SMALL), 1, 2)
        first = by_steps(decoder, text, codes)
        by_steps(decoder, text.flip(1), codes.flip(1))
        assert torch.equal(by_steps(decoder, text, codes), first)

    @pytest.mark.parametrize(("low", "error"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
    def test_16_bits_are_near_the_full_pass_in_16_bits(self, low: torch.dtype, error: float) -> None:
        text, codes = inputs(SMALL, 1, 2)
        prior = spread(SMALL)
        exact = by_full_pass(prior, text.expand(2, -1), codes)
        prior.set_precision(low, low)
        hidden = prior.hidden(text.expand(2, -1), codes)[:, SMALL.text_positions - 1 : -1]
        expected, found = prior.image_logits(hidden), by_steps(Decoder(prior, 1, 2), text, codes)
        assert found.dtype == torch.float32
        assert not torch.equal(expected, exact)
        assert (found - expected).abs().max() < error * exact.abs().max()

    def test_the_prior_stays_as_it_is_and_shares_its_matrices(self) -> None:
        text, codes = inputs(SMALL, 1, 2)
        prior = spread(SMALL)
        before = prior.hidden(text, codes[:1])
        decoder = Decoder(prior, 1, 2)
        assert torch.equal(prior.hidden(text, codes[:1]), before)
        q = prior.residuals()[0].branch.get_parameter("q.weight")
        assert q.untyped_storage().data_ptr() == decoder._layers[0].qkv.weight.untyped_storage().data_ptr()


class TestMemory:
    @pytest.mark.parametrize("config", [PAPER, SMALL])
    def test_bytes_are_those_that_are_held(self, config: PriorConfig) -> None:
        row, caption = cache_bytes(config, 4)
        assert Decoder(spread(config), 2, 3).nbytes == (6 * row, 2 * caption)

    def test_as_counted_for_the_paper(self) -> None:
        """47 rows of 33, 16 columns of 1,024, a convolution of 166, each of 2 · 3,968 numbers; 2.4 and 4.5 times less
        than everything, with and without the text."""
        config = PriorConfig()
        row, caption = cache_bytes(config, 2)
        position = 2 * 3968 * 2
        assert row == (47 * 33 + 16 * 1024 + 166) * position
        assert caption == 64 * 256 * position
        whole = 64 * 1280 * position
        assert (round(whole / (row + caption), 1), round(whole / row, 1)) == (2.4, 4.5)
