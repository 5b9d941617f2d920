"""The wiring of `gesso export` in Beam, with as little logic as possible.

Image bytes never cross a shuffle: what is grouped or reshuffled is packed rows, counts and shard numbers.
"""

from collections.abc import Iterable, Iterator
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
from gesso.pipelines.export.shuffle import Bucket, Cut, Deal, Numbers

Json = dict[str, Any]


@dataclass(frozen=True)
class DealConfig:
    """What the dealers need to know, everywhere the same."""

    source: str
    output: str
    fields: tuple[pa.Field, ...]
    dropped: str | None  # the file of the samples to leave out
    settings: ExportSettings
    record: Json  # settings and input as plan.json keeps them
    told: Json  # what plan.json tells of the input besides


class WritePlan(beam.PTransform):
    """Source shards → every target's rows and, when all stand, plan.json; gives the plan."""

    def __init__(self, config: DealConfig) -> None:
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
            | "AddHistograms" >> beam.CombineGlobally(shuffle.add)
            | "FindBucket" >> beam.Map(shuffle.find_bucket, config.settings)
        )
        inside = rows | "InBucket" >> beam.FlatMap(in_bucket, config.fields, AsSingleton(bucket))
        dealt = bucket | "Deal" >> beam.Map(shuffle.deal, AsIter(inside), config.settings)
        every = dealt | "EveryTarget" >> beam.FlatMap(every_target)
        split = rows | "Split" >> beam.FlatMap(split_packed, config.fields, AsSingleton(dealt))
        written = (
            (every, split)
            | beam.Flatten()
            | beam.GroupByKey()
            | "WriteRows" >> beam.Map(write_rows, config.output, config.fields, AsSingleton(dealt))
        )
        counts = read[COUNTS] | "TotalRead" >> beam.CombineGlobally(total)
        return dealt | "WritePlanJson" >> beam.Map(write_plan_json, AsIter(written), AsSingleton(counts), config)


def read_shard(
    shard: SourceShard, source: str, fields: tuple[pa.Field, ...], dropped: str | None, seed: int
) -> Iterator[Any]:
    """A source shard's kept rows, packed, and its counts beside them."""
    kept, counts = shuffle.read_shard(source, shard, fields, dropped, seed)
    yield packing.pack(kept)
    yield TaggedOutput(COUNTS, dict(counts))


def unpack(packed: bytes, fields: tuple[pa.Field, ...]) -> pa.RecordBatch:
    return packing.unpack(packed, shuffle.packed_schema(fields))


def histogram(packed: bytes, fields: tuple[pa.Field, ...]) -> Numbers:
    return shuffle.histogram(unpack(packed, fields)["lot"].to_numpy())


def in_bucket(packed: bytes, fields: tuple[pa.Field, ...], bucket: Bucket) -> list[Cut]:
    kept = unpack(packed, fields)
    return shuffle.in_bucket(kept["lot"].to_numpy(), kept["key"], bucket)


def every_target(dealt: Deal) -> Iterator[tuple[int, bytes]]:
    return ((target, b"") for target in range(sum(dealt.shards)))


def split_packed(packed: bytes, fields: tuple[pa.Field, ...], dealt: Deal) -> Iterator[tuple[int, bytes]]:
    return shuffle.split(unpack(packed, fields), dealt)


def write_rows(grouped: tuple[int, Iterable[bytes]], output: str, fields: tuple[pa.Field, ...], dealt: Deal) -> Json:
    target, packed = grouped
    return shuffle.write_rows(output, target, filter(None, packed), fields, dealt)


def write_plan_json(dealt: Deal, written: Iterable[Json], counts: Counts, config: DealConfig) -> Json:
    """Commits the plan, and gives it."""
    written = list(written)
    told = {**config.told, "licences": shuffle.add_licences(each["licences"] for each in written)}
    samples = dict(zip(SPLITS, dealt.samples, strict=True))
    record = export.plan_record(config.record, told, [each["entry"] for each in written], counts, samples)
    storage.write_json(storage.join(config.output, PLAN), record)
    return record


class CopyShards(beam.PTransform):
    """Targets → their tars and markers, and when all stand, the manifest."""

    def __init__(self, source: str, output: str, sizes: dict[int, int]) -> None:
        super().__init__()
        self._source, self._output, self._sizes = source, output, sizes

    def expand(self, targets: beam.PCollection) -> beam.PCollection:
        return (
            targets
            | beam.Reshuffle()
            | "CopyShard" >> beam.Map(copy_shard, self._source, self._output, self._sizes)
            | "TotalCopied" >> beam.CombineGlobally(sum)
            | "WriteManifest" >> beam.Map(lambda _: export.finish(self._output))
        )


def copy_shard(target: Target, source: str, output: str, sizes: dict[int, int]) -> int:
    """Writes a target's tar and marker; gives its number of samples."""
    tars = shard_writer.Tars(source, sizes)
    return int(shard_writer.copy_shard(storage.join(output, target.split), target.number, target.rows, tars)["count"])
