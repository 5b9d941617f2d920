"""An index of tars that others wrote (`gesso index`): rows that tell where in a tar each picture is. No Beam.

00000.parquet      schemas.INDEX_FIELDS, a row for every sample of one tar, in its order
00000_stats.json   its commit marker, which names the tar
manifest.json      kind "index": every shard, and the path, size and checksum of its tar

Nothing of the tars is copied: every reader takes the pictures from there, by their byte ranges.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import identity, kinds
from gesso.dataset.layout import MANIFEST, marker_name, rows_name
from gesso.dataset.manifest import read_object
from gesso.dataset.records import SUCCESS
from gesso.dataset.schemas import INDEX_FIELDS, METADATA_FIELDS
from gesso.errors import UserError
from gesso.storage import Found

Json = dict[str, Any]

KIND = "index"
SUFFIXES = {"jpeg": "jpg", "png": "png", "webp": "webp", "gif": "gif"}  # of a picture's file, by its format
ROWS = 1024  # that are made text at once
READ = 16 << 20  # bytes of neighbouring pictures that are read at once
GAP = 64 << 10  # bytes between two pictures that are read along with them, sooner than asking twice
PLACES = ("image_offset", "image_bytes")
METADATA = {field.name for field in METADATA_FIELDS}
# What an embedding's metadata tells of a picture, with the picture's place.
METADATA_COLUMNS = [field.name for field in INDEX_FIELDS if field.name in METADATA or field.name.startswith("image_")]
NAMES = ("key", "image_format")  # that `image_name` wants


def is_index(path: str) -> bool:
    """Whether a directory is an index, finished or not."""
    return kinds.stated(path) == KIND


def read_tars(path: str) -> dict[int, Found]:
    """The tar of each shard of a finished index; none where the directory is no such index."""
    name = storage.join(path, MANIFEST)
    manifest = read_object(name) if storage.exists(name) else None
    return tars(path, manifest) if manifest and manifest.get("kind") == KIND else {}


def tars(path: str, manifest: Json) -> dict[int, Found]:
    """Place and size of each shard's tar, as the manifest tells them."""
    return {
        entry["index"]: Found(identity.resolve(entry["tar"]["path"], path), entry["tar"]["bytes"])
        for entry in manifest["shards"]
    }


def tar_of(path: str, number: int) -> Found:
    """The tar of an indexed shard, by its marker: also where the index is not finished."""
    tar = storage.read_json(storage.join(path, marker_name(number)))["tar"]
    return Found(identity.resolve(tar["path"], path), tar["bytes"])


def check_tars(path: str, listed: Iterable[Found]) -> None:
    """Raises UserError for the first tar that is gone or has another size than the index states."""
    folders = dict[str, dict[str, int]]()
    for tar in listed:
        folder, _, name = tar.path.rpartition("/")
        if folder not in folders:
            folders[folder] = storage.sizes(folder)
        size = folders[folder].get(name)
        if size != tar.size:
            found = "is gone" if size is None else f"has {size:,} bytes, {tar.size:,} when it was indexed"
            raise UserError(
                f"{tar.path} {found}: bring it back, or run `gesso index` on the tars as they are now, with another "
                f"--output than {path}"
            )


def image_name(key: str, form: str) -> str:
    """The name of a sample's picture by the picture's format, as an export has it."""
    return f"{key}.{SUFFIXES[form]}"


def read_taken(path: str, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a shard's taken samples, in their tar's order. Raises UserError where they cannot be read."""
    import pyarrow.compute as pc  # numpy, which `gesso verify` does without

    name = storage.join(path, rows_name(number))
    wanted = None if columns is None else [*columns, *({"status"} - set(columns))]
    try:
        table = pq.read_table(io.BytesIO(storage.read(name)), columns=wanted)
        taken = table.filter(pc.equal(table["status"], SUCCESS))
        return taken if columns is None else taken.select(columns)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{name} cannot be read ({reason}): `gesso verify` tells what is damaged") from error


def texts(rows: pa.RecordBatch) -> Iterator[tuple[bytes, bytes]]:
    """Caption and fields of each row as an export writes them: KEY.txt and KEY.json, as a collection has them."""
    from gesso.dataset.json_values import json_rows
    from gesso.dataset.shards import json_text

    for start in range(0, rows.num_rows, ROWS):
        for row in json_rows(rows.slice(start, ROWS)):
            yield row["caption"].encode(), json_text(row)


def read_bodies(tar: str, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of ranges (offset, size) of a tar, which ascend: a few large reads. Raises UserError."""
    try:
        content = storage.Ranges(tar)
        for group in groups(places):
            start, last = group[0][0], group[-1]
            data = memoryview(content.read(start, last[0] + last[1] - start))
            for offset, size in group:
                body = bytes(data[offset - start : offset - start + size])
                if len(body) != size:
                    raise UserError(f"{tar} ends before byte {offset + size:,}: it has changed since it was indexed")
                yield body
    except OSError as error:
        raise UserError(f"{tar} cannot be read ({error.strerror or error}): bring it back") from error


def groups(places: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Neighbouring ranges that are read at once."""
    group: list[tuple[int, int]] = []
    end = 0
    for offset, size in places:
        if group and (offset - end > GAP or offset + size - group[0][0] > READ):
            yield group
            group = []
        group.append((offset, size))
        end = offset + size
    if group:
        yield group
