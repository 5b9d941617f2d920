"""Which sample of an export goes where: kept or dropped, which split, which shard, in which order. Knows no Beam.

    tar headers + rows ─ read_shard ─▶ kept samples' rows with their ranges ─ split ─▶ {target: packed rows}
        ─ shuffle ─ write_rows ─▶ train/00000.parquet, validation/00000.parquet: the final rows, the plan of the tars

A sample's lot is 64 bits of its uid. The validation split is the `validation_size` kept samples with the smallest
lots, whatever the seed, the sharding and the runner; another 64 bits, of uid and seed, are the place in the order:
the shard by their range, the position by sorting. Text, numbers and ranges alone cross the shuffle, no picture does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import members
from gesso.dataset.collection import SourceShard, first_line
from gesso.dataset.layout import SPLITS, rows_name, tar_name
from gesso.dataset.members import Damage, Sample
from gesso.dataset.records import SUCCESS
from gesso.dataset.schemas import PLACE_FIELDS
from gesso.dataset.shards import BLOCK, Hashing
from gesso.errors import UserError
from gesso.pipelines import packing
from gesso.pipelines.export import drop_lists
from gesso.pipelines.export.settings import ExportSettings

Json = dict[str, Any]
Numbers = npt.NDArray[np.int64]
Lots = npt.NDArray[np.uint64]

KEPT = "kept"
READ = ("source_shard", "source_offset", "source_bytes", "image_bytes", "caption_bytes", "json_bytes")
PLACES = {field.name: field for field in PLACE_FIELDS}
LOTS = (pa.field("lot", pa.uint64(), nullable=False), pa.field("order", pa.uint64(), nullable=False))
BUCKET_BITS = 12  # of a lot: 4,096 counts cross the network for a shard, and 250M samples leave 61,000 in one bucket
LICENCES = ("licence", "license")
MANY_LICENCES = 100  # different values above which a licence column is not counted


class Cut(NamedTuple):
    """The last lot of the validation split, its uid for the case of a tie."""

    lot: int
    key: str


class Bucket(NamedTuple):
    """The range of lots in which the cut stands, and how many lots of the split it must hold."""

    number: int
    wanted: int
    kept: int  # samples altogether


class Deal(NamedTuple):
    """What is known once all samples are counted."""

    cut: Cut | None
    samples: tuple[int, ...]  # of each split
    shards: tuple[int, ...]  # of each split

    def place(self, target: int) -> tuple[int, int]:
        """The split and the shard of a target, which are numbered through."""
        return (0, target) if target < self.shards[0] else (1, target - self.shards[0])


def kept_fields(source: pa.Schema) -> tuple[pa.Field, ...]:
    """The source's columns that travel; those of an earlier export's places do not. Raises UserError for a clash."""
    clash = [name for name in source.names if name in PLACES]
    if clash and len(clash) < len(PLACES):
        raise UserError(f"the rows have a column {clash[0]}, whose name an export needs: collect them without it")
    return tuple(field for field in source if field.name not in PLACES)


def packed_schema(fields: tuple[pa.Field, ...]) -> pa.Schema:
    return pa.schema([*fields, *(PLACES[name] for name in READ), *LOTS])


def final_schema(fields: tuple[pa.Field, ...]) -> pa.Schema:
    return pa.schema([*fields, *PLACE_FIELDS])


# ── a source shard ──


def read_shard(
    path: str, shard: SourceShard, fields: tuple[pa.Field, ...], dropped: str | None, seed: int
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The kept samples of a shard in its tar's order (packed_schema), and the count of `kept` and of each reason.

    `dropped` is the file of the samples to leave out. Raises UserError where tar and rows are damaged or disagree.
    """
    samples = read_index(storage.join(path, tar_name(shard.number)), shard.bytes)
    keys = pa.array([sample.key for sample in samples], pa.string())
    rows = read_rows(storage.join(path, rows_name(shard.number)), keys, fields)
    reasons = drop_lists.reasons_of(keys, dropped) if dropped and samples else pa.nulls(len(keys), pa.string())
    keep = pc.is_null(reasons)
    counts = Counter(reasons.drop_null().to_pylist())
    columns = [rows[field.name].filter(keep) for field in fields]
    columns += [column.filter(keep) for column in ranges(shard.number, samples)]
    kept = keys.filter(keep).to_pylist()
    columns += [pa.array(lots_of(kept, person="validation")), pa.array(lots_of(kept, person="order", seed=seed))]
    counts[KEPT] = len(kept)
    return pa.RecordBatch.from_arrays(columns, schema=packed_schema(fields)), counts


