"""Exact nearest neighbours against brute force in float64, bit for bit, whatever the blocks and the order."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.dataset.embeddings import NO_SHARD, Pictures, Vectors
from gesso.dedup import nearest
from gesso.dedup.nearest import Neighbours
from tests.embeddings import clustered, unit

Array = npt.NDArray[Any]


def pictures(vectors: Vectors, seed: int = 0, keys: Array | None = None) -> Pictures:
    """Pictures with keys in no order, hashes, and some without a hash."""
    count, rng = len(vectors), np.random.default_rng(seed)
    named = np.array([f"{number:032x}".encode() for number in rng.permutation(count)]) if keys is None else keys
    shards = (np.arange(count) // 7).astype(np.int32)
    phash = rng.integers(0, 1 << 63, count).astype(np.uint64)
    hashed, views = rng.random(count) < 0.8, np.zeros(count, np.int32)
    return Pictures(vectors.astype(np.float32), named, shards, phash, hashed, views)


def brute_force(queries: Pictures, training: Pictures, k: int) -> Neighbours:
    """All similarities in float64, rounded once, sorted by similarity and key."""
    every = (queries.vectors.astype(np.float64) @ training.vectors.T.astype(np.float64)).astype(np.float32) + 0
    order = np.lexsort((np.broadcast_to(training.keys, every.shape), -every), axis=1)[:, :k]
    neighbours = nearest.empty((len(every), k), nearest.neighbour_dtype(training.keys.dtype.itemsize))
    filled = neighbours[:, : order.shape[1]]
    filled["similarity"], filled["uid"] = np.take_along_axis(every, order, 1), training.keys[order]
    filled["shard"] = training.shards[order]
    bits = np.bitwise_count(queries.phash[:, None] ^ training.phash[order]).astype(int)
    filled["distance"] = np.where(queries.hashed[:, None] & training.hashed[order], bits, -1)
    return neighbours


def cut(training: Pictures, ends: list[int]) -> list[Pictures]:
    bounds = sorted({0, *(end % len(training.keys) for end in ends), len(training.keys)})
    return [Pictures(*(array[a:b] for array in training)) for a, b in pairwise(bounds)]


def search_in(queries: Pictures, blocks: list[Pictures], k: int) -> Neighbours:
    found = nearest.empty((len(queries.keys), k))
    for block in blocks:
        found = nearest.search(found, queries, block)
    return found


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_blocks_in_any_order_merged_in_any_way(data: st.DataObject) -> None:
    """Also with many repeats, more neighbours asked for than there are, and blocks smaller than that."""
    seed, k = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 12))
    count, dimension = data.draw(st.integers(1, 120)), data.draw(st.sampled_from([2, 8, 33]))
    vectors, rng = clustered(count, dimension, seed), np.random.default_rng(seed)
    repeats = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    vectors = np.where(rng.random((count, 1)) < repeats, vectors[:1], vectors)
    training, queries = pictures(vectors, seed), pictures(clustered(9, dimension, seed + 1), seed + 1)
    queries.vectors[0] = vectors[0]
    blocks = data.draw(st.permutations(cut(training, data.draw(st.lists(st.integers(0, 200), max_size=6)))))
    groups = [blocks[start::3] for start in range(3)]
    partial = data.draw(st.permutations([search_in(queries, group, k) for group in groups]))
    merged = nearest.merge(nearest.merge(partial[0], partial[1], k), partial[2], k)
    expected = brute_force(queries, training, k)
    np.testing.assert_array_equal(merged, expected)
    np.testing.assert_array_equal(search_in(queries, blocks, k), expected)


def test_equal_similarities_go_to_the_smaller_uid() -> None:
    vectors = unit(np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]]))
    training = pictures(vectors, keys=np.array([b"c", b"a", b"b", b"d"]))
    found = search_in(pictures(vectors[:1]), cut(training, [1, 2]), 3)
    assert found["uid"].tolist() == [[b"a", b"b", b"c"]]
    assert found["similarity"].tolist() == [[1.0, 1.0, 1.0]]
    assert found["shard"].tolist() == [[0, 0, 0]]


def test_two_thousand_repeats_of_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are doubled until every tie is seen; few queries at a time."""
    monkeypatch.setattr(nearest, "CANDIDATES", 4096)
    vectors = clustered(2500, 32, 1)
    vectors[250:2250] = vectors[0]
    training, queries = pictures(vectors, 2), pictures(np.concatenate([vectors[:1], clustered(40, 32, 3)]), 4)
    np.testing.assert_array_equal(search_in(queries, [training], 5), brute_force(queries, training, 5))


