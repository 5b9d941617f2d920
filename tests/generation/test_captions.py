"""Captions of the command line and of files; what is no caption is told with its line."""

from pathlib import Path

import pytest

from gesso.errors import UserError
from gesso.generation import captions


def write(folder: Path, content: bytes) -> str:
    (folder / "captions.txt").write_bytes(content)
    return str(folder / "captions.txt")


@pytest.mark.parametrize(
    "content",
    [
        b"a cat\nein H\xc3\xbcndchen\n",
        b"\xef\xbb\xbfa cat\r\nein H\xc3\xbcndchen",
        b" a cat\t\nein H\xc3\xbcndchen\n\n \n",
    ],
    ids=["plain", "of Windows", "with blanks"],
)
def test_one_a_line(tmp_path: Path, content: bytes) -> None:
    assert captions.read(write(tmp_path, content)) == ["a cat", "ein Hündchen"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "captions.txt line 1 is empty"),
        (b"a cat\n\na dog\n", "captions.txt line 2 is empty: write what the picture shows"),
        (b"\x89PNG\r\n\x1a\n\x00", "captions.txt is no UTF-8 text (invalid start byte at byte 0)"),
        (b"a cat\na\x00b\n", "captions.txt line 2 is no text: it has '\\x00' after 'a'"),
        (b"caf\xe9\n", "captions.txt is no UTF-8 text (invalid continuation byte at byte 3)"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(UserError) as raised:
        captions.read(write(tmp_path, content))
    assert told in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--captions .* is not there"):
        captions.read(str(tmp_path / "none"))


def test_one_or_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, b"a cat\n")
    assert captions.given(" a dog ", "") == ["a dog"]
    assert captions.given("", path) == ["a cat"]
    for both in (("a dog", path), ("", "")):
        with pytest.raises(UserError, match="give one caption"):
            captions.given(*both)