def read_index(path: str, size: int) -> list[Sample]:
    try:
        tar = storage.Ranges(path)
        if tar.size != size:
            raise UserError(f"{path} has {tar.size:,} bytes, not {size:,}: it has changed")
        return members.index(tar.read, size)
    except (Damage, OSError) as error:
        raise UserError(f"{path} {error}: `gesso verify` tells what is damaged") from error


def read_rows(path: str, keys: pa.Array, fields: tuple[pa.Field, ...]) -> pa.RecordBatch:
    """The rows of the samples with these keys, in their order. Raises UserError unless they are all the successes."""
    schema = pa.schema(fields)
    try:
        with storage.open_input(path) as stream:
            table = pq.read_table(stream)
        table = table.filter(pc.equal(table["status"], SUCCESS))
        missing = [field for field in fields if field.name not in table.column_names]
        for field in missing:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        table = table.select(schema.names).cast(schema).combine_chunks()
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): `gesso verify` tells what is damaged") from error
    found = pc.index_in(keys, value_set=table["key"].combine_chunks())
    if found.null_count or len(keys) != len(table):
        raise UserError(
            f"{path} has {len(table):,} kept samples, its tar {len(keys):,}, {len(keys) - found.null_count:,} of them "
            "the same: `gesso verify` tells what is damaged"
        )
    batches = table.take(found).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema)


def ranges(shard: int, samples: Sequence[Sample]) -> list[pa.Array]:
    """The columns of READ."""
    numbers = np.array([sample[1:] for sample in samples], np.int64).reshape(-1, len(READ) - 1)
    return [pa.array(np.full(len(samples), shard, np.int32)), *(pa.array(column) for column in numbers.T)]


def lots_of(keys: Sequence[str], person: str, seed: int = 0) -> Lots:
    """64 bits of each uid; another `person` or seed gives others."""
    start = blake2b(digest_size=8, person=person.encode(), salt=seed.to_bytes(blake2b.SALT_SIZE, "big"))
    digests = bytearray()
    for key in keys:
        one = start.copy()
        one.update(key.encode())
        digests += one.digest()
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64)


# ── the validation split: exactly so many, found without gathering all lots ──


def histogram(lots: Lots) -> Numbers:
    """How many lots stand in each bucket: 2**BUCKET_BITS numbers."""
    return np.bincount((lots >> np.uint64(64 - BUCKET_BITS)).astype(np.int64), minlength=1 << BUCKET_BITS)


def add(histograms: Iterable[Numbers]) -> Numbers:
    """Associative and commutative, a Beam combine."""
    return sum(histograms, np.zeros(1 << BUCKET_BITS, np.int64))


def find_bucket(counts: Numbers, settings: ExportSettings) -> Bucket:
    """Where the cut stands. Raises UserError where validation would leave nothing to train on."""
    kept, size = int(counts.sum()), settings.validation_size
    if size >= kept:
        raise UserError(f"--validation_size is {size:,}, but {kept:,} samples are kept: give fewer than these")
    upto = np.cumsum(counts)
    number = int(np.searchsorted(upto, size))
    return Bucket(number, size - int(upto[number] - counts[number]), kept)


def in_bucket(lots: Lots, keys: pa.Array, bucket: Bucket) -> list[Cut]:
    """The samples whose lots stand in the bucket; none where no validation split is wanted."""
    if not bucket.wanted:
        return []
    inside = np.flatnonzero(lots >> np.uint64(64 - BUCKET_BITS) == bucket.number)
    return [Cut(int(lots[row]), keys[row].as_py()) for row in inside.tolist()]


