"""Exact nearest neighbours by cosine: FAISS finds candidates in float32, float64 settles them. No Beam.

    queries (Q, d) ─┐
    block   (n, d) ─┴ faiss.knn: k + PADDING candidates ─ bound ─ exact similarity ─▶ slots (Q, k), merged with others

Why the result depends on the vectors alone, not on blocks, merge order, BLAS or machine:

- Similarity. Elements are float16: 11 bits, multiples of 2^-24. A product of two has 22 bits and fits float32; it is a
  multiple of 2^-48. By Cauchy and Schwarz every partial sum of a dot product is at most |a||b| < 2, so it has 49 bits
  at most and float64 holds it exactly, whatever the order. The sum is rounded once, to float32: a function of the pair.
- Candidates. float32 sums the same exact products with an error of at most γ = du / (1 - du) times |a||b|,
  u = 2^-24, in any order (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1): `error_bound`.
  The k-th candidate's score less the bound is a floor of the true k-th similarity. What cannot reach the floor with its
  score plus the bound is out; where the last candidate still can, rows beyond it might, too, and the query is searched
  again with twice the candidates, up to the whole block.
- Order. By similarity, descending, then by uid as bytes: total, so `merge` is associative and commutative.
"""

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from gesso.dataset.embeddings import NO_SHARD, UNIT, Pictures

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]
Slots = npt.NDArray[np.void]  # of `slot_type`

PADDING = 8  # candidates beyond k, so that one search settles nearly every query
MAX_DIMENSION = 1 << 16  # up to which `error_bound` and the float64 argument hold
SLOTS = 1 << 20  # candidates in memory at a time
PAIRS = 512  # pairs whose similarity is computed at a time: they fit a core's cache
ROWS = 1024  # rows whose pairs above a threshold are in memory at a time
NO_DISTANCE = -1


class Pairs(NamedTuple):
    """Pairs of rows of two arrays and their exact similarity, float32."""

    left: Indexes
    right: Indexes
    similarity: Floats


def error_bound(dimension: int) -> float:
    """How far a float32 dot product of two unit vectors of float16 values may be from the exact one."""
    assert dimension <= MAX_DIMENSION, dimension
    rounding = dimension * 2.0**-24
    return rounding / (1 - rounding) * (1 + UNIT)


def similarity(left: Floats, right: Floats, pairs: tuple[Indexes, Indexes]) -> Floats:
    """The dot products of rows `pairs[0]` of `left` and `pairs[1]` of `right`, exact and rounded once, (P,) float32."""
    result = np.empty(len(pairs[0]), np.float32)
    for start in range(0, len(result), PAIRS):
        some = slice(start, start + PAIRS)
        products = left[pairs[0][some]] * right[pairs[1][some]]
        result[some] = products.sum(1, dtype=np.float64) + 0.0  # no negative zero
    return result


def slot_type(width: int) -> np.dtype[np.void]:
    """One neighbour: cosine, uid of at most `width` bytes, shard, differing bits of the perceptual hashes."""
    return np.dtype([("similarity", "f4"), ("uid", f"S{width}"), ("shard", "i4"), ("distance", "i2")])


def empty(shape: tuple[int, ...], kind: np.dtype[np.void] | None = None) -> Slots:
    """Slots that hold nothing yet: the neutral element of `merge`."""
    slots = np.zeros(shape, kind or slot_type(1))
    slots["similarity"], slots["shard"], slots["distance"] = -np.inf, NO_SHARD, NO_DISTANCE
    return slots


def merge(one: Slots, other: Slots, k: int) -> Slots:
    """The best `k` of two times as many slots a query, (Q, k). Associative and commutative."""
    slots = np.concatenate([one, other], axis=1)
    ranked = np.take_along_axis(slots, np.argsort(-slots["similarity"], axis=1), axis=1)
    score = ranked["similarity"]
    tied = np.flatnonzero(((score[:, 1:] == score[:, :-1]) & (score[:, 1:] > -np.inf)).any(axis=1))
    ties = ranked[tied]
    order = np.lexsort((ties["distance"], ties["shard"], ties["uid"], -ties["similarity"]), axis=1)
    ranked[tied] = np.take_along_axis(ties, order, axis=1)
    return np.ascontiguousarray(ranked[:, :k])


