"""The layers of residual blocks: matrices in low precision, everything else in float32. torch; knows no parallelism."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Dims = tuple[int, ...]


class AddBias(torch.autograd.Function):
    """y + b in y's dtype; the gradient of b is summed in float32."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor) -> Tensor:
        return y + bias.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, gradient.sum(tuple(range(gradient.dim() - 1)), dtype=torch.float32)


class Linear(nn.Module):
    """(…, n_in) → (…, n_out), in the dtype of its input. The weight is (n_out, n_in), the bias float32."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return add_bias(matmul(x, self.weight), self.bias)


def add_bias(y: Tensor, bias: Tensor) -> Tensor:
    return y + bias if y.dtype == torch.float32 else AddBias.apply(y, bias)


def matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ in x's dtype. In fp16 on a CPU, whose own is 70 times slower (measured), in float32 and rounded: as a GPU's
    matrix units do it, whose sums are float32."""
    if x.dtype == torch.float16 and x.device.type == "cpu":
        return F.linear(x.float(), weight.float()).half()
    return F.linear(x, weight.to(x.dtype))


class Attention(nn.Module):
    """Masked multi-head self-attention; `attend` is called with q, k and v, each (b, h, L, c)."""

    def __init__(self, width: int, heads: int, attend: Any) -> None:
        super().__init__()
        self.heads, self.attend = heads, attend
        self.q, self.k, self.v, self.post = (Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(b, L, d) → (b, L, d)."""
        b, length, width = x.shape
        q, k, v = (
            layer(x).view(b, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        seen: Tensor = self.attend(q, k, v)
        out: Tensor = self.post(seen.transpose(1, 2).reshape(b, length, width))
        return out


class MLP(nn.Module):
    """Two layers with a GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Linear(width, 4 * width), Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, L, d) → (b, L, d)."""
        out: Tensor = self.second(F.gelu(self.first(x)))
        return out
