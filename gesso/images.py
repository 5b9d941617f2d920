"""One picture's bytes → a training picture: header, rules, decode, orientation, resize, encode, hash. No Beam, no net.

    bytes ─ read_header ─ check ─ decode (JPEG scaled in the DCT) ─ sRGB ─ area resize ─ orientation ─ JPEG ─▶ Picture
                                └ an sRGB JPEG that already fits keeps its bytes, after a cheap decode of all of them

Arrays are (height, width, 3) uint8 sRGB.
"""

import io
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, MpoImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 - else Pillow imports all of its plugins for them

from gesso import colour
from gesso.errors import Rejected

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
LOADED_KINDS = (
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
    ("MPO", "RGB"),
    ("PNG", "P"),
    ("PNG", "RGBA"),
    ("WEBP", "RGB"),
    ("GIF", "P"),
)
EXIF_ORIENTATION = 0x0112
# What Pillow's parsers are seen to raise on damaged files.
BROKEN = (OSError, ValueError, SyntaxError, LookupError, EOFError, TypeError, OverflowError, struct.error, zlib.error)
# libjpeg's words for bytes between two segments, which hold no pixels; before a restart marker (d0 to d7) they do.
HARMLESS = re.compile("extraneous bytes before marker 0x(?!d[0-7])")
# How much larger than needed a JPEG leaves its scaled DCT: against a whole decode, 40 photographs shrunk to 384 come to
# a PSNR of at least 37.7 dB with 1.25 and 33.2 with 1, in 54% and 50% of the time.
DCT_MARGIN = 1.25
FLOATS = 1 << 20  # numbers of a thread's scratch, 4 MB: what fits a core's cache is what gains
HASHED_ROWS = 128  # of a picture, about: the perceptual hash sees cells of 1/32
PNG_TYPE = slice(24, 26)  # a PNG's bit depth and colour type
GREY_ALPHA_16 = bytes((16, 4))
START_OF_SCAN = b"\xff\xda"
END_OF_IMAGE = b"\xff\xd9"
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # no stuffed byte, fill byte or restart
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers that begin a frame
MAX_SEGMENTS = 5000  # of a JPEG: its profile fills 255 at most, a scan has two or three
MAX_SCANS = 500  # of a progressive JPEG, as in libjpeg-turbo's own fuzzers: a scan of 75 bytes costs 29 ms at 49 MP

Image.MAX_IMAGE_PIXELS = None  # ImageRules.max_pixels is the limit, checked from the header before any decode
PngImagePlugin.MAX_TEXT_CHUNK = 8_000_000  # bytes of a profile, unpacked, as in browsers; Pillow rejects over 1 MB


class Header(NamedTuple):
    """What the first bytes tell. Width and height are as a viewer shows them, orientation applied."""

    format: str  # "jpeg", "png", "webp", "gif"
    mode: str  # Pillow's, but LA for a PNG of 16-bit grey with alpha
    width: int
    height: int
    orientation: int  # EXIF's 1 to 8
    profile: bytes = b""  # ICC; b"": sRGB


def load_codecs() -> None:
    """Has Pillow load what it loads with the first pictures: in a process short of files they would look broken.

    Reads a picture of each kind, so that it covers what `read_header` and `render` use.
    """
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    for kind, mode in LOADED_KINDS:
        stream = io.BytesIO()
        image = Image.new(mode, (16, 16))
        image.save(stream, kind, exif=exif, save_all=kind == "MPO", append_images=[image])
        body = stream.getvalue()
        encode(render(body, read_header(body), 8, 8), 90)


