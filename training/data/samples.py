"""Encoded pictures of a split by shard and row, and what they decode to. No torch."""

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


class Picture(NamedTuple):
    """A sample's encoded picture, and the tar in which it stands."""

    key: str
    body: bytes
    tar: str


class Rows(NamedTuple):
    """Where the pictures of a shard stand."""

    tar: str
    keys: pa.Array
    offsets: npt.NDArray[np.int64]  # bytes
    sizes: npt.NDArray[np.int64]


class Pictures:
    """The encoded pictures of a split, by shard and row; rows of the shards that were used last stay in memory.

    Threads may share it. `held`: samples whose rows stay, about.
    """

    def __init__(self, split: Split, held: int) -> None:
        self._split, self._held = split, held
        self._rows = OrderedDict[int, Rows]()
        self._samples = 0  # that the rows in memory tell of
        self._lock = Lock()
        self._loading = [Lock() for _ in split.shards]

    def read(self, shards: Sequence[int], rows: Sequence[int]) -> list[Picture]:
        """The pictures of some samples, shards by their place in the split. Raises UserError."""
        found = [self._place(shard, row) for shard, row in zip(shards, rows, strict=True)]
        ranges = [wanted for _, wanted in found]
        try:
            bodies = storage.read_ranges(ranges)
        except OSError as error:
            raise self._split.refusal(f"{self._split.split}: a shard cannot be read ({error})") from error
        return [self._whole(key, wanted, body) for (key, wanted), body in zip(found, bodies, strict=True)]

    def refusal(self, picture: Picture, rejected: Rejected) -> UserError:
        """The error for a picture that is none, or too small."""
        if rejected.reason != "too_small":
            return self._damaged(picture.key, picture.tar, f"does not decode ({rejected.message})")
        return UserError(
            f"{picture.tar}: sample {picture.key} is {rejected.message}: give a smaller --image_size, or collect with "
            "--min_side"
        )

    def _damaged(self, key: str, tar: str, what: str) -> UserError:
        return self._split.refusal(f"{tar[len(self._split.path) :].lstrip('/')}: sample {key} {what}")

    def _whole(self, key: str, wanted: Range, body: bytes) -> Picture:
        if len(body) != wanted.size:
            raise self._damaged(key, wanted.path, f"is cut off at {len(body):,} of {wanted.size:,} bytes")
        return Picture(key, body, wanted.path)

    def _place(self, shard: int, row: int) -> tuple[str, Range]:
        rows = self._read_rows(shard)
        return rows.keys[row].as_py(), Range(rows.tar, int(rows.offsets[row]), int(rows.sizes[row]))

    def _read_rows(self, shard: int) -> Rows:
        """A shard's rows; one thread reads them while others of that shard wait."""
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
                self._keep(shard, rows)
        return rows

    def _keep(self, shard: int, rows: Rows) -> None:
        self._rows[shard] = rows
        self._samples += len(rows.keys)
        while self._samples > self._held and len(self._rows) > 1:
            self._samples -= len(self._rows.popitem(last=False)[1].keys)


def decode(body: bytes, size: int) -> Pixels:
    """The picture for a view of `size`, upright; a larger JPEG is scaled down in its DCT. Raises Rejected.

    Its short side stays at 12/8 · size, the most that a view makes of it: at 256 that is all of what is collected.
    """
    header = images.read_header(body)
    return images.upright(images.decode(body, header, round(12 / 8 * size)), header.orientation)
