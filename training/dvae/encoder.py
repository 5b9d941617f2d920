"""The encoder: pictures → logits of the codes. Mirrors decoder.py; names and arithmetic as in the released dVAE.

(b, 3, S, S) ─ 7×7 ─ group 1: W ─ pool ─ group 2: 2W ─ pool ─ group 3: 4W ─ pool ─ group 4: 8W ─ 1×1 ─ (b, K, S/8, S/8)
"""

from collections import OrderedDict

from torch import Tensor, nn

from gesso.training.dvae.block import group
from gesso.training.dvae.layers import Conv2d
from gesso.training.dvae.settings import GROUPS, DvaeConfig

KERNELS = (3, 3, 3, 1)


class Encoder(nn.Module):
    """float32 (b, 3, S, S), pixels through `objective.map_pixels` → float32 logits (b, K, S/8, S/8)."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        layers, width = GROUPS * config.blocks, config.width
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=Conv2d(3, width, 7))
        n_in = width
        for number in range(1, GROUPS + 1):
            n_out = width * 2 ** (number - 1)
            pool = ("pool", nn.MaxPool2d(2)) if number < GROUPS else None
            parts[f"group_{number}"] = group([n_in, *[n_out] * config.blocks], layers, KERNELS, pool)
            n_in = n_out
        conv = Conv2d(n_in, config.vocabulary, 1, always_float32=True)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=conv))
        self.blocks = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.blocks(x)
        return logits
