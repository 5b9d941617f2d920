"""The search of `gesso match`: references, the search of a part, the table of all matches. No Beam."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso.dataset.embeddings import NO_SHARD, Chunk, Embeddings, Pictures, all_rows, read_ahead, read_pictures
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup import nearest
from gesso.dedup.nearest import NO_DISTANCE, Neighbours
from gesso.errors import UserError


def read_references(reference: Embeddings) -> Pictures:
    """All references with a direction, as queries. Raises UserError where there are none, or two have the same key."""
    queries = with_direction(read_pictures(reference, all_rows(reference))) if reference.blocks else None
    if queries is None or not len(queries.keys):
        raise UserError(f"{reference.path} holds no embeddings: there is nothing to search for")
    keys, counts = np.unique(queries.keys, return_counts=True)
    if len(keys) < len(queries.keys):
        repeated = keys[counts > 1][0].decode()
        raise UserError(f"{reference.path} has several references named {repeated!r}: give each file its own name")
    return queries


def with_direction(pictures: Pictures) -> Pictures:
    """The pictures without those whose vector is zero: clip-retrieval's own may have such (Embeddings.left_out)."""
    kept = pictures.vectors.any(axis=1)
    if kept.all():
        return pictures
    vectors, keys, shards, phash, hashed = pictures
    return Pictures(vectors[kept], keys[kept], shards[kept], phash[kept], hashed[kept])


def search_part(
    queries: Pictures, training: Embeddings, part: list[Chunk], top_k: int, advance: Callable[[int], None]
) -> Neighbours:
    """The nearest neighbours (Q, top_k) of the queries in some chunks; calls `advance` with the rows of each chunk."""
    found = nearest.empty((len(queries.keys), top_k))
    for pictures in read_ahead(training, part):
        searched = with_direction(pictures) if training.foreign else pictures
        if len(searched.keys):
            found = nearest.search(found, queries, searched)
        advance(len(pictures.keys))
    return found


def matches_table(keys: npt.NDArray[np.bytes_], found: Neighbours) -> pa.Table:
    """The neighbours (Q, k) of the references (Q,) as a table of MATCH_FIELDS, sorted by (reference_key, rank)."""
    order = np.argsort(keys)
    keys, found = keys[order], found[order]
    reference, column = np.nonzero(found["similarity"] > -np.inf)
    filled = found[reference, column]
    columns = [
        [key.decode() for key in keys[reference].tolist()],
        (column + 1).astype(np.int32),
        [key.decode() for key in filled["uid"].tolist()],
        pa.array(filled["shard"], mask=filled["shard"] == NO_SHARD),
        filled["similarity"].copy(),
        pa.array(filled["distance"].astype(np.int32), mask=filled["distance"] == NO_DISTANCE),
    ]
    return pa.table(columns, pa.schema(MATCH_FIELDS))
