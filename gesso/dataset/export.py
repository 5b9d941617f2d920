"""An exported directory: its plan, its committed shards, its manifest. No Beam.

dropped.parquet              key (column uid) and reason of every sample that a drop list names
train/00000.parquet          a row for each sample, in the order of the tar, with ranges for random access
train/00000.tar              KEY.jpg KEY.txt KEY.json of each sample
train/00000_stats.json       the commit marker of the two
validation/…                 the same for the validation split
plan.json                    written when all rows are: settings, input, shards, funnel
README.md                    the dataset card (card.py)
coco_overlap.json            the references to leave out, where an overlap was given
manifest.json                written last: every file with size and checksum
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from gesso import progress, storage
from gesso.dataset import card, manifest
from gesso.dataset.layout import CARD, DROPPED, LEFT_OUT, MANIFEST, SPLITS, rows_name
from gesso.dataset.progress import ShardsProgress
from gesso.errors import UserError
from gesso.progress import State

if TYPE_CHECKING:
    import pyarrow as pa

Json = dict[str, Any]

KIND = "export"
VERSIONED = ("gesso", "apache-beam", "pyarrow")  # the bytes depend on these
ROWS = re.compile(r"\d{5,}\.parquet")


class Target(NamedTuple):
    """A shard to write."""

    split: str
    number: int
    rows: Json  # size and checksum of its parquet


def versions() -> dict[str, str]:
    return {name: version(name) for name in VERSIONED}


def targets(plan: Json) -> list[Target]:
    return [Target(entry["split"], entry["index"], entry["rows"]) for entry in plan["shards"]]


def committed(output: str) -> dict[tuple[str, int], Json]:
    """The markers of committed shards, by split and index."""
    found = {split: manifest.committed(storage.join(output, split)) for split in SPLITS}
    return {(split, index): marker for split, markers in found.items() for index, marker in markers.items()}


def missing(output: str, plan: Json) -> list[Target]:
    done = committed(output)
    return [target for target in targets(plan) if (target.split, target.number) not in done]


def is_finished(output: str, plan: Json) -> bool:
    present = manifest.sizes(output)
    return MANIFEST in present and all_files_whole(output, present) and not missing(output, plan)


def all_files_whole(output: str, present: dict[str, int]) -> bool:
    return manifest.is_whole(storage.read_json(storage.join(output, MANIFEST)), present)


def leftover_files(output: str) -> Iterator[str]:
    """Names of the files that an export which was killed before plan.json can have left."""
    yield from (name for name in manifest.sizes(output) if name == DROPPED or manifest.LEFT_BEHIND.search(name))
    for split in SPLITS:
        for name in storage.sizes(storage.join(output, split)):
            if ROWS.fullmatch(name) or manifest.LEFT_BEHIND.search(name):
                yield f"{split}/{name}"


def clear_unfinished(output: str) -> None:
    """Removes an unfinished plan; raises UserError where the directory holds anything else."""
    ours = set(leftover_files(output))
    present = {name for name in manifest.sizes(output) if not name.startswith(".")}
    present |= {f"{split}/{name}" for split in SPLITS for name in storage.sizes(storage.join(output, split))}
    if present - ours:
        raise UserError(
            f"{output} already holds {min(present - ours)}, which is not a file of an export: give another --output"
        )
    for name in ours:
        storage.remove(storage.join(output, name))


def plan_record(record: Json, input_info: Json, entries: list[Json], counts: dict[str, int], samples: Json) -> Json:
    """plan.json. `input_info`: fields about the input for `finish`; `counts`: dropped samples by reason."""
    dropped = {reason: counts.get(reason, 0) for reason in input_info["listed"]}
    not_found = {reason: listed - dropped[reason] for reason, listed in input_info["listed"].items()}
    order = {split: number for number, split in enumerate(SPLITS)}
    return {
        "format": 1,
        "kind": KIND,
        **record,
        **input_info,
        "samples": samples,
        "funnel": {"samples_read": sum(samples.values()) + sum(dropped.values()), **samples, **dropped},
        "not_found": not_found,
        "shards": sorted(entries, key=lambda entry: (order[entry["split"]], entry["index"])),
    }


def finish(output: str) -> None:
    """Writes card, left-out references and manifest when every shard is committed; removes temporary files."""
    plan = manifest.read_plan(output)
    assert plan is not None, output
    markers = committed(output)
    shards = [
        {"split": name.split, "index": name.number, **entry_of(markers[name.split, name.number])}
        for name in targets(plan)
    ]
    for folder in (output, *(storage.join(output, split) for split in SPLITS)):
        for name in manifest.sizes(folder):
            if manifest.LEFT_BEHIND.search(name):
                storage.remove(storage.join(folder, name))
    bytes_of = Counter[str]()
    for entry in shards:
        bytes_of[entry["split"]] += sum(item["bytes"] for item in entry["files"].values())
    text = card.render(plan, bytes_of, source_schema(output, plan))
    written = {CARD: write_text(output, CARD, text)}
    if plan["overlaps"]:
        written[LEFT_OUT] = write_text(output, LEFT_OUT, card.left_out(plan["overlaps"]))
    if plan["dropped"]:
        written[DROPPED] = plan["dropped"]
    storage.write_json(storage.join(output, MANIFEST), build_manifest(plan, shards, written))


def source_schema(output: str, plan: Json) -> "pa.Schema | None":
    """The columns of the collection's rows, whose fields KEY.json has; None where img2dataset collected them."""
    if not plan["source_settings"]:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gesso.dataset.schemas import RANGE_FIELDS

    first = targets(plan)[0]
    with storage.open_input(storage.join(output, first.split, rows_name(first.number))) as stream:
        found = pq.read_schema(stream)
    places = {field.name for field in RANGE_FIELDS}
    return pa.schema([field for field in found if field.name not in places])


def entry_of(marker: Json) -> Json:
    return {"count": marker["count"], "files": marker["files"]}


def write_text(output: str, name: str, text: str) -> Json:
    """Writes a small file; returns its size and checksum."""
    body = text.encode()
    with storage.write_whole(storage.join(output, name)) as stream:
        stream.write(body)
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def build_manifest(plan: Json, shards: list[Json], written: Json) -> Json:
    """manifest.json; it depends on input and settings alone, not on when it was written."""
    return {
        "format": 1,
        "kind": KIND,
        "shards": shards,
        "files": dict(sorted(written.items())),
        "samples": sum(plan["samples"].values()),
        "splits": plan["samples"],
        "funnel": plan["funnel"],
        "not_found": plan["not_found"],
        "source_funnel": plan["source_funnel"],
        "decisions": [{name: overlap[name] for name in card.DECISION_FIELDS} for overlap in plan["overlaps"]],
        "settings": plan["settings"],
        "input": plan["input"],
        "versions": versions(),
    }


class ExportProgress:
    """Reads the progress of an export at each call; a marker is read once."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._splits: list[ShardsProgress] = []
        self._total = 0

    def __call__(self) -> State:
        plan = None if self._splits else manifest.read_plan(self._output)
        if plan:
            self._total = sum(plan["samples"].values())
            folders = [storage.join(self._output, split) for split in SPLITS]
            self._splits = [ShardsProgress(folder, self._total, "images") for folder in folders]
        if not self._splits:
            return State(0, None, lambda rate: "planning: reading rows and the headers of tars")
        done = sum(progress_of().done for progress_of in self._splits)
        return State(done, self._total, lambda rate: progress.line(done, self._total, "images", rate))
