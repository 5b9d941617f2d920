"""Near-duplicates within a dataset: which samples are kept, and which are dropped for which kept one. No Beam.

Rule: samples are visited in the order of their keys; a sample is kept unless one that is kept already is at least as
similar as the threshold. So every dropped sample is similar to a kept one, and no two kept samples are that similar.
(Connected components of similar pairs would also drop samples that are similar to no kept one.) The result depends on
the keys and the similar pairs alone.

Of samples with several views the similarity is the maximum over the pairs of rows of which at least one is a whole
picture: one may be a crop of the other, but two that share a part are no repeats.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso.dataset.embeddings import Chunk, Embeddings, read_ahead, read_vectors, view_numbers
from gesso.dataset.schemas import DROP_FIELDS
from gesso.dedup import nearest
from gesso.dedup.views import WHOLE

EXACT, NEAR = "repeat_exact", "repeat_near"
# A pair of samples, numbered through all blocks of the dataset.
PAIR = np.dtype([("one", "i8"), ("other", "i8"), ("similarity", "f4")])

Keys = npt.NDArray[np.bytes_]
Indexes = npt.NDArray[np.int64]
PairArray = npt.NDArray[np.void]  # of PAIR


class Drops(NamedTuple):
    """Dropped samples, and for each the kept one and their similarity."""

    dropped: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]


def chunk_rows(chunk: Chunk) -> int:
    return sum(part.stop - part.start for part in chunk)


def pairs_to_compare(embeddings: Embeddings, tiles: list[Chunk]) -> int:
    """The number of pairs of rows that all tiles compare."""
    total = whole = crops = 0
    for tile in tiles:
        views = view_numbers(embeddings, tile)
        here = int((views == WHOLE).sum())
        whole, crops = whole + here, crops + len(views) - here
        total += here * (whole + crops) + (len(views) - here) * whole
    return total


def pairs_of_tile(
    embeddings: Embeddings, tiles: list[Chunk], index: int, threshold: float, advance: Callable[[int], None]
) -> PairArray:
    """The pairs of a sample of tile `index` and an earlier one of the dataset whose similarity is at least `threshold`.

    `advance` is called with the number of pairs of rows compared since its last call.
    """
    starts = np.cumsum([0, *map(chunk_rows, tiles[: index + 1])])
    rows, views = read_vectors(embeddings, tiles[index]), view_numbers(embeddings, tiles[index])
    whole, crops, found = np.flatnonzero(views == WHOLE), np.flatnonzero(views != WHOLE), [np.zeros(0, PAIR)]
    for number, other in enumerate(read_ahead(embeddings, tiles[: index + 1])):
        every = np.arange(len(other.views))
        for left, right in ((whole, every), (crops, every[other.views == WHOLE])):
            if not len(left) or not len(right):
                continue
            for pairs in nearest.similar_pairs(rows[left], other.vectors[right], threshold):
                of_rows = starts[index] + left[pairs.left], starts[number] + right[pairs.right]
                found.append(pairs_of_samples(*of_rows, pairs.similarity, embeddings.views))
            advance(len(left) * len(right))
    return best_pairs(np.concatenate(found))


def pairs_of_samples(one: Indexes, other: Indexes, similarity: npt.NDArray[np.float32], views: int) -> PairArray:
    """Pairs of rows as pairs of a sample and an earlier one; without those of a sample and itself."""
    pairs = np.zeros(len(one), PAIR)
    pairs["one"], pairs["other"], pairs["similarity"] = one // views, other // views, similarity
    return pairs[pairs["other"] < pairs["one"]]


def best_pairs(pairs: PairArray) -> PairArray:
    """Each pair of samples once, with its largest similarity."""
    ordered = pairs[np.lexsort((-pairs["similarity"], pairs["other"], pairs["one"]))]
    first = np.ones(len(ordered), np.bool_)
    first[1:] = (ordered["one"][1:] != ordered["one"][:-1]) | (ordered["other"][1:] != ordered["other"][:-1])
    return ordered[first]


def find_drops(keys: Keys, pairs: PairArray) -> Drops:
    """Applies the rule above; for each dropped row the most similar kept one with a smaller key."""
    order = np.argsort(keys)
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys))
    one, other = rank[pairs["one"]], rank[pairs["other"]]
    earlier, later = np.minimum(one, other), np.maximum(one, other)
    kept = kept_samples(len(keys), earlier, later)
    of_kept = kept[earlier]
    earlier, later, similarity = earlier[of_kept], later[of_kept], pairs["similarity"][of_kept]
    best = np.lexsort((earlier, -similarity, later))
    _, first = np.unique(later[best], return_index=True)
    chosen = best[first]
    return Drops(order[later[chosen]], order[earlier[chosen]], similarity[chosen])


def kept_samples(count: int, earlier: npt.NDArray[np.int64], later: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of `count` samples, by rank, are kept: those without an earlier similar one that is kept."""
    dropped = np.zeros(count, np.bool_)
    while len(later):
        decided = ~dropped
        decided[later] = False
        dropped[later[decided[earlier]]] = True
        undecided = ~dropped[later] & ~dropped[earlier]
        earlier, later = earlier[undecided], later[undecided]
    return ~dropped


def drop_table(key: list[str], of: list[str], reason: str, similarity: npt.NDArray[np.float32] | None) -> pa.Table:
    """A drop list, sorted by key."""
    score = pa.nulls(len(key), pa.float32()) if similarity is None else similarity
    return pa.table([key, [reason] * len(key), of, score], pa.schema(DROP_FIELDS)).sort_by("uid")


def near_table(keys: Keys, pairs: PairArray, already_dropped: Keys) -> pa.Table:
    """The drop list of near repeats among the samples that are not dropped already."""
    excluded = np.isin(keys, already_dropped)
    found = find_drops(keys, pairs[~excluded[pairs["one"]] & ~excluded[pairs["other"]]])
    names = [[key.decode() for key in keys[rows].tolist()] for rows in (found.dropped, found.kept)]
    return drop_table(names[0], names[1], NEAR, found.similarity)
