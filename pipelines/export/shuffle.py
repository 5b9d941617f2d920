"""The plan of an export's shuffle: which samples are kept, and the split, shard and order of each. Knows no Beam.

    tar headers + rows (of an index rows alone) ─ read_shard ─▶ kept samples' rows with their byte ranges
        ─ split_by_target ─▶ (target, packed rows) ─ Beam's shuffle ─ write_rows ─▶ train/00000.parquet, validation/…

Two 64-bit hashes decide. The validation split is the `validation_size` kept samples with the smallest `split_hash`, a
hash of the key: seed, sharding and runner do not matter. `order_hash`, a hash of key and seed, gives the order: equal
ranges of it are the shards, and a shard is sorted by it. Only text, numbers and byte ranges cross the shuffle, never a
picture. A target is a shard to write; the shards of both splits are numbered consecutively, train first.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import index, members
from gesso.dataset.collection import SourceShard, first_line
from gesso.dataset.layout import SPLITS, rows_name
from gesso.dataset.members import DamagedTar, Sample
from gesso.dataset.records import SUCCESS
from gesso.dataset.schemas import RANGE_FIELDS
from gesso.dataset.shards import BLOCK, HashingWriter, header_bytes
from gesso.errors import UserError
from gesso.pipelines import packing
from gesso.pipelines.export import drop_lists
from gesso.pipelines.export.settings import ExportSettings

Json = dict[str, Any]
Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

KEPT = "kept"
BODIES = (members.IMAGE, members.CAPTION, members.JSON)  # a sample's members, in their order
SOURCE_RANGES = ("source_shard", "source_offset", "source_bytes", "image_bytes", "caption_bytes", "json_bytes")
RANGES = {field.name: field for field in RANGE_FIELDS}
SUFFIX_FIELD = pa.field("image_suffix", pa.string(), nullable=False)
HASH_FIELDS = (pa.field("split_hash", pa.uint64(), nullable=False), pa.field("order_hash", pa.uint64(), nullable=False))
BUCKET_BITS = 12  # of split_hash: 4,096 counts for each source shard; of 250M samples 61,000 fall into one bucket
LICENCES = ("licence", "license")
MANY_LICENCES = 100  # a licence column with more distinct values is not counted


class SplitRank(NamedTuple):
    """The order that decides the split: by hash, then, for equal hashes, by key."""

    split_hash: int
    key: str


class Bucket(NamedTuple):
    """The range of hashes in which the validation split ends, and how many of its samples belong to the split."""

    number: int
    wanted: int
    kept: int  # samples in all buckets


class ShufflePlan(NamedTuple):
    """How samples are assigned to splits and shards, known when all are counted."""

    cutoff: SplitRank | None  # of the last validation sample; None: no validation split
    samples: tuple[int, ...]  # of each split
    shards: tuple[int, ...]  # of each split

    def split_and_shard(self, target: int) -> tuple[int, int]:
        """A target's split, as an index of SPLITS, and its shard."""
        return (0, target) if target < self.shards[0] else (1, target - self.shards[0])


def kept_fields(source: pa.Schema, indexed: bool = False) -> tuple[pa.Field, ...]:
    """The source's columns without byte ranges in its own tars. Raises UserError for a clash of names."""
    clash = [name for name in source.names if name in RANGES and not (indexed and name in index.PLACES)]
    if clash and len(clash) < len(RANGES):
        raise UserError(
            f"the rows have a column {clash[0]}, a name that an export uses itself: collect them without it"
        )
    return tuple(field for field in source if field.name not in RANGES)


def packed_schema(fields: tuple[pa.Field, ...]) -> pa.Schema:
    return pa.schema([*fields, *(RANGES[name] for name in SOURCE_RANGES), SUFFIX_FIELD, *HASH_FIELDS])


def final_schema(fields: tuple[pa.Field, ...]) -> pa.Schema:
    return pa.schema([*fields, *RANGE_FIELDS])


# ── a source shard ──


