"""The wiring of `gesso export` in Beam, with as little logic as possible.

Image bytes never cross a shuffle: what is grouped or reshuffled is packed rows, counts and shard numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton, TaggedOutput

from gesso import storage
from gesso.dataset import export
from gesso.dataset.collection import SourceShard
from gesso.dataset.export import Target
from gesso.dataset.layout import PLAN, SPLITS
from gesso.pipelines import packing
from gesso.pipelines.combiners import COUNTS, Counts, total
from gesso.pipelines.export import shard_writer, shuffle
from gesso.pipelines.export.settings import ExportSettings
from gesso.pipelines.export.shuffle import Bucket, Numbers, ShufflePlan, SplitRank

Json = dict[str, Any]


@dataclass(frozen=True)
class PlanConfig:
    """The parameters of WritePlan, the same for every worker."""

    source: str
    output: str
    fields: tuple[pa.Field, ...]
    dropped: str | None  # file of the samples to drop
    settings: ExportSettings
    record: Json  # settings and input as plan.json keeps them
    input_info: Json  # further fields of plan.json about the input


class WritePlan(beam.PTransform):
    """Source shards → every target's rows and, when all are written, plan.json; its output is the plan."""

    def __init__(self, config: PlanConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        config = self._config
        where = (config.source, config.fields, config.dropped, config.settings.seed)
        read = (
            shards
            | beam.Reshuffle()
            | "ReadShards" >> beam.FlatMap(read_shard, *where).with_outputs(COUNTS, main="rows")
        )
        rows = read["rows"]
        bucket = (
            rows
            | "Histogram" >> beam.Map(histogram, config.fields)
            | "AddHistograms" >> beam.CombineGlobally(shuffle.add_histograms)
            | "FindBucket" >> beam.Map(shuffle.find_bucket, config.settings)
        )
        candidates = rows | "InBucket" >> beam.FlatMap(ranks_in_bucket, config.fields, AsSingleton(bucket))
        plan = bucket | "PlanShuffle" >> beam.Map(shuffle.plan_shuffle, AsIter(candidates), config.settings)
        empty_rows = plan | "AllTargets" >> beam.FlatMap(all_targets)
        split = rows | "SplitByTarget" >> beam.FlatMap(split_packed, config.fields, AsSingleton(plan))
        written = (
            (empty_rows, split)
            | beam.Flatten()
            | beam.GroupByKey()
            | "WriteRows" >> beam.Map(write_rows, config.output, config.fields, AsSingleton(plan))
        )
        counts = read[COUNTS] | "TotalRead" >> beam.CombineGlobally(total)
        return plan | "WritePlanJson" >> beam.Map(write_plan_json, AsIter(written), AsSingleton(counts), config)


def read_shard(
    shard: SourceShard, source: str, fields: tuple[pa.Field, ...], dropped: str | None, seed: int
) -> Iterator[Any]:
    """A source shard's kept rows, packed, and its counts as a tagged output."""
    kept, counts = shuffle.read_shard(source, shard, fields, dropped, seed)
    yield packing.pack(kept)
    yield TaggedOutput(COUNTS, dict(counts))


def unpack(packed: bytes, fields: tuple[pa.Field, ...]) -> pa.RecordBatch:
    return packing.unpack(packed, shuffle.packed_schema(fields))


def histogram(packed: bytes, fields: tuple[pa.Field, ...]) -> Numbers:
    return shuffle.histogram(unpack(packed, fields)["split_hash"].to_numpy())


def ranks_in_bucket(packed: bytes, fields: tuple[pa.Field, ...], bucket: Bucket) -> list[SplitRank]:
    kept = unpack(packed, fields)
    return shuffle.ranks_in_bucket(kept["split_hash"].to_numpy(), kept["key"], bucket)


def all_targets(plan: ShufflePlan) -> Iterator[tuple[int, bytes]]:
    return ((target, b"") for target in range(sum(plan.shards)))


def split_packed(packed: bytes, fields: tuple[pa.Field, ...], plan: ShufflePlan) -> Iterator[tuple[int, bytes]]:
    return shuffle.split_by_target(unpack(packed, fields), plan)


def write_rows(
    grouped: tuple[int, Iterable[bytes]], output: str, fields: tuple[pa.Field, ...], plan: ShufflePlan
) -> Json:
    target, packed = grouped
    return shuffle.write_rows(output, target, filter(None, packed), fields, plan)


def write_plan_json(plan: ShufflePlan, written: Iterable[Json], counts: Counts, config: PlanConfig) -> Json:
    """Writes plan.json, which commits the plan, and returns it."""
    written = list(written)
    licences = shuffle.add_licences(each["licences"] for each in written)
    suffixes = sorted({suffix for each in written for suffix in each["suffixes"]})
    input_info = {**config.input_info, "licences": licences, "picture_suffixes": suffixes}
    samples = dict(zip(SPLITS, plan.samples, strict=True))
    record = export.plan_record(config.record, input_info, [each["entry"] for each in written], counts, samples)
    storage.write_json(storage.join(config.output, PLAN), record)
    return record


class WriteShards(beam.PTransform):
    """Targets → their tars and markers and, when all are written, the manifest."""

    def __init__(self, source: Sequence[SourceShard], output: str) -> None:
        super().__init__()
        self._source, self._output = source, output

    def expand(self, targets: beam.PCollection) -> beam.PCollection:
        return (
            targets
            | beam.Reshuffle()
            | "WriteShard" >> beam.Map(write_shard, self._source, self._output)
            | "TotalWritten" >> beam.CombineGlobally(sum)
            | "WriteManifest" >> beam.Map(lambda _: export.finish(self._output))
        )


def write_shard(target: Target, source: Sequence[SourceShard], output: str) -> int:
    """Writes a target's tar and marker; returns its number of samples."""
    tars = shard_writer.SourceTars(source)
    return int(shard_writer.write_shard(storage.join(output, target.split), target.number, target.rows, tars)["count"])
