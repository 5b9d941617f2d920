"""Samples by the headers of a tar: ranges, kinds, damage."""

import io
import tarfile
from collections.abc import Iterable

import pytest

from gesso.dataset import members
from gesso.dataset.members import DamagedTar, Sample

BODY = {"jpg": b"j" * 700, "txt": b"caption", "json": b"{}" * 300}


def body_of(name: str) -> bytes:
    return BODY[name.rpartition(".")[2].lower()]


def tar(names: Iterable[str], form: int = tarfile.USTAR_FORMAT, clock: float = 0) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(body_of(name)), clock  # type: ignore[assignment]
            archive.addfile(info, io.BytesIO(body_of(name)))
    return stream.getvalue()


def index(body: bytes) -> list[Sample]:
    return members.list_samples(lambda offset, size: body[offset : offset + size], len(body))


def test_ranges_and_sizes() -> None:
    names = ["a.jpg", "a.txt", "a.json", "b.json", "b.jpg", "b.txt"]
    assert index(tar(names)) == [Sample("a", 0, 4096, 700, 7, 600), Sample("b", 4096, 4096, 700, 7, 600)]


def test_blocks_before_a_header_belong_to_the_sample_behind_them() -> None:
    """A clock with a fraction goes into a PAX header of two blocks, as webdataset's writer leaves it."""
    names = ["a.jpg", "a.txt", "a.json", "b.jpg", "b.txt", "b.json"]
    body = tar(names, tarfile.PAX_FORMAT, 1.5)
    found = index(body)
    assert found == [Sample("a", 0, 4096 + 3072, 700, 7, 600), Sample("b", 7168, 7168, 700, 7, 600)]
    parts = members.sample_members(body[7168 : 2 * 7168])
    assert {kind: (part.name, part.bytes) for kind, part in parts.items()} == {
        "image": ("b.jpg", 700),
        "caption": ("b.txt", 7),
        "json": ("b.json", 600),
    }
    image = parts["image"]
    assert body[7168:][image.offset : image.offset + image.bytes] == BODY["jpg"]


def test_keys_follow_webdatasets_rule() -> None:
    """Folders belong to the key, with their dots; `./` does not."""
    assert members.split_name("./2024.v1/07.seg.PNG") == ("2024.v1/07", "seg.PNG")
    assert members.split_name("a.b.c") == ("a", "b.c")
    assert members.split_name("été/x") == ("été/x", "")
    names = [f"./v1.0/{key}.{suffix}" for key in ("a", "b") for suffix in BODY]
    assert [sample.key for sample in index(tar(names))] == ["v1.0/a", "v1.0/b"]


FOLDERS = "folder/" * 12 + "k" * 60


@pytest.mark.parametrize(
    ("key", "form"),
    [
        *((key, form) for key in (FOLDERS, "k" * 97, "é" * 40) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)),
        (FOLDERS, tarfile.USTAR_FORMAT),
    ],
)
def test_long_names(key: str, form: int) -> None:
    """By a header of PAX or of GNU before their own, or by ustar's prefix."""
    body = tar([f"{key}.{suffix}" for suffix in BODY], form)
    (sample,) = index(body)
    assert (sample.key, sample.offset, sample.image_bytes) == (key, 0, 700)
    parts = members.sample_members(body[: sample.bytes])
    assert [(part.key, part.bytes) for part in parts.values()] == [(key, 700), (key, 7), (key, 600)]


def test_a_damaged_pax_header() -> None:
    body = bytearray(tar([f"{'k' * 97}.{suffix}" for suffix in BODY], tarfile.PAX_FORMAT))
    body[512:515] = b"999"
    with pytest.raises(DamagedTar, match="has a PAX header that is damaged"):
        index(bytes(body))


def test_a_long_name_that_is_not_utf8() -> None:
    body = tar([f"{'k' * 120}.{suffix}" for suffix in BODY], tarfile.GNU_FORMAT).replace(b"k" * 120, b"\xff" * 120)
    with pytest.raises(DamagedTar, match="holds a name that is not UTF-8"):
        index(body)


def test_a_size_below_zero() -> None:
    """It would lead back to an earlier header, for ever."""
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"size": "-99999"}
    with pytest.raises(DamagedTar, match=r"is no tar from byte 1,024 on \(a size of -99,999\)"):
        index(info.tobuf(tarfile.PAX_FORMAT) + tar([]))


def test_an_empty_tar_holds_no_samples() -> None:
    assert index(tar([])) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "a.json"], "holds sample a as jpg, json, not as a picture, txt and json"),
        (["a.JPG", "a.txt", "a.json"], r"as JPG, txt, json, not as .* \(`gesso index` takes others\)"),
        (["a.jpg", "a.jpg", "a.txt", "a.json"], "holds sample a as jpg, jpg, txt, json"),
        (
            ["a.jpg", "a.txt", "a.json", "b.jpg", "b.txt", "b.json", "a.jpg"],
            "holds sample a twice, or its files are not adjacent",
        ),
    ],
)
def test_what_is_no_sample(names: list[str], message: str) -> None:
    with pytest.raises(DamagedTar, match=message):
        index(tar(names))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (4096, "is cut off at its end"),
        (3500, "is cut off in a.json"),
        (3000, "is no tar from byte 2,560 on"),
        (2100, "is cut off in a.txt"),
        (0, "is cut off at its end"),
    ],
)
def test_a_tar_that_is_cut_off(size: int, message: str) -> None:
    with pytest.raises(DamagedTar, match=message):
        index(tar(["a.jpg", "a.txt", "a.json"])[:size])


@pytest.mark.parametrize("at", [0, 130, 150, 2560])
def test_a_damaged_header(at: int) -> None:
    body = bytearray(tar(["a.jpg", "a.txt", "a.json"]))
    body[at] ^= 1
    with pytest.raises(DamagedTar, match=rf"is no tar from byte {at // 512 * 512:,} on"):
        index(bytes(body))


def test_the_range_of_another_sample() -> None:
    body = tar(["a.jpg", "a.txt", "a.json", "b.jpg", "b.txt", "b.json"])
    for part in (body[:8192], body[:4000], body[512:4608]):
        with pytest.raises(DamagedTar):
            members.sample_members(part)
