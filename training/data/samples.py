"""Reads the encoded pictures of a split by shard and row, and decodes them. No torch."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso import images, storage
from gesso.errors import Rejected, UserError
from gesso.images import Pixels
from gesso.storage import Range
from gesso.training.data.split import PLACE, Split


class EncodedSample(NamedTuple):
    """A sample's encoded picture, and the path of its tar."""

    key: str
    body: bytes
    tar: str


class Rows(NamedTuple):
    """Where the pictures of a shard lie in its tar."""

    tar: str
    keys: pa.Array
    offsets: npt.NDArray[np.int64]  # bytes
    sizes: npt.NDArray[np.int64]


class SampleReader:
    """Reads encoded pictures of a split by shard and row; caches the rows of the shards used last.

    Threads may share it. `cached`: samples whose rows are cached, at most, but one shard's always are.
    """

    def __init__(self, split: Split, cached: int) -> None:
        self._split, self._cached = split, cached
        self._rows = OrderedDict[int, Rows]()
        self._samples = 0  # whose rows are cached
        self._lock = Lock()
        self._loading = [Lock() for _ in split.shards]

    def read(self, shards: Sequence[int], rows: Sequence[int]) -> list[EncodedSample]:
        """Some samples; `shards` are positions in `split.shards`. Raises UserError where one cannot be read."""
        located = [self._locate(shard, row) for shard, row in zip(shards, rows, strict=True)]
        ranges = [wanted for _, wanted in located]
        try:
            bodies = storage.read_ranges(ranges)
        except OSError as error:
            raise self._split.refusal(f"{self._split.split}: a shard cannot be read ({error})") from error
        return [self._checked(key, wanted, body) for (key, wanted), body in zip(located, bodies, strict=True)]

    def refusal(self, sample: EncodedSample, rejected: Rejected) -> UserError:
        """The error for a sample whose picture does not decode or is too small."""
        if rejected.reason != "too_small":
            return self._damaged(sample.key, sample.tar, f"does not decode ({rejected.message})")
        return UserError(
            f"{sample.tar}: sample {sample.key} is {rejected.message}: give a smaller --image_size, or collect with "
            "--min_side"
        )

    def _damaged(self, key: str, tar: str, what: str) -> UserError:
        return self._split.refusal(f"{tar[len(self._split.path) :].lstrip('/')}: sample {key} {what}")

    def _checked(self, key: str, wanted: Range, body: bytes) -> EncodedSample:
        if len(body) != wanted.size:
            raise self._damaged(key, wanted.path, f"is truncated at {len(body):,} of {wanted.size:,} bytes")
        return EncodedSample(key, body, wanted.path)

    def _locate(self, shard: int, row: int) -> tuple[str, Range]:
        rows = self._read_rows(shard)
        return rows.keys[row].as_py(), Range(rows.tar, int(rows.offsets[row]), int(rows.sizes[row]))

    def _read_rows(self, shard: int) -> Rows:
        """A shard's rows, cached; while one thread reads them, others that need the same shard wait."""
        with self._loading[shard]:
            with self._lock:
                if shard in self._rows:
                    self._rows.move_to_end(shard)
                    return self._rows[shard]
            entry = self._split.shards[shard]
            table = self._split.rows(entry, PLACE).combine_chunks()
            keys, offsets, sizes = (table[name].chunk(0) if len(table) else pa.array([]) for name in PLACE)
            rows = Rows(self._split.tar(entry), keys, offsets.to_numpy(), sizes.to_numpy())
            with self._lock:
                self._cache(shard, rows)
        return rows

    def _cache(self, shard: int, rows: Rows) -> None:
        self._rows[shard] = rows
        self._samples += len(rows.keys)
        while self._samples > self._cached and len(self._rows) > 1:
            self._samples -= len(self._rows.popitem(last=False)[1].keys)


def decode(body: bytes, size: int) -> Pixels:
    """The picture, upright, for a view of `size`; a much larger JPEG is scaled down while decoding. Raises Rejected.

    Its short side stays at 12/8 · size or more, the largest size to which a view resizes it.
    """
    header = images.read_header(body)
    return images.upright(images.decode(body, header, round(12 / 8 * size)), header.orientation)
