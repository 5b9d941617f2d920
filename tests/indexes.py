"""Small indexes for tests: tars as others write them, indexed by the functions of `gesso index`, without Beam."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gesso.pipelines.index import job, tars
from gesso.pipelines.index.indexer import index_tar
from gesso.pipelines.index.settings import IndexSettings
from tests.pictures import save

Sample = tuple[str, dict[str, bytes]]  # key and files by suffix

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
LONG = "文" * 40 + "/" + "long" * 30


def picture(number: int) -> bytes:
    """A picture that no other number has, in each of the four formats in turn."""
    cells = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return save(Image.fromarray(cells.repeat(8, 0).repeat(8, 1)), FORMATS[number % 4])


def key(number: int) -> str:
    """Keys as others have them: with folders, dots, long, not ASCII."""
    return (f"{number:06d}", f"cc3m.v1/{number:06d}", f"{LONG}-{number}", f"été/número-{number}")[number % 4]


def sample(number: int) -> Sample:
    files = {"jpg": picture(number), "txt": f"A picture of number {number} — «ö»".encode(), "cls": str(number).encode()}
    return key(number), files


def write_tar(path: Path, samples: Iterable[Sample], form: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form, encoding="utf-8") as tar:
        for name, files in samples:
            for suffix, body in files.items():
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size, info.mtime = len(body), 1.5  # type: ignore[assignment]
                tar.addfile(info, io.BytesIO(body))


def write_index(folder: Path, paths: Iterable[Path], **settings: Any) -> str:
    """What `gesso index` makes of tars."""
    opened, _ = tars.open_tars(tars.find_tars(list(map(str, paths))), unpack=False)
    running = job.Job(str(folder), tuple(opened), tars.input_record(opened), IndexSettings(**settings))
    job.write_or_check_plan(running)
    for tar in opened:
        index_tar(running.output, tar, running.settings)
    job.finish(running, [])
    return str(folder)


def summary(path: Path) -> dict[str, Any]:
    """Size and checksum, as a manifest has them."""
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write_sources(folder: Path, counts: Iterable[int] = (6, 5)) -> list[Path]:
    """Tars of consecutive numbers, `counts` in each."""
    paths, start = [], 0
    for place, count in enumerate(counts):
        paths.append(folder / f"part-{place}.tar")
        write_tar(paths[-1], map(sample, range(start, start + count)))
        start += count
    return paths
