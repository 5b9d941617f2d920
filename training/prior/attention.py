"""Attention of the prior, in five forms that give the same: `attend` takes the fastest. Knows torch.

dense        one softmax over all scores and a mask: the oracle of the others
structured   scores of text keys and of windows side by side, one softmax; plain operations, any device
sdpa         torch's scaled_dot_product_attention: text causal, the image by windows, each with the text's keys
joined       torch's flash kernels for text keys and for windows, joined (CPU)
flex         torch's FlexAttention over blocks of 128 × 128 that are not empty (CUDA; on a CPU forward only)
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from gesso.training.prior import masks
from gesso.training.prior.joined import joined
from gesso.training.prior.masks import Layout
from gesso.training.prior.windows import (
    Windows,
    hidden,
    image_of,
    keys_of,
    queries_of,
    raster,
    reordered,
    seen,
    windows_of,
)

STRUCTURED_QUERIES = 32  # of a window at least
SDPA_QUERIES = 128
JOINED_FROM = 256  # positions: a little slower at 128, faster at 320 (docs/attention.md)
# Not measured, for want of a GPU: of causal attention's 55 blocks rows have 34, columns 27, the convolution 40.
FLEX_FROM = 512


def attend(q: Tensor, k: Tensor, v: Tensor, kind: str, layout: Layout, form: str = "auto") -> Tensor:
    """softmax(q·kᵀ/√c)·v over the keys that `masks` shows: three (b, h, L, c) → (b, h, L, c) of their dtype.

    float16 and bfloat16 on a CPU are computed in float32 and rounded: the CPU's half products are many times slower.
    """
    if q.device.type == "cpu" and q.dtype.itemsize == 2:
        return attend(q.float(), k.float(), v.float(), kind, layout, form).to(q.dtype)
    return FORMS[chosen(q.device, q.dtype, kind, layout) if form == "auto" else form](q, k, v, kind, layout)


def chosen(device: torch.device, dtype: torch.dtype, kind: str, layout: Layout) -> str:
    """The fastest form, forward and backward: measured on CPUs (docs/attention.md), presumed on GPUs."""
    if kind == "causal":
        return "sdpa"
    if device.type == "cpu":
        return "joined" if layout.length >= JOINED_FROM else "sdpa"
    return "flex" if device.type == "cuda" and dtype.itemsize == 2 and layout.length >= FLEX_FROM else "sdpa"


def dense(q: Tensor, k: Tensor, v: Tensor, kind: str, layout: Layout) -> Tensor:
    """All scores, masked: (b, h, L, L) of them are held."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(~_dense_mask(kind, layout, q.device), -torch.inf).softmax(-1) @ v


@torch.compiler.assume_constant_result
def _dense_mask(kind: str, layout: Layout, device: torch.device) -> Tensor:
    """bool (L, L), made once."""
    return _made_dense_mask(kind, Layout(*layout), device)  # torch.compile hands over a plain tuple


@cache
def _made_dense_mask(kind: str, layout: Layout, device: torch.device) -> Tensor:
    return masks.mask(kind, layout).to(device)


