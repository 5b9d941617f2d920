"""Cached decoding of image tokens: one position after the other, the image's keys in slots, the text's once a caption.

    caption (and first codes) ─ one pass ─▶ keys and values of the text (n, h, T, c), of the codes in their slots
    a code of every row ─ embedding ─ in each layer: q, k, v; k and v into a slot; scores of text and slots side by
        side, one softmax; MLP ─▶ logits of the next code

n captions with m candidates each are b = n·m rows; h heads of width c, width d, T text and N image positions, K codes.
The arithmetic is the prior's: in float32 and float64 the logits are those of its forward pass up to rounding. torch.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesso.training.prior import counting
from gesso.training.prior.attention import attend
from gesso.training.prior.layers import MLP, Attention, Linear
from gesso.training.prior.masks import Layout, Positions
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig
from gesso.training.prior.slots import Place, Slots, count_of, keep, read


class Affine(NamedTuple):
    """A weight and its bias."""

    weight: Tensor
    bias: Tensor


class Layer(NamedTuple):
    """The weights of a transformer layer, those of q, k and v as one (3d, d)."""

    attention_norm: Affine
    qkv: Affine
    post: Affine
    mlp_norm: Affine
    first: Affine
    second: Affine


class Shape(NamedTuple):
    """How the rows divide into captions and the width into heads, and the dtype to which the layers round."""

    captions: int
    heads: int
    low: torch.dtype


class Decoder:
    """Decodes `candidates` rows of each of `captions` captions: `prefill`, then `advance` from position to position.

    Rows are in the order of captions. All memory is allocated here; q, k and v of the prior become views of one matrix.
    """

    def __init__(self, prior: Prior, captions: int, candidates: int, compiled: bool = False) -> None:
        config = prior.config
        self._prior, self._layout, self._kinds = prior, counting.layout_of(config), counting.kinds(config)
        self.rows, self._candidates = captions * candidates, candidates
        stream, device = prior.image.weight.dtype, prior.image.weight.device
        compute = prior.residuals()[0].compute
        low = compute if compute.itemsize == 2 else stream
        stored = stream if device.type == "cpu" else low  # a CPU's products of 16-bit numbers are slow
        self._shape = Shape(captions, config.heads, low)
        self._layers = list(layers_of(prior, low, stored))
        self._slots = {kind: Slots(kind, self._layout, stream, device) for kind in set(self._kinds)}

        def zeros(rows: int, positions: int) -> Tensor:
            size = (2, rows, config.heads, positions, config.head_size)
            return torch.zeros(size, dtype=stored, device=device)

        self._texts = [zeros(captions, self._layout.text) for _ in self._kinds]
        self._caches = [zeros(self.rows, self._slots[kind].count) for kind in self._kinds]
        self._places = (prior.row.weight[:, None] + prior.column.weight).flatten(0, 1).detach()
        self._advance = torch.compile(advance, dynamic=False) if compiled else advance

    @torch.inference_mode()
    def prefill(self, text: Tensor, prefix: Tensor) -> Tensor:
        """int64 (n, T) captions and (p,) first codes of all pictures → logits of the next code, (b, K).

        Each caption passes alone, so that its numbers do not depend on the others.
        """
        for cache in self._caches:
            cache.zero_()
        last = [self._prefill(number, row, prefix) for number, row in enumerate(text)]
        return self._logits(torch.cat(last).repeat_interleave(self._candidates, 0))

    @torch.inference_mode()
    def advance(self, codes: Tensor, position: Positions) -> Tensor:
        """The codes of a position, int64 (b,) → logits of the next one, (b, K). `position`: see slots.py."""
        places = {kind: slots.place(position) for kind, slots in self._slots.items()}
        x = self._prior.image(codes) + self._places[position]
        for kind, layer, text, cache in zip(self._kinds, self._layers, self._texts, self._caches, strict=True):
            x = self._advance(x, layer, text, cache, self._slots[kind].blocks, places[kind], self._shape)
        return self._logits(x)

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes of keys and values: of the rows, and of the captions."""
        return sum(cache.nbytes for cache in self._caches), sum(text.nbytes for text in self._texts)

    def _prefill(self, number: int, text: Tensor, prefix: Tensor) -> Tensor:
        """Keys and values of a caption and of the first codes; returns the last position's state, (1, d)."""
        length, given = self._layout.text, len(prefix)
        rows = slice(number * self._candidates, (number + 1) * self._candidates)
        stream = self._prior.embed(text[None], F.pad(prefix, (0, self._layout.image - given))[None])
        x = stream if given else stream[:, :length]
        for kind, layer, kept, cache in zip(self._kinds, self._layers, self._texts, self._caches, strict=True):
            x, found = pass_through(x, layer, kind if given else "causal", self._layout, self._shape)
            kept[:, number] = found[:, 0, :, :length]
            if given:
                positions = self._slots[kind].kept(given).to(x.device)
                values = found[:, :, :, length + positions].expand(-1, self._candidates, -1, -1, -1)
                cache[:, rows].index_copy_(3, self._slots[kind].slots(positions), values.to(cache.dtype))
        return x[:, length - 1 + given]

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self._prior.image_logits(self._prior.norm(x))
        return logits


