"""What `gesso match` is made of: the search of a part, and the table of all that was found. No Beam."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso.dataset.embeddings import NO_SHARD, Embeddings, Pictures, Portion, all_rows, read_ahead, read_pictures
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup import nearest
from gesso.dedup.nearest import NO_DISTANCE, Slots
from gesso.errors import UserError


def read_references(reference: Embeddings) -> Pictures:
    """All references at once, as queries. Raises UserError where there are none, or two of one key."""
    if not reference.blocks:
        raise UserError(f"{reference.path} holds no embeddings of pictures: nothing to look for")
    queries = read_pictures(reference, all_rows(reference))
    keys, counts = np.unique(queries.keys, return_counts=True)
    if len(keys) < len(queries.keys):
        repeated = keys[counts > 1][0].decode()
        raise UserError(f"{reference.path} has several references named {repeated!r}: give each file its own name")
    return queries


def search_part(
    queries: Pictures, training: Embeddings, part: list[Portion], top_k: int, done: Callable[[int], None]
) -> Slots:
    """The nearest neighbours of the queries in some portions, (Q, top_k); `done` is told the rows of each."""
    found = nearest.empty((len(queries.keys), top_k))
    for pictures in read_ahead(training, part):
        found = nearest.search(found, queries, pictures)
        done(len(pictures.keys))
    return found


def matches_table(keys: npt.NDArray[np.bytes_], found: Slots) -> pa.Table:
    """All that was found (Q, k) for the references (Q,), sorted by (reference_key, rank)."""
    order = np.argsort(keys)
    keys, found = keys[order], found[order]
    reference, column = np.nonzero(found["similarity"] > -np.inf)
    slots = found[reference, column]
    columns = [
        [key.decode() for key in keys[reference].tolist()],
        (column + 1).astype(np.int32),
        [uid.decode() for uid in slots["uid"].tolist()],
        pa.array(slots["shard"], mask=slots["shard"] == NO_SHARD),
        slots["similarity"].copy(),
        pa.array(slots["distance"].astype(np.int32), mask=slots["distance"] == NO_DISTANCE),
    ]
    return pa.table(columns, pa.schema(MATCH_FIELDS))