def read_shard(
    path: str, shard: SourceShard, fields: tuple[pa.Field, ...], dropped: str | None, seed: int
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The kept samples of a shard in its tar's order (packed_schema), and the counts of KEPT and of each reason.

    `dropped` is the file of the samples to drop. Raises UserError where tar or rows are damaged or disagree.
    """
    read = read_indexed if shard.indexed else read_collected
    samples, rows = read(path, shard, fields)
    keys = pa.array([sample.key for sample in samples], pa.string())
    reasons = drop_lists.reasons_of(keys, dropped) if dropped and samples else pa.nulls(len(keys), pa.string())
    keep = pc.is_null(reasons)
    counts = Counter(reasons.drop_null().to_pylist())
    columns = [rows[field.name].filter(keep) for field in fields]
    columns += [column.filter(keep) for column in source_ranges(shard.number, samples)]
    kept = keys.filter(keep).to_pylist()
    columns += [pa.array(key_hashes(kept, person="validation")), pa.array(key_hashes(kept, person="order", seed=seed))]
    counts[KEPT] = len(kept)
    return pa.RecordBatch.from_arrays(columns, schema=packed_schema(fields)), counts


def read_collected(path: str, shard: SourceShard, fields: tuple[pa.Field, ...]) -> tuple[list[Sample], pa.RecordBatch]:
    """The samples of a tar by its headers, and their rows."""
    samples = read_samples(shard.tar, shard.bytes)
    keys = pa.array([sample.key for sample in samples], pa.string())
    return samples, read_rows(storage.join(path, rows_name(shard.number)), keys, fields)


def read_indexed(path: str, shard: SourceShard, fields: tuple[pa.Field, ...]) -> tuple[list[Sample], pa.RecordBatch]:
    """The taken samples of an index's tar with their rows; caption and json are those that are written of the rows."""
    table = index.read_taken(path, shard.number).combine_chunks()
    rows = one_batch(table.select([field.name for field in fields]).cast(pa.schema(fields)))
    texts = ((len(caption), len(fields)) for caption, fields in index.texts(rows))
    places = zip(*(table[name].to_pylist() for name in (*index.PLACES, "image_format")), strict=True)
    keys = rows["key"].to_pylist()
    samples = [
        Sample(key, offset, size, size, *sizes, index.SUFFIXES[form])
        for key, (offset, size, form), sizes in zip(keys, places, texts, strict=True)
    ]
    return samples, rows


def read_samples(path: str, size: int) -> list[Sample]:
    try:
        tar = storage.Ranges(path)
        if tar.size != size:
            raise UserError(f"{path} has {tar.size:,} bytes, not {size:,}: it has changed")
        return members.list_samples(tar.read, size)
    except (DamagedTar, OSError) as error:
        raise UserError(f"{path} {error}: `gesso verify` tells what is damaged") from error


def read_rows(path: str, keys: pa.Array, fields: tuple[pa.Field, ...]) -> pa.RecordBatch:
    """The rows of these keys, in their order. Raises UserError unless the keys are exactly the kept samples."""
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
    return one_batch(table.take(found))


def one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def source_ranges(shard: int, samples: Sequence[Sample]) -> list[pa.Array]:
    """The columns of SOURCE_RANGES and SUFFIX_FIELD."""
    numbers = np.array([sample[1:-1] for sample in samples], np.int64).reshape(-1, len(SOURCE_RANGES) - 1)
    suffixes = pa.array([sample.image_suffix for sample in samples], pa.string())
    return [pa.array(np.full(len(samples), shard, np.int32)), *(pa.array(column) for column in numbers.T), suffixes]


def key_hashes(keys: Sequence[str], person: str, seed: int = 0) -> Hashes:
    """A 64-bit BLAKE2b hash of each key; independent for each `person` (BLAKE2's parameter) and seed."""
    start = blake2b(digest_size=8, person=person.encode(), salt=seed.to_bytes(blake2b.SALT_SIZE, "big"))
    digests = bytearray()
    for key in keys:
        one = start.copy()
        one.update(key.encode())
        digests += one.digest()
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64)


# ── the validation split: an exact number of samples, found without gathering all hashes ──


def histogram(hashes: Hashes) -> Numbers:
    """The number of hashes in each bucket, (2**BUCKET_BITS,)."""
    return np.bincount((hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64), minlength=1 << BUCKET_BITS)


def add_histograms(histograms: Iterable[Numbers]) -> Numbers:
    """The sum of histograms: associative and commutative, a Beam combine."""
    return sum(histograms, np.zeros(1 << BUCKET_BITS, np.int64))


def find_bucket(counts: Numbers, settings: ExportSettings) -> Bucket:
    """The bucket of the cutoff. Raises UserError where validation would leave nothing to train on."""
    kept, size = int(counts.sum()), settings.validation_size
    if size >= kept:
        raise UserError(f"--validation_size is {size:,}, but only {kept:,} samples are kept: give a smaller one")
    upto = np.cumsum(counts)
    number = int(np.searchsorted(upto, size))
    return Bucket(number, size - int(upto[number] - counts[number]), kept)


def ranks_in_bucket(hashes: Hashes, keys: pa.Array, bucket: Bucket) -> list[SplitRank]:
    """The samples in the bucket; none where no validation split is wanted."""
    if not bucket.wanted:
        return []
    candidates = np.flatnonzero(hashes >> np.uint64(64 - BUCKET_BITS) == bucket.number)
    return [SplitRank(int(hashes[row]), keys[row].as_py()) for row in candidates.tolist()]


