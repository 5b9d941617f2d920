"""What a dVAE takes, counted on the meta device: parameters, operations, memory by kind. Nothing is computed."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gesso.training.dvae.layers import set_precision
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig

FLOAT = 4  # bytes
STATES = ("parameters", "gradients", "first moments", "second moments", "average of weights")  # float32 each


class Takes(NamedTuple):
    """What one picture takes, and the model whatever the batch."""

    encoder: int  # parameters
    decoder: int
    operations: int  # floating-point, of forward and backward, a picture
    activations: int  # bytes that are kept for the backward pass, a picture
    copies: int  # bytes of weights that are kept in a lower precision, whatever the batch

    @property
    def parameters(self) -> int:
        return self.encoder + self.decoder


def count(config: DvaeConfig, dtype: torch.dtype = torch.float32, recompute: bool = False) -> Takes:
    """Of a preset, by a forward and a backward pass of one picture without memory.

    Operations are those of the model's arithmetic: what `recompute` computes again is not among them.
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
    return Takes(size(model.encoder), size(model.decoder), counter.get_total_flops(), each, kept - each)


def inputs(config: DvaeConfig, count: int) -> tuple[Tensor, ...]:
    """What a forward pass of so many pictures takes."""
    pixels = torch.empty(count, config.image_size, config.image_size, 3, dtype=torch.uint8)
    noise = torch.empty(count, config.grid, config.grid, config.vocabulary)
    return pixels, noise, *torch.ones(2).unbind()


def size(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def kept_bytes(model: nn.Module, *inputs: Tensor) -> int:
    """Bytes of all that autograd keeps for a backward pass, weights not counted, each memory once."""
    weights = {id(value) for value in model.parameters()}
    held = dict[int, Tensor]()

    def keep(value: Tensor) -> Tensor:
        base = value._base if value._base is not None else value
        if id(base) not in weights:
            held[id(base)] = base
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model(*inputs)
    return sum(value.numel() * value.element_size() for value in held.values())
