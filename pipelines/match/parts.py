"""A search in parts, each committed by itself, so that one that was killed goes on where it stopped. No Beam.

plan.json         settings and input, written first
.parts/00000.npy  what a part has found; 00000_stats.json is its marker, as of a shard
manifest.json     written last; then the parts and their markers go
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import manifest
from gesso.dataset.layout import MANIFEST, PLAN, marker_name, part_name
from gesso.dataset.shards import Hashing

Json = dict[str, Any]
Array = npt.NDArray[Any]


def begin(output: str, record: Json) -> bool:
    """Whether the search is finished already; else plan.json stands after it.

    Raises UserError where `output` holds a search with other settings, or something else.
    """
    plan = manifest.read_plan(output)
    if plan:
        manifest.check_settings(plan, record, output)
    else:
        manifest.clear_unfinished_plan(output)
        storage.write_json(storage.join(output, PLAN), record)
    return is_finished(output)


def is_finished(output: str) -> bool:
    """Whether the manifest stands and every file has the size that it names."""
    name = storage.join(output, MANIFEST)
    return storage.exists(name) and manifest.is_whole(storage.read_json(name), manifest.sizes(output))


def write(output: str, index: int, found: Array, count: int, started: float, ended: float) -> None:
    """Commits a part: what it has found in `count` items."""
    with storage.write_whole(storage.join(output, part_name(index))) as stream:
        hashing = Hashing(stream)
        np.save(hashing, found, allow_pickle=False)
    entry = {part_name(index): hashing.summary()}
    marker = {"count": count, "start_time": started, "end_time": ended, "files": entry}
    storage.write_json(storage.join(output, marker_name(index)), marker)


def read(output: str, index: int) -> Array:
    with storage.open_input(storage.join(output, part_name(index))) as stream:
        return np.load(stream, allow_pickle=False)


def write_table(path: str, table: pa.Table) -> Json:
    """Writes a parquet file; its size and checksum, as manifests keep them."""
    with storage.write_whole(path) as stream:
        hashing = Hashing(stream)
        pq.write_table(table, hashing, compression="zstd")
    return hashing.summary()


def summary(path: str) -> Json:
    """Size and checksum of a file that stands."""
    with storage.open_input(path) as stream:
        body = stream.read()
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def sweep(output: str) -> None:
    """Removes the parts of a finished search and what killed runs have left."""
    for name in manifest.sizes(output):
        if name.startswith(".parts/") or manifest.MARKER.fullmatch(name) or manifest.LEFT_BEHIND.search(name):
            storage.remove(storage.join(output, name))
    for note in storage.files(storage.join(output, ".progress")):
        storage.remove(note.path)