def plan_shuffle(bucket: Bucket, candidates: Iterable[SplitRank], settings: ExportSettings) -> ShufflePlan:
    """The plan, from the samples in the bucket of the cutoff."""
    cutoff = sorted(candidates)[bucket.wanted - 1] if bucket.wanted else None
    samples = (bucket.kept - settings.validation_size, settings.validation_size)
    return ShufflePlan(cutoff, samples, tuple(-(-number // settings.shard_size) for number in samples))


def split_by_target(kept: pa.RecordBatch, plan: ShufflePlan) -> Iterator[tuple[int, bytes]]:
    """A source shard's rows grouped by target, packed for the shuffle."""
    hashes, order = kept["split_hash"].to_numpy(), kept["order_hash"].to_numpy()
    held_out = np.zeros(len(hashes), np.bool_)
    if plan.cutoff:
        held_out = hashes < plan.cutoff.split_hash
        for row in np.flatnonzero(hashes == plan.cutoff.split_hash).tolist():
            held_out[row] = kept["key"][row].as_py() <= plan.cutoff.key
    target = np.where(held_out, plan.shards[0] + range_index(order, plan.shards[1]), range_index(order, plan.shards[0]))
    by_target = np.argsort(target, kind="stable")
    starts = np.flatnonzero(np.diff(target[by_target], prepend=-1))
    for part in np.split(by_target, starts[1:]) if len(target) else ():
        yield int(target[part[0]]), packing.pack(kept.take(pa.array(part)))


def range_index(order: Hashes, shards: int) -> Numbers:
    """order * shards >> 64: in which of `shards` equal ranges each 64-bit number lies."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    high = (order >> half) * np.uint64(shards) + (((order & low) * np.uint64(shards)) >> half)
    return (high >> half).astype(np.int64)


# ── a target shard's rows ──


def write_rows(
    output: str, target: int, packed: Iterable[bytes], fields: tuple[pa.Field, ...], plan: ShufflePlan
) -> Json:
    """Writes a target's rows in their final order; returns its entry of plan.json, licences and pictures' suffixes."""
    number, shard = plan.split_and_shard(target)
    table = unpack_sorted(packed, fields)
    schema = final_schema(fields)
    ranges = byte_ranges(table)
    rows = pa.table([ranges[name] if name in ranges else table[name] for name in schema.names], schema=schema)
    with storage.write_whole(storage.join(output, SPLITS[number], rows_name(shard))) as stream:
        hashing = HashingWriter(stream)
        pq.write_table(rows, hashing, compression="zstd")
    entry = {"split": SPLITS[number], "index": shard, "count": len(rows), "rows": hashing.summary()}
    return {"entry": entry, "licences": count_licences(rows), "suffixes": table["image_suffix"].unique().to_pylist()}


def unpack_sorted(packed: Iterable[bytes], fields: tuple[pa.Field, ...]) -> pa.Table:
    """A target's samples, sorted by order_hash. Raises UserError for a key that the source holds twice."""
    schema = packed_schema(fields)
    table = pa.Table.from_batches([packing.unpack(part, schema) for part in packed], schema)
    table = table.sort_by([("order_hash", "ascending"), ("key", "ascending"), ("source_shard", "ascending")])
    keys = table["key"].combine_chunks()
    repeated = pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False).nonzero()[0]
    if len(repeated):
        row = int(repeated[0])
        one, other = table["source_shard"][row].as_py(), table["source_shard"][row + 1].as_py()
        raise UserError(f"sample {keys[row]} is in both shards {one:05d} and {other:05d}: keep one of these shards")
    return table


def byte_ranges(table: pa.Table) -> dict[str, pa.Array]:
    """The byte ranges of each sample in its new tar: picture, caption and json, in this order."""
    keys, offset, columns = table["key"].to_pylist(), np.zeros(len(table), np.int64), {}
    for name, suffixes in zip(BODIES, (table["image_suffix"].to_pylist(), repeat("txt"), repeat("json")), strict=True):
        size, names = table[f"{name}_bytes"].to_numpy(), map(".".join, zip(keys, suffixes, strict=False))
        columns[f"{name}_offset"] = begin = offset + np.fromiter(map(header_bytes, names), np.int64, len(keys))
        offset = begin + size + -size % BLOCK
    start = np.cumsum(offset) - offset
    columns = {name: column + start for name, column in columns.items()}
    return {name: pa.array(column) for name, column in {**columns, "offset": start, "bytes": offset}.items()}


def count_licences(rows: pa.Table) -> dict[str, int] | None:
    """The count of each value of the licence column; None without such a column, or for more than MANY_LICENCES."""
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
