"""Cost of a prior, counted: parameters by kind and operations of a pair, with the exact masks. Nothing is computed."""

from typing import NamedTuple

from gesso.training.prior import masks
from gesso.training.prior.settings import PriorConfig


class Parameters(NamedTuple):
    """Numbers of parameters."""

    matrices: int  # of the residual blocks, in low precision
    gains_and_biases: int
    embeddings: int  # and unembeddings

    @property
    def total(self) -> int:
        return sum(self)


def parameters(config: PriorConfig) -> Parameters:
    """By their kinds, which differ in precision and in how they are sent."""
    width, positions = config.width, config.text_positions
    vectors = 9 + 4  # of width d: two norms' gains and biases, biases of q, k, v, post and MLP (4 d and d)
    tables = 2 * (config.text_ids + config.tokens.codes) + 2 * config.tokens.grid
    tables += positions if config.text_position_embedding else 0
    return Parameters(12 * config.layers * width**2, (vectors * config.layers + 2) * width, tables * width)


def flops(config: PriorConfig) -> float:
    """Operations of one pair, forward and backward: twice the multiplications, three times the forward pass.

    Attention counts the pairs of query and key that its masks allow; the caption's unembedding, which is computed for
    real tokens alone, is left out, and so is what `recompute` computes again.
    """
    matmuls = 2 * parameters(config).matrices * config.positions
    attention = sum(4 * config.width * masks.pairs(kind, layout_of(config)) for kind in kinds(config))
    unembedding = 2 * config.width * config.tokens.codes * config.tokens.grid**2
    return 3.0 * (matmuls + attention + unembedding)


def kinds(config: PriorConfig) -> list[str]:
    """The mask of each layer."""
    if config.masks == "causal":
        return ["causal"] * config.layers
    return [masks.kind_of(layer, config.layers) for layer in range(1, config.layers + 1)]


def layout_of(config: PriorConfig) -> masks.Layout:
    return masks.Layout(config.text_positions, config.tokens.grid, config.kernel)
