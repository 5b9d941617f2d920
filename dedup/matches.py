"""The search of `gesso match`: references, the search of a part, the table of all matches. No Beam.

Every view of a reference is a query with its own k nearest training pictures, of which the whole is searched alone. The
similarity of a reference and a sample is that of the view that is most similar to it: `best_of_views`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso.dataset.embeddings import NO_SHARD, Chunk, Embeddings, Pictures, all_rows, read_ahead, read_pictures
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup import nearest
from gesso.dedup.nearest import NO_DISTANCE, Neighbours
from gesso.dedup.views import WHOLE
from gesso.errors import UserError

Views = npt.NDArray[np.int32]


class Matches(NamedTuple):
    """The nearest samples of each of Q references."""

    keys: npt.NDArray[np.bytes_]  # (Q,) of the references
    found: Neighbours  # (Q, k)
    views: Views  # (Q, k) the reference's view that is as similar


def read_references(reference: Embeddings) -> Pictures:
    """All views of the references with a direction, as queries. Raises UserError: none, or two of the same key."""
    queries = with_direction(read_pictures(reference, all_rows(reference))) if reference.blocks else None
    if queries is None or not len(queries.keys):
        raise UserError(f"{reference.path} holds no embeddings: there is nothing to search for")
    keys, counts = np.unique(queries.keys[queries.views == WHOLE], return_counts=True)
    if counts.max() > 1:
        repeated = keys[counts > 1][0].decode()
        raise UserError(f"{reference.path} has several references named {repeated!r}: give each file its own name")
    return queries


def with_direction(pictures: Pictures) -> Pictures:
    """The pictures without those whose vector is zero: clip-retrieval's own may have such (Embeddings.left_out)."""
    return pictures.select(np.asarray(pictures.vectors.any(axis=1)))


def search_part(
    queries: Pictures, training: Embeddings, part: list[Chunk], top_k: int, advance: Callable[[int], None]
) -> Neighbours:
    """The nearest whole pictures (Q, top_k) of the queries in some chunks; calls `advance` with the number in each."""
    found = nearest.empty((len(queries.keys), top_k))
    for views in read_ahead(training, part):
        pictures = views.select(views.views == WHOLE)
        searched = with_direction(pictures) if training.foreign else pictures
        if len(searched.keys):
            found = nearest.search(found, queries, searched)
        advance(len(pictures.keys))
    return found


def best_of_views(queries: Pictures, found: Neighbours, views: int) -> Matches:
    """The neighbours (Q·V, k) of the V views of each reference → those of the references, each by its best view.

    Exact: a sample among the k best by the maximum is among the k best of each view where it has that similarity, since
    what comes before it there has a maximum as high, and comes before it by the maximum, too. Ties: as in `nearest`,
    then the smaller view.
    """
    rows, k = found.shape
    keys = queries.keys[::views]
    if views == 1:
        return Matches(keys, found, np.zeros(found.shape, np.int32))
    lists = found.reshape(rows // views, views * k)
    numbers = np.broadcast_to(np.repeat(np.arange(views, dtype=np.int32), k), lists.shape)
    of_sample = np.lexsort((numbers, -lists["similarity"], lists["shard"], lists["uid"]), axis=1)
    lists, numbers = np.take_along_axis(lists, of_sample, axis=1), np.take_along_axis(numbers, of_sample, axis=1)
    again = (lists["uid"][:, 1:] == lists["uid"][:, :-1]) & (lists["shard"][:, 1:] == lists["shard"][:, :-1])
    lists["similarity"][:, 1:][again] = -np.inf
    best = np.lexsort((lists["distance"], lists["shard"], lists["uid"], -lists["similarity"]), axis=1)[:, :k]
    return Matches(keys, np.take_along_axis(lists, best, axis=1), np.take_along_axis(numbers, best, axis=1))


def matches_table(matches: Matches) -> pa.Table:
    """A table of MATCH_FIELDS, sorted by (reference_key, rank)."""
    order = np.argsort(matches.keys)
    keys, found, views = matches.keys[order], matches.found[order], matches.views[order]
    reference, column = np.nonzero(found["similarity"] > -np.inf)
    filled = found[reference, column]
    columns = [
        [key.decode() for key in keys[reference].tolist()],
        (column + 1).astype(np.int32),
        [key.decode() for key in filled["uid"].tolist()],
        pa.array(filled["shard"], mask=filled["shard"] == NO_SHARD),
        filled["similarity"].copy(),
        pa.array(filled["distance"].astype(np.int32), mask=filled["distance"] == NO_DISTANCE),
        views[reference, column],
    ]
    return pa.table(columns, pa.schema(MATCH_FIELDS))
