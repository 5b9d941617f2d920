"""Colours against the formulas of ICC, PNG and sRGB, which are written out here once more."""

import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gesso import colour, images
from tests.pictures import (
    D50,
    DATA,
    P3,
    P3_COLUMNS,
    SRGB,
    SRGB_COLUMNS,
    Pixels,
    cmyk_profile,
    colourful,
    grey_profile,
    png,
    power,
    rgb_profile,
    save,
    srgb_curve,
)

Vector = npt.NDArray[np.float64]

LINEAR = grey_profile(power(1))
WHITE, GREEN, INK = (100.0, 0.0, 0.0), (60.0, -30.0, 20.0), (20.0, 0.0, 0.0)
CMYK = cmyk_profile({(0, 0, 0, 0): WHITE, (1, 0, 0, 0): GREEN}, INK)
SIXTEEN_BIT_GREY_ALPHA = np.full((8, 8, 2), (55 * 257, 65535), np.uint16)


def encoded(linear: Vector) -> Vector:
    """sRGB's levels of light between 0 and 1."""
    linear = np.clip(linear, 0, 1)
    return np.round(255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055))


def from_d50(xyz: Vector) -> Vector:
    """sRGB's levels of a colour under D50."""
    return encoded(np.linalg.inv(np.array(SRGB_COLUMNS).T) @ xyz)


def from_lab(lab: tuple[float, float, float], black: float) -> Vector:
    """sRGB's levels of CIELAB under D50, with a neutral of lightness `black` moved to black."""

    def light(f: float) -> float:
        return f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29)

    f = (lab[0] + 16) / 116
    xyz = np.array(D50) * [light(f + lab[1] / 500), light(f), light(f - lab[2] / 200)]
    darkest = np.array(D50) * light((black + 16) / 116)
    return from_d50((xyz - darkest) * np.array(D50) / (np.array(D50) - darkest))


def decode(body: bytes, least: int = 10_000) -> Pixels:
    return images.decode(body, images.read_header(body), least)


def patch(kind: str, mode: str, value: Any, profile: bytes, side: int = 32) -> bytes:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return save(Image.new(mode, (side, side), value), kind, icc_profile=profile, **options)


def assert_colour(pixels: Pixels, expected: Any, tolerance: int = 1) -> None:
    assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= tolerance, (pixels[0, 0], expected)


# ── ICC profiles ──


