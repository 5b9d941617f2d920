"""What `gesso export --drop` takes: who is left out, and for which reason. No Beam.

    an overlap    gesso match's output with a person's decision.json: its duplicates, `overlap`
    repeats       gesso repeats' output: `repeat_exact`, `repeat_near`
    a list        parquet with a column `uid`, or text with a uid a line: `listed`

A sample that several lists name is counted once, by the list that was given first.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.layout import MANIFEST
from gesso.dataset.shards import Hashing
from gesso.errors import UserError

Json = dict[str, Any]

OVERLAP, LISTED = "overlap", "listed"
REPEATS = {"exact.parquet": "repeat_exact", "near.parquet": "repeat_near"}
REASONS = (OVERLAP, *REPEATS.values(), LISTED)
DECISION = "decision.json"
PARQUET = b"PAR1"
GROUP = 1 << 16  # rows of a row group: a reader looks at those of its range alone
DROPPED_SCHEMA = pa.schema(
    [pa.field("uid", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)]
)


class Part(NamedTuple):
    """Samples to drop for one reason."""

    reason: str
    uids: pa.Array


@dataclass(frozen=True)
class DropList:
    """One `--drop`."""

    identity: Json  # what tells it from another, without a clock
    parts: tuple[Part, ...]
    overlap: Json | None = None  # of an overlap: the decision, and the references to leave out


def read(path: str, shards: str) -> DropList:
    """The drop list at `path`, to be applied to the samples of `shards`. Raises UserError."""
    path = storage.plain(path)
    if not storage.exists(storage.join(path, MANIFEST)):
        return read_list(path)
    kind = read_object(storage.join(path, MANIFEST)).get("kind")
    if kind == "matches":
        return read_overlap(path, shards)
    if kind == "repeats":
        return read_repeats(path, shards)
    raise UserError(
        f"--drop {path} holds {kind or 'shards'}: give an overlap of `gesso match`, repeats of `gesso repeats`, "
        "or a file of uids"
    )


def read_overlap(path: str, shards: str) -> DropList:
    """The duplicates of an overlap on which a person has decided. Raises UserError."""
    from gesso.dedup import decision, overlap

    found = overlap.read(path)
    check_source(path, found.manifest["training"]["source"], shards)
    name = storage.join(path, DECISION)
    if not storage.exists(name):
        raise UserError(f"{path} has no {DECISION}: run `gesso review {path}` and decide which pairs are duplicates")
    decided = decision.read(name, found)
    what = decision.duplicates(found.matches, decided)
    identity = {
        "kind": OVERLAP,
        "path": path,
        "matches_sha256": found.sha256,
        "decision_sha256": hashlib.sha256(read_bytes(name)).hexdigest(),
    }
    told = {
        "path": path,
        "reference": found.manifest["reference"],
        "references": found.manifest["references"],
        "pairs": found.matches.num_rows,
        "duplicates": int(what.pairs.sum()),
        "uids": len(what.uids),
        "threshold": decided.threshold,
        "judged": len(decided.overrides),
        "who": decided.who,
        "when": decided.when,
        "model": decided.model,
        "leave_out": what.references,
    }
    return DropList(identity, (Part(OVERLAP, pa.array(what.uids, pa.string())),), told)


def read_repeats(path: str, shards: str) -> DropList:
    """The repeats within the shards. Raises UserError."""
    manifest = read_object(storage.join(path, MANIFEST))
    check_source(path, {"kind": "shards", "path": manifest["shards"]}, shards)
    identity: Json = {"kind": "repeats", "path": path}
    parts = []
    for name, reason in REPEATS.items():
        if name not in manifest["files"]:
            continue
        body = read_bytes(storage.join(path, name))
        identity[f"{name.partition('.')[0]}_sha256"] = sha256 = hashlib.sha256(body).hexdigest()
        if sha256 != manifest["files"][name]["sha256"]:
            raise UserError(f"{path}/{name} is not the file that its {MANIFEST} names: run `gesso repeats` again")
        parts.append(Part(reason, uids_of(body, storage.join(path, name))))
    return DropList(identity, tuple(parts))


def read_list(path: str) -> DropList:
    """A user's own list. Raises UserError."""
    if storage.is_local(path) and os.path.isdir(path):
        raise UserError(
            f"--drop {path} holds no finished overlap or repeats: give the --output of a `gesso match` or "
            "`gesso repeats` that has ended, or a file of uids"
        )
    body = read_bytes(path)
    identity = {"kind": "list", "path": path, "sha256": hashlib.sha256(body).hexdigest()}
    return DropList(identity, (Part(LISTED, uids_of(body, path)),))


