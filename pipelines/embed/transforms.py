"""The wiring of `gesso embed` in Beam: blocks → their commit markers. No picture leaves its block."""

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from gesso.dedup.settings import ModelSettings
from gesso.errors import UserError
from gesso.pipelines.combiners import NAMESPACE, Counts, count
from gesso.pipelines.embed.blocks import BlockEmbedder
from gesso.pipelines.embed.pictures import Block
from gesso.pipelines.embed.settings import EmbedSettings


class EmbedBlocks(beam.DoFn):
    """Blocks → the counts of their markers. One model in a process, one block at a time."""

    def __init__(self, output: str, model: ModelSettings, settings: EmbedSettings, identity: dict[str, Any]) -> None:
        self._output, self._identity = output, identity
        self._open: Callable[[], BlockEmbedder] = lambda: BlockEmbedder(model, settings)
        self._shared = Shared()

    def setup(self) -> None:
        self._embedder = self._shared.acquire(self._open)
        identity = self._embedder.model.identity
        if identity != self._identity:
            raise UserError(
                f"a worker has another model ({identity}) than {self._identity}: give all workers the same weights"
            )

    def process(self, block: Block) -> Iterator[Counts]:
        marker = self._embedder.embed_block(self._output, block)
        counts: Counts = marker["status_dict"]
        count(counts)
        Metrics.distribution(NAMESPACE, "block_seconds").update(round(marker["duration"]))
        yield counts
