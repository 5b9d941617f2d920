"""The drop lists of `gesso export --drop`: samples to drop, and the reason of each. No Beam.

    an overlap    the --output of `gesso match` with a decision.json: its duplicates, reason `overlap`
    repeats       the --output of `gesso repeats`: reasons `repeat_exact`, `repeat_near`
    a list        parquet with a column `uid` or `key`, or text with a key a line: reason `listed`

A sample that is in several lists has the reason of the list that was given first. In parquet files of gesso the column
of keys is named `uid`. A list of which nothing is in the shards, or with an entry that has not the form of their keys,
is refused; single keys that the shards lack are counted.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import clip_retrieval, identity, manifest
from gesso.dataset.collection import Collection, SourceShard, first_line
from gesso.dataset.layout import MANIFEST, rows_name
from gesso.dataset.records import SUCCESS
from gesso.dataset.shards import HashingWriter
from gesso.errors import UserError

Json = dict[str, Any]

OVERLAP, LISTED = "overlap", "listed"
REPEATS = {"exact.parquet": "repeat_exact", "near.parquet": "repeat_near"}
REASONS = (OVERLAP, *REPEATS.values(), LISTED)
DECISION = "decision.json"
PARQUET = b"PAR1"
KEY_COLUMNS = ("uid", "key")  # `uid` in the files of gesso
KEY_FORMS = {"32 hex digits": "^[0-9a-f]{32}$", "digits": "^[0-9]+$"}  # of gesso's keys, and of img2dataset's
SHOWN = 60  # characters of an entry in a message
ROW_GROUP = 1 << 16  # rows of a row group: a reader skips those outside its range of keys
DROPPED_SCHEMA = pa.schema(
    [pa.field("uid", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)]
)


class DropGroup(NamedTuple):
    """Samples to drop for one reason."""

    reason: str
    keys: pa.Array


@dataclass(frozen=True)
class DropList:
    """The list of one --drop flag."""

    input_record: Json  # as `input` of plan.json lists it; the same for the same list
    groups: tuple[DropGroup, ...]
    overlap: Json | None = None  # only of an overlap: the decision, and the references to leave out


def read(path: str, shards: Json) -> DropList:
    """The drop list at `path`. Raises UserError where it cannot be read or is not of `shards`, a source's record."""
    path = storage.plain(path)
    if not storage.exists(storage.join(path, MANIFEST)):
        return read_list(path)
    kind = read_object(storage.join(path, MANIFEST)).get("kind")
    if kind == "matches":
        return read_overlap(path, shards)
    if kind == "repeats":
        return read_repeats(path, shards)
    raise UserError(
        f"--drop {path} holds {kind or 'shards'}: give the --output of `gesso match` or `gesso repeats`, "
        "or a file of keys"
    )


def read_overlap(path: str, shards: Json) -> DropList:
    """The duplicates of a reviewed overlap. Raises UserError where there is no decision on it."""
    from gesso.dedup import decision, overlap

    found = overlap.read(path)
    check_source(path, found.manifest["training"]["source"], shards)
    name = storage.join(path, DECISION)
    if not storage.exists(name):
        draft = ", only a draft without a name" if storage.exists(storage.join(path, decision.DRAFT)) else ""
        raise UserError(
            f"{path} has no {DECISION}{draft}: run `gesso review {path}` and decide which pairs are duplicates"
        )
    decided = decision.read(name, found)
    duplicates = decision.duplicates(found.matches, decided)
    input_record = {
        "kind": OVERLAP,
        "path": storage.absolute(path),
        "matches_sha256": found.sha256,
        "decision_sha256": hashlib.sha256(read_bytes(name)).hexdigest(),
    }
    summary = {
        "path": storage.absolute(path),
        "reference": found.manifest["reference"],
        "references": found.manifest["references"],
        "pairs": found.matches.num_rows,
        "duplicates": int(duplicates.pairs.sum()),
        "uids": len(duplicates.samples),
        "threshold": decided.threshold,
        "judged": len(decided.overrides),
        "who": decided.who,
        "when": decided.when,
        "model": decided.model,
        "leave_out": duplicates.references,
    }
    return DropList(input_record, (DropGroup(OVERLAP, pa.array(duplicates.samples, pa.string())),), summary)


def read_repeats(path: str, shards: Json) -> DropList:
    """The drop lists of `gesso repeats`. Raises UserError."""
    manifest = read_object(storage.join(path, MANIFEST))
    where = identity.resolve(manifest["shards"], path)
    check_source(path, {"kind": "shards", "path": where, "sha256": manifest.get("shards_sha256")}, shards)
    input_record: Json = {"kind": "repeats", "path": storage.absolute(path)}
    groups = []
    for name, reason in REPEATS.items():
        if name not in manifest["files"]:
            continue
        body = read_bytes(storage.join(path, name))
        input_record[f"{name.partition('.')[0]}_sha256"] = sha256 = hashlib.sha256(body).hexdigest()
        if sha256 != manifest["files"][name]["sha256"]:
            raise UserError(f"{path}/{name} differs from its {MANIFEST}: run `gesso repeats` again")
        groups.append(DropGroup(reason, read_keys(body, storage.join(path, name))))
    return DropList(input_record, tuple(groups))


def read_list(path: str) -> DropList:
    """A user's own list. Raises UserError."""
    if storage.is_local(path) and os.path.isdir(path):
        raise UserError(
            f"--drop {path} holds no finished overlap or repeats: give the --output of a finished `gesso match` or "
            "`gesso repeats`, or a file of keys"
        )
    body = read_bytes(path)
    input_record = {"kind": "list", "path": storage.absolute(path), "sha256": hashlib.sha256(body).hexdigest()}
    return DropList(input_record, (DropGroup(LISTED, read_keys(body, path)),))


