"""The progress of a directory of shards: its commit markers, and the progress files of shards being written."""

from collections import Counter

from gesso import storage
from gesso.dataset import manifest
from gesso.dataset.layout import progress_name
from gesso.progress import State, line


class ProgressFile:
    """The counts of a shard being written, as a small local file that is read until the shard's marker exists."""

    def __init__(self, output: str, index: int, counts: Counter[str]) -> None:
        self._path = storage.join(output, progress_name(index))
        self._counts = counts

    def write(self) -> None:
        if storage.is_local(self._path):
            storage.write_json(self._path, dict(self._counts))

    def remove(self) -> None:
        storage.remove(self._path)


class IndexProgress:
    """Reads how many of `tars` are indexed, and how many samples are in them and in those under way."""

    def __init__(self, output: str, tars: int) -> None:
        self._output, self._tars = output, tars
        self._counts: dict[int, int] = {}

    def __call__(self) -> State:
        fresh = manifest.committed(self._output, frozenset(self._counts))
        self._counts |= {index: int(marker["count"]) for index, marker in fresh.items()}
        unfinished = sum(counts.total() for counts in manifest.progress_counts(self._output, frozenset(self._counts)))
        done, samples = len(self._counts), sum(self._counts.values()) + unfinished
        return State(done, self._tars, lambda rate: f"{line(done, self._tars, 'tars', rate)} · {samples:,} samples")


class ShardsProgress:
    """Reads how many of `total` items are done: those of committed markers (`count`) and of progress files."""

    def __init__(self, output: str, total: int, unit: str) -> None:
        self._output, self._total, self._unit = output, total, unit
        self._counts: dict[int, int] = {}

    def __call__(self) -> State:
        fresh = manifest.committed(self._output, frozenset(self._counts))
        self._counts |= {index: int(marker["count"]) for index, marker in fresh.items()}
        unfinished = sum(counts.total() for counts in manifest.progress_counts(self._output, frozenset(self._counts)))
        done = sum(self._counts.values()) + unfinished
        return State(done, self._total, lambda rate: line(done, self._total, self._unit, rate))
