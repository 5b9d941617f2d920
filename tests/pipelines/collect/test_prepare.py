"""The image rules, and what becomes of every form of picture, whole, damaged, large, or turned."""

import io
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
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
from tests.pictures import (
    BODIES,
    DATA,
    FORMS,
    P3,
    SRGB,
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

ODD = DATA / "near_duplicates/imagededup"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")

ANY_SIZE = ImageRules(min_side=0, max_aspect_ratio=170)
SMALL = ImageRules(min_side=0, max_aspect_ratio=1000, image_size=16)


def prepared(body: bytes, rules: ImageRules = ANY_SIZE) -> Picture:
    header = images.read_header(body)
    prepare.check(header, rules)
    return prepare.prepare(body, header, rules)


def reason_of(body: bytes, rules: ImageRules = ANY_SIZE) -> str:
    with pytest.raises(Rejected) as caught:
        prepared(body, rules)
    return caught.value.reason


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


def test_a_jpeg_of_other_colours_does_not_fit_as_it_is() -> None:
    body = save(Image.new("RGB", (96, 64), (185, 72, 58)), "JPEG", icc_profile=P3, quality=100)
    picture = prepared(body)
    assert picture.reencoded
    assert np.abs(decoded(picture.body).astype(int) - (200, 61, 50)).max() <= 2
    with Image.open(io.BytesIO(picture.body)) as image:
        assert "icc_profile" not in image.info


@pytest.mark.parametrize("profile", [SRGB, b"broken", P3[:300]])
def test_a_jpeg_of_srgb_or_of_a_broken_profile_fits_as_it_is(profile: bytes) -> None:
    body = save(colourful(), "JPEG", icc_profile=profile)
    assert prepared(body).body == body


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


@pytest.mark.parametrize("rules", [ANY_SIZE, SMALL], ids=["whole", "shrunk"])
@pytest.mark.parametrize("form", FORMS)
def test_no_part_of_a_picture_is_ever_missing(form: str, rules: ImageRules) -> None:
    """Cut at every length: rejected, or what is left holds every pixel of the first frame."""
    body = FORMS[form][2]
    whole = images.decode(body, images.read_header(body), 1000)
    allowed, reasons = {prepared(body, rules).body, images.encode(whole, rules.jpeg_quality)}, set()
    for cut in range(len(body)):
        try:
            picture = prepared(body[:cut], rules)
        except Rejected as rejection:
            reasons.add(rejection.reason)
            continue
        left = images.decode(body[:cut], images.read_header(body[:cut]), 1000)
        assert (left == whole).all(), f"cut at {cut} of {len(body)}"
        assert picture.body in {body[:cut], *allowed}
    assert reasons <= {"not_an_image", "undecodable"}


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("jpeg") and FORMS[form][1] == "RGB"])
def test_a_jpeg_cut_anywhere_is_rejected(form: str) -> None:
    """The cheap decode at 1/8 sees as much as a whole one."""
    body = FORMS[form][2]
    assert {reason_of(body[:cut]) for cut in range(len(body) - 2)} == {"not_an_image", "undecodable"}


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("jpeg")])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_that_lacks_its_end_alone_is_kept_as_a_whole_one(form: str, missing: int) -> None:
    body = FORMS[form][2]
    whole = images.decode(body, images.read_header(body), 1000)
    picture = prepared(body[:-missing])
    assert picture.body == images.encode(whole, ANY_SIZE.jpeg_quality)
    assert picture == Picture(picture.body, 96, 64, True, prepared(body).phash)
    assert reason_of(body[:-3]) == "undecodable"


def test_a_progressive_jpeg_that_lacks_scans_besides_its_end_is_undecodable() -> None:
    """Each is cut where a scan is complete, so that libjpeg would take the rest for a coarser picture."""
    body = FORMS["jpeg progressive"][2]
    tables = [place for place in range(len(body)) if body[place : place + 2] == b"\xff\xc4"]
    first = body.index(images.START_OF_SCAN)
    cuts = [place for place in tables if place > first]
    assert len(cuts) > 5
    for cut in cuts:
        simplejpeg.decode_jpeg(body[:cut] + images.END_OF_IMAGE)
        assert reason_of(body[:cut]) == "undecodable"


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
