"""The interface of the engines, which collect a planned shard: gesso's own, and img2dataset's code."""

from concurrent.futures import Future
from typing import Protocol

import pyarrow as pa

from gesso.dataset.shards import Row
from gesso.pipelines.collect.settings import EngineSettings


class Engine(Protocol):
    """Collects planned shards; one a process."""

    def submit(self, output: str, index: int, extra: tuple[pa.Field, ...]) -> "Future[Row]":
        """Starts a shard of the plan under `output`; the future holds its commit marker."""


def open_engine(name: str, settings: EngineSettings) -> Engine:
    """The engine `gesso` or `img2dataset`; what the other one needs is not imported."""
    if name == "img2dataset":
        from gesso.pipelines.collect.engine_img2dataset import Img2datasetEngine

        return Img2datasetEngine(settings)
    from gesso.pipelines.collect.engine import GessoEngine

    return GessoEngine(settings)
