"""Reads captions and codes of a split of tokens by shard, row and view. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gesso import storage
from gesso.storage import Range
from gesso.training.data.shard_cache import ShardCache
from gesso.training.data.shards import Damage, Shard
from gesso.training.data.token_split import CAPTIONED, CODE, Codes, TokenSplit, check_vocabulary


class TokenRows(NamedTuple):
    """Keys and captions of a shard, and where its codes begin in their file."""

    keys: pa.Array
    captions: pa.Array
    file: str
    first: int  # byte


class Captioned(NamedTuple):
    """Key and caption of a sample."""

    key: str
    caption: str


class TokenReader:
    """Reads samples by shard and row; caches keys and captions of the shards used last.

    Threads may share it. `cached`: samples whose keys and captions are cached, at most, but one shard's always are.
    """

    def __init__(self, split: TokenSplit, cached: int) -> None:
        self._split = split
        self._rows = ShardCache(split.counts, self._read_rows, cached)
        self._size = CODE.itemsize * split.grid**2  # bytes of a view

    def captions(self, shards: Sequence[int], rows: Sequence[int]) -> list[Captioned]:
        """Keys and captions of samples; `shards` are positions in `split.shards`. Raises UserError for damage."""
        located = [(self._rows[shard], row) for shard, row in zip(shards, rows, strict=True)]
        return [Captioned(found.keys[row].as_py(), found.captions[row].as_py()) for found, row in located]

    def codes(self, shards: Sequence[int], rows: Sequence[int], views: Sequence[int]) -> Codes:
        """The codes of a view of each sample, (n, g²) in raster order. Raises UserError where one cannot be read."""
        ranges = [self._range(*place) for place in zip(shards, rows, views, strict=True)]
        try:
            bodies = storage.read_ranges(ranges)
        except OSError as error:
            raise self._split.refusal(f"{self._split.split}: a shard cannot be read ({error})") from error
        try:
            return self._joined(bodies, [self._split.shards[shard] for shard in shards])
        except Damage as damage:
            raise self._split.refusal(str(damage)) from damage

    def _joined(self, bodies: list[bytes], shards: list[Shard]) -> Codes:
        """(n, g²). Raises Damage where a range is cut off or has a code that the vocabulary does not have."""
        for shard, body in zip(shards, bodies, strict=True):
            if len(body) != self._size:
                raise Damage(f"{self._split.name(shard)} has been cut off since it was opened")
        codes = np.frombuffer(b"".join(bodies), CODE).reshape(len(bodies), -1)
        check_vocabulary(self._split, codes, shards[int(codes.max(1).argmax())])
        return codes

    def _range(self, shard: int, row: int, view: int) -> Range:
        found = self._rows[shard]
        return Range(found.file, found.first + (row * self._split.views + view) * self._size, self._size)

    def _read_rows(self, shard: int) -> TokenRows:
        entry = self._split.shards[shard]
        table = self._split.rows(entry, CAPTIONED).combine_chunks()
        keys, captions = (table[name].chunk(0) for name in CAPTIONED)
        return TokenRows(keys, captions, self._split.file(entry), self._split.first_byte(entry))
