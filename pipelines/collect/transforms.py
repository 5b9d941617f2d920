"""The wiring of the jobs in Beam: DoFns and composite transforms, with as little logic as possible.

Image bytes never cross a shuffle: what is grouped or reshuffled is packed text, counts and shard numbers.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from gesso import storage
from gesso.dataset import layout, manifest, records, shards
from gesso.dataset.schemas import plan_schema
from gesso.pipelines import packing
from gesso.pipelines.collect import plan, sources
from gesso.pipelines.collect.engines import Engine, open_engine
from gesso.pipelines.collect.settings import CaptionRules, EngineSettings, PlanSettings
from gesso.pipelines.combiners import COUNTS, NAMESPACE, Counts, count, total

SHARDS_AT_ONCE = 2  # in a bundle, so that one shard's links are fetched while the slowest of another are waited for


@dataclass(frozen=True)
class PlanConfig:
    """What the planner needs to know, everywhere the same."""

    output: str
    columns: sources.Columns
    extra: tuple[pa.Field, ...]
    captions: CaptionRules
    plan: PlanSettings
    record: dict[str, Any]  # settings, input and versions as plan.json keeps them


class JudgeRows(beam.DoFn):
    """A unit of a table → its pairs, judged and packed; their counts beside them."""

    def __init__(self, config: PlanConfig) -> None:
        self._config = config

    def process(self, unit: sources.Unit) -> Iterator[Any]:
        counts = Counter[str]()
        for rows, rejected in sources.read(unit, self._config.columns, self._config.extra):
            pairs, links = plan.judge_rows(rows, self._config.captions)
            counts += rejected + links
            counts[records.ROWS_READ] += rows.num_rows + rejected.total()
            if rows.num_rows:
                yield packing.pack(pairs)
        count({name: number for name, number in counts.items() if name != records.PLANNED})
        yield TaggedOutput(COUNTS, counts)


class WritePlan(beam.PTransform):
    """Units of tables → `plan/*.plan` and, once all are written, `plan.json`; the result is the number of shards."""

    def __init__(self, config: PlanConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        config = self._config
        judged = (
            units | beam.Reshuffle() | "JudgeRows" >> beam.ParDo(JudgeRows(config)).with_outputs(COUNTS, main="pairs")
        )
        rows = judged[COUNTS] | "TotalRows" >> beam.CombineGlobally(total)
        number = rows | "ShardCount" >> beam.Map(
            lambda counts: plan.shard_count(counts.get(records.PLANNED, 0), config.plan)
        )
        every = number | "EveryShard" >> beam.FlatMap(lambda shards: ((shard, b"") for shard in range(shards)))
        split = judged["pairs"] | "Split" >> beam.FlatMap(split_packed, config.extra, AsSingleton(number))
        planned = (
            (every, split)
            | beam.Flatten()
            | beam.GroupByKey()
            | "WriteShardPlan"
            >> beam.MapTuple(
                lambda index, packed: plan.write_plan(config.output, index, filter(None, packed), config.extra)
            )
            | "TotalPlanned" >> beam.CombineGlobally(total)
        )
        return planned | "WritePlanJson" >> beam.Map(write_plan_json, AsSingleton(rows), AsSingleton(number), config)


def split_packed(packed: bytes, extra: tuple[pa.Field, ...], shards: int) -> Iterator[tuple[int, bytes]]:
    return plan.split(packing.unpack(packed, plan_schema(extra)), shards)


def write_plan_json(planned: Counts, rows: Counts, number: int, config: PlanConfig) -> int:
    """Commits the plan; returns the number of shards."""
    count({name: planned.get(name, 0) for name in (records.PLANNED, *records.REPEATS)})
    storage.write_json(
        storage.join(config.output, layout.PLAN),
        manifest.plan_record(config.record, Counter(planned), Counter(rows), number),
    )
    return number


class CollectShards(beam.DoFn):
    """Shard numbers → their commit markers. One engine a process; two shards of a bundle at a time."""

    def __init__(self, output: str, extra: tuple[pa.Field, ...], engine: str, settings: EngineSettings) -> None:
        self._output, self._extra = output, extra
        self._open: Callable[[], Engine] = lambda: open_engine(engine, settings)
        self._shared = Shared()

    def setup(self) -> None:
        self._engine = self._shared.acquire(self._open)

    def start_bundle(self) -> None:
        self._started: list[Future[shards.Row]] = []

    def process(self, index: int) -> Iterator[Counts]:
        if len(self._started) == SHARDS_AT_ONCE:
            yield finished(self._started.pop(0))
        self._started.append(self._engine.submit(self._output, index, self._extra))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for shard in self._started:
            yield WindowedValue(finished(shard), window.max_timestamp(), [window])


def finished(shard: "Future[shards.Row]") -> Counts:
    """Waits for a shard and counts it."""
    marker = shard.result()
    counts: Counts = marker["status_dict"]
    count(counts)
    Metrics.distribution(NAMESPACE, "shard_seconds").update(round(marker["duration"]))
    for entry in marker["files"].values():
        Metrics.distribution(NAMESPACE, "file_bytes").update(entry["bytes"])
    return counts