def uids_of(body: bytes, path: str) -> pa.Array:
    """The column `uid` of a parquet file, or the lines of a text. Raises UserError."""
    if not body.startswith(PARQUET):
        try:
            lines = body.decode().splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"--drop {path} is neither parquet nor text ({error}): give uids, one a line") from error
        return pa.array([line.strip() for line in lines if line.strip()], pa.string())
    try:
        table = pq.read_table(io.BytesIO(body))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--drop {path} is no whole parquet ({first_line(error)}): write it again") from error
    if "uid" not in table.column_names:
        raise UserError(
            f"--drop {path} has no column uid, but {', '.join(table.column_names)}: rename the uids' to uid"
        )
    uids = table["uid"]
    if uids.type not in (pa.string(), pa.large_string()) or uids.null_count:
        raise UserError(f"--drop {path}: its column uid is {uids.type} with {uids.null_count:,} nulls: give text")
    return uids.cast(pa.string()).combine_chunks()


def check_source(path: str, source: Json, shards: str) -> None:
    """Raises UserError where what was searched is another directory than `shards`."""
    if source["kind"] != "shards" or real(source["path"]) != real(shards):
        raise UserError(
            f"--drop {path} is of the {source['kind']} in {source['path']}, not of --shards {shards}: "
            "search these shards, or give the uids as a list"
        )


def real(path: str) -> str:
    return os.path.realpath(storage.local(path)) if storage.is_local(path) else storage.absolute(path)


def union(lists: Sequence[DropList]) -> pa.Table:
    """All that is to be dropped, DROPPED_SCHEMA, sorted by uid, each with the reason that comes first."""
    parts = [part for each in lists for part in each.parts]
    tables = [
        pa.table({"uid": part.uids, "part": pa.repeat(pa.scalar(number, pa.int32()), len(part.uids))})
        for number, part in enumerate(parts)
    ]
    if not tables:
        return DROPPED_SCHEMA.empty_table()
    first = pa.concat_tables(tables).group_by("uid").aggregate([("part", "min")]).sort_by("uid")
    reasons = pa.array([part.reason for part in parts], pa.string())
    return pa.table([first["uid"], pc.take(reasons, first["part_min"])], schema=DROPPED_SCHEMA)


def count(dropped: pa.Table) -> dict[str, int]:
    """How many samples each reason stands for, in the order of REASONS."""
    counted = {item["values"]: item["counts"] for item in pc.value_counts(dropped["reason"]).to_pylist()}
    return {reason: counted[reason] for reason in REASONS if reason in counted}


def write(dropped: pa.Table, path: str) -> Json:
    """Writes the table that `reasons_of` reads; returns its size and checksum."""
    with storage.write_whole(path) as stream:
        hashing = Hashing(stream)
        pq.write_table(dropped, hashing, compression="zstd", row_group_size=GROUP)
    return hashing.summary()


def reasons_of(keys: pa.Array, path: str) -> pa.Array:
    """For each of some samples of one shard the reason to drop it, or null; reads no more than their range of uids."""
    low, high = pc.min_max(keys).as_py().values()
    with storage.open_input(path) as stream:
        dropped = pq.read_table(stream, filters=[("uid", ">=", low), ("uid", "<=", high)]).combine_chunks()
    found = pc.index_in(keys, value_set=dropped["uid"].combine_chunks())
    return dropped["reason"].combine_chunks().take(found)


def read_bytes(path: str) -> bytes:
    try:
        with storage.open_input(path) as stream:
            return stream.read()
    except OSError as error:
        raise UserError(f"--drop {path} cannot be read ({error.strerror or error}): give another") from error


def read_object(path: str) -> Json:
    try:
        value: Json = json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"--drop {path} is no JSON ({error}): write the directory anew") from error
    return value


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
