"""A picture's colours → sRGB, by its ICC profile or a PNG's gAMA and cHRM. No Beam, no network.

Pillow's ImageCms (Little CMS) converts with the perceptual intent, whose table Chrome and Firefox read too. Towards an
sRGB of ICC version 4, which is ImageCms's own, that intent maps a printer's black to black; without it ink would stay
dark grey. The profiles of cameras and screens, a matrix and curves, are the same in every intent.
"""

import hashlib
import io
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # the profile's colour space, by Pillow's mode
CONNECTION_SPACES = ("XYZ ", "Lab ")  # a device link has none
# What a colour may move and still count as sRGB: eighteen common sRGB profiles move none of 5,832 colours by more than
# one level of 255; the nearest other one met in photographs, "Camera RGB Profile", moves some by 64.
SAME = 2
KEPT = 64  # transforms in memory: up to 2 MB each for a printer's profile, which takes 0.1 s to build

SRGB_CURVE = 1 / 2.2  # the gAMA that PNG's specification has beside sRGB
CURVE_TOLERANCE = 0.05  # within it libpng, and so a browser, does not correct
GAMMAS = (0.01, 100.0)  # beyond them is no curve
SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green, blue, as in cHRM
PRIMARIES_TOLERANCE = 0.002
D50 = np.array([0.9642, 1.0, 0.8249])  # the connection space's white
MOST_XYZ = 100.0  # no primary is that bright
HEADER_BYTES, ICC_VERSION = 128, 0x04200000
RGB = (b"r", b"g", b"b")
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Transform = ImageCms.ImageCmsTransform

_transforms: dict[tuple[bytes, str], Transform | None] = {}
_building = Lock()


def to_srgb(profile: bytes, mode: str) -> Transform | None:
    """The transform from `profile` to sRGB for images of Pillow's mode "RGB", "L" or "CMYK"; threads may share it.

    None where nothing is to be done: there is no profile, it is broken or of another colour space, or it is sRGB.
    """
    if not profile:
        return None
    key = _digest(profile), mode
    with _building:
        if key not in _transforms:
            if len(_transforms) >= KEPT:
                del _transforms[next(iter(_transforms))]
            _transforms[key] = _build(profile, mode)
        return _transforms[key]


def profile_of(info: Mapping[Any, Any], grey: bool) -> bytes:
    """The ICC profile in Pillow's `info`, or else one of a PNG's gAMA and cHRM; b"" where these say nothing, or sRGB.

    The order is the browsers': iCCP, sRGB, gAMA with cHRM, gAMA; cHRM alone says nothing.
    """
    if info.get("icc_profile") or "srgb" in info or not GAMMAS[0] <= info.get("gamma", 0.0) <= GAMMAS[1]:
        return info.get("icc_profile") or b""
    gamma, primaries = info["gamma"], info.get("chromaticity", SRGB_PRIMARIES)
    if len(primaries) != 8:
        primaries = SRGB_PRIMARIES
    usual = grey or np.allclose(primaries, SRGB_PRIMARIES, rtol=0, atol=PRIMARIES_TOLERANCE)
    if usual and abs(gamma / SRGB_CURVE - 1) < CURVE_TOLERANCE:
        return b""
    return _profile(1 / gamma, None if grey else _columns(primaries))


def _digest(profile: bytes) -> bytes:
    """Of what it says, without its date and identity: GIMP writes another date into every file."""
    return hashlib.sha256(profile[:24] + profile[36:84] + profile[100:]).digest()


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _build(profile: bytes, mode: str) -> Transform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        spaces = source.profile.xcolor_space, source.profile.connection_space
        if spaces[0] != SPACES[mode] or spaces[1] not in CONNECTION_SPACES:
            return None
        transform = Transform(source, _srgb(), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except (OSError, TypeError, ValueError):
        return None
    return None if _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: Transform, mode: str) -> bool:
    """Whether a grid of colours comes out as it is."""
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, 18).astype(np.uint8) if mode == "RGB" else np.arange(256, dtype=np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), -1).reshape(len(steps), -1, len(mode))
    image = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
    moved = np.asarray(transform.apply(image)).astype(int) - np.asarray(image.convert("RGB"))
    return bool(np.abs(moved).max() <= SAME)


# ── a profile of a PNG's gAMA and cHRM, as ICC.1:2010 lays it out ──


def _profile(exponent: float, columns: npt.NDArray[np.float64] | None) -> bytes:
    """A monitor's profile of one curve for all channels; without the columns of red, green and blue, of grey."""
    curve = struct.pack(">4s4xH2xi", b"para", 0, _fixed(exponent))
    tags = {b"wtpt": _xyz(D50)}
    if columns is None:
        tags |= {b"kTRC": curve}
    else:
        tags |= {name + b"XYZ": _xyz(column) for name, column in zip(RGB, columns.T, strict=True)}
        tags |= {name + b"TRC": curve for name in RGB}
    start = HEADER_BYTES + 4 + 12 * len(tags)
    places = np.cumsum([start, *map(len, tags.values())]).tolist()
    table = [struct.pack(">4sII", name, place, len(tags[name])) for name, place in zip(tags, places, strict=False)]
    kind = b"mntr" + (b"GRAY" if columns is None else b"RGB ") + b"XYZ "
    header = struct.pack(">I4xI12s12x4s28x", places[-1], ICC_VERSION, kind, b"acsp") + _xyz(D50)[8:]
    return b"".join([header.ljust(HEADER_BYTES, b"\0"), struct.pack(">I", len(tags)), *table, *tags.values()])


def _fixed(value: float) -> int:
    return round(value * 65536)


def _xyz(value: npt.NDArray[np.float64]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *map(_fixed, value))


def _columns(primaries: Sequence[float]) -> npt.NDArray[np.float64]:
    """(3, 3): the XYZ of red, green and blue, a column each, adapted to D50 by Bradford's matrix.

    sRGB's primaries take the place of such as make no colour space.
    """
    x, y = np.asarray(primaries).reshape(4, 2).T
    try:
        with np.errstate(all="raise"):
            white, *colours = (np.stack([x, y, 1 - x - y]) / y).T
            unscaled = np.stack(colours, 1)
            scaled = unscaled * np.linalg.solve(unscaled, white)
            to_d50 = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
            columns = np.linalg.inv(BRADFORD) @ to_d50 @ BRADFORD @ scaled
    except (np.linalg.LinAlgError, FloatingPointError):
        return _columns(SRGB_PRIMARIES)
    return columns if np.abs(columns).max() < MOST_XYZ else _columns(SRGB_PRIMARIES)