def test_neighbours_closer_than_float32_can_tell_apart() -> None:
    """The candidates' order in float32 is not the true one: their scores are within the bound of each other."""
    rng = np.random.default_rng(5)
    base = rng.standard_normal((1, 512))
    vectors = unit(base + 1e-3 * rng.standard_normal((400, 512)))
    training, queries = pictures(vectors, 1), pictures(unit(base), 2)
    np.testing.assert_array_equal(search_in(queries, cut(training, [100, 250]), 8), brute_force(queries, training, 8))


def test_fewer_pictures_than_neighbours_asked_for() -> None:
    training, queries = pictures(clustered(3, 8, 1)), pictures(clustered(2, 8, 2))
    found = search_in(queries, [training], 5)
    np.testing.assert_array_equal(found, brute_force(queries, training, 5))
    assert (found["similarity"][:, 3:] == -np.inf).all()
    assert (found["shard"][:, 3:] == NO_SHARD).all()


def test_uids_of_different_lengths() -> None:
    vectors = unit(np.array([[1.0, 0], [1, 0], [1, 0]]))
    short, long = pictures(vectors[:2], keys=np.array([b"b", b"c"])), pictures(vectors[:1], keys=np.array([b"aaaaaa"]))
    assert search_in(pictures(vectors[:1]), [short, long], 3)["uid"].tolist() == [[b"aaaaaa", b"b", b"c"]]


def test_a_similarity_does_not_depend_on_the_order_of_its_sum() -> None:
    left, right = (clustered(300, 512, seed).astype(np.float32) for seed in (1, 2))
    rows, mixed = np.arange(300), np.random.default_rng(0).permutation(512)
    exact = nearest.similarity(left, right, (rows, rows))
    np.testing.assert_array_equal(nearest.similarity(left[:, mixed], right[:, mixed], (rows, rows)), exact)
    np.testing.assert_array_equal(nearest.similarity(right, left, (rows, rows)), exact)


@pytest.mark.parametrize("dimension", [2, 64, 512, 4096])
def test_the_bound_holds(dimension: int) -> None:
    """On sums of one sign, where float32 loses most, and others, summed one after the other."""
    rng = np.random.default_rng(dimension)
    vectors = [unit(rng.standard_normal((64, dimension))), unit(rng.random((64, dimension)))]
    for kind in vectors:
        values = kind.astype(np.float32)
        exact = (values.astype(np.float64) * values[::-1]).sum(1)
        running = np.cumsum(values * values[::-1], axis=1, dtype=np.float32)[:, -1]
        assert np.abs(running - exact).max() <= nearest.error_bound(dimension)


def test_perceptual_hashes_are_compared_where_both_are_there() -> None:
    vectors = unit(np.eye(2))
    training = pictures(vectors)._replace(phash=np.array([0b111, 0], np.uint64), hashed=np.array([True, False]))
    queries = pictures(vectors)._replace(phash=np.array([0b1, 0b1], np.uint64), hashed=np.array([True, True]))
    assert search_in(queries, [training], 1)["distance"].tolist() == [[2], [-1]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.sampled_from([0.3, 0.9, 0.999, 1.0]), st.integers(1, 60))
def test_pairs_above_a_threshold(seed: int, threshold: float, rows: int) -> None:
    left, right = (clustered(rows + extra, 16, seed + extra).astype(np.float32) for extra in (0, 7))
    right[0] = left[0]
    every = (left.astype(np.float64) @ right.T.astype(np.float64)).astype(np.float32)
    expected = {(i, j): every[i, j] for i, j in zip(*np.nonzero(every.astype(float) >= threshold), strict=True)}
    found = [pair for pairs in nearest.similar_pairs(left, right, threshold) for pair in zip(*pairs, strict=True)]
    assert {(i, j): similarity for i, j, similarity in found} == expected
    assert len(found) == len(expected)


@pytest.mark.slow
def test_fifty_thousand_pictures_bit_for_bit() -> None:
    training, queries = pictures(clustered(50_000, 512, 1, 2000)), pictures(clustered(5_000, 512, 2, 2000), 3)
    found = search_in(queries, cut(training, list(range(0, 50_000, 16_384))), 8)
    for start in range(0, 5_000, 500):
        some = Pictures(*(array[start : start + 500] for array in queries))
        every = (some.vectors.astype(np.float64) @ training.vectors.T.astype(np.float64)).astype(np.float32)
        assert found[start : start + 500]["similarity"].tolist() == (-np.sort(-every, axis=1)[:, :8]).tolist()
        few = np.argpartition(-every, 100, axis=1)[:, :100]
        order = np.lexsort((training.keys[few], -np.take_along_axis(every, few, 1)), axis=1)[:, :8]
        assert (found[start : start + 500]["uid"] == training.keys[np.take_along_axis(few, order, 1)]).all()
