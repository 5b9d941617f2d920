"""The paper's 16-bit floats for Adam's moments and error buffers, 1-6-9 and 0-6-10, as int16 codes. torch.

A code is a sign (1-6-9 alone), 6 bits of exponent and a mantissa, and stands for 2^(exponent - 60) × 1.mantissa (paper
section 5; openai/blocksparse, src/ew_op_gpu.h: `mhalf` and `vhalf`). There are no subnormals, no Inf and no NaN, and
code 0 is zero, not 2^-60. Both functions are elementwise, on any device, without loops or synchronisation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

LOWEST = -60  # the exponent whose code is 0
BIAS = (127 + LOWEST) << 23  # the bits of 2^-60 in float32
SIGN = -0x8000  # the sign bit of an int16


@dataclass(frozen=True)
class Format:
    """A 16-bit float with 6 bits of exponent and `mantissa` bits after the leading one."""

    mantissa: int
    signed: bool

    @property
    def shift(self) -> int:
        """Mantissa bits that float32 has more."""
        return 23 - self.mantissa

    @property
    def mask(self) -> int:
        """The bits of a code below its sign: the code of the largest number."""
        return 0x7FFF if self.signed else 0xFFFF

    @property
    def largest(self) -> float:
        """15.984375 (1-6-9) or 15.9921875 (0-6-10)."""
        return 16 - 2.0 ** (3 - self.mantissa)

    @property
    def smallest(self) -> float:
        """The number of code 1, the least above zero: 2^-60 × (1 + 2^-mantissa)."""
        return 2.0**LOWEST * (1 + 2.0**-self.mantissa)


MEAN = Format(mantissa=9, signed=True)  # 1-6-9
VARIANCE = Format(mantissa=10, signed=False)  # 0-6-10


def encode(values: Tensor, format: Format, out: Tensor | None = None) -> Tensor:
    """The codes of float32 `values`: int16 of the same shape, contiguous; or written to `out`.

    Halves round away from zero. Magnitudes below the smallest become 0 (code 0, whatever the sign), those above the
    largest, Inf and NaN become the largest, with the sign of the value. 0-6-10: what has the sign bit becomes 0.
    """
    bits = hardshrink(values, format.smallest - 2.0 ** (LOWEST - 23)).view(torch.int32)  # to 0; a copy
    sign = bits >> 16 & SIGN if format.signed else 0
    if format.signed:
        bits.bitwise_and_(0x7FFFFFFF)
    bits.clamp_(BIAS, BIAS + (format.mask << format.shift))
    bits.add_((1 << format.shift - 1) - BIAS).bitwise_right_shift_(format.shift).bitwise_or_(sign)
    codes = torch.empty(values.shape, dtype=torch.int16, device=values.device) if out is None else out
    return codes.copy_(bits)


def decode(codes: Tensor, format: Format, out: Tensor | None = None) -> Tensor:
    """The numbers of int16 `codes`, exactly: float32 of the same shape, contiguous; or written to `out`.

    1-6-9 has a second zero, -32768, which `encode` never writes.
    """
    values = torch.empty(codes.shape, dtype=torch.float32, device=codes.device) if out is None else out
    bits = values.view(torch.int32).copy_(codes)
    sign = bits & SIGN << 16 if format.signed else 0
    bits.bitwise_and_(format.mask).bitwise_left_shift_(format.shift)
    torch.threshold_(bits, 0, -BIAS).add_(BIAS).bitwise_or_(sign)  # 0 stays 0
    return values
