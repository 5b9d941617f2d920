"""The wiring of `gesso export` in Beam, with as little logic as possible.

Image bytes never cross a shuffle: what is grouped or reshuffled is packed rows, counts and shard numbers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton, TaggedOutput

from pipelines import copying, dealing, exported, files, plan
from pipelines.collection import SourceShard
from pipelines.dealing import Bucket, Cut, Deal, Numbers
from pipelines.exported import Target
from pipelines.layout import PLAN, SPLITS
from pipelines.settings import ExportSettings
from pipelines.transforms import COUNTS, Counts, total

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
            | "AddHistograms" >> beam.CombineGlobally(dealing.add)
            | "FindBucket" >> beam.Map(dealing.find_bucket, config.settings)
        )
        inside = rows | "InBucket" >> beam.FlatMap(in_bucket, config.fields, AsSingleton(bucket))
        dealt = bucket | "Deal" >> beam.Map(dealing.deal, AsIter(inside), config.settings)
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
    kept, counts = dealing.read_shard(source, shard, fields, dropped, seed)
    yield plan.pack(kept)
    yield TaggedOutput(COUNTS, dict(counts))


def unpack(packed: bytes, fields: tuple[pa.Field, ...]) -> pa.RecordBatch:
    return plan.unpack(packed, dealing.packed_schema(fields))


def histogram(packed: bytes, fields: tuple[pa.Field, ...]) -> Numbers:
    return dealing.histogram(unpack(packed, fields)["lot"].to_numpy())


def in_bucket(packed: bytes, fields: tuple[pa.Field, ...], bucket: Bucket) -> list[Cut]:
    kept = unpack(packed, fields)
    return dealing.in_bucket(kept["lot"].to_numpy(), kept["key"], bucket)


def every_target(dealt: Deal) -> Iterator[tuple[int, bytes]]:
    return ((target, b"") for target in range(sum(dealt.shards)))


def split_packed(packed: bytes, fields: tuple[pa.Field, ...], dealt: Deal) -> Iterator[tuple[int, bytes]]:
    return dealing.split(unpack(packed, fields), dealt)


def write_rows(grouped: tuple[int, Iterable[bytes]], output: str, fields: tuple[pa.Field, ...], dealt: Deal) -> Json:
    target, packed = grouped
    return dealing.write_rows(output, target, filter(None, packed), fields, dealt)


def write_plan_json(dealt: Deal, written: Iterable[Json], counts: Counts, config: DealConfig) -> Json:
    """Commits the plan, and gives it."""
    written = list(written)
    told = {**config.told, "licences": dealing.add_licences(each["licences"] for each in written)}
    samples = dict(zip(SPLITS, dealt.samples, strict=True))
    record = exported.plan_record(config.record, told, [each["entry"] for each in written], counts, samples)
    files.write_json(files.join(config.output, PLAN), record)
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
            | "WriteManifest" >> beam.Map(lambda _: exported.finish(self._output))
        )


def copy_shard(target: Target, source: str, output: str, sizes: dict[int, int]) -> int:
    """Writes a target's tar and marker; gives its number of samples."""
    tars = copying.Tars(source, sizes)
    return int(copying.copy_shard(files.join(output, target.split), target.number, target.rows, tars)["count"])
