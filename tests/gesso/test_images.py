"""Formats and modes as pixels, resampling, hashes, thumbnails."""

import errno
import io
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gesso import images
from gesso.errors import Rejected
from gesso.images import Header
from tests.pictures import (
    DATA,
    FLAT,
    FORMS,
    P3,
    Pixels,
    colourful,
    decoded,
    inserted,
    oriented,
    photographs,
    png,
    psnr,
    quarters,
    save,
)

ROOT = Path(__file__).parents[2]
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")


def decode(body: bytes, least: int = 10_000) -> Pixels:
    return images.decode(body, images.read_header(body), least)


def reason_of(body: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        decode(body)
    return caught.value.reason


def test_ycck() -> None:
    """An even CMYK picture whose Adobe marker is set to YCCK: luma 128, no chroma, K as it was."""
    cmyk = np.full((16, 16, 4), 128, np.uint8)
    body = save(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100)
    adobe = body.index(b"Adobe") + 11
    ycck = body[:adobe] + b"\2" + body[adobe + 1 :]
    with Image.open(io.BytesIO(ycck)) as image:
        assert np.abs(np.asarray(image).astype(int) - 127).max() <= 2
    assert images.read_header(ycck).mode == "CMYK"
    assert np.abs(decode(ycck).astype(int) - 127 * 127 // 255).max() <= 3


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


def u16(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("depth", "samples", "key", "expected"),
    [
        (1, [0, 1], 0, [255, 255]),
        (1, [0, 1], 1, [0, 255]),
        (2, [0, 1, 2, 3], 0, [255, 85, 170, 255]),
        (2, [0, 1, 2, 3], 1, [0, 255, 170, 255]),
        (2, [0, 1, 2, 3], 2 + 4, [0, 85, 255, 255]),  # a key's higher bits are to be ignored
        (2, [0, 1, 2, 3], 3, [0, 85, 170, 255]),
        (4, [0, 1, 14, 15], 0, [255, 17, 238, 255]),
        (4, [0, 1, 14, 15], 14, [0, 17, 255, 255]),
        (8, [0, 1, 14, 255], 14, [0, 1, 255, 255]),
        (8, [0, 1, 14, 255], 0x700 + 14, [0, 1, 255, 255]),
        (16, [0, 1, 0x1234, 0x1235], 0, [255, 0, 0x12, 0x12]),
        (16, [0, 1, 0x1234, 0x1235], 0x1234, [0, 0, 255, 0x12]),
        (16, [0, 1, 0x1234, 0x1235], 0x12, [0, 0, 0x12, 0x12]),
    ],
)
def test_the_transparent_grey_of_a_png(
    depth: int, samples: list[int], key: int, expected: list[int], interlaced: bool
) -> None:
    """PNG (third edition), 11.3.1.1: of tRNS as many bits count as a sample has; samples are scaled to 8 bits."""
    rows = np.array([samples, samples[::-1]])
    pixels = decode(png(rows, 0, interlaced, depth=depth, tRNS=u16(key)))
    assert pixels[:, :, 0].tolist() == [expected, expected[::-1]]
    assert (pixels == pixels[:, :, :1]).all()


@pytest.mark.parametrize("interlaced", [False, True])
def test_the_transparent_colour_of_a_png_is_compared_in_all_its_bits(interlaced: bool) -> None:
    key = (0x10FF, 0xFF00, 0x00FF)
    samples = np.array([[key, (0x10FE, 0xFF00, 0x00FF), (0x10FF, 0xFF01, 0x00FF), (0x10FF, 0xFF00, 0x01FF)]], np.uint16)
    pixels = decode(png(samples, 2, interlaced, tRNS=u16(*key)))
    assert pixels.tolist() == [[[255, 255, 255], [0x10, 0xFF, 0], [0x10, 0xFF, 0], [0x10, 0xFF, 1]]]


def test_the_transparent_colour_of_a_png_of_eight_bits() -> None:
    pixels = decode(png(np.array([[(1, 2, 3), (1, 2, 4)]], np.uint8), 2, tRNS=u16(0x101, 2, 0x303)))
    assert pixels.tolist() == [[[255, 255, 255], [1, 2, 4]]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_entries_of_a_palette(depth: int) -> None:
    palette = bytes([0, 100, 200, 9, 9, 9, 50, 60, 70, 1, 2, 3])[: 3 * 2**depth]
    expected = [[204, 224, 244], [255, 255, 255], [50, 60, 70], [1, 2, 3]][: 2**depth]
    indices = np.arange(len(expected))[None]
    assert decode(png(indices, 3, depth=depth, PLTE=palette, tRNS=b"\x33\0")).tolist() == [expected]


@pytest.mark.parametrize("interlaced", [False, True])
def test_png_made_by_hand_is_what_pillow_makes(interlaced: bool) -> None:
    pixels = np.asarray(colourful(37, 23, 3))
    body = png(pixels, 2, interlaced)
    assert (images.decode(body, images.read_header(body), 8) == pixels).all()


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_are_none(value: int) -> None:
    body = save(quarters(), "JPEG", exif=oriented(value))
    assert images.read_header(body) == Header("jpeg", "RGB", 64, 32, 1)


def test_broken_exif_is_no_orientation() -> None:
    body = save(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert images.read_header(body).orientation == 1


@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture(body: bytes) -> None:
    assert reason_of(body) == "not_an_image"


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_no_images(kind: str) -> None:
    assert reason_of(save(quarters(), kind)) == "not_an_image"


def test_bytes_between_the_segments_do_not_hide_a_cut() -> None:
    """libjpeg tells its first warning only."""
    body = FORMS["jpeg"][2]
    odd = inserted(body, b"\xff\xdb", b"\0\0\0")
    scan = odd.rindex(b"\xff\xda")
    assert {reason_of(odd[:cut]) for cut in range(scan + 20, len(odd) - 20)} == {"undecodable"}


def test_bytes_left_over_before_a_restart_are_damage() -> None:
    body = FORMS["jpeg restarts"][2]
    assert reason_of(inserted(body, b"\xff\xd0", bytes(40))) == "undecodable"


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


def test_the_first_pictures_open_no_file() -> None:
    """In a process that has used up its files; the pictures come from this one, which has loaded Pillow's plugins."""
    bodies = [body for _, _, body in FORMS.values()]
    bodies += [save(colourful(), kind, icc_profile=P3, exif=oriented(6)) for kind in ("JPEG", "PNG", "WEBP")]
    code = """if True:
        import os, pickle, resource, sys
        bodies = pickle.load(sys.stdin.buffer)
        from gesso import images
        images.load_codecs()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        for body in bodies:
            header = images.read_header(body)
            images.thumbnail(body, header, 16)
        try:
            os.open(os.devnull, os.O_RDONLY)
        except OSError:
            print(len(bodies))
    """
    ended = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(bodies), capture_output=True, cwd=ROOT)
    assert ended.stdout.decode().split() == [str(len(bodies))], ended.stderr.decode()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
def test_a_fault_of_the_machine_is_no_fault_of_the_picture(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    header = images.read_header(FORMS["png"][2])

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", fail)
    for work in (lambda: images.read_header(FORMS["png"][2]), lambda: images.decode(FORMS["png"][2], header, 1)):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            work()
        assert caught.value.errno == number
