"""The wiring of `gesso index` in Beam. No picture and no caption leaves its tar; hashes of keys are grouped."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton

from gesso.pipelines.combiners import NAMESPACE, Counts, count
from gesso.pipelines.index import keys
from gesso.pipelines.index.indexer import index_tar
from gesso.pipelines.index.keys import Repeat
from gesso.pipelines.index.settings import IndexSettings
from gesso.pipelines.index.tars import Tar


class IndexTars(beam.DoFn):
    """Tars → the counts of their markers."""

    def __init__(self, output: str, settings: IndexSettings) -> None:
        self._output, self._settings = output, settings

    def process(self, tar: Tar) -> Iterator[Counts]:
        marker = index_tar(self._output, tar, self._settings)
        counts: Counts = marker["status_dict"]
        count(counts)
        Metrics.distribution(NAMESPACE, "shard_seconds").update(round(marker["duration"]))
        yield counts


class FindRepeats(beam.PTransform):
    """Shard numbers, once all are indexed, → keys that two of them hold, a few at most."""

    def __init__(self, output: str, indexed: beam.PCollection) -> None:
        super().__init__()
        self._output, self._indexed = output, indexed

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        return (
            shards
            | beam.Reshuffle()
            | "HashKeys" >> beam.FlatMap(hash_keys, self._output, AsSingleton(self._indexed))
            | beam.GroupByKey()
            | "FirstRepeats" >> beam.FlatMap(first_repeats, self._output)
        )


def hash_keys(shard: int, output: str, indexed: Counts) -> Iterator[tuple[int, bytes]]:
    return keys.hash_keys(output, shard)


def first_repeats(bucket: tuple[int, Iterable[bytes]], output: str) -> list[Repeat]:
    found = keys.first_repeat(output, bucket[1])
    return [found] if found else []