def read_header(body: bytes) -> Header:
    """Format, size and colours without decoding a pixel. Raises Rejected(not_an_image)."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            orientation = _orientation(image)
            width, height = image.size[::-1] if orientation > 4 else image.size
            kind = "jpeg" if image.format == "MPO" else str(image.format).lower()
            mode = "LA" if kind == "png" and body[PNG_TYPE] == GREY_ALPHA_16 else image.mode
            profile = colour.profile_of(image.info, _space(mode) == "L")
            return Header(kind, mode, width, height, orientation, profile)
    except BROKEN as error:
        raise _rejection("not_an_image", f"begins with {body[:16]!r}", error) from error


def decode(body: bytes, header: Header, least: int) -> Pixels:
    """sRGB pixels with the short side at least `least` where the picture has that many, not yet upright.

    A JPEG is scaled by 1/2, 1/4 or 1/8 inside its inverse DCT, which costs a fraction of decoding it whole.
    """
    if header.format == "jpeg" and len(re.findall(START_OF_SCAN, body)) > MAX_SCANS:  # a third of the time of `count`
        raise Rejected("undecodable", f"jpeg: over {MAX_SCANS} scans")
    body = with_end(body, header)
    if header.format == "jpeg" and header.mode in ("RGB", "L"):
        return _decode_jpeg(body, header, least)
    return _decode_any(body, header)


def in_srgb(header: Header) -> bool:
    """Whether its colours are sRGB's; also without a profile, and with one that is broken or of other colours."""
    return colour.to_srgb(header.profile, _space(header.mode)) is None


def with_end(body: bytes, header: Header) -> bytes:
    """A JPEG that lacks its end marker and nothing else, with that marker; anything else as it is."""
    if header.format != "jpeg" or body.endswith(END_OF_IMAGE) or not _lacks_end_only(body):
        return body
    ended = body.removesuffix(END_OF_IMAGE[:1]) + END_OF_IMAGE
    space = "CMYK" if header.mode == "CMYK" else "RGB"
    try:
        simplejpeg.decode_jpeg(ended, space, min_width=1, min_height=1, min_factor=8)
    except ValueError:
        return body
    return ended


def fitted(header: Header, size: int, side: int) -> tuple[int, int]:
    """Width and height when a side of `side` pixels becomes `size`; a smaller picture stays as it is."""
    size = min(size, side)
    return max(1, round(header.width * size / side)), max(1, round(header.height * size / side))


def as_stored(header: Header, width: int, height: int) -> tuple[int, int]:
    """Width and height of the pixels before the orientation is applied."""
    return (height, width) if header.orientation > 4 else (width, height)


def render(body: bytes, header: Header, width: int, height: int) -> Pixels:
    """The picture at a size, upright. Raises Rejected(undecodable)."""
    pixels = decode(body, header, round(min(width, height) * DCT_MARGIN))
    return upright(resize(pixels, *as_stored(header, width, height)), header.orientation)


class Scratch(threading.local):
    """Float pixels of a thread, kept from picture to picture: to allocate them anew costs what floats save."""

    def __init__(self) -> None:
        self.source = np.empty(FLOATS, np.float32)
        self.target = np.empty(FLOATS, np.float32)


scratch = Scratch()


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Area resize: every pixel is the mean of those it covers.

    On floats OpenCV takes a quarter less time for it than on bytes (measured, 640×480 → 512×384), with the same result.
    """
    count = width * height * 3
    if pixels.shape[:2] == (height, width):
        return pixels
    if max(pixels.size, count) > FLOATS:
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    source = scratch.source[: pixels.size].reshape(pixels.shape)
    target = scratch.target[:count].reshape(height, width, 3)
    np.copyto(source, pixels)
    cv2.resize(source, (width, height), dst=target, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.convertScaleAbs(target), dtype=np.uint8)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes EXIF orientations 2 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def encode(pixels: Pixels, quality: int) -> bytes:
    """Baseline JPEG, 4:2:0, without metadata: the same bytes for the same pixels."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")


