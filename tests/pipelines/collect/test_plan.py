"""The plan: judged pairs, shards by uid, repeats collapsed, whatever the order and the batches."""

import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.dataset.records import normalize_url, sample_key, shard_of
from gesso.dataset.schemas import plan_schema
from gesso.pipelines import packing
from gesso.pipelines.collect import plan
from gesso.pipelines.collect.settings import CaptionRules, PlanSettings

RULES = CaptionRules()
DOG, CAT = "a dog runs over the wet meadow", "a cat sleeps on the warm window sill"
EXTRA = (pa.field("score", pa.float64()),)

Row = tuple[str, str | None, float]


def batch(rows: list[Row]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    urls = pa.array([url.encode() for url in columns[0]], pa.binary())
    captions = pa.array([None if text is None else text.encode() for text in columns[1]], pa.binary())
    return pa.record_batch([urls, captions, pa.array(columns[2], pa.float64())], ["url", "caption", "score"])


def planned(rows: list[Row], size: int, shards: int) -> tuple[list[pa.Table], Counter[str]]:
    """The shards of a plan made of batches of `size` rows, and the repeats."""
    parts: dict[int, list[bytes]] = {}
    for start in range(0, len(rows), size):
        pairs, _ = plan.judge_rows(batch(rows[start : start + size]), RULES)
        for index, packed in plan.split(packing.unpack(packing.pack(pairs), plan_schema(EXTRA)), shards):
            parts.setdefault(index, []).append(packed)
    merged = [plan.merge(parts.get(index, []), EXTRA) for index in range(shards)]
    return [table for table, _ in merged], sum((counts for _, counts in merged), Counter[str]())


class TestJudgeRows:
    def test_a_pair_to_fetch(self) -> None:
        pairs, counts = plan.judge_rows(batch([("http://A.example/x.jpg#top", DOG, 0.5)]), RULES)
        key = sample_key("http://a.example/x.jpg", DOG)
        assert pairs.to_pylist() == [
            {
                "key": key,
                "url": "http://A.example/x.jpg#top",
                "caption": DOG,
                "original_caption": None,
                "reason": None,
                "score": 0.5,
            }
        ]
        assert counts == Counter(links=1)

    def test_no_row_makes_no_pair_and_no_shard(self) -> None:
        pairs, counts = plan.judge_rows(batch([]), RULES)
        assert pairs.schema.equals(plan_schema(EXTRA))
        assert (pairs.num_rows, counts) == (0, Counter(links=0))
        assert list(plan.split(pairs, 3)) == []

    def test_reasons_stand_in_the_row(self) -> None:
        rows = [("ftp://a.example/x.jpg", DOG, 0), ("http://a.example/x.jpg", None, 0), ("not a link", DOG, 0)]
        pairs, counts = plan.judge_rows(batch(rows), RULES)
        assert pairs["reason"].to_pylist() == ["url_invalid", "caption_empty", "url_invalid"]
        assert counts == Counter(links=0)

    def test_a_cut_caption_keeps_the_original_and_its_uid(self) -> None:
        raw = f"{DOG} | Shutterstock"
        pairs, _ = plan.judge_rows(batch([("http://a.example/x.jpg", raw, 0)]), RULES)
        row = pairs.to_pylist()[0]
        assert (row["caption"], row["original_caption"]) == (DOG, raw)
        assert row["key"] == sample_key("http://a.example/x.jpg", raw)


class TestMerge:
    def test_repeats_of_a_pair_collapse_to_the_smallest_text(self) -> None:
        rows: list[Row] = [("http://a.example/1.jpg", DOG, score) for score in (0.7, 0.2, 0.9)]
        tables, counts = planned(rows, 2, 1)
        assert [row["score"] for row in tables[0].to_pylist()] == [0.2]
        assert counts == Counter(repeat_pair=2)

    def test_a_link_keeps_the_caption_that_passes(self) -> None:
        rows: list[Row] = [("http://a.example/1.jpg", "", 0), ("http://a.example/1.jpg", DOG, 0)]
        tables, counts = planned(rows, 1, 1)
        assert [(row["caption"], row["reason"]) for row in tables[0].to_pylist()] == [(DOG, None)]
        assert counts == Counter(repeat_link=1)

    def test_of_two_good_captions_the_smaller_uid_stays(self) -> None:
        url = "http://a.example/1.jpg"
        tables, _ = planned([(url, DOG, 0), (url, CAT, 0)], 2, 1)
        assert tables[0]["key"].to_pylist() == [min(sample_key(url, DOG), sample_key(url, CAT))]

    def test_links_with_the_same_hash_are_not_repeats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "sample_key", lambda link, caption: "0" * 16 + sample_key(link, caption)[16:])
        tables, counts = planned([("http://a.example/1.jpg", DOG, 0), ("http://b.example/1.jpg", DOG, 0)], 2, 1)
        assert sorted(tables[0]["url"].to_pylist()) == ["http://a.example/1.jpg", "http://b.example/1.jpg"]
        assert counts == Counter()

    def test_written_as_parquet_in_the_order_of_the_uids(self, tmp_path: object) -> None:
        rows: list[Row] = [(f"http://a.example/{n}.jpg", DOG if n % 3 else None, n) for n in range(50)]
        pairs, _ = plan.judge_rows(batch(rows), RULES)
        counts = plan.write_plan(str(tmp_path), 7, [packing.pack(pairs)], EXTRA)
        table = pq.read_table(f"{tmp_path}/plan/00007.plan")
        assert table.schema.equals(plan_schema(EXTRA))
        assert table["key"].to_pylist() == sorted(table["key"].to_pylist())
        assert counts == Counter(links=33, caption_empty=17)


