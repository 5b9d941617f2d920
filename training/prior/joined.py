"""Attention over two sets of keys by flash kernels, joined by their log-sum-exps. CPU only. Knows torch.

The image's queries attend to the text's keys and to those of their windows, each by torch's flash kernel for CPUs,
which never holds the scores. A softmax over both sets is the mean of the two outputs, weighted by exp(log-sum-exp).
Backward, the same kernel run on one set with the joined output and log-sum-exp gives this set's exact share of the
gradients, as in ring attention (arXiv 2310.01889). Kept for it: queries, keys, values, output, a number per query.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gesso.training.prior.masks import Layout
from gesso.training.prior.windows import (
    Windows,
    fold,
    hidden,
    keys_of,
    queries_of,
    reordered,
    windows_of,
)

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

QUERIES = 32  # of a window at least: the fastest of 32, 64, 128 and 256 for rows (tests/benchmarks/attention.py)


def joined(q: Tensor, k: Tensor, v: Tensor, kind: str, layout: Layout) -> Tensor:
    """Attention of any kind: (b, h, L, c) → (b, h, L, c), float32 or float64 on a CPU; differentiable once."""
    windows = windows_of(kind, layout, QUERIES)
    mask = hidden(kind, layout, QUERIES, q.device, q.dtype)
    out: Tensor = _Joined.apply(q, k, v, mask, layout, windows)
    return out


class _Joined(torch.autograd.Function):
    """Two parts: text keys (causal: text sees text up to itself, the image all of it), and the image's windows."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, layout: Layout, windows: Windows) -> Tensor:
        text = slice(0, layout.text)
        out, weight = _forward(q, k[:, :, text], v[:, :, text], 0.0, True)
        image = _forward(
            _queries(q, layout, windows), _keys(k, layout, windows), _keys(v, layout, windows), attn_mask=mask[None]
        )
        image_out, image_weight = (_raster(x, q.shape[0], layout, windows) for x in image)
        out, weight = _join(out, weight, image_out, image_weight, layout.text)
        ctx.save_for_backward(q, k, v, mask, out, weight)
        ctx.layout, ctx.windows = layout, windows
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, out, weight = ctx.saved_tensors
        layout, windows, text = ctx.layout, ctx.windows, slice(0, ctx.layout.text)
        of_q, *of_text = _backward(gradient, q, k[:, :, text], v[:, :, text], out, weight, 0.0, True)
        g, q, out, weight = (_queries(x, layout, windows) for x in (gradient, q, out, weight))
        keys, values = (_keys(x, layout, windows) for x in (k, v))
        of_image, *of_windows = _backward(g, q, keys, values, out, weight, 0.0, False, attn_mask=mask[None])
        of_q[:, :, layout.text :] += _raster(of_image, k.shape[0], layout, windows)
        of_keys = [fold(torch.unflatten(x, 0, k.shape[:2]), windows) for x in of_windows]
        both = zip(of_text, (reordered(x, layout, windows) for x in of_keys), strict=True)
        return of_q, *(torch.cat(parts, 2) for parts in both), None, None, None


def _queries(x: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """(b, h, L, …) → (b·h, n, w, …): the kernels know one dimension beside the batch."""
    return queries_of(x, layout, windows).flatten(0, 1)


def _keys(x: Tensor, layout: Layout, windows: Windows) -> Tensor:
    """(b, h, L, c) → (b·h, n, back + w, c)."""
    return keys_of(x, layout, windows).flatten(0, 1)


def _raster(x: Tensor, batch: int, layout: Layout, windows: Windows) -> Tensor:
    """(b·h, n, w, …) → (b, h, N, …) in raster order."""
    return reordered(torch.unflatten(x, 0, (batch, -1)).flatten(2, 3), layout, windows)


def _join(out: Tensor, weight: Tensor, image: Tensor, image_weight: Tensor, text: int) -> tuple[Tensor, Tensor]:
    """Outputs and log-sum-exps over both sets; `out`, which is the kernel's own, is changed in place."""
    share = torch.sigmoid(image_weight - weight[:, :, text:])
    out[:, :, text:].lerp_(image, share[..., None])
    return out, torch.cat([weight[:, :, :text], torch.logaddexp(weight[:, :, text:], image_weight)], 2)
