"""Matches in the order of the page, and the metadata of their pictures. No Beam, no pixels.

Shapes: N references, P pairs, S distinct training samples among them.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gesso.dataset.embeddings import Embeddings
from gesso.dataset.schemas import METADATA_FIELDS

Ints = npt.NDArray[np.int32]

NO_HASH = -1
READERS = 16  # blocks of metadata read at a time
FIELDS = [field for field in METADATA_FIELDS if field.name not in ("sha256", "phash", "view")]
COLUMNS = [field.name for field in FIELDS]
EMPTY = pa.schema(FIELDS).empty_table()


class Listing(NamedTuple):
    """References by the similarity of their nearest sample, descending; the pairs of each by rank."""

    references: pa.Array  # (N,) keys
    counts: Ints  # (N,) number of pairs of each reference
    samples: Ints  # (P,) the pair's sample, as an index of keys
    similarity: npt.NDArray[np.float32]  # (P,)
    hashes: Ints  # (P,) differing bits of the perceptual hashes, or NO_HASH
    views: Ints  # (P,) the reference's view that matched
    keys: pa.Array  # (S,) keys of the samples, in the order of the page
    shards: pa.Array  # (S,) null for a folder's pictures

    @property
    def starts(self) -> Ints:
        """(N,) the first pair of each reference: the one with its nearest sample."""
        return (np.cumsum(self.counts) - self.counts).astype(np.int32)


def sort_matches(matches: pa.Table) -> Listing:
    """Matches, sorted by (reference_key, rank) → the order of the page; references of equal similarity by key."""
    encoded = pc.dictionary_encode(matches["reference_key"].combine_chunks())
    counts = np.bincount(encoded.indices.to_numpy(), minlength=len(encoded.dictionary)).astype(np.int64)
    starts = np.cumsum(counts) - counts
    similarity = matches["similarity"].to_numpy()
    order = np.argsort(-similarity[starts], kind="stable")
    counts = counts[order]
    within = np.arange(len(matches)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.repeat(starts[order], counts) + within
    pairs = matches.take(pa.array(rows)).combine_chunks()
    samples = pc.dictionary_encode(pairs["uid"].combine_chunks())
    numbers = samples.indices.to_numpy()
    return Listing(
        references=encoded.dictionary.take(pa.array(order)),
        counts=counts.astype(np.int32),
        samples=numbers.astype(np.int32),
        similarity=similarity[rows],
        hashes=pairs["phash_distance"].fill_null(NO_HASH).to_numpy().astype(np.int32),
        views=pairs["reference_view"].to_numpy(),
        keys=samples.dictionary,
        shards=pairs["shard"].combine_chunks().take(pa.array(np.unique(numbers, return_index=True)[1])),
    )


def read_metadata(embeddings: Embeddings, keys: pa.Array, shards: Iterable[int | None]) -> pa.Table:
    """The metadata of each key, row-aligned with `keys`: COLUMNS, nulls for a key that is not in the embeddings.

    Only the blocks of `shards` are read; None among them means all blocks.
    """
    wanted = set(shards)
    blocks = [block for block in embeddings.blocks if None in wanted or block.shard in wanted]
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda block: embeddings.metadata(block, COLUMNS), blocks)
        found = pa.concat_tables([EMPTY, *(table.filter(pc.is_in(table["key"], value_set=keys)) for table in read)])
    return found.take(pc.index_in(keys, value_set=found["key"].combine_chunks())).combine_chunks()
