"""A directory of shards: plan.json, commit markers, manifest.json. Also for shards of img2dataset. No Beam.

plan.json        written when the plan is complete: settings, shards, funnel so far
0…n_stats.json   a shard's commit marker (shards.py)
manifest.json    written last: every shard with its files' sizes and checksums, settings, versions, the funnel
"""

import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

from gesso import storage
from gesso.dataset import identity
from gesso.dataset.layout import (
    CARD,
    MANIFEST,
    NOTES,
    PLAN,
    former_plan_name,
    former_rejected_name,
    plan_name,
    rows_name,
)
from gesso.dataset.records import PLANNED, REPEATS, ROWS_READ, SUCCESS
from gesso.errors import UserError
from gesso.flags import differences

MARKER = re.compile(r"(\d{5,})_stats\.json")
PROGRESS_FILE = re.compile(r"(\d{5,})\.json")
LEFT_BEHIND = re.compile(r"\.tmp-[0-9a-f]{12}$")
FOLDERS = ("rejected", "img_emb", "metadata", "tars", ".parts")  # that hold shards' files
READERS = 16  # small files read at a time
# The versions that the bytes of a dataset depend on.
VERSIONED = ("gesso", "apache-beam", "fasttext-predict", "opencv-python-headless", "pillow", "pyarrow", "simplejpeg")
VERSIONED_BY_ENGINE = {"gesso": (), "img2dataset": ("img2dataset", "albumentations")}

Json = dict[str, Any]


def versions(engine: str) -> dict[str, str]:
    return {name: version(name) for name in (*VERSIONED, *VERSIONED_BY_ENGINE[engine])}


def read_plan(output: str) -> Json | None:
    """The plan; None where there is none. Raises UserError where it is damaged."""
    path = storage.join(output, PLAN)
    if not storage.exists(path):
        return None
    plan = read_object(path)
    if plan is None:
        raise UserError(
            f"{path} is damaged: bring it back, or give another --output; `gesso verify` tells what is whole"
        )
    return plan


def read_object(path: str) -> Json | None:
    """A file's JSON object; None where it is none."""
    try:
        value = storage.read_json(path)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def plan_path(output: str, index: int) -> str:
    """Where the planned pairs of a shard stand."""
    former = storage.join(output, former_plan_name(index))
    return former if storage.exists(former) else storage.join(output, plan_name(index))


def plan_record(record: Json, planned: Counter[str], rows: Counter[str], shards: int) -> Json:
    """plan.json: `record` (settings, input), the shards, the links to fetch, the counts of rows without a link."""
    repeats = {reason: planned[reason] for reason in REPEATS}
    unplanned = {reason: number for reason, number in rows.items() if reason not in (ROWS_READ, PLANNED)}
    return {
        **record,
        "shards": shards,
        "links": planned[PLANNED],
        "rows_read": rows[ROWS_READ],
        "counted_only": dict(sorted({**repeats, **unplanned}.items())),
    }


def plan_from_markers(markers: dict[int, Json]) -> Json:
    """What a plan of img2dataset's own shards, which have none, would state: every link of the markers."""
    return {"links": sum(marker["count"] for marker in markers.values()), "shards": len(markers)}


def sizes(output: str) -> dict[str, int]:
    """Bytes of every file by its name below `output`, but for the plan's."""
    below = (
        (f"{folder}/{name}", size)
        for folder in FOLDERS
        for name, size in storage.sizes(storage.join(output, folder)).items()
    )
    return {**storage.sizes(output), **dict(below)}


def committed(output: str, known: frozenset[int] = frozenset()) -> dict[int, Json]:
    """The markers of committed shards: those whose files all have the sizes that the marker states.

    A damaged marker commits nothing: its shard is written again. The shards in `known` are skipped.
    """
    present = sizes(output)
    matches = [match for match in map(MARKER.fullmatch, present) if match and int(match[1]) not in known]
    with ThreadPoolExecutor(READERS) as pool:
        markers = list(pool.map(lambda match: read_object(storage.join(output, match[0])), matches))
    indexed = {int(match[1]): marker for match, marker in zip(matches, markers, strict=True)}
    return {index: marker for index, marker in sorted(indexed.items()) if marker and is_whole(marker, present)}


def progress_counts(output: str, committed: frozenset[int]) -> list[Counter[str]]:
    """The counts of shards that are being written (dataset/progress.py; on local disks alone)."""
    found = map(PROGRESS_FILE.fullmatch, storage.sizes(storage.join(output, NOTES)))
    paths = [storage.join(output, NOTES, match[0]) for match in found if match and int(match[1]) not in committed]
    return [counts for counts in map(read_progress_file, paths) if counts]


