"""Image tokens drawn from a prior, one position after the other, each by a full forward pass. torch.

For the few pictures that a training shows; nothing is cached between positions.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gesso.training.data.randomness import random_of
from gesso.training.prior.model import Prior

NextLogits = Callable[[Tensor, Tensor, int], Tensor]  # Prior.next_logits


@torch.no_grad()
def sample(model: Prior, text: Tensor, keys: Sequence[str], seed: int, temperature: float = 1.0) -> Tensor:
    """Draws the image tokens of some captions: int64 (b, T) → (b, N).

    The random numbers of a caption depend on the seed and its key alone. All processes must call it together.
    """
    tokens = model.config.tokens
    randoms = [random_of("sample", seed, 0, key) for key in keys]
    codes = torch.zeros(len(text), tokens.grid**2, dtype=torch.int64, device=text.device)
    for position in range(tokens.grid**2):
        logits = model.next_logits(text, codes, position).float() / temperature
        races = torch.stack([torch.from_numpy(random.exponential(size=tokens.codes)) for random in randoms])
        codes[:, position] = (logits.double().softmax(1) / races.to(logits.device)).argmax(1)
    return codes
