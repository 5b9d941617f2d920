"""The residual block of encoder and decoder, which differ in its kernel sizes."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gesso.training.dvae.layers import Conv2d


class Block(nn.Module):
    """(b, n_in, h, w) → (b, n_out, h, w): id(x) + res(x) / layers², res four times ReLU and convolution.

    The hidden width is n_out / 4; id is a 1×1 convolution where the widths differ (DALL-E paper, A.1).
    """

    def __init__(self, n_in: int, n_out: int, layers: int, kernels: Sequence[int]) -> None:
        super().__init__()
        hidden = n_out // 4
        widths = (n_in, hidden, hidden, hidden, n_out)
        self.post_gain, self.recompute = 1 / layers**2, False
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        for number, kw in enumerate(kernels):
            steps[f"relu_{number + 1}"] = nn.ReLU()
            steps[f"conv_{number + 1}"] = Conv2d(widths[number], widths[number + 1], kw)
        self.res_path = nn.Sequential(steps)

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute and self.training:
            recomputed: Tensor = checkpoint(self._compute, x, use_reentrant=False)
            return recomputed
        return self._compute(x)

    def _compute(self, x: Tensor) -> Tensor:
        out: Tensor = self.id_path(x) + self.post_gain * self.res_path(x)
        return out


def group(widths: Sequence[int], layers: int, kernels: Sequence[int], end: tuple[str, nn.Module] | None) -> nn.Module:
    """A sequence of blocks; `end`, name and module, changes the resolution after them."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, len(widths)):
        parts[f"block_{number}"] = Block(widths[number - 1], widths[number], layers, kernels)
    if end:
        parts[end[0]] = end[1]
    return nn.Sequential(parts)
