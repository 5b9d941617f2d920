"""Pictures of every form for tests, made by Pillow or by hand."""

import io
import struct
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gesso.images import EXIF_ORIENTATION

DATA = Path(__file__).parents[1].parent / "shared/data"

CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}

Pixels = npt.NDArray[np.uint8]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colourful(width: int = 96, height: int = 64, block: int = 16) -> Image.Image:
    """Blocks of even colour, which survive JPEG nearly unharmed."""
    random = np.random.default_rng(0)
    cells = random.integers(0, 256, (-(-height // block), -(-width // block), 3), np.uint8)
    return Image.fromarray(cells.repeat(block, 0).repeat(block, 1)[:height, :width])


def quarters(width: int = 64, height: int = 32) -> Image.Image:
    """Red, green over blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    pixels[:, :] = CORNERS["white"]
    pixels[top, left], pixels[top, width // 2 :], pixels[height // 2 :, left] = list(CORNERS.values())[:3]
    return Image.fromarray(pixels)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG: its length, name, data and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def packed(samples: npt.NDArray[Any], depth: int) -> bytes:
    """A PNG's row of samples of 1 to 16 bits, the first one in the highest bits."""
    bits = (samples.reshape(-1, 1).astype(np.int64) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def png(
    samples: npt.NDArray[Any],
    colour_type: int,
    interlaced: bool = False,
    claimed: tuple[int, int] | None = None,
    depth: int = 0,
    **chunks: bytes,
) -> bytes:
    """A PNG made by hand, of the bits of its array unless `depth` says fewer; `chunks` stand before the pixels.

    Pillow writes neither 16-bit colour, nor Adam7, nor 2 and 4 bits of grey.
    """
    height, width = samples.shape[:2]
    depth = depth or 8 * samples.dtype.itemsize
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in adam7] if interlaced else [samples]
    rows = [b"\0" + packed(row, depth) for each in passes if each.size for row in each]
    header = struct.pack(">IIBBBBB", *(claimed or (width, height)), depth, colour_type, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


# ── colour profiles, as ICC.1:2001-04 lays them out ──


def icc(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """A profile of version 2.4 with these tags."""
    start = 128 + 4 + 12 * len(tags)
    table, data = [], b""
    for name, value in tags.items():
        table.append(struct.pack(">4sII", name, start + len(data), len(value)))
        data += value
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x", start + len(data), b"test", 0x02400000, kind, space, connection, b"acsp"
    )
    white = struct.pack(">3i", *(round(value * 65536) for value in D50))
    return (header + white).ljust(128, b"\0") + struct.pack(">I", len(tags)) + b"".join(table) + data


def xyz(*values: float) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))


def power(exponent: float) -> bytes:
    """A curve; in a multiple of 1/256."""
    return struct.pack(">4s4xIHH", b"curv", 1, round(256 * exponent), 0)


def srgb_curve() -> bytes:
    values = np.linspace(0, 1, 1024)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return struct.pack(">4s4xI1024H", b"curv", 1024, *np.round(linear * 65535).astype(int).tolist())


def rgb_profile(columns: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    """Of red's, green's and blue's XYZ under D50."""
    colorants = {name + b"XYZ": xyz(*column) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)}
    return icc(b"RGB ", {b"wtpt": xyz(*D50), **colorants, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def grey_profile(curve: bytes) -> bytes:
    return icc(b"GRAY", {b"wtpt": xyz(*D50), b"kTRC": curve})


def cmyk_profile(lab: dict[tuple[int, ...], tuple[float, float, float]], other: tuple[float, float, float]) -> bytes:
    """Of a table of two points an ink: `lab` of some of its sixteen corners, `other` of the rest."""
    corners = [lab.get(corner, other) for corner in product((0, 1), repeat=4)]
    grid = [round(part) for L, a, b in corners for part in (L * 652.8, (a + 128) * 256, (b + 128) * 256)]
    identity = [round(value * 65536) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)]
    table = struct.pack(">4s4x4B9iHH", b"mft2", 4, 3, 2, 0, *identity, 2, 2)
    table += struct.pack(">8H", *[0, 65535] * 4) + struct.pack(">48H", *grid) + struct.pack(">6H", *[0, 65535] * 3)
    return icc(b"CMYK", {b"wtpt": xyz(*D50), b"A2B0": table}, connection=b"Lab ", kind=b"prtr")


D50 = (0.9642, 1.0, 0.8249)
SRGB_COLUMNS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3_COLUMNS = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
P3 = rgb_profile(P3_COLUMNS, srgb_curve())
SRGB = rgb_profile(SRGB_COLUMNS, srgb_curve())


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


def decoded(body: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(body)))


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.mean((one.astype(float) - other) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def photographs(most: int) -> list[Path]:
    return sorted((DATA / "coco_val2017").rglob("*.jpg"))[:most]


def inserted(body: bytes, marker: bytes, extra: bytes) -> bytes:
    place = body.rindex(marker)
    return body[:place] + extra + body[place:]


PALETTE = colourful().quantize(64)
FLAT = Image.new("P", (8, 8))
FLAT.putpalette([0, 100, 200, 9, 9, 9])
FORMS: dict[str, tuple[str, str, bytes]] = {
    "jpeg": ("jpeg", "RGB", save(colourful(), "JPEG", quality=95)),
    "jpeg 4:4:4": ("jpeg", "RGB", save(colourful(), "JPEG", subsampling=0, quality=95)),
    "jpeg 4:2:2": ("jpeg", "RGB", save(colourful(), "JPEG", subsampling=1, quality=95)),
    "jpeg progressive": ("jpeg", "RGB", save(colourful(), "JPEG", progressive=True, quality=95)),
    "jpeg restarts": ("jpeg", "RGB", save(colourful(), "JPEG", restart_marker_rows=1, quality=95)),
    "jpeg stored as rgb": ("jpeg", "RGB", save(colourful(), "JPEG", keep_rgb=True, quality=95)),
    "jpeg grey": ("jpeg", "L", save(colourful().convert("L"), "JPEG", quality=95)),
    "jpeg grey progressive": ("jpeg", "L", save(colourful().convert("L"), "JPEG", progressive=True, quality=95)),
    "jpeg cmyk": ("jpeg", "CMYK", save(colourful().convert("CMYK"), "JPEG", quality=95)),
    "mpo": ("jpeg", "RGB", save(colourful(), "MPO", save_all=True, append_images=[quarters()], quality=95)),
    "png": ("png", "RGB", save(colourful(), "PNG")),
    "png bilevel": ("png", "1", save(colourful().convert("1"), "PNG")),
    "png grey": ("png", "L", save(colourful().convert("L"), "PNG")),
    "png grey alpha": ("png", "LA", save(colourful().convert("LA"), "PNG")),
    "png palette": ("png", "P", save(PALETTE, "PNG")),
    "png alpha": ("png", "RGBA", save(colourful().convert("RGBA"), "PNG")),
    "png interlaced": ("png", "RGB", png(np.asarray(colourful()), 2, interlaced=True)),
    "png animated": ("png", "RGB", save(colourful(), "PNG", save_all=True, append_images=[quarters(96, 64)])),
    "webp": ("webp", "RGB", save(colourful(), "WEBP", quality=95)),
    "webp lossless": ("webp", "RGB", save(colourful(), "WEBP", lossless=True)),
    "webp animated": ("webp", "RGB", save(colourful(), "WEBP", save_all=True, append_images=[quarters(96, 64)])),
    "gif": ("gif", "P", save(PALETTE, "GIF")),
    "gif animated": ("gif", "P", save(PALETTE, "GIF", save_all=True, append_images=[quarters(96, 64).quantize(4)])),
}
BODIES = [body for _, _, body in FORMS.values()]
