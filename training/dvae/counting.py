"""Cost of a dVAE, counted on the meta device: parameters, FLOPs, memory by kind. Nothing is computed."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gesso.processes import kept_bytes
from gesso.training.dvae.layers import set_precision
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig

FLOAT = 4  # bytes
STATES = ("parameters", "gradients", "first moments", "second moments", "averaged weights")  # float32 each


class Cost(NamedTuple):
    """Cost of the model, and of one picture."""

    encoder: int  # parameters
    decoder: int
    flops: int  # per picture, forward and backward
    activations: int  # bytes kept for the backward pass, per picture
    copies: int  # bytes of the weights' copies in lower precision, whatever the batch size

    @property
    def parameters(self) -> int:
        return self.encoder + self.decoder


def count(config: DvaeConfig, dtype: torch.dtype = torch.float32, recompute: bool = False) -> Cost:
    """Counts the cost by forward and backward passes of one and two pictures on the meta device.

    FLOPs are those of the model: what `recompute` computes again is not counted.
    """
    with torch.device("meta"):
        model, one, two = DVAE(config), inputs(config, 1), inputs(config, 2)
    set_precision(model, dtype)
    with FlopCounterMode(display=False) as counter:
        model(*one).loss.backward()
    if recompute:
        model.recompute()
    kept, more = kept_bytes(model, *one), kept_bytes(model, *two)
    each = more - kept
    return Cost(size(model.encoder), size(model.decoder), counter.get_total_flops(), each, kept - each)


def inputs(config: DvaeConfig, count: int) -> tuple[Tensor, ...]:
    """Inputs of a forward pass of `count` pictures."""
    pixels = torch.empty(count, config.image_size, config.image_size, 3, dtype=torch.uint8)
    noise = torch.empty(count, config.grid, config.grid, config.vocabulary)
    return pixels, noise, *torch.ones(2).unbind()


def size(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())
