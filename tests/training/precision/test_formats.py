"""The 16-bit formats: every code, every rule of rounding, against a reference in plain Python."""

import math

import pytest
import torch
from torch import Tensor

from gesso.training.precision.formats import MEAN, VARIANCE, Format, decode, encode

BOTH = pytest.mark.parametrize("format", [MEAN, VARIANCE], ids=["1-6-9", "0-6-10"])


def number_of(code: int, format: Format) -> float:
    """What a code stands for, from its definition."""
    bits = code & 0xFFFF
    sign = -1.0 if format.signed and bits & 0x8000 else 1.0
    magnitude = bits & 0x7FFF if format.signed else bits
    exponent, mantissa = divmod(magnitude, 2**format.mantissa)
    return sign * 2.0 ** (exponent - 60) * (1 + mantissa / 2**format.mantissa) if magnitude else 0.0


def code_of(value: float, format: Format) -> int:
    """The code of a float32 number, by exact arithmetic."""
    magnitude, negative = abs(value), math.copysign(1.0, value) < 0
    if magnitude < format.smallest or (negative and not format.signed):
        return 0
    exponent = math.floor(math.log2(min(magnitude, format.largest)))
    steps = math.floor(min(magnitude, format.largest) * 2.0 ** (format.mantissa - exponent) + 0.5)
    code = (exponent + 60) * 2**format.mantissa + steps - 2**format.mantissa
    code |= 0x8000 if negative else 0
    return code - 0x10000 if code >= 0x8000 else code


def all_codes() -> Tensor:
    return torch.arange(-0x8000, 0x8000).to(torch.int16)


def numbers(format: Format) -> Tensor:
    """Every number above zero, ascending."""
    return decode(all_codes(), format).unique()[-(format.mask) :]


def checked(values: Tensor, format: Format) -> None:
    assert encode(values, format).tolist() == [code_of(value, format) for value in values.tolist()]


@BOTH
def test_every_code_stands_for_its_number(format: Format) -> None:
    assert decode(all_codes(), format).tolist() == [number_of(code, format) for code in all_codes().tolist()]


@BOTH
def test_every_code_comes_back(format: Format) -> None:
    codes = all_codes()
    again = encode(decode(codes, format), format)
    if format.signed:  # the second zero becomes the first
        assert again[0] == 0
        codes, again = codes[1:], again[1:]
    assert torch.equal(again, codes)


@BOTH
def test_every_rounding_at_and_beside_the_midpoints(format: Format) -> None:
    lower, upper = numbers(format)[:-1], numbers(format)[1:]
    middle = (lower + upper) / 2
    codes = encode(upper, format)
    assert torch.equal(encode(middle, format), codes)
    assert torch.equal(encode(torch.nextafter(middle, lower), format), encode(lower, format))
    assert torch.equal(encode(torch.nextafter(middle, upper), format), codes)
    if format.signed:
        assert torch.equal(decode(encode(-middle, format), format), -upper)


def test_the_limits() -> None:
    assert [MEAN.largest, VARIANCE.largest] == [15.984375, 15.9921875]
    assert [MEAN.smallest, VARIANCE.smallest] == [2**-60 + 2**-69, 2**-60 + 2**-70]
    for format in (MEAN, VARIANCE):
        assert [numbers(format)[0], numbers(format)[-1]] == [format.smallest, format.largest]
        assert len(numbers(format)) == format.mask


@BOTH
def test_below_the_smallest_is_zero(format: Format) -> None:
    least = torch.tensor(format.smallest)
    below = torch.nextafter(least, torch.tensor(0.0))
    values = torch.stack((least, below, torch.tensor(2.0**-60), torch.tensor(1e-45), torch.tensor(0.0)))
    assert encode(values, format).tolist() == [1, 0, 0, 0, 0]
    assert encode(-values, format).tolist() == [-0x7FFF if format.signed else 0, 0, 0, 0, 0]


def test_above_the_largest_inf_and_nan_are_the_largest_by_their_sign() -> None:
    bits = [0x41800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]  # 16, float32's largest, Inf, NaN
    values = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    assert decode(encode(values, MEAN), MEAN).tolist() == [MEAN.largest] * 6
    assert decode(encode(-values, MEAN), MEAN).tolist() == [-MEAN.largest] * 6
    assert decode(encode(values, VARIANCE), VARIANCE).tolist() == [VARIANCE.largest] * 6
    assert encode(-values, VARIANCE).tolist() == [0] * 6


@BOTH
def test_random_numbers_of_all_magnitudes(format: Format) -> None:
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-64, 6, (20_000,), generator=generator)
    values = torch.randn(20_000, generator=generator).ldexp(exponents)
    checked(torch.cat((values, -values)), format)


@BOTH
def test_powers_of_two_and_their_neighbours(format: Format) -> None:
    powers = torch.tensor(2.0).pow(torch.arange(-63, 6))
    up, down = torch.nextafter(powers, torch.tensor(100.0)), torch.nextafter(powers, torch.tensor(0.0))
    checked(torch.cat((powers, up, down, -powers, -up, -down)), format)


@BOTH
def test_it_is_monotone(format: Format) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(100_000, generator=generator).ldexp(torch.randint(-62, 4, (100_000,), generator=generator))
    rounded = decode(encode(values.sort().values, format), format)
    assert (rounded.diff() >= 0).all()
    assert rounded.unique().numel() > 1000


@BOTH
def test_codes_and_numbers_are_contiguous_and_arguments_unchanged(format: Format) -> None:
    values = torch.rand(3, 5).T
    before = values.clone()
    codes = encode(values, format)
    assert (codes.shape, codes.dtype, codes.is_contiguous()) == ((5, 3), torch.int16, True)
    kept = codes.clone()
    wide = decode(codes.T, format)
    assert (wide.shape, wide.dtype, wide.is_contiguous()) == ((3, 5), torch.float32, True)
    assert torch.equal(values, before)
    assert torch.equal(codes, kept)
    assert encode(torch.tensor(1.0), format).shape == ()


@BOTH
def test_results_go_where_they_are_asked_to(format: Format) -> None:
    values, codes, wide = torch.rand(7), torch.empty(7, dtype=torch.int16), torch.empty(7)
    assert encode(values, format, out=codes) is codes
    assert torch.equal(codes, encode(values, format))
    assert decode(codes, format, out=wide) is wide
    assert torch.equal(wide, decode(codes, format))


@pytest.mark.slow  # the import of torch's compiler
@BOTH
def test_the_compiler_takes_both_as_one_graph(format: Format) -> None:
    values = torch.randn(100)

    def rounded(values: Tensor) -> Tensor:
        return decode(encode(values, format), format)

    compiled = torch.compile(rounded, fullgraph=True, backend="eager")
    assert torch.equal(compiled(values), rounded(values))
