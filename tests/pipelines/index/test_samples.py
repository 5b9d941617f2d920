"""Members of tars by every writer → samples: keys, suffixes, byte ranges; damaged tars."""

import io
import re
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset import TarWriter
from webdataset.tariterators import base_plus_ext

from gesso.dataset.members import DamagedTar
from gesso.pipelines.index.samples import Sample, iter_samples, split_name
from gesso.pipelines.index.tar_stream import TarInput, read_rest
from tests.tars import BLOCK, FORMATS, Files, tar_bytes, write_tar

LONG = "folder.with.dots/" + "ö" * 45 + "/" + "k" * 80  # over 100 bytes; ustar splits it, PAX and GNU say it before
FILES: Files = [
    ("a.JPG", b"one"),
    ("a.txt", b"caption"),
    (f"{LONG}.seg.png", b"mask"),
    (f"{LONG}.webp", b"two" * 1000),
    (f"./{'b'}.gif", b"three"),
    ("b.Json", b"{}"),
]
KEYS = ["a", LONG, "b"]


def read(data: bytes, *wanted: str) -> tuple[list[Sample], Counter[str]]:
    skipped = Counter[str]()
    tar_input = TarInput(io.BytesIO(data))
    found = list(iter_samples(tar_input, frozenset(wanted), skipped))
    read_rest(tar_input)
    assert tar_input.bytes == len(data)
    return found, skipped


def check_samples(data: bytes) -> None:
    """The samples of FILES, their pictures where their ranges say."""
    found, _ = read(data, "txt", "json")
    assert [sample.key for sample in found] == KEYS
    assert [sample.picture.body for sample in found if sample.picture] == [b"one", b"two" * 1000, b"three"]
    for picture in (sample.picture for sample in found):
        assert picture is not None
        assert data[picture.offset : picture.offset + len(picture.body)] == picture.body
    assert [sample.bodies for sample in found] == [{"txt": b"caption"}, {}, {"json": b"{}"}]
    assert [sample.dropped for sample in found] == [(), ("seg.png",), ()]


@pytest.mark.parametrize("form", FORMATS)
def test_pythons_tarfile(tmp_path: Path, form: str) -> None:
    check_samples(write_tar(tmp_path / "a.tar", FILES, form).read_bytes())


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_gnu_tar(tmp_path: Path, form: str) -> None:
    """Sorted by name, below `./`, folders among the members."""
    for name, body in FILES:
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    command = [
        "tar",
        "-C",
        str(tmp_path / "files"),
        "--sort=name",
        f"--format={form}",
        "-cf",
        str(tmp_path / "a.tar"),
        ".",
    ]
    subprocess.run(command, check=True)
    data = (tmp_path / "a.tar").read_bytes()
    found, skipped = read(data, "txt", "json")
    assert {sample.key: sample.picture and sample.picture.body for sample in found} == {
        "a": b"one",
        "b": b"three",
        LONG: b"two" * 1000,
    }
    assert skipped == {"folder": 3}


def test_webdatasets_writer(tmp_path: Path) -> None:
    with TarWriter(str(tmp_path / "a.tar")) as writer:
        for key in ("x/0", "x/1"):
            writer.write({"__key__": key, "jpg": b"picture of " + key.encode(), "cls": b"3", "json": b"{}"})
    found, skipped = read((tmp_path / "a.tar").read_bytes(), "json")
    assert [(sample.key, sample.bodies, sample.dropped) for sample in found] == [
        ("x/0", {"json": b"{}"}, ("cls",)),
        ("x/1", {"json": b"{}"}, ("cls",)),
    ]
    assert [sample.picture and sample.picture.body for sample in found] == [b"picture of x/0", b"picture of x/1"]
    assert not skipped


NAMES = st.text(st.sampled_from("ab./"), min_size=1, max_size=12)


