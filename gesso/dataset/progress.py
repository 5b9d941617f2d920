"""How far shards are, read from their directory: commit markers, and notes of the shards under way."""

from collections import Counter

from gesso import storage
from gesso.dataset import manifest
from gesso.dataset.layout import progress_name
from gesso.progress import State, line


class Note:
    """What a shard has come to so far, as a small local file that is read until the shard's marker is there."""

    def __init__(self, output: str, index: int, counts: Counter[str]) -> None:
        self._path = storage.join(output, progress_name(index))
        self._counts = counts

    def write(self) -> None:
        if storage.is_local(self._path):
            storage.write_json(self._path, dict(self._counts))

    def remove(self) -> None:
        storage.remove(self._path)


class ShardsLook:
    """Reads how many of `total` items the committed markers (`count`) and the notes of shards under way come to."""

    def __init__(self, output: str, total: int, unit: str) -> None:
        self._output, self._total, self._unit = output, total, unit
        self._counts: dict[int, int] = {}

    def __call__(self) -> State:
        fresh = manifest.committed(self._output, frozenset(self._counts))
        self._counts |= {index: int(marker["count"]) for index, marker in fresh.items()}
        under_way = sum(note.total() for note in manifest.notes(self._output, frozenset(self._counts)))
        done = sum(self._counts.values()) + under_way
        return State(done, self._total, lambda rate: line(done, self._total, self._unit, rate))