def search(found: Slots, queries: Pictures, block: Pictures) -> Slots:
    """`found` (Q, k) merged with the nearest neighbours of the queries (Q, d) in the block (n, d)."""
    for pairs in candidates(queries.vectors, block.vectors, found.shape[1], found["similarity"][:, -1]):
        found = insert(found, pairs.left, neighbours(queries, block, pairs))
    return found


def candidates(queries: Floats, block: Floats, k: int, floor: Floats) -> Iterator[Pairs]:
    """All pairs that may be among a query's `k` nearest, and few others, by query; each query in one portion.

    What lies under `floor` (Q,) is left out: the k-th similarity that each query has elsewhere.
    """
    pending, width = np.arange(len(queries)), min(k + PADDING, len(block))
    while len(pending):
        step, unsettled = max(1, SLOTS // width), []
        for asked in np.split(pending, range(step, len(pending), step)):
            pairs, again = candidates_of(queries, block, asked, k, width, floor)
            unsettled.append(again)
            yield pairs
        pending, width = np.concatenate(unsettled), min(2 * width, len(block))


def candidates_of(
    queries: Floats, block: Floats, asked: Indexes, k: int, width: int, floor: Floats
) -> tuple[Pairs, Indexes]:
    """The pairs of those queries that `width` candidates settle, and the other queries."""
    bound = error_bound(queries.shape[1])
    vectors = queries if len(asked) == len(queries) else queries[asked]
    score, row = faiss.knn(vectors, block, width, faiss.METRIC_INNER_PRODUCT)
    score = score.astype(np.float64)
    bar = floor[asked]
    if width >= k:
        bar = np.maximum(bar, (score[:, k - 1] - bound).astype(np.float32))
    kept = (score + bound).astype(np.float32) >= bar[:, None]
    unsettled = kept[:, -1] & (width < len(block))
    kept[unsettled] = False
    where, column = np.nonzero(kept)
    left, right = asked[where], row[where, column]
    return Pairs(left, right, similarity(queries, block, (left, right))), asked[unsettled]


def neighbours(queries: Pictures, block: Pictures, pairs: Pairs) -> Slots:
    """The pairs as slots, (P,): the block's side of each, and how many bits the perceptual hashes differ in."""
    slots = np.empty(len(pairs.left), slot_type(block.keys.dtype.itemsize))
    slots["similarity"], slots["uid"] = pairs.similarity, block.keys[pairs.right]
    slots["shard"] = block.shards[pairs.right]
    differing = np.bitwise_count(queries.phash[pairs.left] ^ block.phash[pairs.right]).astype(np.int16)
    hashed = queries.hashed[pairs.left] & block.hashed[pairs.right]
    slots["distance"] = np.where(hashed, differing, NO_DISTANCE)
    return slots


def insert(found: Slots, query: Indexes, slots: Slots) -> Slots:
    """`found` (Q, k) with each of `slots` (P,) merged into the row of its query; `query` (P,) ascends."""
    if not len(query):
        return found
    asked, first, counts = np.unique(query, return_index=True, return_counts=True)
    grid = empty((len(asked), counts.max()), slots.dtype)
    grid[np.repeat(np.arange(len(asked)), counts), np.arange(len(query)) - np.repeat(first, counts)] = slots
    result = found.astype(np.promote_types(found.dtype, slots.dtype))
    result[asked] = merge(found[asked], grid, found.shape[1])
    return result


def pairs_from(left: Floats, right: Floats, threshold: float) -> Iterator[Pairs]:
    """All pairs of rows of `left` (m, d) and `right` (n, d) whose similarity is at least the threshold."""
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