def read_progress_file(path: str) -> Counter[str] | None:
    """A shard's progress file; None where it has just been replaced by the marker."""
    try:
        return Counter(storage.read_json(path))
    except FileNotFoundError:
        return None


def clear_unfinished_plan(output: str) -> None:
    """Removes an unfinished plan; raises UserError where the directory holds anything else."""
    for name in sizes(output):
        if LEFT_BEHIND.search(name):
            storage.remove(storage.join(output, name))
        elif not name.startswith("."):
            raise UserError(f"{output} already holds {name}, which is no plan of gesso's: give another --output")
    for item in storage.files(storage.join(output, "plan")):
        storage.remove(item.path)


def finish(output: str) -> None:
    """Writes card and manifest when every shard of the plan is committed; removes temporary files of killed runs."""
    plan = read_plan(output)
    assert plan is not None, output
    markers = committed(output)
    missing = [index for index in range(plan["shards"]) if index not in markers]
    if missing:
        raise RuntimeError(f"{output}: shards {missing[:10]} are not committed")
    listed = {name for marker in markers.values() for name in marker["files"]}
    former = {former_rejected_name(index) for index in markers} - listed
    for name in sizes(output):
        if LEFT_BEHIND.search(name) or name in former:
            storage.remove(storage.join(output, name))
    for note in storage.files(storage.join(output, NOTES)):
        storage.remove(note.path)
    write_card(output, funnel(plan, markers.values()))
    storage.write_json(storage.join(output, MANIFEST), build_manifest(plan, markers))


def write_card(output: str, counted: Json) -> None:
    """The dataset card, with the types of the first shard's rows, which are those of all."""
    import pyarrow.parquet as pq

    from gesso.dataset import collection_card

    with storage.open_input(storage.join(output, rows_name(0))) as stream:
        schema = pq.read_schema(stream)
    with storage.write_whole(storage.join(output, CARD)) as stream:
        stream.write(collection_card.render(counted, schema).encode())


def is_whole(marker: Json, present: dict[str, int]) -> bool:
    return all(present.get(name) == entry["bytes"] for name, entry in marker.get("files", {}).items())


def funnel(plan: Json, markers: Iterable[Json]) -> Json:
    """The number of rows read and the outcome of each: `rows_read` is the sum of all others."""
    ended = Counter[str]()
    for marker in markers:
        ended.update(marker["status_dict"])
    counted = {reason: count for reason, count in plan["counted_only"].items() if count}
    return {"rows_read": plan["rows_read"], SUCCESS: ended.pop(SUCCESS, 0), **counted, **dict(sorted(ended.items()))}


def build_manifest(plan: Json, markers: dict[int, Json]) -> Json:
    """manifest.json; it depends on the shards alone, not on when they were written."""
    return {
        "format": 1,
        "shards": [
            {"index": index, "count": marker["count"], "successes": marker["successes"], "files": marker["files"]}
            for index, marker in sorted(markers.items())
        ],
        "samples": sum(marker["successes"] for marker in markers.values()),
        "funnel": funnel(plan, markers.values()),
        "settings": plan["settings"],
        "input": plan["input"],
        "versions": versions(plan["settings"]["engine"]),
    }


def check_settings(plan: Json, record: Json, output: str) -> None:
    """Raises UserError with every difference where an output was started with other settings or other input.

    Inputs are compared by content, wherever they are (identity.py; tables of links by `same_tables`).
    """
    changed = differences(plan["settings"], record["settings"])
    if not same_tables(plan["input"], record["input"]):
        old, new = ([{"path": item.get("name"), **item} for item in side["input"]] for side in (plan, record))
        inputs = identity.differing(old, new, output)
        changed += [f"input: {', '.join(inputs)}"] if inputs else []
    if changed:
        raise UserError(
            f"{output} was begun with other settings: {'; '.join(changed)}; "
            "give the old ones to go on, or another --output to begin anew"
        )


def same_tables(old: list[Json], new: list[Json]) -> bool:
    """Whether two inputs are the same tables of links, wherever they stand: by name, size and hash.

    plan.json of gesso before December 2026 has paths and no hashes: name and size decide there.
    """
    if not all("ends_sha256" in item for item in new):
        return False
    hashed = all("ends_sha256" in item for item in old)

    def known_by(item: Json) -> tuple[str, int, str]:
        name = item["name"] if "name" in item else item["path"].rpartition("/")[2]
        return name, item["bytes"], item["ends_sha256"] if hashed else ""

    return sorted(map(known_by, old)) == sorted(map(known_by, new))