def deal(bucket: Bucket, inside: Iterable[Cut], settings: ExportSettings) -> Deal:
    """The exact cut, and the shards of each split."""
    cut = sorted(inside)[bucket.wanted - 1] if bucket.wanted else None
    samples = (bucket.kept - settings.validation_size, settings.validation_size)
    return Deal(cut, samples, tuple(-(-number // settings.shard_size) for number in samples))


def split(kept: pa.RecordBatch, dealt: Deal) -> Iterator[tuple[int, bytes]]:
    """A source shard's rows by their target, packed for the shuffle."""
    lots, order = kept["lot"].to_numpy(), kept["order"].to_numpy()
    held_out = np.zeros(len(lots), np.bool_)
    if dealt.cut:
        held_out = lots < dealt.cut.lot
        for row in np.flatnonzero(lots == dealt.cut.lot).tolist():
            held_out[row] = kept["key"][row].as_py() <= dealt.cut.key
    target = np.where(held_out, dealt.shards[0] + range_of(order, dealt.shards[1]), range_of(order, dealt.shards[0]))
    by_target = np.argsort(target, kind="stable")
    starts = np.flatnonzero(np.diff(target[by_target], prepend=-1))
    for part in np.split(by_target, starts[1:]) if len(target) else ():
        yield int(target[part[0]]), packing.pack(kept.take(pa.array(part)))


def range_of(order: Lots, shards: int) -> Numbers:
    """order * shards >> 64: which of `shards` equal ranges a number of 64 bits stands in."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    high = (order >> half) * np.uint64(shards) + (((order & low) * np.uint64(shards)) >> half)
    return (high >> half).astype(np.int64)


# ── a target shard's rows ──


def write_rows(output: str, target: int, packed: Iterable[bytes], fields: tuple[pa.Field, ...], dealt: Deal) -> Json:
    """Writes a target's rows in their order; returns its entry of plan.json: size, checksum, licences."""
    number, shard = dealt.place(target)
    table = ordered(packed, fields)
    schema = final_schema(fields)
    places = place(table)
    rows = pa.table([places[name] if name in places else table[name] for name in schema.names], schema=schema)
    with storage.write_whole(storage.join(output, SPLITS[number], rows_name(shard))) as stream:
        hashing = Hashing(stream)
        pq.write_table(rows, hashing, compression="zstd")
    entry = {"split": SPLITS[number], "index": shard, "count": len(rows), "rows": hashing.summary()}
    return {"entry": entry, "licences": count_licences(rows)}


def ordered(packed: Iterable[bytes], fields: tuple[pa.Field, ...]) -> pa.Table:
    """A target's samples by their place in the order. Raises UserError for a uid that stands twice in the shards."""
    schema = packed_schema(fields)
    table = pa.Table.from_batches([packing.unpack(part, schema) for part in packed], schema)
    table = table.sort_by([("order", "ascending"), ("key", "ascending"), ("source_shard", "ascending")])
    keys = table["key"].combine_chunks()
    twice = pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False).nonzero()[0]
    if len(twice):
        row = int(twice[0])
        one, other = table["source_shard"][row].as_py(), table["source_shard"][row + 1].as_py()
        raise UserError(f"sample {keys[row]} stands in shards {one:05d} and {other:05d}: keep one of these shards")
    return table


def place(table: pa.Table) -> dict[str, pa.Array]:
    """Where each sample will stand in its own tar, which has the picture, the caption and the fields in this order."""
    body = {name: table[f"{name}_bytes"].to_numpy() for name in (members.IMAGE, members.CAPTION, members.JSON)}
    offset, columns = np.zeros(len(table), np.int64), {}
    for name, size in body.items():
        columns[f"{name}_offset"] = offset + BLOCK
        offset = offset + BLOCK + size + -size % BLOCK
    start = np.cumsum(offset) - offset
    columns = {name: column + start for name, column in columns.items()}
    return {name: pa.array(column) for name, column in {**columns, "offset": start, "bytes": offset}.items()}


def count_licences(rows: pa.Table) -> dict[str, int] | None:
    """How often each value of the licence column stands; None where there is no such column or the values are many."""
    name = next((name for name in LICENCES if name in rows.column_names), None)
    if name is None:
        return None
    counted = pc.value_counts(rows[name].cast(pa.string()).fill_null("")).to_pylist()
    return {item["values"]: item["counts"] for item in counted} if len(counted) <= MANY_LICENCES else None


def add_licences(counts: Iterable[dict[str, int] | None]) -> dict[str, int] | None:
    total = Counter[str]()
    for each in counts:
        if each is None:
            return None
        total.update(each)
    return dict(sorted(total.items())) if len(total) <= MANY_LICENCES else None
