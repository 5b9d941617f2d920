"""Every format and mode, damage at every byte, sizes, orientations, resampling and hashes."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from gesso import images
from gesso.errors import Rejected
from gesso.images import Header
from gesso.pipelines.collect import prepare
from gesso.pipelines.collect.prepare import Picture
from gesso.pipelines.collect.settings import ImageRules

DATA = Path(__file__).parents[2].parent / "shared/data"
ODD = DATA / "near_duplicates/imagededup"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")

ANY_SIZE = ImageRules(min_side=0, max_aspect_ratio=170)
SMALL = ImageRules(min_side=0, max_aspect_ratio=1000, image_size=16)
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


def png(
    pixels: npt.NDArray[Any], colour_type: int, interlaced: bool = False, claimed: tuple[int, int] | None = None
) -> bytes:
    """A PNG of 8 or 16 bits made by hand: Pillow writes neither 16-bit colour nor Adam7."""
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in adam7] if interlaced else [pixels]
    rows = [b"\0" + row.astype(f">u{depth // 8}").tobytes() for each in passes if each.size for row in each]
    header = struct.pack(">IIBBBBB", *(claimed or (width, height)), depth, colour_type, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = orientation
    return exif


def prepared(body: bytes, rules: ImageRules = ANY_SIZE) -> Picture:
    header = images.read_header(body)
    prepare.check(header, rules)
    return prepare.prepare(body, header, rules)


def decoded(body: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(body)))


def reason_of(body: bytes, rules: ImageRules = ANY_SIZE) -> str:
    with pytest.raises(Rejected) as caught:
        prepared(body, rules)
    return caught.value.reason


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.mean((one.astype(float) - other) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def photographs(most: int) -> list[Path]:
    return sorted((DATA / "coco_val2017").rglob("*.jpg"))[:most]


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


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_an_rgb_jpeg_of_its_first_frame(form: str) -> None:
    kind, mode, body = FORMS[form]
    header, picture = images.read_header(body), prepared(body)
    assert header == Header(kind, mode, 96, 64, 1)
    with Image.open(io.BytesIO(picture.body)) as image:
        assert (image.mode, image.size) == ("RGB", (96, 64))
    assert (picture.width, picture.height) == (96, 64)
    assert picture.reencoded == (kind != "jpeg" or mode != "RGB")
    with Image.open(io.BytesIO(body)) as image:
        assert psnr(decoded(picture.body), np.asarray(image.convert("RGB"))) > (15 if mode == "1" else 28)


@pytest.mark.parametrize("form", FORMS)
def test_encoding_again_is_deterministic(form: str) -> None:
    assert prepared(FORMS[form][2], SMALL) == prepared(FORMS[form][2], SMALL)


def test_what_fits_keeps_its_bytes() -> None:
    body = save(colourful(), "JPEG", progressive=True, comment=b"mine")
    assert prepared(body) == Picture(
        body, 96, 64, False, images.perceptual_hash(simplejpeg.decode_jpeg(body, min_factor=8))
    )


def test_ycck() -> None:
    """An even CMYK picture whose Adobe marker is set to YCCK: luma 128, no chroma, K as it was."""
    cmyk = np.full((16, 16, 4), 128, np.uint8)
    body = save(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100)
    adobe = body.index(b"Adobe") + 11
    ycck = body[:adobe] + b"\2" + body[adobe + 1 :]
    with Image.open(io.BytesIO(ycck)) as image:
        assert np.abs(np.asarray(image).astype(int) - 127).max() <= 2
    assert images.read_header(ycck).mode == "CMYK"
    assert np.abs(decoded(prepared(ycck).body).astype(int) - 127 * 127 // 255).max() <= 3


def test_twelve_bits_are_no_image() -> None:
    body = bytearray(FORMS["jpeg"][2])
    body[body.index(b"\xff\xc0") + 4] = 12
    assert reason_of(bytes(body)) == "not_an_image"


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        ("rgba", save(Image.new("RGBA", (8, 8), (10, 20, 30, 0)), "PNG"), (255, 255, 255)),
        ("rgba", save(Image.new("RGBA", (8, 8), (10, 20, 30, 255)), "PNG"), (10, 20, 30)),
        ("rgba", save(Image.new("RGBA", (8, 8), (0, 100, 200, 51)), "PNG"), (204, 224, 244)),
        ("la", save(Image.new("LA", (8, 8), (100, 51)), "PNG"), (224, 224, 224)),
        ("p, one", save(FLAT, "PNG", transparency=0), (255, 255, 255)),
        ("p, another", save(FLAT, "PNG", transparency=1), (0, 100, 200)),
        ("p, each", save(FLAT, "PNG", transparency=b"\x33"), (204, 224, 244)),
        ("l", save(Image.new("L", (8, 8), 7), "PNG", transparency=7), (255, 255, 255)),
        ("rgb", save(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), (255, 255, 255)),
        ("rgb", save(Image.new("RGB", (8, 8), (1, 2, 4)), "PNG", transparency=(1, 2, 3)), (1, 2, 4)),
        ("webp", save(Image.new("RGBA", (8, 8), (0, 100, 200, 51)), "WEBP", lossless=True), (204, 224, 244)),
        ("gif", save(FLAT, "GIF", transparency=0), (255, 255, 255)),
        ("gif", save(FLAT, "GIF", transparency=1), (0, 100, 200)),
        ("16-bit grey", png(np.full((8, 8), 0x80FF, np.uint16), 0), (0x80, 0x80, 0x80)),
        ("16-bit rgb", png(np.full((8, 8, 3), (0x10FF, 0xFF00, 0x00FF), np.uint16), 2), (0x10, 0xFF, 0x00)),
        ("16-bit rgba", png(np.full((8, 8, 4), (0, 0x6400, 0xC800, 0x3300), np.uint16), 6), (204, 224, 244)),
        ("16-bit la", png(np.full((8, 8, 2), (0x6400, 0x3300), np.uint16), 4), (224, 224, 224)),
    ],
)
def test_pixels_over_white(form: str, body: bytes, expected: tuple[int, int, int]) -> None:
    pixels = images.decode(body, images.read_header(body), 8)
    assert (pixels == expected).all(), (form, pixels[0, 0])


@pytest.mark.parametrize("interlaced", [False, True])
def test_png_made_by_hand_is_what_pillow_makes(interlaced: bool) -> None:
    pixels = np.asarray(colourful(37, 23, 3))
    body = png(pixels, 2, interlaced)
    assert (images.decode(body, images.read_header(body), 8) == pixels).all()


@pytest.mark.parametrize("rules", [ANY_SIZE, SMALL], ids=["whole", "shrunk"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, kind: str, rules: ImageRules) -> None:
    body = save(quarters(), kind, exif=oriented(orientation))
    with Image.open(io.BytesIO(body)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    header, picture = images.read_header(body), prepared(body, rules)
    assert (header.width, header.height, header.orientation) == (*expected.size, orientation)
    assert (header.width, header.height) == ((64, 32) if orientation < 5 else (32, 64))
    with Image.open(io.BytesIO(picture.body)) as kept:
        assert kept.getexif().get(images.EXIF_ORIENTATION, 1) == 1
        assert kept.size == (picture.width, picture.height)
        for x, y in ((0, 0), (-1, 0), (0, -1), (-1, -1)):
            seen = np.asarray(kept)[y, x].astype(int)
            assert np.abs(seen - np.asarray(expected)[y, x]).max() < 24


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_are_none(value: int) -> None:
    body = save(quarters(), "JPEG", exif=oriented(value))
    assert images.read_header(body) == Header("jpeg", "RGB", 64, 32, 1)


def test_broken_exif_is_no_orientation() -> None:
    body = save(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert images.read_header(body).orientation == 1


@pytest.mark.parametrize("rules", [ANY_SIZE, SMALL], ids=["whole", "shrunk"])
@pytest.mark.parametrize("form", FORMS)
def test_no_part_of_a_picture_is_ever_missing(form: str, rules: ImageRules) -> None:
    """Cut at every length: rejected, or what is left holds every pixel of the first frame."""
    body = FORMS[form][2]
    whole = images.decode(body, images.read_header(body), 1000)
    expected, reasons = prepared(body, rules).body, set()
    for cut in range(len(body)):
        try:
            picture = prepared(body[:cut], rules)
        except Rejected as rejection:
            reasons.add(rejection.reason)
            continue
        left = images.decode(body[:cut], images.read_header(body[:cut]), 1000)
        assert (left == whole).all(), f"cut at {cut} of {len(body)}"
        assert picture.body in (body[:cut], expected)
    assert reasons <= {"not_an_image", "undecodable"}


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("jpeg") and FORMS[form][1] == "RGB"])
def test_a_jpeg_cut_anywhere_is_rejected(form: str) -> None:
    """The cheap decode at 1/8 sees as much as a whole one."""
    body = FORMS[form][2]
    assert {reason_of(body[:cut]) for cut in range(len(body))} == {"not_an_image", "undecodable"}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BODIES), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6), st.data())
def test_damage_ends_in_a_picture_or_a_reason(body: bytes, flips: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(body)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    rules = ImageRules(min_side=0, max_pixels=1 << 20, image_size=data.draw(st.sampled_from([16, 384])))
    try:
        header = images.read_header(bytes(damaged))
        prepare.check(header, rules)
        picture = prepare.prepare(bytes(damaged), header, rules)
    except Rejected as rejection:
        return event(rejection.reason)
    assert decoded(picture.body).shape == (picture.height, picture.width, 3)
    return event("kept")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture(body: bytes) -> None:
    assert reason_of(body) == "not_an_image"


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_no_images(kind: str) -> None:
    assert reason_of(save(quarters(), kind)) == "not_an_image"


def inserted(body: bytes, marker: bytes, extra: bytes) -> bytes:
    place = body.rindex(marker)
    return body[:place] + extra + body[place:]


@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xdb", b"\xff\xc0"], ids=["end", "tables", "frame"])
@pytest.mark.parametrize("rules", [ANY_SIZE, SMALL], ids=["whole", "shrunk"])
def test_bytes_between_the_segments_are_harmless(marker: bytes, rules: ImageRules) -> None:
    body = FORMS["jpeg"][2]
    odd = inserted(body, marker, bytes(40))
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(odd)
    picture = prepared(odd, rules)
    assert picture.reencoded == (rules is SMALL)
    assert psnr(decoded(picture.body), decoded(prepared(body, rules).body)) > 30


def test_bytes_between_the_segments_do_not_hide_a_cut() -> None:
    """libjpeg tells its first warning only."""
    body = FORMS["jpeg"][2]
    odd = inserted(body, b"\xff\xdb", b"\0\0\0")
    scan = odd.rindex(b"\xff\xda")
    assert {reason_of(odd[:cut]) for cut in range(scan + 20, len(odd) - 20)} == {"undecodable"}


def test_bytes_left_over_before_a_restart_are_damage() -> None:
    body = FORMS["jpeg restarts"][2]
    assert reason_of(inserted(body, b"\xff\xd0", bytes(40))) == "undecodable"


def test_bytes_behind_the_end_are_harmless() -> None:
    body = FORMS["jpeg"][2] + bytes(1000)
    assert prepared(body).body == body


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_of_very_many_scans_is_rejected_undecoded(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = save(colourful().convert(mode), "JPEG", progressive=True)
    scan = body[body.rindex(images.START_OF_SCAN) : -2]
    assert reason_of(body[:-2] + scan * images.MAX_SCANS + body[-2:]) == "undecodable"
    monkeypatch.setattr(images, "MAX_SCANS", body.count(images.START_OF_SCAN))
    assert prepared(body).width == 96


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "png", png(np.zeros((1, 1, 3), np.uint8), 2, claimed=(24000, 24000))
    gif = bytearray(save(Image.new("P", (300, 300)), "GIF"))
    yield "gif screen", bytes(gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:])
    frame = gif.index(b",\0\0\0\0") + 5
    yield "gif frame", bytes(gif[:frame] + struct.pack("<HH", 60000, 60000) + gif[frame + 4 :])
    webp = bytearray(
        save(Image.new("RGB", (300, 300)), "WEBP", save_all=True, append_images=[Image.new("RGB", (300, 300), "red")])
    )
    canvas = webp.index(b"VP8X") + 12
    yield "webp canvas", bytes(webp[:canvas] + struct.pack("<I", 16382)[:3] * 2 + webp[canvas + 6 :])
    jpeg = bytearray(save(Image.new("RGB", (300, 300)), "JPEG"))
    size = jpeg.index(b"\xff\xc0") + 5
    yield "jpeg", bytes(jpeg[:size] + struct.pack(">HH", 65000, 65000) + jpeg[size + 4 :])


@pytest.mark.parametrize("body", [pytest.param(body, id=kind) for kind, body in bombs()])
def test_a_bomb_is_rejected_from_its_header(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(images, "decode", decode)
    monkeypatch.setattr(Image.Image, "convert", decode)
    tracemalloc.start()
    try:
        assert reason_of(body) == "too_many_pixels"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (256, 256, None),
        (255, 300, "too_small"),
        (300, 255, "too_small"),
        (512, 256, None),
        (256, 512, None),
        (513, 256, "aspect_ratio"),
        (515, 256, "aspect_ratio"),
        (256, 515, "aspect_ratio"),
        (10_000, 5_000, None),
        (10_001, 5_001, "too_many_pixels"),
        (0, 0, "too_small"),
        (100, 1, "too_small"),
    ],
)
def test_rules_at_their_borders(width: int, height: int, reason: str | None) -> None:
    header = Header("jpeg", "RGB", width, height, 1)
    if reason is None:
        prepare.check(header, ImageRules())
        return
    with pytest.raises(Rejected) as caught:
        prepare.check(header, ImageRules())
    assert caught.value.reason == reason


def test_nothing_is_too_small_but_nothing_at_all() -> None:
    prepare.check(Header("png", "RGB", 1, 1, 1), ANY_SIZE)
    with pytest.raises(Rejected, match="too_small"):
        prepare.check(Header("gif", "P", 0, 7, 1), ANY_SIZE)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 200),
    st.sampled_from(["JPEG", "PNG"]),
    st.sampled_from([1, 6]),
)
def test_the_size_of_what_is_kept(width: int, height: int, size: int, kind: str, orientation: int) -> None:
    body = save(Image.new("RGB", (width, height), "teal"), kind, exif=oriented(orientation))
    picture = prepared(body, ImageRules(min_side=0, max_aspect_ratio=300, image_size=size))
    wide, high = (width, height) if orientation == 1 else (height, width)
    short = min(width, height)
    factor = min(size, short) / short
    assert min(picture.width, picture.height) == min(size, short)
    assert abs(picture.width - wide * factor) <= 0.5
    assert abs(picture.height - high * factor) <= 0.5
    assert decoded(picture.body).shape == (picture.height, picture.width, 3)


def weights(source: int, target: int) -> npt.NDArray[np.float64]:
    """(target, source): how much of each source pixel a target pixel covers, rows adding up to 1."""
    edges = np.arange(target + 1) * (source / target)
    left = np.maximum(edges[:-1, None], np.arange(source))
    right = np.minimum(edges[1:, None], np.arange(source) + 1)
    return np.asarray(np.maximum(right - left, 0) * (target / source))


@pytest.mark.parametrize(("width", "height"), [(32, 24), (31, 23), (50, 40), (63, 47), (64, 48), (21, 16)])
def test_area_resize_is_the_mean_of_what_it_covers(width: int, height: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    exact = np.einsum("yh,hwc,xw->yxc", weights(48, height), pixels, weights(64, width))
    assert np.abs(images.resize(pixels, width, height) - exact).max() <= 1.0


def test_one_colour_stays_that_colour() -> None:
    pixels = np.full((481, 641, 3), (7, 130, 251), np.uint8)
    assert (images.resize(pixels, 123, 92) == (7, 130, 251)).all()


@needs_data
def test_scaling_in_the_dct_is_as_good_as_a_whole_decode() -> None:
    """Measured over 60 photographs of COCO shrunk to a short side of 100: at least 30.1 dB, median 42.1."""
    found = []
    for path in photographs(60):
        body = path.read_bytes()
        header = images.read_header(body)
        width, height = images.fitted(header, 100, min(header.width, header.height))
        whole = images.resize(images.decode(body, header, 10_000), width, height)
        found.append(psnr(images.render(body, header, width, height), whole))
    assert min(found) > 30
    assert np.median(found) > 42


@needs_data
def test_the_scale_of_the_decode_is_exact() -> None:
    body = photographs(1)[0].read_bytes()
    header = images.read_header(body)
    for factor in (1, 2, 4, 8):
        least = min(header.width, header.height) // factor
        expected = (-(-header.height // factor), -(-header.width // factor), 3)
        assert images.decode(body, header, least).shape == expected


def test_the_hash_of_a_known_picture() -> None:
    y, x = np.mgrid[0:64, 0:96]
    pixels = np.stack([x * 2, y * 3, (x + y) % 256], -1).astype(np.uint8)
    assert images.perceptual_hash(pixels) == "8879007900790079"


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@needs_data
def test_hashes_of_copies_are_near_and_of_others_far() -> None:
    hashes, copies = [], []
    for path in photographs(60):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        hashes.append(images.perceptual_hash(np.asarray(rgb)))
        small = save(rgb.resize((rgb.width // 2, rgb.height // 2), Image.Resampling.BICUBIC), "JPEG", quality=50)
        copies.append(prepared(small).phash)
    near = [bits_apart(one, other) for one, other in zip(hashes, copies, strict=True)]
    far = [bits_apart(one, other) for n, one in enumerate(hashes) for other in hashes[:n]]
    assert max(near) <= 8
    assert min(far) >= 12


@pytest.mark.parametrize(
    ("width", "height"), [(96, 64), (64, 96), (3000, 2), (2, 3000), (1000, 1), (50, 20), (400, 400)]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_thumbnail_has_its_long_side(width: int, height: int, kind: str) -> None:
    body = save(Image.new("RGB", (width, height), "teal"), kind)
    shape = decoded(images.thumbnail(body, images.read_header(body), 64)).shape
    assert max(shape) == min(64, max(width, height))
    assert abs(min(shape[:2]) - min(width, height) * max(shape) / max(width, height)) <= 1


def test_a_thumbnail_is_upright() -> None:
    body = save(quarters(), "JPEG", exif=oriented(6))
    assert decoded(images.thumbnail(body, images.read_header(body), 16)).shape == (16, 8, 3)


def test_a_thumbnail_of_damage_is_rejected() -> None:
    body = FORMS["jpeg"][2][:-100]
    with pytest.raises(Rejected, match="undecodable"):
        images.thumbnail(body, images.read_header(body), 16)


@needs_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("formats_images/ukbench09380.png", "jpeg"),  # whatever its name says
        ("formats_images/ukbench09380.webp", "webp"),
        ("formats_images/giphy.gif", "gif"),
        ("formats_images/copyleft.tiff", "not_an_image"),
        ("formats_images/baboon.pgm", "not_an_image"),
        ("mixed_images/ukbench09268_corrupt.jpg", "not_an_image"),
    ],
)
def test_odd_files(name: str, expected: str) -> None:
    body = (ODD / name).read_bytes()
    if expected == "not_an_image":
        assert reason_of(body) == expected
    else:
        assert images.read_header(body).format == expected
        assert prepared(body).body[:3] == b"\xff\xd8\xff"


@needs_data
def test_no_real_photograph_is_rejected() -> None:
    for path in [*photographs(60), *sorted((DATA / "imagenet_sample").rglob("*.JPEG"))[:60]]:
        picture = prepared(path.read_bytes())
        assert min(picture.width, picture.height) <= 384, path
