"""Exact nearest neighbours by cosine: FAISS finds candidates in float32, float64 ranks them exactly. No Beam.

    queries (Q, d) ─┐
    block   (n, d) ─┴ faiss.knn: k + PADDING candidates ─ bound ─ exact similarity ─▶ neighbours (Q, k) ─ merge

The result depends on the vectors alone, not on blocks, the order of merges, BLAS or the machine. The vectors are those
that float16 holds: clip-retrieval's own in float32, or of another norm, are normalised and rounded before they get here
(gesso/dataset/clip_retrieval.py), and the search is exact for what they are then.

- Similarity. Elements are float16: 11 bits, multiples of 2^-24. A product of two has 22 bits and fits float32; it is a
  multiple of 2^-48. By Cauchy and Schwarz every partial sum of a dot product is at most |a||b| < 2, so it has 49 bits
  at most and float64 holds it exactly, in any order. The sum is rounded once, to float32: a function of the pair.
- Candidates. float32 sums the same exact products with an error of at most γ = du / (1 - du) times |a||b|,
  u = 2^-24, in any order (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1): `error_bound`.
  The k-th candidate's score minus the bound is a lower bound of the true k-th similarity. A candidate whose score plus
  the bound is below it is dropped. Where even the last candidate is not below it, rows beyond it may not be either: the
  query is searched again with twice the candidates, up to the whole block.
- Order. By similarity, descending, then by key as bytes: a total order, so `merge` is associative and commutative.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gesso.dataset.embeddings import NO_SHARD, UNIT_TOLERANCE, Pictures

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]
Neighbours = npt.NDArray[np.void]  # of `neighbour_dtype`

PADDING = 8  # candidates beyond k, so that one search is enough for nearly every query
MAX_DIMENSION = 1 << 16  # up to which `error_bound` and the float64 argument hold
CANDIDATES = 1 << 20  # candidates in memory at a time
PAIRS = 512  # pairs whose similarity is computed at a time, so that they fit into a core's cache
ROWS = 1024  # rows whose similar pairs are in memory at a time
NO_DISTANCE = -1


class Pairs(NamedTuple):
    """Pairs of rows of two arrays and their exact similarity, float32."""

    left: Indexes
    right: Indexes
    similarity: Floats


def error_bound(dimension: int) -> float:
    """The largest error of a float32 dot product of two unit vectors of float16 values."""
    assert dimension <= MAX_DIMENSION, dimension
    rounding = dimension * 2.0**-24
    return rounding / (1 - rounding) * (1 + UNIT_TOLERANCE)


def similarity(left: Floats, right: Floats, pairs: tuple[Indexes, Indexes]) -> Floats:
    """The dot products of rows `pairs[0]` of `left` and `pairs[1]` of `right`, exact, rounded once, (P,) float32."""
    result = np.empty(len(pairs[0]), np.float32)
    for start in range(0, len(result), PAIRS):
        some = slice(start, start + PAIRS)
        products = left[pairs[0][some]] * right[pairs[1][some]]
        result[some] = products.sum(1, dtype=np.float64) + 0.0  # no negative zero
    return result


def neighbour_dtype(width: int) -> np.dtype[np.void]:
    """A neighbour: cosine similarity, key (at most `width` bytes), shard, differing bits of the perceptual hashes."""
    return np.dtype([("similarity", "f4"), ("uid", f"S{width}"), ("shard", "i4"), ("distance", "i2")])


def empty(shape: tuple[int, ...], kind: np.dtype[np.void] | None = None) -> Neighbours:
    """Neighbours that are not found yet: the neutral element of `merge`."""
    neighbours = np.zeros(shape, kind or neighbour_dtype(1))
    neighbours["similarity"], neighbours["shard"], neighbours["distance"] = -np.inf, NO_SHARD, NO_DISTANCE
    return neighbours


def merge(one: Neighbours, other: Neighbours, k: int) -> Neighbours:
    """The best `k` of two sets of each query's neighbours, (Q, k). Associative and commutative."""
    neighbours = np.concatenate([one, other], axis=1)
    ranked = np.take_along_axis(neighbours, np.argsort(-neighbours["similarity"], axis=1), axis=1)
    score = ranked["similarity"]
    tied = np.flatnonzero(((score[:, 1:] == score[:, :-1]) & (score[:, 1:] > -np.inf)).any(axis=1))
    ties = ranked[tied]
    order = np.lexsort((ties["distance"], ties["shard"], ties["uid"], -ties["similarity"]), axis=1)
    ranked[tied] = np.take_along_axis(ties, order, axis=1)
    return np.ascontiguousarray(ranked[:, :k])