@given(NAMES.filter(lambda name: name[0] not in "./" and not re.search(r"(^|/)(\.[^/]*|[^./]*)$", name)))
def test_keys_are_webdatasets(name: str) -> None:
    """But for hidden files in a folder, of which it makes a sample whose key is the folder."""
    assert split_name(name) == base_plus_ext(name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("./a.jpg", ("a", "jpg")),
        ("././v1.2/a.Seg.PNG", ("v1.2/a", "seg.png")),
        ("/data/a.jpg", ("data/a", "jpg")),
        (".hidden/a.jpg", (".hidden/a", "jpg")),
        ("a.\udcff", ("a", "\\xff")),
    ],
)
def test_split_name(name: str, split: tuple[str, str]) -> None:
    assert split_name(name) == split


def test_what_is_no_file_of_a_sample_is_counted_by_kind() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind in (("d.x", tarfile.DIRTYPE), ("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        info = tarfile.TarInfo("p.jpg")
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
        for name in ("a.jpg", "__MACOSX/._a.jpg", "._a.jpg", "__meta__", "__x__/b.jpg", "README", "a.txt"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    found, skipped = read(stream.getvalue(), "txt")
    assert [(sample.key, list(sample.bodies)) for sample in found] == [("a", ["txt"])]
    assert skipped == {"folder": 1, "link": 2, "special": 1, "hidden": 2, "meta": 2, "no_extension": 1}


def test_a_sparse_member_is_no_picture(tmp_path: Path) -> None:
    """Its bytes do not stand in the tar as they are in the file."""
    with (tmp_path / "a.jpg").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"end")
    for form in ("gnu", "posix"):
        command = ["tar", "-C", str(tmp_path), "--sparse", f"--format={form}", "-cf", str(tmp_path / "a.tar"), "a.jpg"]
        subprocess.run(command, check=True)
        assert read((tmp_path / "a.tar").read_bytes()) == ([], Counter(sparse=1))


def test_samples_end_where_another_key_begins() -> None:
    files = [("a.jpg", b"1"), ("a.png", b"2"), ("a.TXT", b"3"), ("a.txt", b"4"), ("b.txt", b"5"), ("a.cls", b"6")]
    found, _ = read(tar_bytes(files), "txt")
    assert [
        (sample.key, sample.picture and sample.picture.body, sample.bodies, sample.dropped) for sample in found
    ] == [
        ("a", b"1", {"txt": b"3"}, ("png", "txt")),
        ("b", None, {"txt": b"5"}, ()),
        ("a", None, {}, ("cls",)),
    ]


class TestDamaged:
    WHOLE = tar_bytes([("a.jpg", b"x" * 1500), ("b.jpg", b"y" * 700)])
    SECOND = 2048  # where the header of b.jpg stands

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "is damaged before byte 0 (empty file)"),
            (WHOLE[:1000], "is cut off in a.jpg"),
            (WHOLE[: SECOND + 300], "is cut off behind a.jpg"),
            (WHOLE[: SECOND + 600], "is cut off in b.jpg"),
            (WHOLE[:-1], "is cut off in b.jpg"),
            (WHOLE[:SECOND] + b"?" * BLOCK + WHOLE[SECOND:], "is no tar from byte 2,048 on"),
            (b"<html>" * 200, "is damaged before byte 512 (invalid header)"),
            (
                WHOLE + bytes(2 * BLOCK) + WHOLE,
                f"goes on behind its end, within {512 + len(WHOLE):,} bytes before byte {1024 + 2 * len(WHOLE):,} "
                "(tars are joined by `tar --concatenate`, not by `cat`)",
            ),
        ],
    )
    @pytest.mark.parametrize("wanted", [["jpg"], []])
    def test_is_told(self, data: bytes, message: str, wanted: list[str]) -> None:
        with pytest.raises(DamagedTar) as error:
            read(data, *wanted)
        assert str(error.value) == message

    def test_without_an_end_it_is_whole(self) -> None:
        assert [sample.key for sample in read(self.WHOLE)[0]] == ["a", "b"]
