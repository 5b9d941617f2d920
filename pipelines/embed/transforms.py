"""The wiring of `gesso embed` in Beam: blocks → their commit markers. No picture leaves its block."""

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from gesso.dedup.settings import ModelSettings
from gesso.errors import UserError
from gesso.pipelines.combiners import NAMESPACE, Counts, count
from gesso.pipelines.embed.blocks import Embedder
from gesso.pipelines.embed.pictures import Block
from gesso.pipelines.embed.settings import EmbedSettings


class EmbedBlocks(beam.DoFn):
    """Blocks → the counts of their markers. One model a process; a block at a time."""

    def __init__(self, output: str, model: ModelSettings, settings: EmbedSettings, identity: dict[str, Any]) -> None:
        self._output, self._identity = output, identity
        self._open: Callable[[], Embedder] = lambda: Embedder(model, settings)
        self._shared = Shared()

    def setup(self) -> None:
        self._embedder = self._shared.acquire(self._open)
        here = self._embedder.model.identity
        if here != self._identity:
            raise UserError(f"a worker has another model ({here}) than {self._identity}: give all the same weights")

    def process(self, block: Block) -> Iterator[Counts]:
        marker = self._embedder.embed(self._output, block)
        counts: Counts = marker["status_dict"]
        count(counts)
        Metrics.distribution(NAMESPACE, "block_seconds").update(round(marker["duration"]))
        yield counts
