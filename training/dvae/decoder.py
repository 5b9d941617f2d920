"""The decoder: codes → distribution of each subpixel. Mirrors encoder.py; names and arithmetic as in the released dVAE.

(b, K, S/8, S/8) ─ 1×1 ─ group 1: 8W ─ ×2 ─ group 2: 4W ─ ×2 ─ group 3: 2W ─ ×2 ─ group 4: W ─ 1×1 ─ (b, 6, S, S)
"""

from collections import OrderedDict

from torch import Tensor, nn

from gesso.training.dvae.block import group
from gesso.training.dvae.layers import Conv2d
from gesso.training.dvae.settings import GROUPS, DvaeConfig

KERNELS = (1, 3, 3, 3)


class Decoder(nn.Module):
    """float32 (b, K, S/8, S/8), one-hot or relaxed codes → (b, 6, S, S): mu of three channels, then ln b."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        layers, width = GROUPS * config.blocks, config.width
        first = Conv2d(config.vocabulary, config.input_width, 1, always_float32=True)
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=first)
        n_in = config.input_width
        for number in range(1, GROUPS + 1):
            n_out = width * 2 ** (GROUPS - number)
            upsample = ("upsample", nn.Upsample(scale_factor=2, mode="nearest")) if number < GROUPS else None
            parts[f"group_{number}"] = group([n_in, *[n_out] * config.blocks], layers, KERNELS, upsample)
            n_in = n_out
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv2d(n_in, 6, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.blocks(x)
        return output
