"""The wiring of `gesso encode` in Beam: shards → their commit markers. No picture leaves its shard."""

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from gesso.pipelines.combiners import NAMESPACE, Counts, count
from gesso.training.dvae.model import DVAE
from gesso.training.encode_settings import EncodeSettings
from gesso.training.encoding import Target, encode_shard, open_same


class EncodeShards(beam.DoFn):
    """Shards → the counts of their markers. One dVAE in a process, one shard at a time."""

    def __init__(self, output: str, dvae: str, settings: EncodeSettings, identity: dict[str, Any]) -> None:
        self._output, self._settings = output, settings
        self._open: Callable[[], DVAE] = lambda: open_same(dvae, settings, identity)
        self._shared = Shared()

    def setup(self) -> None:
        self._dvae = self._shared.acquire(self._open)

    def process(self, target: Target) -> Iterator[Counts]:
        marker = encode_shard(target.split, target.shard, self._dvae, self._settings, self._output)
        counts: Counts = marker["status_dict"]
        count(counts)
        Metrics.distribution(NAMESPACE, "shard_seconds").update(round(marker["duration"]))
        yield counts