def read_keys(body: bytes, path: str) -> pa.Array:
    """The column `uid` or `key` of a parquet file, or the lines of a text file. Raises UserError."""
    if not body.startswith(PARQUET):
        try:
            lines = body.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"--drop {path} is neither parquet nor text ({error}): give keys, one a line") from error
        return pa.array([line.strip() for line in lines if line.strip()], pa.string())
    try:
        table = pq.read_table(io.BytesIO(body))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"--drop {path} is not a complete parquet file ({first_line(error)}): write it again"
        ) from error
    name = next((name for name in KEY_COLUMNS if name in table.column_names), None)
    if name is None:
        raise UserError(
            f"--drop {path} has no column key, but {', '.join(table.column_names)}: rename the column of keys to key"
        )
    keys = table[name]
    if keys.type not in (pa.string(), pa.large_string()) or keys.null_count:
        raise UserError(
            f"--drop {path}: its column {name} is {keys.type} with {keys.null_count:,} nulls: give strings, no nulls"
        )
    return keys.cast(pa.string()).combine_chunks()


def check_keys(lists: Sequence[DropList], source: Collection) -> None:
    """Raises UserError for a user's list with an entry that is no key, or of which nothing is in these shards."""
    listed = [(item.input_record["path"], item.groups[0].keys) for item in lists if item.input_record["kind"] == "list"]
    if not listed:
        return
    known = next((keys for keys in sample_keys(source) if len(keys)), pa.array([], pa.string()))
    for path, keys in listed if len(known) else ():
        check_form(path, keys, source.path, known)
        if len(keys) and not any(pc.any(pc.is_in(some, value_set=keys)).as_py() for some in sample_keys(source)):
            raise UserError(
                f"--drop {path}: none of its {len(keys):,} keys is in {source.path}. Its first is {shown(keys[0])}, "
                f"a key there is {shown(known[0])}: give keys of these shards"
            )


def check_form(path: str, keys: pa.Array, source: str, known: pa.Array) -> None:
    """Raises UserError where an entry has another form than the known keys, which are some of the source's."""
    for form, pattern in KEY_FORMS.items():
        if pc.all(pc.match_substring_regex(known, pattern)).as_py():
            others = keys.filter(pc.invert(pc.match_substring_regex(keys, pattern)))
            if len(others):
                raise UserError(
                    f"--drop {path} holds {shown(others[0])}, which is no key: those of {source} are {form}, like "
                    f"{shown(known[0])}; give one a line, or parquet with a column key"
                )
            return


def shown(entry: pa.Scalar) -> str:
    text = entry.as_py()
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def sample_keys(source: Collection) -> Iterator[pa.Array]:
    """The keys of each shard's samples; later shards are not read before they are asked for."""
    with ThreadPoolExecutor(manifest.READERS) as pool:
        for at in range(0, len(source.shards), manifest.READERS):
            yield from pool.map(lambda shard: shard_keys(source.path, shard), source.shards[at : at + manifest.READERS])


def shard_keys(path: str, shard: SourceShard) -> pa.Array:
    name = storage.join(path, rows_name(shard.number))
    try:
        with storage.open_input(name) as stream:
            rows = pq.read_table(stream, columns=["key", "status"])
        return rows.filter(pc.equal(rows["status"], SUCCESS))["key"].cast(pa.string()).combine_chunks()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UserError(f"{name} cannot be read ({first_line(error)}): `gesso verify` tells what is damaged") from error


def check_source(path: str, source: Json, shards: Json) -> None:
    """Raises UserError where the list was made for others than these shards: by content, wherever they are.

    Embeddings of clip-retrieval's own do not tell what they were made of; keys that are not found are counted.
    """
    if source["kind"] == clip_retrieval.KIND or identity.same(source, shards, path):
        return
    moved = " as they are now" if source["path"] == shards["path"] else ""
    raise UserError(
        f"--drop {path} was made for the {source['kind']} in {source['path']}, not for --shards {shards['path']}"
        f"{moved}: make it for these shards, or give a file of keys"
    )


def union(lists: Sequence[DropList]) -> pa.Table:
    """All samples to drop, DROPPED_SCHEMA, sorted by key, each with the reason of the first list that has it."""
    groups = [group for drop_list in lists for group in drop_list.groups]
    tables = [
        pa.table({"uid": group.keys, "part": pa.repeat(pa.scalar(number, pa.int32()), len(group.keys))})
        for number, group in enumerate(groups)
    ]
    if not tables:
        return DROPPED_SCHEMA.empty_table()
    first = pa.concat_tables(tables).group_by("uid").aggregate([("part", "min")]).sort_by("uid")
    reasons = pa.array([group.reason for group in groups], pa.string())
    return pa.table([first["uid"], pc.take(reasons, first["part_min"])], schema=DROPPED_SCHEMA)


def count_reasons(dropped: pa.Table) -> dict[str, int]:
    """The number of samples of each reason, in the order of REASONS."""
    counted = {item["values"]: item["counts"] for item in pc.value_counts(dropped["reason"]).to_pylist()}
    return {reason: counted[reason] for reason in REASONS if reason in counted}


def write(dropped: pa.Table, path: str) -> Json:
    """Writes the table that `reasons_of` reads; returns its size and checksum."""
    with storage.write_whole(path) as stream:
        hashing = HashingWriter(stream)
        pq.write_table(dropped, hashing, compression="zstd", row_group_size=ROW_GROUP)
    return hashing.summary()


def reasons_of(keys: pa.Array, path: str) -> pa.Array:
    """The reason to drop each sample, or null; reads only the row groups within the range of the keys."""
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
        raise UserError(f"--drop {path} is not JSON ({error}): run the command that wrote it again") from error
    return value