hosts = st.sampled_from(["a.example", "b.example", "A.example:80"])
texts = st.sampled_from([DOG, CAT, "", None, "IMG_1234.JPG"])
rows_of_a_table = st.lists(
    st.tuples(st.builds("http://{}/{}.jpg".format, hosts, st.integers(0, 9)), texts, st.sampled_from([0.0, 1.0])),
    max_size=60,
)


class TestPlan:
    @given(rows_of_a_table, st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.randoms())
    def test_order_and_batches_have_no_say(
        self, rows: list[Row], shards: int, size: int, other: int, shuffle: random.Random
    ) -> None:
        one = planned(rows, size, shards)
        shuffle.shuffle(rows)
        assert planned(rows, other, shards) == one

    @given(rows_of_a_table, st.integers(1, 5))
    def test_every_row_is_planned_once_or_counted(self, rows: list[Row], shards: int) -> None:
        tables, repeats = planned(rows, 7, shards)
        keys = [key for table in tables for key in table["key"].to_pylist()]
        links = [normalize_url(url) for table in tables for url in table["url"].to_pylist()]
        assert len(keys) + repeats.total() == len(rows)
        assert keys == sorted(set(keys))
        assert sorted(links) == sorted({normalize_url(url) for url, _, _ in rows})

    @given(st.integers(0, 2**128 - 1), st.integers(1, 10**6))
    def test_a_shard_is_a_range_of_uids(self, number: int, shards: int) -> None:
        key = f"{number:032x}"
        assert 0 <= shard_of(key, shards) < shards
        assert shard_of(f"{0:032x}", shards) == 0
        assert shard_of("f" * 32, shards) == shards - 1
        assert shard_of(key, shards) <= shard_of(f"{min(number + 2**64, 2**128 - 1):032x}", shards)

    @pytest.mark.parametrize(("links", "shards"), [(0, 1), (1, 1), (10_000, 1), (10_001, 2), (25_000_000, 2_500)])
    def test_shards_of_about_the_size_asked_for(self, links: int, shards: int) -> None:
        assert plan.shard_count(links, PlanSettings(shard_size=10_000)) == shards
