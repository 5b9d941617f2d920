"""Reads the encoded pictures of a split by shard and row, and decodes them. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso import images, storage
from gesso.errors import Rejected, UserError
from gesso.images import Pixels
from gesso.storage import Range
from gesso.training.data.shard_cache import ShardCache
from gesso.training.data.split import PLACE, Split

CAPTION = "caption"


class EncodedSample(NamedTuple):
    """A sample's encoded picture, the path of its tar, and its caption where it is read."""

    key: str
    body: bytes
    tar: str
    caption: str


class Rows(NamedTuple):
    """Where the pictures of a shard lie in its tar, and their captions where they are read."""

    tar: str
    keys: pa.Array
    offsets: npt.NDArray[np.int64]  # bytes
    sizes: npt.NDArray[np.int64]
    captions: pa.Array | None


class SampleReader:
    """Reads encoded pictures of a split by shard and row; caches the rows of the shards used last.

    Threads may share it. `cached`: samples whose rows are cached, at most, but one shard's always are. `captions`:
    whether captions are read, too; a missing one is "".
    """

    def __init__(self, split: Split, cached: int, captions: bool = False) -> None:
        self._split, self._captions = split, captions
        self._rows = ShardCache(split.counts, self._read_rows, cached)

    def read(self, shards: Sequence[int], rows: Sequence[int]) -> list[EncodedSample]:
        """Some samples; `shards` are positions in `split.shards`. Raises UserError where one cannot be read."""
        located = [(self._rows[shard], row) for shard, row in zip(shards, rows, strict=True)]
        ranges = [Range(found.tar, int(found.offsets[row]), int(found.sizes[row])) for found, row in located]
        try:
            bodies = storage.read_ranges(ranges)
        except OSError as error:
            raise self._split.refusal(f"{self._split.split}: a shard cannot be read ({error})") from error
        return [self._sample(*place, body) for place, body in zip(located, bodies, strict=True)]

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

    def _sample(self, rows: Rows, row: int, body: bytes) -> EncodedSample:
        key, size = rows.keys[row].as_py(), int(rows.sizes[row])
        if len(body) != size:
            raise self._damaged(key, rows.tar, f"is truncated at {len(body):,} of {size:,} bytes")
        caption = rows.captions[row].as_py() if rows.captions is not None else None
        return EncodedSample(key, body, rows.tar, caption or "")

    def _read_rows(self, shard: int) -> Rows:
        entry = self._split.shards[shard]
        columns = (*PLACE, CAPTION) if self._captions else PLACE
        table = self._split.rows(entry, columns).combine_chunks()
        keys, offsets, sizes, *captions = (table[name].chunk(0) if len(table) else pa.array([]) for name in columns)
        return Rows(self._split.tar(entry), keys, offsets.to_numpy(), sizes.to_numpy(), *(captions or [None]))


def decode(body: bytes, size: int) -> Pixels:
    """The picture, upright, for a view of `size`; a much larger JPEG is scaled down while decoding. Raises Rejected.

    Its short side stays at 12/8 · size or more, the largest size to which a view resizes it.
    """
    header = images.read_header(body)
    return images.upright(images.decode(body, header, round(12 / 8 * size)), header.orientation)
