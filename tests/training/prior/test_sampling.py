"""Image tokens drawn position by position: the model's own probabilities, the same whatever the batch."""

import torch
from torch import Tensor

from gesso.training.prior.model import Prior
from gesso.training.prior.sampling import sample
from gesso.training.prior.settings import PriorConfig, Tokens

CONFIG = PriorConfig(
    layers=2, heads=1, head_size=8, text_positions=4, kernel=3, tokens=Tokens(grid=2, codes=5, texts=6)
)
TEXT = torch.tensor([[6, 1, 2, 9], [6, 3, 8, 9], [6, 1, 2, 9]])


def model() -> Prior:
    found = Prior(CONFIG)
    found.initialize(0)
    return found.eval()


def test_a_caption_has_the_same_picture_in_every_batch() -> None:
    drawn = sample(model(), TEXT, ["a", "b", "c"], seed=1)
    assert drawn.shape == (3, 4)
    for row, key in enumerate("abc"):
        assert torch.equal(sample(model(), TEXT[row : row + 1], [key], seed=1)[0], drawn[row])
    assert not torch.equal(sample(model(), TEXT, ["a", "b", "c"], seed=2), drawn)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    class Fixed(Prior):
        def next_logits(self, text: Tensor, codes: Tensor, position: int) -> Tensor:
            assert (codes[:, position:] == 0).all()
            return torch.tensor([0.5, 0.25, 0.25, 0.0, 0.0]).log().expand(len(text), 5)

    count = 2000
    drawn = sample(Fixed(CONFIG), TEXT[:1].expand(count, -1), [str(each) for each in range(count)], seed=0)
    shares = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    assert torch.allclose(shares, torch.tensor([0.5, 0.25, 0.25, 0.0, 0.0]), atol=0.02)
    assert shares[3:].tolist() == [0, 0]


def test_at_a_low_temperature_the_likeliest_token_is_taken() -> None:
    prior = model()
    drawn = sample(prior, TEXT[:1], ["a"], seed=0, temperature=1e-4)
    for position in range(4):
        assert int(prior.next_logits(TEXT[:1], drawn, position).argmax()) == int(drawn[0, position])
