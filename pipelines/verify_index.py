"""Checks of an index for `gesso verify`: rows and tars by size and checksum, and that the rows fit the tars. No Beam.

A finished index is checked against its manifest, the tars that an unfinished one has read against their markers.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import identity, members
from gesso.dataset.layout import MANIFEST, PLAN, marker_name, rows_name
from gesso.dataset.manifest import MARKER, committed, read_plan, sizes
from gesso.dataset.records import SUCCESS
from gesso.pipelines.verify_export import check_file, checksum_damage, damaged_markers

Json = dict[str, Any]
Advance = Callable[[int], None]  # called with a number of bytes

COLUMNS = ["key", "status", "reason", "image_offset", "image_bytes"]
FIELDS = ("count", "successes", "files", "tar")


def verify(output: str, manifest: Json | None, start: Advance, advance: Advance, threads: int) -> list[str]:
    """A line for each problem of the index; none where it is complete and undamaged. Unfinished without a manifest."""
    present, markers = sizes(output), committed(output)
    entries = manifest["shards"] if manifest else [{"index": number, **each} for number, each in markers.items()]
    start(sum(entry["tar"]["bytes"] + present.get(rows_name(entry["index"]), 0) for entry in entries))
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda entry: check_shard(output, entry, present, advance), entries)
        problems = [line for lines in found for line in lines]
    problems += damaged_markers(output, present)
    if manifest is None:
        return [*problems, unfinished(output, markers)]
    problems += list(compare_markers(manifest, markers, present))
    return problems + list(check_totals(manifest))


def check_shard(output: str, entry: Json, present: dict[str, int], advance: Advance) -> list[str]:
    """Lines for a shard's rows, its tar, and, where both are whole, for rows that do not fit the tar."""
    name = rows_name(entry["index"])
    found = [check_file(output, name, entry["files"][name], present, advance), check_tar(output, entry["tar"], advance)]
    problems = [problem for problem in found if problem]
    return problems or list(check_rows(output, entry))


def check_tar(output: str, tar: Json, advance: Advance) -> str:
    """The problem of a tar's size or checksum; an empty string for none."""
    path = identity.resolve(tar["path"], output)
    try:
        size = storage.Ranges(path).size
    except OSError as error:
        return f"{shown(output, tar)}: {'missing' if isinstance(error, FileNotFoundError) else f'unreadable: {error}'}"
    if size != tar["bytes"]:
        return f"{shown(output, tar)}: {size:,} bytes, in {MANIFEST} {tar['bytes']:,}"
    damage = checksum_damage(path, tar["sha256"], advance)
    return f"{shown(output, tar)}: {damage}" if damage else ""


def shown(output: str, tar: Json) -> str:
    """A tar's name: below the output where it was unpacked into it, else its whole path."""
    path = identity.resolve(tar["path"], output)
    return path.removeprefix(f"{storage.absolute(output)}/")


def check_rows(output: str, entry: Json) -> Iterator[str]:
    """Lines where a shard's rows are not as many as it states, or ranges are not those of files in the tar."""
    name = rows_name(entry["index"])
    try:
        with storage.open_input(storage.join(output, name)) as stream:
            table = pq.read_table(stream, columns=COLUMNS)
    except (pa.ArrowException, ValueError) as error:
        yield f"{name}: not parquet of an index: {error}".split("\n")[0]
        return
    rows = zip(*(table[column].to_pylist() for column in ("status", "image_offset", "image_bytes")), strict=True)
    places = [(offset, size) for status, offset, size in rows if status == SUCCESS]
    if (len(table), len(places)) != (entry["count"], entry["successes"]):
        yield f"{name}: {len(table):,} rows, {len(places):,} of them taken, in {MANIFEST} others"
    wrong = sum(not fits for fits in ranges_fit(identity.resolve(entry["tar"]["path"], output), places))
    if wrong:
        yield f"{name}: {wrong:,} pictures are not where {shown(output, entry['tar'])} has files"


def ranges_fit(tar: str, places: list[tuple[int, int]]) -> Iterator[bool]:
    """Whether the header before each range tells of a file of its size, and the range before has ended there."""
    content = storage.Ranges(tar)
    for (offset, size), (next_offset, next_size) in pairwise([(0, 0), *places]):
        try:
            member, kind = members.read_header(content.read(next_offset - members.BLOCK, members.BLOCK), 0)
        except members.DamagedTar:
            yield False
        else:
            yield (member.bytes, kind in members.REGULAR) == (next_size, True) and offset + size < next_offset


def unfinished(output: str, markers: dict[int, Json]) -> str:
    total = (read_plan(output) or {}).get("shards", 0)
    missing = total - len(markers)
    return f"unfinished: {missing:,} of {total:,} tars are not indexed; run the same `gesso index` again"


def compare_markers(manifest: Json, markers: dict[int, Json], present: dict[str, int]) -> Iterator[str]:
    """Lines for markers that are missing or differ from the manifest, and for a missing plan."""
    if PLAN not in present:
        yield f"{PLAN}: missing"
    numbers = {entry["index"] for entry in manifest["shards"]}
    for entry in manifest["shards"]:
        name, marker = marker_name(entry["index"]), markers.get(entry["index"])
        if name not in present:
            yield f"{name}: missing"
        yield from (f"{name}: {field} differs from {MANIFEST}" for field in FIELDS if differs(marker, entry, field))
    named = ((name, MARKER.fullmatch(name)) for name in sorted(present))
    yield from (f"{name}: not in {MANIFEST}" for name, found in named if found and int(found[1]) not in numbers)


def differs(marker: Json | None, entry: Json, field: str) -> bool:
    return marker is not None and marker.get(field) != entry[field]


def check_totals(manifest: Json) -> Iterator[str]:
    """Lines where the manifest's sums are not those of its shards."""
    counted = Counter[str]()
    for entry in manifest["shards"]:
        counted.update(count=entry["count"], successes=entry["successes"])
    if counted["successes"] != manifest["samples"]:
        yield f"{MANIFEST}: {manifest['samples']:,} samples, its shards hold {counted['successes']:,}"
    read, *ended = manifest["funnel"].values()
    if not read == sum(ended) == counted["count"]:
        yield f"the funnel does not add up: {read:,} samples read, {sum(ended):,} accounted for"
