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


class Counted:
    """Reads how many items of a directory are done: those of committed markers (`count`) and of progress files."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._counts: dict[int, int] = {}

    def read(self) -> tuple[int, int]:
        """Committed shards, and items in them and in those under way. A marker is read once."""
        fresh = manifest.committed(self._output, frozenset(self._counts))
        self._counts |= {index: int(marker["count"]) for index, marker in fresh.items()}
        unfinished = sum(counts.total() for counts in manifest.progress_counts(self._output, frozenset(self._counts)))
        return len(self._counts), sum(self._counts.values()) + unfinished


class IndexProgress:
    """Reads how many of `tars` are indexed, and how many samples are in them and in those under way."""

    def __init__(self, output: str, tars: int) -> None:
        self._counted, self._tars = Counted(output), tars

    def __call__(self) -> State:
        done, samples = self._counted.read()
        return State(done, self._tars, lambda rate: f"{line(done, self._tars, 'tars', rate)} · {samples:,} samples")


class ShardsProgress:
    """Reads how many of `total` items are done."""

    def __init__(self, output: str, total: int, unit: str) -> None:
        self._counted, self._total, self._unit = Counted(output), total, unit

    def __call__(self) -> State:
        _, done = self._counted.read()
        return State(done, self._total, lambda rate: line(done, self._total, self._unit, rate))
