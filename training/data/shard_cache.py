"""What is read of the shards used last, for threads that share it. Standard library."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class ShardCache(Generic[V]):
    """What `load` gives for the shards used last, by their positions in `counts`.

    `cached`: samples of the shards that are kept, at most, but one shard always is.
    """

    def __init__(self, counts: Sequence[int], load: Callable[[int], V], cached: int) -> None:
        self._counts, self._load, self._cached = counts, load, cached
        self._kept = OrderedDict[int, V]()
        self._samples = 0  # of the shards that are kept
        self._lock = Lock()
        self._loading = [Lock() for _ in counts]

    def __getitem__(self, shard: int) -> V:
        """A shard's value; while one thread loads it, others that need the same shard wait."""
        with self._loading[shard]:
            with self._lock:
                if shard in self._kept:
                    self._kept.move_to_end(shard)
                    return self._kept[shard]
            value = self._load(shard)
            with self._lock:
                self._keep(shard, value)
        return value

    def _keep(self, shard: int, value: V) -> None:
        self._kept[shard] = value
        self._samples += self._counts[shard]
        while self._samples > self._cached and len(self._kept) > 1:
            self._samples -= self._counts[self._kept.popitem(last=False)[0]]
