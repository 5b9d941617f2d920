"""Checks of an export for `gesso verify`: files against the manifest, samples against their rows. No Beam."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import export, layout, manifest, members
from gesso.dataset.layout import MANIFEST, SPLITS, marker_name, rows_name, tar_name
from gesso.dataset.manifest import READERS, read_object

Json = dict[str, Any]
Advance = Callable[[int], None]  # called with a number of bytes

BLOCK = 1 << 20  # bytes read at a time
COLUMNS = ["key", "offset", "bytes", "image_bytes", "caption_bytes", "json_bytes"]


def verify(output: str, manifest: Json | None, start: Advance, advance: Advance, threads: int) -> list[str]:
    """A line for each problem of the export; none where it is complete and undamaged. Unfinished without a manifest."""
    present = all_sizes(output)
    if manifest is None:
        plan = storage.read_json(storage.join(output, layout.PLAN))
        missing = len(export.missing(output, plan))
        return [
            f"unfinished: {missing:,} of {len(plan['shards']):,} shards are missing; run the same `gesso export` again"
        ]
    entries = dict(listed_files(manifest))
    start(sum(present.get(name, 0) for name in entries))
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda item: check_file(output, item[0], item[1], present, advance), entries.items()))
        broken = {name for name, problem in zip(entries, found, strict=True) if problem}
        samples = pool.map(lambda shard: check_samples(output, shard, broken), manifest["shards"])
        problems = [problem for problem in (*found, *(line for lines in samples for line in lines)) if problem]
    markers = {f"{shard['split']}/{marker_name(shard['index'])}" for shard in manifest["shards"]}
    problems += [f"{name}: missing" for name in sorted(markers - present.keys())]
    problems += damaged_markers(output, present)
    below = {name for name in present if "/" in name}
    problems += [f"{name}: not in {MANIFEST}" for name in sorted(below - entries.keys() - markers)]
    counted = sum(shard["count"] for shard in manifest["shards"])
    if not counted == manifest["samples"] == sum(manifest["splits"].values()):
        problems.append(f"{MANIFEST}: {manifest['samples']:,} samples, its shards hold {counted:,}")
    if layout.PLAN not in present:
        problems.append(f"{layout.PLAN}: missing")
    read, *ended = manifest["funnel"].values()
    if read != sum(ended):
        problems.append(f"the funnel does not add up: {read:,} samples read, {sum(ended):,} accounted for")
    return problems


def all_sizes(output: str) -> dict[str, int]:
    """Bytes of every file by its name below `output`, including those of the splits."""
    found = manifest.sizes(output)
    for split in SPLITS:
        found |= {f"{split}/{name}": size for name, size in manifest.sizes(storage.join(output, split)).items()}
    return found


def listed_files(manifest: Json) -> Iterator[tuple[str, Json]]:
    """The names of all files in the manifest, each with size and checksum."""
    yield from manifest["files"].items()
    for shard in manifest["shards"]:
        for name, entry in shard["files"].items():
            yield f"{shard['split']}/{name}", entry


def damaged_markers(output: str, present: dict[str, int]) -> list[str]:
    """A line for each marker that is no JSON object: its shard counts as not written."""
    names = [name for name in sorted(present) if name.endswith("_stats.json")]
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda name: read_object(storage.join(output, name)), names)
        return [f"{name}: not a JSON object" for name, marker in zip(names, read, strict=True) if marker is None]


def check_file(
    output: str, name: str, entry: Json, present: dict[str, int], advance: Advance, lists: str = MANIFEST
) -> str:
    """The problem of a file's size or checksum, which the file `lists` tells; an empty string for none."""
    if name not in present:
        return f"{name}: missing"
    if present[name] != entry["bytes"]:
        return f"{name}: {present[name]:,} bytes, in {lists} {entry['bytes']:,}"
    damage = checksum_damage(storage.join(output, name), entry["sha256"], advance, lists)
    return f"{name}: {damage}" if damage else ""


def checksum_damage(path: str, sha256: str, advance: Advance, lists: str = MANIFEST) -> str:
    """What is wrong with a file's content; an empty string for nothing."""
    digest = hashlib.sha256()
    try:
        with storage.open_input(path) as stream:
            while data := stream.read(BLOCK):
                digest.update(data)
                advance(len(data))
    except OSError as error:
        return f"unreadable: {error}"
    return "" if digest.hexdigest() == sha256 else f"sha256 differs from {lists}"


def check_samples(output: str, shard: Json, broken: set[str]) -> list[str]:
    """Lines where a shard's samples are not where its rows say; none where either file is damaged."""
    tar, rows = (f"{shard['split']}/{name(shard['index'])}" for name in (tar_name, rows_name))
    if broken & {tar, rows}:
        return []
    stream = storage.Ranges(storage.join(output, tar))
    try:
        found = members.list_samples(stream.read, stream.size)
        with storage.open_input(storage.join(output, rows)) as opened:
            table = pq.read_table(opened, columns=COLUMNS)
    except members.DamagedTar as damage:
        return [f"{tar}: {damage}"]
    except (pa.ArrowException, ValueError) as error:
        return [f"{rows}: not parquet of an export: {error}".split("\n")[0]]
    expected_samples = zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
    wrong = sum(sample[: len(COLUMNS)] != row for sample, row in zip(found, expected_samples, strict=False)) + abs(
        len(found) - len(table)
    )
    problems = [f"{tar}: {wrong:,} samples are not where {rows} says"] if wrong else []
    if len(table) != shard["count"]:
        problems.append(f"{rows}: {len(table):,} rows, in {MANIFEST} {shard['count']:,}")
    return problems
