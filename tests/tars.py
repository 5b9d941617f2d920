"""Tars for tests, as others write them."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.datasets import picture

Files = list[tuple[str, bytes]]

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
BLOCK = tarfile.BLOCKSIZE


def sample(key: str, number: int, caption: str | None = None) -> Files:
    """A picture, its caption and a JSON, as img2dataset names them."""
    text = f"a picture of the number {number} — «ö»" if caption is None else caption
    fields = {
        "url": f"http://host.example/{number}.jpg",
        "caption": f"json of {number}",
        "original_width": 300 + number,
    }
    return [
        (f"{key}.jpg", picture(number)),
        (f"{key}.txt", text.encode()),
        (f"{key}.json", json.dumps(fields).encode()),
    ]


def samples(numbers: Iterable[int]) -> Files:
    return [file for number in numbers for file in sample(f"{number:09d}", number)]


def write_tar(path: Path, files: Files, form: str = "ustar") -> Path:
    """A tar by Python's tarfile, in one of FORMATS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=FORMATS[form]) as tar:
        for name, body in files:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def tar_bytes(files: Files) -> bytes:
    """A tar's members without its end."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, body in files:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        end = tar.offset
    return stream.getvalue()[:end]
