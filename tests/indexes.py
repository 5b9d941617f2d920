"""Small indexes for tests, made by hand: tars as others write them, and the rows that `gesso index` makes of them."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gesso import images, storage
from gesso.dataset import identity, layout
from gesso.dataset.members import split_name
from gesso.dataset.schemas import INDEX_FIELDS
from tests.pictures import save

Json = dict[str, Any]
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


def write_index(folder: Path, tars: Iterable[Path], key_of: Callable[[Path, str], str] = lambda tar, key: key) -> str:
    """An index of tars in which a sample has a picture (suffix jpg), and may have a txt; others are dropped."""
    output, paths = str(folder), list(tars)
    entries = [write_rows(output, number, path, key_of) for number, path in enumerate(paths)]
    record: Json = {"format": 1, "kind": "index", "settings": {"keys": "sample"}, "input": [{"tars": len(paths)}]}
    storage.write_json(storage.join(output, layout.PLAN), {**record, "shards": len(paths)})
    counts = [entry["successes"] for entry in entries]
    rows = sum(entry["count"] for entry in entries)
    funnel = {"rows_read": rows, "success": sum(counts), "picture_missing": rows - sum(counts)}
    manifest = {**record, "shards": entries, "samples": sum(counts), "funnel": funnel, "versions": {"gesso": "1"}}
    storage.write_json(storage.join(output, layout.MANIFEST), manifest)
    return output


def write_rows(output: str, number: int, path: Path, key_of: Callable[[Path, str], str]) -> Json:
    """Rows and marker of a tar; returns its entry of the manifest."""
    rows = [row(path, key_of, name, files) for name, files in read_tar(path).items()]
    name = layout.rows_name(number)
    storage.make_parent(storage.join(output, name))
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(INDEX_FIELDS)), storage.join(output, name))
    written = {name: summary(Path(output, name))}
    tar = {"path": identity.hint(str(path), output), **summary(path)}
    taken = sum(each["status"] == "success" for each in rows)
    entry = {"index": number, "count": len(rows), "successes": taken, "files": written, "tar": tar}
    reasons = {reason: count for reason, count in (("success", taken), ("picture_missing", len(rows) - taken)) if count}
    times = {"duration": 1.0, "start_time": 100.0, "end_time": 101.0}
    failed = {"failed_to_download": 0, "failed_to_resize": 0, "rejected": len(rows) - taken}
    marker = {**entry, **failed, **times, "status_dict": reasons, "members_dropped": {"cls": len(rows)}}
    del marker["index"]
    storage.write_json(storage.join(output, layout.marker_name(number)), marker)
    return entry


def read_tar(path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    found = dict[str, dict[str, tarfile.TarInfo]]()
    with tarfile.open(path) as tar:
        for member in tar:
            name, suffix = split_name(member.name)
            found.setdefault(name, {})[suffix.lower()] = member
    return found


def row(path: Path, key_of: Callable[[Path, str], str], name: str, files: dict[str, tarfile.TarInfo]) -> Json:
    about: Json = {"key": key_of(path, name), "url": "", "source_tar": path.name, "source_key": name}
    caption = body(path, files["txt"]).decode() if "txt" in files else ""
    if "jpg" not in files:
        return {**about, "caption": caption, "status": "rejected", "reason": "picture_missing"}
    image = body(path, files["jpg"])
    header = images.read_header(image)
    sizes = {"width": header.width, "height": header.height}
    place = {"image_offset": files["jpg"].offset_data, "image_bytes": len(image), "image_format": header.format}
    kept = {"status": "success", "sha256": hashlib.sha256(image).hexdigest()}
    return {**about, "caption": caption, **kept, **sizes, **place}


def body(path: Path, member: tarfile.TarInfo) -> bytes:
    return path.read_bytes()[member.offset_data : member.offset_data + member.size]


def summary(path: Path) -> Json:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_sources(folder: Path, counts: Iterable[int] = (6, 5)) -> list[Path]:
    """Tars of consecutive numbers, `counts` in each."""
    paths, start = [], 0
    for place, count in enumerate(counts):
        paths.append(folder / f"part-{place}.tar")
        write_tar(paths[-1], map(sample, range(start, start + count)))
        start += count
    return paths
