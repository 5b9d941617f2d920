"""The convolution of both halves, with the parameter names and the arithmetic of the released dVAE."""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Module):
    """A convolution whose output is as large as its input: (b, n_in, h, w) → (b, n_out, h, w), in `compute`.

    Weights are float32, N(0, 1/sqrt(n_in·kw²)) at first, biases 0, as in the released code. `compute` is the dtype to
    which input, weights and biases are cast; `set_precision` sets it.
    """

    def __init__(self, n_in: int, n_out: int, kw: int, *, always_float32: bool = False) -> None:
        super().__init__()
        self.kw, self.always_float32, self.compute = kw, always_float32, torch.float32
        self.w = nn.Parameter(torch.empty(n_out, n_in, kw, kw).normal_(std=1 / sqrt(n_in * kw**2)))
        self.b = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        w, b = self.w.to(self.compute), self.b.to(self.compute)
        return F.conv2d(x.to(self.compute), w, b, padding=self.kw // 2)


def set_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Sets the dtype of all convolutions; `always_float32` ones (encoder's last, decoder's first) keep float32."""
    for layer in model.modules():
        if isinstance(layer, Conv2d):
            layer.compute = torch.float32 if layer.always_float32 and dtype.itemsize < 4 else dtype
