"""Near-duplicates within one set: which samples stay, which go, and for whose sake. No Beam.

Rule: the samples are gone through by uid; one stays unless a sample with a smaller uid that stays is at least so
similar. So every dropped sample has one that stays beside it, no two that stay are that similar, and nothing is dropped
through a chain of neighbours that leads away from it (as joining connected pairs would). The result is a function of
the uids and the similar pairs alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso.dataset.embeddings import Embeddings, Portion, read_ahead, read_vectors
from gesso.dataset.schemas import DROP_FIELDS
from gesso.dedup import nearest

EXACT, NEAR = "repeat_exact", "repeat_near"
# Rows of the set, counted through all its blocks.
PAIR = np.dtype([("one", "i8"), ("other", "i8"), ("similarity", "f4")])

Uids = npt.NDArray[np.bytes_]
PairArray = npt.NDArray[np.void]  # of PAIR


class Drops(NamedTuple):
    """Rows to leave out, for each the row that stays, and their similarity."""

    dropped: npt.NDArray[np.int64]
    stays: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]


def rows_in(portion: Portion) -> int:
    return sum(part.stop - part.start for part in portion)


def pairs_to_compare(tiles: list[Portion]) -> int:
    """How many pairs all the tiles compare."""
    sizes = [rows_in(tile) for tile in tiles]
    return sum(size * sum(sizes[: index + 1]) for index, size in enumerate(sizes))


def pairs_of_tile(
    embeddings: Embeddings, tiles: list[Portion], index: int, near: float, done: Callable[[int], None]
) -> PairArray:
    """The pairs, similar by at least `near`, of a row of tile `index` and a row before it in the set.

    `done` is told how many pairs were compared, now and then.
    """
    starts = np.cumsum([0, *map(rows_in, tiles)])
    here, found = read_vectors(embeddings, tiles[index]), [np.zeros(0, PAIR)]
    for number, there in enumerate(read_ahead(embeddings, tiles[: index + 1])):
        for pairs in nearest.pairs_from(here, there.vectors, near):
            some = np.zeros(len(pairs.left), PAIR)
            some["one"], some["other"] = pairs.left + starts[index], pairs.right + starts[number]
            some["similarity"] = pairs.similarity
            found.append(some[some["other"] < some["one"]])
        done(len(here) * len(there.keys))
    return np.concatenate(found)


def drops(uids: Uids, pairs: PairArray) -> Drops:
    """The rule above; beside each dropped row the most similar one that stays and has a smaller uid."""
    order = np.argsort(uids)
    rank = np.empty(len(uids), np.int64)
    rank[order] = np.arange(len(uids))
    one, other = rank[pairs["one"]], rank[pairs["other"]]
    earlier, later = np.minimum(one, other), np.maximum(one, other)
    stays = staying(len(uids), earlier, later)
    beside = stays[earlier]
    earlier, later, similarity = earlier[beside], later[beside], pairs["similarity"][beside]
    best = np.lexsort((earlier, -similarity, later))
    _, first = np.unique(later[best], return_index=True)
    chosen = best[first]
    return Drops(order[later[chosen]], order[earlier[chosen]], similarity[chosen])


def staying(count: int, earlier: npt.NDArray[np.int64], later: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of `count` samples, by rank, have no earlier similar one that stays."""
    dropped = np.zeros(count, np.bool_)
    while len(later):
        settled = ~dropped
        settled[later] = False
        dropped[later[settled[earlier]]] = True
        open_ = ~dropped[later] & ~dropped[earlier]
        earlier, later = earlier[open_], later[open_]
    return ~dropped


def drop_table(uid: list[str], of: list[str], reason: str, similarity: npt.NDArray[np.float32] | None) -> pa.Table:
    """A drop list, sorted by uid."""
    score = pa.nulls(len(uid), pa.float32()) if similarity is None else similarity
    return pa.table([uid, [reason] * len(uid), of, score], pa.schema(DROP_FIELDS)).sort_by("uid")


def near_table(uids: Uids, pairs: PairArray, gone: Uids) -> pa.Table:
    """The drop list of near repeats among the samples that are not `gone` already."""
    out = np.isin(uids, gone)
    found = drops(uids, pairs[~out[pairs["one"]] & ~out[pairs["other"]]])
    names = [[uid.decode() for uid in uids[rows].tolist()] for rows in (found.dropped, found.stays)]
    return drop_table(names[0], names[1], NEAR, found.similarity)
