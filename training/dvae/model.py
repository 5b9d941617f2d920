"""The discrete VAE: encoder, decoder, and the forward pass of a training. Knows no parallelism, no files.

pixels ─ map ─ encoder ─ logits ─┬─ + noise, / temperature, softmax ─ decoder ─ mu, ln b ─ −ln f(x)
                                 └─ KL against uniform
"""

from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gesso.training.dvae import objective
from gesso.training.dvae.block import Block
from gesso.training.dvae.decoder import Decoder
from gesso.training.dvae.encoder import Encoder
from gesso.training.dvae.objective import SUBPIXELS
from gesso.training.dvae.settings import DvaeConfig


class Terms(NamedTuple):
    """The terms of a batch's loss, and its codes."""

    loss: Tensor  # float32 scalar, nats per subpixel: nll + beta/192 · kl
    nll: Tensor  # float32 scalar, mean over subpixels
    kl: Tensor  # float32 scalar, mean over positions
    codes: Tensor  # int64 (b, g, g): the likeliest ones


class DVAE(nn.Module):
    """Encoder and decoder; parameters are named `encoder.…` and `decoder.…`, the rest as in OpenAI's released dVAE."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def forward(self, pixels: Tensor, exponential: Tensor, temperature: Tensor, beta: Tensor) -> Terms:
        """uint8 (b, S, S, 3), Exp(1) noise (b, g, g, K) → the terms of the loss. Temperature and beta are scalars."""
        x = objective.map_pixels(channels_first(pixels))
        logits = self.encoder(x)
        relaxed = objective.relax(logits, objective.gumbel(exponential.movedim(3, 1)), temperature)
        nll = objective.logit_laplace(x, self.decoder(relaxed)).mean()
        kl = objective.kl_uniform(logits).mean()
        return Terms(nll + beta / SUBPIXELS * kl, nll, kl, logits.argmax(1))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (b, S, S, 3) → int64 (b, S/8, S/8): the likeliest code of each position, no noise."""
        return self.encoder(objective.map_pixels(channels_first(pixels))).argmax(1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """int64 (b, g, g) → float32 (b, 3, 8g, 8g) in 0…1."""
        one_hot = nn.functional.one_hot(codes, self.config.vocabulary).movedim(3, 1).float()
        return objective.reconstruct(self.decoder(one_hot))

    def identity(self) -> dict[str, Any]:
        """Identifies this dVAE: its config, and the sha256 of all weights in the order of their names."""
        digest = sha256()
        for _, value in sorted(self.state_dict().items()):
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return {"kind": "dvae", **asdict(self.config), "weights_sha256": digest.hexdigest()}

    def recompute(self) -> None:
        """Turns on activation checkpointing in every residual block."""
        for inside in self.blocks().values():
            for block in inside:
                block.recompute = True

    def blocks(self) -> dict[nn.Module, list[Block]]:
        """The residual blocks of each half; evaluations call the halves one by one."""
        halves = (self.encoder, self.decoder)
        return {half: [layer for layer in half.modules() if isinstance(layer, Block)] for half in halves}


def channels_first(pixels: Tensor) -> Tensor:
    """(b, S, S, 3) → (b, 3, S, S), the same memory, so that the memory format is channels-last."""
    return pixels.movedim(3, 1)