def search(found: Neighbours, queries: Pictures, block: Pictures) -> Neighbours:
    """`found` (Q, k) merged with the nearest neighbours of the queries (Q, d) in the block (n, d)."""
    for pairs in candidates(queries.vectors, block.vectors, found.shape[1], found["similarity"][:, -1]):
        found = merge_pairs(found, pairs.left, neighbours_of_pairs(queries, block, pairs))
    return found


def candidates(queries: Floats, block: Floats, k: int, floor: Floats) -> Iterator[Pairs]:
    """All pairs that may be among a query's `k` nearest, and few others. All pairs of a query come together.

    Pairs below `floor` (Q,), the k-th similarity that a query has in other blocks, are left out.
    """
    remaining, width = np.arange(len(queries)), min(k + PADDING, len(block))
    while len(remaining):
        step, undecided = max(1, CANDIDATES // width), []
        for searched in np.split(remaining, range(step, len(remaining), step)):
            pairs, unsettled = candidates_of(queries, block, searched, k, width, floor)
            undecided.append(unsettled)
            yield pairs
        remaining, width = np.concatenate(undecided), min(2 * width, len(block))


def candidates_of(
    queries: Floats, block: Floats, searched: Indexes, k: int, width: int, floor: Floats
) -> tuple[Pairs, Indexes]:
    """The pairs of those queries for which `width` candidates are enough, and the other queries."""
    bound = error_bound(queries.shape[1])
    vectors = queries if len(searched) == len(queries) else queries[searched]
    import faiss  # not for exact repeats

    score, row = faiss.knn(vectors, block, width, faiss.METRIC_INNER_PRODUCT)
    score = score.astype(np.float64)
    threshold = floor[searched]
    if width >= k:
        threshold = np.maximum(threshold, (score[:, k - 1] - bound).astype(np.float32))
    kept = (score + bound).astype(np.float32) >= threshold[:, None]
    undecided = kept[:, -1] & (width < len(block))
    kept[undecided] = False
    query, column = np.nonzero(kept)
    left, right = searched[query], row[query, column]
    return Pairs(left, right, similarity(queries, block, (left, right))), searched[undecided]


def neighbours_of_pairs(queries: Pictures, block: Pictures, pairs: Pairs) -> Neighbours:
    """The block's side of each pair as a neighbour of the query's side, (P,)."""
    neighbours = np.empty(len(pairs.left), neighbour_dtype(block.keys.dtype.itemsize))
    neighbours["similarity"], neighbours["uid"] = pairs.similarity, block.keys[pairs.right]
    neighbours["shard"] = block.shards[pairs.right]
    differing = np.bitwise_count(queries.phash[pairs.left] ^ block.phash[pairs.right]).astype(np.int16)
    hashed = queries.hashed[pairs.left] & block.hashed[pairs.right]
    neighbours["distance"] = np.where(hashed, differing, NO_DISTANCE)
    return neighbours


def merge_pairs(found: Neighbours, query: Indexes, neighbours: Neighbours) -> Neighbours:
    """`found` (Q, k) with each of `neighbours` (P,) merged into the row of its query; `query` (P,) is sorted."""
    if not len(query):
        return found
    searched, first, counts = np.unique(query, return_index=True, return_counts=True)
    grid = empty((len(searched), counts.max()), neighbours.dtype)
    grid[np.repeat(np.arange(len(searched)), counts), np.arange(len(query)) - np.repeat(first, counts)] = neighbours
    result = found.astype(np.promote_types(found.dtype, neighbours.dtype))
    result[searched] = merge(found[searched], grid, found.shape[1])
    return result


def similar_pairs(left: Floats, right: Floats, threshold: float) -> Iterator[Pairs]:
    """All pairs of rows of `left` (m, d) and `right` (n, d) whose similarity is at least the threshold."""
    import faiss

    index = faiss.IndexFlatIP(right.shape[1])
    index.add(right)
    radius = np.nextafter(np.float32(threshold - 2 * error_bound(right.shape[1])), np.float32(-2))
    for start in range(0, len(left), ROWS):
        ends, _, row = index.range_search(left[start : start + ROWS], float(radius))
        counts = (ends[1:] - ends[:-1]).astype(np.int64)
        near = start + np.repeat(np.arange(len(counts)), counts)
        exact = similarity(left, right, (near, row))
        kept = exact.astype(np.float64) >= threshold
        yield Pairs(near[kept], row[kept], exact[kept])
