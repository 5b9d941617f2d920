"""A search in parts that are committed one by one, so that a killed search resumes. No Beam.

plan.json         settings and input, written first
.parts/00000.npy  the result of a part; 00000_stats.json is its commit marker
manifest.json     written last; then the parts and their markers are removed
"""

import hashlib
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import identity, manifest
from gesso.dataset.layout import MANIFEST, PLAN, marker_name, part_name
from gesso.dataset.shards import HashingWriter

Json = dict[str, Any]
Counts = dict[str, int]
Array = npt.NDArray[Any]


def start_or_resume(output: str, record: Json) -> bool:
    """Writes plan.json unless it exists; returns whether the search is finished already.

    Raises UserError where `output` holds a search with other settings, or other files.
    """
    plan = manifest.read_plan(output)
    if plan:
        manifest.check_settings(plan, record, output)
    else:
        manifest.clear_unfinished_plan(output)
        hinted = identity.with_paths(record, partial(identity.hint, output=output))
        storage.write_json(storage.join(output, PLAN), hinted)
    return is_finished(output)


def is_finished(output: str) -> bool:
    """Whether the manifest exists and every file has the size that it states."""
    name = storage.join(output, MANIFEST)
    return storage.exists(name) and manifest.is_whole(storage.read_json(name), manifest.sizes(output))


def write_part(
    output: str, index: int, array: Array, count: int, left_out: Counts, started: float, ended: float
) -> None:
    """Commits the result of a part, in which `count` items were searched; `left_out`: how many vectors, by reason."""
    with storage.write_whole(storage.join(output, part_name(index))) as stream:
        hashing = HashingWriter(stream)
        np.save(hashing, array, allow_pickle=False)
    entry = {part_name(index): hashing.summary()}
    times = {"start_time": started, "end_time": ended}
    marker = {"count": count, "left_out": left_out, **times, "files": entry}
    storage.write_json(storage.join(output, marker_name(index)), marker)


def read_part(output: str, index: int) -> Array:
    with storage.open_input(storage.join(output, part_name(index))) as stream:
        return np.load(stream, allow_pickle=False)


def left_out(output: str) -> Counts:
    """How many vectors the committed parts have left out, by reason."""
    counts = Counter[str]()
    for marker in manifest.committed(output).values():
        counts.update(marker.get("left_out", {}))
    return dict(sorted(counts.items()))


def describe_counts(counts: Counts) -> str:
    """`3 vectors are left out: 2 vector_not_finite, 1 vector_zero`; nothing where none is."""
    if not counts:
        return ""
    return f"{sum(counts.values()):,} vectors are left out: {', '.join(f'{n:,} {name}' for name, n in counts.items())}"


def write_table(path: str, table: pa.Table) -> Json:
    """Writes a parquet file; returns its size and checksum."""
    with storage.write_whole(path) as stream:
        hashing = HashingWriter(stream)
        pq.write_table(table, hashing, compression="zstd")
    return hashing.summary()


def file_summary(path: str) -> Json:
    """Size and checksum of an existing file."""
    with storage.open_input(path) as stream:
        body = stream.read()
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def remove_parts(output: str) -> None:
    """Removes the parts of a finished search and the temporary files of killed runs."""
    for name in manifest.sizes(output):
        if name.startswith(".parts/") or manifest.MARKER.fullmatch(name) or manifest.LEFT_BEHIND.search(name):
            storage.remove(storage.join(output, name))
    for progress_file in storage.files(storage.join(output, ".progress")):
        storage.remove(progress_file.path)