@pytest.mark.parametrize("least", [10_000, 4], ids=["whole", "scaled"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_display_p3(kind: str, least: int) -> None:
    assert_colour(decode(patch(kind, "RGB", (185, 72, 58), P3), least), (200, 61, 50), 2 if kind == "JPEG" else 1)


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from([1.8, 2.19921875]))
def test_any_colour_of_any_gamma_by_the_formula(value: tuple[int, int, int], exponent: float) -> None:
    profile = rgb_profile(P3_COLUMNS, power(exponent))
    rounded = round(256 * exponent) / 256
    expected = from_d50(np.array(P3_COLUMNS).T @ (np.array(value) / 255) ** rounded)
    assert_colour(decode(patch("PNG", "RGB", value, profile)), expected, 2)


@pytest.mark.parametrize(
    "body",
    [
        patch("JPEG", "L", 55, LINEAR),
        patch("PNG", "L", 55, LINEAR),
        patch("PNG", "LA", (55, 255), LINEAR),
        png(np.full((8, 8), 55 * 257, np.uint16), 0, iCCP=b"p\0\0" + zlib.compress(LINEAR)),
        png(SIXTEEN_BIT_GREY_ALPHA, 4, iCCP=b"p\0\0" + zlib.compress(LINEAR)),
    ],
    ids=["jpeg", "png", "png with alpha", "png of 16 bits", "png of 16 bits with alpha"],
)
def test_grey(body: bytes) -> None:
    assert_colour(decode(body), encoded(np.array([55 / 255])))


@pytest.mark.parametrize(("inks", "lab"), [((0, 0, 0, 0), WHITE), ((255, 0, 0, 0), GREEN), ((0, 0, 0, 255), INK)])
def test_cmyk(inks: tuple[int, ...], lab: tuple[float, float, float]) -> None:
    assert_colour(decode(patch("JPEG", "CMYK", inks, CMYK)), from_lab(lab, INK[0]), 2)


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_colours_are_converted_before_they_come_over_white(alpha: int) -> None:
    expected = 255 + (np.array((200, 61, 50)) - 255) * alpha / 255
    assert_colour(decode(patch("PNG", "RGBA", (185, 72, 58, alpha), P3)), expected)
    assert_colour(decode(patch("WEBP", "RGBA", (185, 72, 58, alpha), P3)), expected)


def test_a_palette() -> None:
    image = Image.new("P", (8, 8))
    image.putpalette([185, 72, 58, 0, 0, 0])
    assert_colour(decode(save(image, "PNG", icc_profile=P3)), (200, 61, 50))
    expected = 255 + (np.array((200, 61, 50)) - 255) * 0.2
    assert_colour(decode(save(image, "PNG", icc_profile=P3, transparency=b"\x33")), expected)


@pytest.mark.parametrize(
    ("mode", "value", "profile"),
    [
        ("RGB", (185, 72, 58), b"no profile"),
        ("RGB", (185, 72, 58), P3[: len(P3) // 2]),
        ("RGB", (185, 72, 58), P3.replace(b"rTRC", b"none")),
        ("RGB", (185, 72, 58), LINEAR),
        ("RGB", (185, 72, 58), CMYK),
        ("RGB", (185, 72, 58), P3[:20] + b"RGB " + P3[24:]),
        ("L", 55, P3),
        ("L", 55, CMYK),
        ("CMYK", (10, 20, 30, 40), P3),
        ("CMYK", (10, 20, 30, 40), LINEAR),
        ("CMYK", (10, 20, 30, 40), CMYK.replace(b"A2B0", b"none")),
    ],
)
def test_a_profile_that_is_broken_or_of_other_colours_is_ignored(mode: str, value: Any, profile: bytes) -> None:
    body = patch("JPEG", mode, value, profile)
    assert images.read_header(body).profile == profile
    assert images.in_srgb(images.read_header(body))
    assert (decode(body) == decode(patch("JPEG", mode, value, b""))).all()


def test_a_large_profile_that_is_broken_is_ignored() -> None:
    pixels = np.asarray(colourful())
    body = png(pixels, 2, iCCP=b"p\0\0" + zlib.compress(bytes(2 << 20)))
    assert (decode(body) == pixels).all()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([("RGB", P3), ("L", LINEAR), ("CMYK", CMYK)]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damage_never_raises(profile: tuple[str, bytes], flips: list[tuple[int, int]]) -> None:
    mode, damaged = profile[0], bytearray(profile[1])
    for place, value in flips:
        damaged[place % len(damaged)] = value
    to_srgb = colour.to_srgb(bytes(damaged), mode)
    assert to_srgb is None or to_srgb.apply(Image.new(mode, (2, 2))).mode == "RGB"


# ── what is sRGB ──


@pytest.mark.parametrize("profile", [SRGB, colour._srgb().tobytes()], ids=["table", "formula"])
def test_srgb_is_known_by_what_it_does(profile: bytes) -> None:
    assert colour.to_srgb(profile, "RGB") is None
    assert colour.to_srgb(grey_profile(srgb_curve()), "L") is None


@pytest.mark.parametrize("profile", [P3, rgb_profile(SRGB_COLUMNS, power(2.2)), rgb_profile(SRGB_COLUMNS, power(1.8))])
def test_its_neighbours_are_not(profile: bytes) -> None:
    assert colour.to_srgb(profile, "RGB") is not None


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_the_profiles_of_real_photographs() -> None:
    found: dict[str, set[bool]] = {}
    for path in sorted(path for path in DATA.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".webp")):
        header = images.read_header(path.read_bytes()) if "_corrupt" not in path.name else None
        if header and header.profile and header.mode == "RGB":
            named = colour.ImageCms.getProfileDescription(io.BytesIO(header.profile)).strip()
            found.setdefault(named, set()).add(images.in_srgb(header))
    converted = {"Adobe RGB (1998)", "Camera RGB Profile", "Color LCD", "Color LCD Calibrated", "Display P3"}
    converted |= {"Generic RGB Profile", "iMac Calibrated"}
    assert {name for name, same in found.items() if same == {False}} == converted
    assert all("sRGB" in name or name == "c2" for name, same in found.items() if same == {True})
    assert all(len(same) == 1 for same in found.values())


# ── PNG's gAMA and cHRM ──

U32 = np.dtype(">u4")
P3_CHROMATICITIES = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
VALUE = (55, 128, 200)


def hundred_thousandths(*values: float) -> bytes:
    """Numbers as gAMA and cHRM hold them, in 100,000ths."""
    return np.round(np.array(values) * 100_000).astype(U32).tobytes()


def of_chunks(value: Any, colour_type: int = 2, **chunks: bytes) -> Pixels:
    return decode(png(np.full((4, 4, np.size(value)), value, np.uint8), colour_type, **chunks))


@pytest.mark.parametrize("gamma", [1.0, 0.55556, 0.3])
def test_gamma(gamma: float) -> None:
    light = (np.array(VALUE) / 255) ** (1 / gamma)
    assert_colour(of_chunks(VALUE, gAMA=hundred_thousandths(gamma)), encoded(light))
    assert_colour(of_chunks(55, 0, gAMA=hundred_thousandths(gamma)), encoded(light[:1]))
    both = {"gAMA": hundred_thousandths(gamma), "cHRM": hundred_thousandths(*SRGB_CHROMATICITIES)}
    assert_colour(of_chunks(VALUE, **both), encoded(light))
    assert_colour(of_chunks(55, 0, **both), encoded(light[:1]))


@pytest.mark.parametrize("gamma", [1.0, 0.45455])
def test_gamma_and_chromaticities(gamma: float) -> None:
    light = np.array(P3_COLUMNS).T @ (np.array(VALUE) / 255) ** (1 / gamma)
    pixels = of_chunks(VALUE, gAMA=hundred_thousandths(gamma), cHRM=hundred_thousandths(*P3_CHROMATICITIES))
    assert_colour(pixels, from_d50(light), 2)


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": hundred_thousandths(0.45455)},
        {"gAMA": hundred_thousandths(0.47)},
        {"gAMA": hundred_thousandths(0.45455), "cHRM": hundred_thousandths(*SRGB_CHROMATICITIES)},
        {"gAMA": hundred_thousandths(1.0), "sRGB": b"\0"},
        {"gAMA": hundred_thousandths(1.0), "cHRM": hundred_thousandths(*P3_CHROMATICITIES), "sRGB": b"\0"},
        {"gAMA": hundred_thousandths(1.0), "iCCP": b"p\0\0" + zlib.compress(SRGB)},
        {"cHRM": hundred_thousandths(*P3_CHROMATICITIES)},
        {"gAMA": hundred_thousandths(0)},
        {"gAMA": hundred_thousandths(0.00001)},
    ],
    ids=[
        "sRGB's",
        "nearly sRGB's",
        "sRGB's both",
        "an sRGB chunk wins",
        "over both",
        "a profile wins",
        "chromaticities alone",
        "none",
        "no curve",
    ],
)
def test_what_changes_nothing(chunks: dict[str, bytes]) -> None:
    assert (of_chunks(VALUE, **chunks) == VALUE).all()
    assert not images.read_header(png(np.zeros((1, 1, 3), np.uint8), 2, gAMA=hundred_thousandths(0.45455))).profile


@pytest.mark.parametrize(
    "chromaticities", [(0.0,) * 8, (0.3,) * 8, SRGB_CHROMATICITIES[:5], (0.3127, 0.329, *[42.0] * 6)]
)
def test_chromaticities_that_make_no_colours_are_ignored(chromaticities: tuple[float, ...]) -> None:
    pixels = of_chunks(VALUE, gAMA=hundred_thousandths(1.0), cHRM=hundred_thousandths(*chromaticities))
    assert_colour(pixels, encoded(np.array(VALUE) / 255))


# ── transforms are kept ──


def test_transforms_are_kept_by_what_the_profile_says_and_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "_transforms", {})
    made_later = P3[:24] + b"another date" + P3[36:84] + bytes(range(16)) + P3[100:]
    assert colour.to_srgb(P3, "RGB") is colour.to_srgb(made_later, "RGB") is not None
    for step in range(colour.KEPT + 5):
        colour.to_srgb(grey_profile(power(1 + step / 128)), "L")
    assert len(colour._transforms) == colour.KEPT


def test_threads_share_a_transform() -> None:
    bodies = [save(colourful(), "PNG", icc_profile=P3), save(colourful().convert("CMYK"), "JPEG", icc_profile=CMYK)]
    expected = [decode(body) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decode, bodies * 100))
    assert all((pixels == expected[n % 2]).all() for n, pixels in enumerate(found))
