"""Hashes, the exact cutoff, targets: each sample has one target, however the samples are batched."""

import io
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.dataset import members
from gesso.dataset.schemas import INDEX_FIELDS, RANGE_FIELDS
from gesso.dataset.shards import HashingWriter, TarWriter
from gesso.errors import UserError
from gesso.pipelines import packing
from gesso.pipelines.export import shuffle
from gesso.pipelines.export.settings import ExportSettings
from gesso.pipelines.export.shuffle import ShufflePlan

GOLDEN = {"validation": ["92b29cc3d462ab36", "e5c0cc4ce4d2c86c"], "order": ["d8221c4b40774077", "1ac08e66d23719cd"]}
KEY = (pa.field("key", pa.string(), nullable=False),)


def batch(hashes: list[int], first: int = 0) -> pa.RecordBatch:
    """Samples with these hashes, whose keys are their numbers."""
    keys = [f"{first + number:08d}" for number in range(len(hashes))]
    numbers = [pa.array([0] * len(hashes), field.type) for field in RANGE_FIELDS if field.name in shuffle.SOURCE_RANGES]
    order = pa.array(shuffle.key_hashes(keys, "order"))
    return pa.RecordBatch.from_arrays(
        [pa.array(keys), *numbers, pa.array(["jpg"] * len(hashes)), pa.array(hashes, pa.uint64()), order],
        schema=shuffle.packed_schema(KEY),
    )


def plan_of(parts: list[pa.RecordBatch], size: int) -> ShufflePlan:
    """The plan as the pipeline makes it, a batch at a time."""
    settings = ExportSettings(validation_size=size, shard_size=4)
    hashes = [part["split_hash"].to_numpy() for part in parts]
    bucket = shuffle.find_bucket(shuffle.add_histograms(map(shuffle.histogram, hashes)), settings)
    candidates = [
        item
        for part, some in zip(parts, hashes, strict=True)
        for item in shuffle.ranks_in_bucket(some, part["key"], bucket)
    ]
    random.Random(0).shuffle(candidates)
    return shuffle.plan_shuffle(bucket, candidates, settings)


@given(
    st.lists(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 5, 2**63, 2**64 - 1])), min_size=2, max_size=60),
    st.data(),
)
def test_the_validation_split_is_exact(hashes: list[int], data: st.DataObject) -> None:
    """Also where many hashes are equal: then the key decides."""
    size, at = data.draw(st.integers(0, len(hashes) - 1)), data.draw(st.integers(0, len(hashes)))
    parts = [batch(hashes[:at]), batch(hashes[at:], at)]
    plan = plan_of(parts, size)
    held_out, targets = set(), []
    for part in parts:
        for target, packed in shuffle.split_by_target(part, plan):
            keys = packing.unpack(packed, shuffle.packed_schema(KEY))["key"].to_pylist()
            targets += [(key, target) for key in keys]
            held_out |= set(keys) if plan.split_and_shard(target)[0] else set()
    ranked = sorted((split_hash, f"{number:08d}") for number, split_hash in enumerate(hashes))
    assert held_out == {key for _, key in ranked[:size]}
    assert sorted(key for key, _ in targets) == [f"{number:08d}" for number in range(len(hashes))]
    assert all(0 <= target < sum(plan.shards) for _, target in targets)


def test_as_many_for_validation_as_are_kept() -> None:
    with pytest.raises(UserError, match="--validation_size is 3, but only 3 samples are kept: give a smaller one"):
        plan_of([batch([1, 2, 3])], 3)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 2**31))
def test_ranges_of_64_bits(numbers: list[int], shards: int) -> None:
    found = shuffle.range_index(np.array(numbers, np.uint64), shards)
    assert found.tolist() == [number * shards >> 64 for number in numbers]


def test_hashes_are_golden() -> None:
    """They decide the bytes of every export: a change is breaking."""
    keys = ["0" * 32, "f" * 32]
    assert [f"{split_hash:016x}" for split_hash in shuffle.key_hashes(keys, "validation").tolist()] == GOLDEN[
        "validation"
    ]
    assert [f"{split_hash:016x}" for split_hash in shuffle.key_hashes(keys, "order", 7).tolist()] == GOLDEN["order"]


def test_a_key_that_is_held_twice() -> None:
    packed = [packing.pack(batch([1, 2])), packing.pack(batch([3]))]
    with pytest.raises(UserError, match="sample 00000000 is in both shards 00000 and 00000"):
        shuffle.unpack_sorted(packed, KEY)


@pytest.mark.parametrize("key", ["k" * 20, "k" * 96, "k" * 97, "été", "文" * 200])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_ranges_are_where_the_tar_has_the_files(key: str, suffix: str) -> None:
    """A name over 100 bytes, or not ASCII, has a header of its own."""
    sizes, stream = {suffix: 700, "txt": 0, "json": 512}, io.BytesIO()
    tar = TarWriter(HashingWriter(stream))
    for number in range(2):
        for name, size in sizes.items():
            tar.add(f"{key}{number}.{name}", bytes(size))
    tar.end()
    columns = {f"{kind}_bytes": [size] * 2 for kind, size in zip(shuffle.BODIES, sizes.values(), strict=True)}
    ranges = shuffle.byte_ranges(pa.table({"key": [f"{key}0", f"{key}1"], "image_suffix": [suffix] * 2, **columns}))
    body = stream.getvalue()
    found = members.list_samples(lambda offset, size: body[offset : offset + size], len(body))
    assert [(each.key, each.offset, each.bytes) for each in found] == [
        (f"{key}{number}", ranges["offset"][number].as_py(), ranges["bytes"][number].as_py()) for number in range(2)
    ]
    files = list(members.iter_members(lambda offset, size: body[offset : offset + size], len(body)))
    places = [ranges[f"{kind}_offset"][number].as_py() for number in range(2) for kind in shuffle.BODIES]
    assert [each.offset for each in files] == places


def test_columns_of_an_export_make_room_for_those_of_the_next() -> None:
    assert shuffle.kept_fields(shuffle.final_schema(KEY)) == KEY
    with pytest.raises(UserError, match="the rows have a column offset, a name that an export uses itself"):
        shuffle.kept_fields(pa.schema([*KEY, pa.field("offset", pa.int64())]))


def test_an_index_leaves_out_where_its_pictures_are() -> None:
    kept = shuffle.kept_fields(pa.schema(INDEX_FIELDS), indexed=True)
    assert [field.name for field in INDEX_FIELDS if field not in kept] == ["image_offset", "image_bytes"]
    with pytest.raises(UserError, match="the rows have a column bytes, a name that an export uses itself"):
        shuffle.kept_fields(pa.schema([*INDEX_FIELDS, pa.field("bytes", pa.int64())]), indexed=True)


def test_licences_are_counted_unless_they_are_many() -> None:
    few, none = pa.table({"licence": ["a", "b", "a", None]}), pa.table({"key": ["x"]})
    many = pa.table({"license": [str(number) for number in range(101)]})
    assert shuffle.count_licences(few) == {"a": 2, "b": 1, "": 1}
    assert shuffle.count_licences(none) is shuffle.count_licences(many) is None
    assert shuffle.add_licences([{"a": 1}, {"b": 1, "a": 2}]) == {"a": 3, "b": 1}
    assert shuffle.add_licences([{"a": 1}, None]) is None
