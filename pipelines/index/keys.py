"""Are the keys of all shards different? By 64-bit hashes in buckets; a hash that comes twice is looked up. No Beam."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.layout import rows_name
from gesso.dataset.records import SUCCESS

BUCKETS = 64  # of 400 million keys, 75 MB each
HASH = np.dtype([("hash", "<u8"), ("shard", "<i4")])

Hashes = npt.NDArray[np.void]
Repeat = tuple[str, int, int]  # a key and two shards that hold it


def read_taken(output: str, shard: int) -> list[str]:
    """The keys of a shard's samples."""
    with storage.open_input(storage.join(output, rows_name(shard))) as stream:
        table = pq.read_table(stream, columns=["key", "status"])
    keys: list[str] = table.filter(pc.equal(table["status"], SUCCESS))["key"].to_pylist()
    return keys


def hash_keys(output: str, shard: int) -> Iterator[tuple[int, bytes]]:
    """The hashes of a shard's keys by bucket, as bytes of HASH."""
    keys = read_taken(output, shard)
    hashes = np.empty(len(keys), HASH)
    hashes["hash"] = [hash_key(key) for key in keys]
    hashes["shard"] = shard
    buckets = hashes["hash"] % np.uint64(BUCKETS)
    for bucket in np.unique(buckets):
        yield int(bucket), hashes[buckets == bucket].tobytes()


def hash_key(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")


def first_repeat(output: str, packed: Iterable[bytes]) -> Repeat | None:
    """A key that two shards hold, by the hashes of a bucket; None where there is none."""
    found = (in_both(output, *pair) for pair in suspects(np.frombuffer(b"".join(packed), HASH)))
    return next(filter(None, found), None)


def suspects(hashes: Hashes) -> Iterator[tuple[int, int]]:
    """Pairs of shards in which one hash comes."""
    hashes = np.sort(hashes, order=["hash", "shard"])
    repeated = np.unique(hashes["hash"][1:][hashes["hash"][1:] == hashes["hash"][:-1]])
    starts, ends = (np.searchsorted(hashes["hash"], repeated, side) for side in ("left", "right"))
    for start, end in zip(starts, ends, strict=True):
        yield from combinations(np.unique(hashes["shard"][start:end]).tolist(), 2)


def in_both(output: str, one: int, other: int) -> Repeat | None:
    """The smallest key of both shards; None where equal hashes stood for different keys."""
    common = set(read_taken(output, one)) & set(read_taken(output, other))
    return (min(common), one, other) if common else None