def cache_bytes(config: PriorConfig, itemsize: int) -> tuple[int, int]:
    """Bytes of keys and values that a decoder keeps: of a row, and of a caption."""
    layout, position = counting.layout_of(config), 2 * config.width * itemsize
    slots = sum(count_of(kind, layout) for kind in counting.kinds(config))
    return position * slots, position * config.layers * layout.text


def layers_of(prior: Prior, low: torch.dtype, stored: torch.dtype) -> Iterator[Layer]:
    """The weights, rounded to `low`, in `stored`."""

    def affine(weight: Tensor, bias: Tensor) -> Affine:
        return Affine(*(value.detach().to(low).to(stored) for value in (weight, bias)))

    blocks = prior.residuals()
    for attention, mlp in zip(blocks[::2], blocks[1::2], strict=True):
        one, other = cast("Attention", attention.branch), cast("MLP", mlp.branch)
        yield Layer(
            norm_of(attention.norm),
            affine(*joined(one.q, one.k, one.v)),
            affine(one.post.weight, one.post.bias),
            norm_of(mlp.norm),
            affine(other.first.weight, other.first.bias),
            affine(other.second.weight, other.second.bias),
        )


def norm_of(norm: nn.LayerNorm) -> Affine:
    return Affine(norm.weight.detach(), norm.bias.detach())


def joined(*layers: Linear) -> Affine:
    """Their weights below each other; the layers' own become views of it, so that nothing is held twice."""
    weight, bias = (torch.cat([getattr(layer, name).detach() for layer in layers]) for name in Affine._fields)
    for layer, part in zip(layers, weight.chunk(len(layers)), strict=True):
        layer.weight.data = part
    return Affine(weight, bias)


def advance(x: Tensor, layer: Layer, text: Tensor, cache: Tensor, blocks: int, place: Place, shape: Shape) -> Tensor:
    """A position through a layer: (b, d) → (b, d); its keys and values are kept in `cache`."""
    low = shape.low
    qkv = linear(normalised(x, layer.attention_norm), layer.qkv, low)
    qkv = torch.unflatten(qkv, 1, (3, shape.heads, -1)).transpose(0, 1)
    keep(cache, place, qkv[1:])
    seen = look(qkv[0], text, read(cache, blocks, place), place.hidden, shape.captions).to(low)
    x = x + linear(seen, layer.post, low)
    inside = F.gelu(linear(normalised(x, layer.mlp_norm), layer.first, low))
    return x + linear(inside, layer.second, low)


def look(q: Tensor, text: Tensor, near: Tensor, hidden: Tensor, captions: int) -> Tensor:
    """One softmax over a caption's text and a row's own slots: q (b, h, c), keys and values of the text (2, n, h, T, c)
    and of the slots (2, b, h, s, c), `hidden` (1, s) → (b, d)."""
    q = (q * q.shape[-1] ** -0.5).to(text.dtype)
    of_text = products(by_caption(q, captions), text[0])
    of_near = products(q.unsqueeze(2), near[0]).squeeze(2) + hidden
    shares = torch.cat([of_text, by_caption(of_near, captions)], -1).softmax(-1).to(text.dtype)
    to_text, to_near = shares.tensor_split([text.shape[3]], -1)
    out = (to_text @ text[1]).transpose(1, 2).flatten(0, 1)
    return (out + (by_row(to_near).unsqueeze(2) @ near[1]).squeeze(2)).flatten(1)


def by_caption(x: Tensor, captions: int) -> Tensor:
    """(b, h, …) → (n, h, m, …)."""
    return torch.unflatten(x, 0, (captions, -1)).transpose(1, 2)


def by_row(x: Tensor) -> Tensor:
    """(n, h, m, …) → (b, h, …)."""
    return x.transpose(1, 2).flatten(0, 1)


def products(q: Tensor, k: Tensor) -> Tensor:
    """q·kᵀ, (·, h, m, c) and (·, h, s, c) → (·, h, m, s); of 16-bit numbers in float32."""
    one, other = q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
    found = torch.bmm(one, other, out_dtype=torch.float32) if q.dtype.itemsize == 2 else torch.bmm(one, other)
    return torch.unflatten(found, 0, q.shape[:2])


def pass_through(x: Tensor, layer: Layer, kind: str, layout: Layout, shape: Shape) -> tuple[Tensor, Tensor]:
    """Many positions through a layer: (1, L, d) → the same, and its keys and values (2, 1, h, L, c)."""
    low = shape.low
    qkv = linear(normalised(x, layer.attention_norm), layer.qkv, low)
    q, k, v = torch.unflatten(qkv, 2, (3, shape.heads, -1)).transpose(1, 3).unbind(2)
    seen = attend(q, k, v, kind, layout, "sdpa").transpose(1, 2).flatten(2)
    x = x + linear(seen, layer.post, low)
    inside = F.gelu(linear(normalised(x, layer.mlp_norm), layer.first, low))
    return x + linear(inside, layer.second, low), torch.stack([k, v])


def normalised(x: Tensor, norm: Affine) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *norm)


def linear(x: Tensor, affine: Affine, low: torch.dtype) -> Tensor:
    """x·Wᵀ + b of x rounded to `low`, computed as the weight is stored and rounded again."""
    return F.linear(x.to(low).to(affine.weight.dtype), *affine).to(low)