def perceptual_hash(pixels: Pixels) -> str:
    """64 bits as 16 hex digits: the 8×8 lowest DCT frequencies of the 32×32 grey picture, each above their median.

    Distances between two hashes count differing bits; resizing and recompression move few, cropping many.
    """
    rows = pixels[:: max(1, len(pixels) // HASHED_ROWS)]
    small = cv2.resize(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    return np.packbits(low > np.sort(low[1:])[31]).tobytes().hex()


def thumbnail(body: bytes, header: Header, side: int) -> bytes:
    """A small JPEG for people to look at, long side at most `side`. Raises Rejected(undecodable)."""
    width, height = fitted(header, side, max(header.width, header.height))
    return encode(render(body, header, width, height), 80)


def rgb_on_white(image: Image.Image, to_srgb: colour.Transform | None = None) -> Image.Image:
    """Any of Pillow's modes as 8-bit RGB, transparency over white, the first frame of an animation."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    seen = image.convert("RGBA") if image.has_transparency_data else image
    converted = to_srgb.apply(seen.convert(to_srgb.input_mode)) if to_srgb else seen
    if image.has_transparency_data:
        converted.putalpha(seen.getchannel("A"))
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(converted)
        converted = white
    return converted.convert("RGB")


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:  # PNG would decode itself in search of it
        return 1
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if value in range(1, 9) else 1


def _space(mode: str) -> str:
    """The mode in which `colour` converts a picture of `mode`."""
    return "CMYK" if mode == "CMYK" else "L" if mode[0] in "1LI" else "RGB"


def _lacks_end_only(body: bytes) -> bool:
    """Whether a JPEG has no end marker, but scans that together hold every coefficient to its last bit."""
    components, exact = b"", set()
    for marker, segment in islice(_segments(body), MAX_SEGMENTS):
        if marker == END_OF_IMAGE:
            return False
        if marker[1] in FRAMES:
            components = segment[6::3]
        if marker == START_OF_SCAN and len(segment) > 3 and segment[-1] & 15 == 0:
            exact |= {(each, n) for each in segment[1:-3:2] for n in range(segment[-3], segment[-2] + 1)}
    return exact == {(each, n) for each in components for n in range(64)} != set()


def _segments(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The markers of a JPEG and what their segments hold; the pixels of a scan stand between segments."""
    place = 2
    while marker := MARKER.search(body, place):
        start = marker.end()
        place = start + int.from_bytes(body[start : start + 2])
        yield marker[0], body[start + 2 : place]


def _decode_jpeg(body: bytes, header: Header, least: int) -> Pixels:
    width, height = as_stored(header, header.width, header.height)
    factor = next((factor for factor in (8, 4, 2) if min(width, height) // factor >= least), 1)
    scale = {"min_width": -(-width // factor), "min_height": -(-height // factor), "min_factor": factor}
    try:
        pixels = simplejpeg.decode_jpeg(body, "RGB", **scale)
    except ValueError as error:
        if not HARMLESS.search(str(error)):
            raise Rejected("undecodable", f"jpeg: {error}") from error
        return _decode_any(body, header)  # libjpeg tells its first warning only, Pillow still misses what is cut off
    to_srgb = colour.to_srgb(header.profile, header.mode)
    if to_srgb is None:
        return pixels
    return np.asarray(to_srgb.apply(Image.fromarray(pixels if header.mode == "RGB" else pixels[:, :, 0])))


def _decode_any(body: bytes, header: Header) -> Pixels:
    to_srgb = colour.to_srgb(header.profile, _space(header.mode))
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            return np.asarray(rgb_on_white(_keyed(image, body) if header.format == "png" else image, to_srgb))
    except BROKEN as error:
        raise _rejection("undecodable", f"{header.format}: {error}", error) from error


def _rejection(reason: str, message: str, error: Exception) -> Rejected:
    """What a broken picture's error becomes; raises an error of the machine, which has a number, as it is."""
    if isinstance(error, OSError) and error.errno:
        raise error
    return Rejected(reason, message)


def _keyed(image: Image.Image, body: bytes) -> Image.Image:
    """A PNG's image whose transparent grey or colour (tRNS) Pillow understands: of 8 bits, or as alpha."""
    key, depth = image.info.get("transparency"), body[PNG_TYPE][0]
    if key is None or image.mode in ("1", "P"):
        return image
    if depth == 16:
        return _keyed_16(image, body, np.asarray(key))
    largest = 2**depth - 1  # of a sample; the key's higher bits mean nothing
    if image.mode == "L":
        image.info["transparency"] = (key & largest) * 255 // largest
    else:
        image.info["transparency"] = tuple(each & largest for each in key)
    return image


def _keyed_16(image: Image.Image, body: bytes, key: npt.NDArray[np.int64]) -> Image.Image:
    samples = np.asarray(image)
    if image.mode == "RGB":
        clear = ((samples == key >> 8) & (_low_bytes(body) == key & 255)).all(-1)
    else:
        clear, samples = samples == key, (samples >> 8).astype(np.uint8)
    keyed = Image.fromarray(samples)
    keyed.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return keyed


def _low_bytes(body: bytes) -> Pixels:
    """The lower halves of a PNG's 16-bit colours, of which Pillow gives the upper ones: read as if little-endian."""
    with Image.open(io.BytesIO(body), formats=("PNG",)) as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        return np.asarray(image)