def structured(q: Tensor, k: Tensor, v: Tensor, kind: str, layout: Layout) -> Tensor:
    """The scores that are seen, and few more: (b, h, N, T + back + w) of them are held."""
    windows, text = windows_of(kind, layout, STRUCTURED_QUERIES), slice(0, layout.text)
    q = q * q.shape[-1] ** -0.5
    image = image_of(q, layout, windows)
    near = torch.unflatten(image, 2, (-1, windows.size)) @ keys_of(k, layout, windows).transpose(-1, -2)
    near = near + hidden(kind, layout, STRUCTURED_QUERIES, q.device, q.dtype)
    scores = torch.cat([image @ k[:, :, text].transpose(-1, -2), near.flatten(2, 3)], -1)
    of_text, of_image = scores.softmax(-1).tensor_split([layout.text], -1)
    near = torch.unflatten(of_image, 2, (-1, windows.size)) @ keys_of(v, layout, windows)
    out = reordered(of_text @ v[:, :, text] + near.flatten(2, 3), layout, windows)
    return torch.cat([_of_text(q, k, v, layout, scale=1.0), out], 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, kind: str, layout: Layout) -> Tensor:
    """The text's keys are repeated for every window, so that one call does for all; one window is the whole mask."""
    if kind == "causal":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    windows = windows_of(kind, layout, SDPA_QUERIES)
    if windows.size == layout.image:
        return F.scaled_dot_product_attention(q, k, v, _sdpa_mask(kind, layout, q.device, q.dtype))
    keys, values = (_with_text(x, layout, windows) for x in (k, v))
    queries = queries_of(q, layout, windows).flatten(0, 1)
    image = F.scaled_dot_product_attention(queries, keys, values, _sdpa_mask(kind, layout, q.device, q.dtype))
    out = reordered(torch.unflatten(image, 0, q.shape[:2]).flatten(2, 3), layout, windows)
    return torch.cat([_of_text(q, k, v, layout), out], 2)


def _of_text(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None = None) -> Tensor:
    """The text's queries over the text: (b, h, L, c) → (b, h, T, c)."""
    q, k, v = (x[:, :, : layout.text] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


def _with_text(x: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """Keys of each window behind the text's: (b, h, L, c) → (b·h, n, T + back + w, c)."""
    near = keys_of(x, layout, windows)
    text = x[:, :, None, : layout.text].expand(-1, -1, near.shape[2], -1, -1)
    return torch.cat([text, near], 3).flatten(0, 1)


@torch.compiler.assume_constant_result
def _sdpa_mask(kind: str, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
    """0 where seen, else -inf: (1, n, w, T + back + w), or (L, L) of one window. Each call would make it of bools."""
    return _made_sdpa_mask(kind, Layout(*layout), device, dtype)  # torch.compile hands over a plain tuple


@cache
def _made_sdpa_mask(kind: str, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
    windows = windows_of(kind, layout, SDPA_QUERIES)
    if windows.size == layout.image:
        visible = masks.mask(kind, layout)
    else:
        visible = F.pad(seen(kind, layout, windows), (layout.text, 0), value=True)[None]
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, -torch.inf).to(device)


@torch.compiler.disable
def flex(q: Tensor, k: Tensor, v: Tensor, kind: str, layout: Layout) -> Tensor:
    """Columns are transposed first: in raster order a column has a key in every block.

    Compiled by itself on CUDA; within a compiled model it is a graph break, for `torch.compile` cannot hold block masks
    as constants.
    """
    windows = windows_of(kind, layout, 1)
    q, k, v = (_transposed(x, layout, windows) for x in (q, k, v))
    out = _flex(q.device.type)(q, k, v, block_mask=block_mask(kind, layout, q.device))
    return _transposed(out, layout, windows)


def _transposed(x: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """The stream in the windows' order, and the same again back: (b, h, L, c) → (b, h, L, c)."""
    return torch.cat([x[:, :, : layout.text], image_of(x, layout, windows)], 2) if windows.transposed else x


@cache
def _flex(device: str) -> Callable[..., Tensor]:
    """Compiled where there is a backward for it."""
    call: Callable[..., Tensor] = flex_attention
    return torch.compile(call, dynamic=False) if device == "cuda" else call


@cache
def block_mask(kind: str, layout: Layout, device: torch.device) -> BlockMask:
    """The blocks of the stream in the windows' order, found once."""
    windows = windows_of(kind, layout, 1)

    def position(order: Tensor) -> Tensor:
        image = layout.text + raster(order - layout.text, layout, windows)
        return torch.where(order < layout.text, order, image)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return masks.sees(kind, layout, position(query), position(key))

    return create_block_mask(visible, None, None, layout.length, layout.length, device=device)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, str, Layout], Tensor]] = {
    "dense": dense,
    "structured": structured,
    "sdpa": sdpa,
    "joined": joined,
    "flex": flex,
}
