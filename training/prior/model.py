"""The prior: a sparse transformer over one stream of caption and image tokens. Knows no parallelism, no files.

    slot   0 … T-1                    T … T+N-1
    input  start, caption, padding    image tokens in raster order         token (+ row + column) embeddings, (b, L, d)
    ──── residual blocks, two a layer: x + attention(norm(x)), x + MLP(norm(x)); x is float32 throughout ────
    output the caption's next token   the image's next token               norm ─ unembedding of the kind ─ NLL

b: samples, T: text positions, g: grid, N = g²: image positions, L = T + N, d: width, V: ids of captions, K: codes.
DALL-E paper (arXiv 2102.12092), sections 2.2 to 2.4 and B.1.
"""

from collections.abc import Iterator
from functools import partial
from math import sqrt
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gesso.training.data.randomness import seed_of
from gesso.training.distributed.parallel import fill
from gesso.training.precision.resblock_scale import Enter, Leave
from gesso.training.prior import counting
from gesso.training.prior.attention import attend
from gesso.training.prior.layers import MLP, Attention
from gesso.training.prior.settings import PriorConfig

STD = 0.02  # of initial weights: not in the paper, as GPT-2's
TEXT_WEIGHT, IMAGE_WEIGHT = 1 / 8, 7 / 8  # of the two losses


class Nll(NamedTuple):
    """Negative log-likelihoods of a batch's tokens, summed over those that count, nats; float32 scalars."""

    text: Tensor
    image: Tensor


class Residual(nn.Module):
    """x + branch(norm(x)): x in float32, the branch in `compute`, its gradients under `gradient_scale`, if any."""

    gradient_scale: Tensor | None = None  # float32 scalar
    recompute = False

    def __init__(self, width: int, branch: nn.Module) -> None:
        super().__init__()
        self.norm, self.branch, self.compute = nn.LayerNorm(width), branch, torch.float32

    def forward(self, x: Tensor) -> Tensor:
        """(b, L, d) float32 → the same."""
        if self.recompute and self.training:
            recomputed: Tensor = checkpoint(self._compute, x, use_reentrant=False)
            return recomputed
        return self._compute(x)

    def _compute(self, x: Tensor) -> Tensor:
        scale = self.gradient_scale
        if scale is None:
            summed: Tensor = x + self.branch(self.norm(x).to(self.compute))  # in float32
            return summed
        entered = Enter.apply(x, scale)
        out = self.branch(self.norm(entered).to(self.compute)).float()
        return x + Leave.apply(out, scale)

    def matrices(self) -> Iterator[nn.Parameter]:
        """What is kept, sent and sharded in low precision."""
        return (value for value in self.branch.parameters() if value.dim() == 2)


class Prior(nn.Module):
    """Captions (b, T) and image tokens (b, N) → their negative log-likelihoods."""

    def __init__(self, config: PriorConfig, form: str = "auto") -> None:
        super().__init__()
        self.config = config
        width, grid = config.width, config.tokens.grid
        self.text = nn.Embedding(config.text_ids, width)
        self.text_position = nn.Embedding(config.text_positions, width) if config.text_position_embedding else None
        self.image = nn.Embedding(config.tokens.codes, width)
        self.row, self.column = nn.Embedding(grid, width), nn.Embedding(grid, width)
        self.blocks = nn.ModuleList(residual_blocks(config, form))
        self.norm = nn.LayerNorm(width)
        self.text_logits = nn.Linear(width, config.text_ids, bias=False)
        self.image_logits = nn.Linear(width, config.tokens.codes, bias=False)

    def forward(self, text: Tensor, codes: Tensor) -> Nll:
        """int64 (b, T) ids of captions and (b, N) codes → summed losses of what each position predicts."""
        hidden, last = self.hidden(text, codes), self.config.text_positions - 1
        targets = text[:, 1:]
        counted = self.counted(targets).nonzero(as_tuple=True)
        text_nll = F.cross_entropy(self.text_logits(hidden[counted]), targets[counted], reduction="sum")
        image_logits = self.image_logits(hidden[:, last:-1]).flatten(0, 1)
        return Nll(text_nll, F.cross_entropy(image_logits, codes.flatten(), reduction="sum"))

    def hidden(self, text: Tensor, codes: Tensor) -> Tensor:
        """The normalised states of all positions, (b, L, d) float32."""
        x = self.embed(text, codes)
        for block in self.blocks:
            x = block(x)
        normalised: Tensor = self.norm(x)
        return normalised

    def next_logits(self, text: Tensor, codes: Tensor, position: int) -> Tensor:
        """The logits of an image token, (b, K), given those before it; `codes` from it on do not matter."""
        logits: Tensor = self.image_logits(self.hidden(text, codes)[:, self.config.text_positions - 1 + position])
        return logits

    def embed(self, text: Tensor, codes: Tensor) -> Tensor:
        """The input of the first block, (b, L, d)."""
        places = self.row.weight[:, None] + self.column.weight
        words = self.text(text)
        if self.text_position is not None:
            words = words + self.text_position.weight
        return torch.cat([words, self.image(codes) + places.flatten(0, 1)], dim=1)

    def counted(self, targets: Tensor) -> Tensor:
        """Which of a caption's predicted ids count in the loss: those that are no padding, unless that counts, too."""
        return targets < (self.config.text_ids if self.config.padding_loss else self.config.tokens.texts)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draws all weights, each by its own name and the seed, so that sharding and other layers do not matter."""
        for name, value in self.named_parameters():
            if value.dim() == 2:
                fill(value, normal(value, self._std(name), seed_of("initialize", seed, 0, name)))
            else:
                value.fill_(1.0 if name.endswith("norm.weight") else 0.0)

    def _std(self, name: str) -> float:
        """Outputs of residual blocks are scaled down by their number, as GPT-2's."""
        is_output = name.endswith(("post.weight", "second.weight"))
        return STD / sqrt(2 * self.config.layers) if is_output else STD

    def set_precision(self, compute: torch.dtype, weights: torch.dtype) -> None:
        """Sets the dtype of the blocks' arithmetic and of their matrices; everything else stays float32."""
        for block in self.residuals():
            block.compute = compute
            for matrix in block.matrices():
                matrix.data = matrix.data.to(weights)

    def recompute(self) -> None:
        """Turns on activation checkpointing in every residual block."""
        for block in self.residuals():
            block.recompute = True

    def residuals(self) -> list[Residual]:
        """The residual blocks in order: attention at even numbers, MLP at odd ones."""
        return cast("list[Residual]", list(self.blocks))


def residual_blocks(config: PriorConfig, form: str) -> Iterator[Residual]:
    """Attention and MLP of each layer, in turns."""
    for kind in counting.kinds(config):
        see = partial(attend, kind=kind, layout=counting.layout_of(config), form=form)
        attention = Attention(config.width, config.heads, see)
        yield Residual(config.width, attention)
        yield Residual(config.width, MLP(config.width))


def normal(like: Tensor, std: float, seed: int) -> Tensor:
    """A float32 tensor of the full shape of `like`, drawn on its device."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.empty(like.shape, device=like.device).normal_(0.0, std, generator=generator)


def loss(nll: Nll, text_tokens: float | Tensor, image_tokens: float | Tensor) -> Tensor:
    """1/8 of the mean over the caption's tokens and 7/8 of that over the image's; the counts are of the full batch."""
    return TEXT_WEIGHT * nll.text / text_tokens + IMAGE_WEIGHT * nll.image / image_tokens
