"""The planner: raw rows → judged pairs → shards of pairs in the order of their uids. Knows no Beam.

    rows ─ judge_rows ─▶ planned pairs ─ split ─▶ {shard: packed pairs} ─ shuffle ─▶ merge ─▶ plan/00000.plan

A shard is a range of uids, so that the plan depends neither on the input's order nor on the number of workers, and the
links of one host are spread over all shards.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.json_values import integral
from gesso.dataset.layout import plan_name
from gesso.dataset.records import LINK_HEX, PLANNED, URL_INVALID, normalize_url, sample_key, shard_of
from gesso.dataset.schemas import PLAN_FIELDS, plan_schema
from gesso.pipelines.collect.captions import Judged, judge
from gesso.pipelines.collect.settings import CaptionRules, PlanSettings
from gesso.pipelines.packing import pack, unpack

PLAN_GROUP = 10_000  # rows of a row group, so that a shard of any size is read piece by piece


def judge_rows(rows: pa.RecordBatch, rules: CaptionRules) -> tuple[pa.RecordBatch, Counter[str]]:
    """Rows of `url` and `caption` (binary) and extras → planned pairs, and the count of links to fetch among them.

    A caption column of the null type says that there are no captions: no rule on captions applies.
    """
    urls, captions = rows["url"].to_pylist(), rows["caption"].to_pylist()
    judged = None if rows["caption"].type == pa.null() else rules
    pairs = [plan_pair(url, caption, judged) for url, caption in zip(urls, captions, strict=True)]
    columns = [pa.array([pair[at] for pair in pairs], field.type) for at, field in enumerate(PLAN_FIELDS)]
    extras = [rows[name] for name in rows.schema.names[2:]]
    planned = pa.RecordBatch.from_arrays(columns + extras, schema=plan_schema(tuple(rows.schema)[2:]))
    return planned, Counter({PLANNED: planned["reason"].null_count})


def plan_pair(
    url: bytes, caption: bytes | None, rules: CaptionRules | None
) -> tuple[str, str, str, str | None, str | None]:
    """One row's key, url, caption, original caption where something was cut, and the reason not to fetch it."""
    link, raw = url.decode(errors="replace").strip(), (caption or b"").decode(errors="replace")
    judged = judge(caption, rules) if rules else Judged("", None)
    original = None if judged.caption == raw else raw
    try:
        return sample_key(normalize_url(link), raw), link, judged.caption, original, judged.reason
    except ValueError:
        return sample_key(link, raw), link, judged.caption, original, URL_INVALID


def shard_count(links: int, settings: PlanSettings) -> int:
    return max(1, -(-links // settings.shard_size))


def split(planned: pa.RecordBatch, shards: int) -> Iterator[tuple[int, bytes]]:
    """The batch's pairs by shard, packed for the shuffle: text and numbers alone."""
    shard = np.array([shard_of(key, shards) for key in planned["key"].to_pylist()], np.int64)
    order = np.argsort(shard, kind="stable")
    starts = np.flatnonzero(np.diff(shard[order], prepend=-1))
    for part in np.split(order, starts[1:]) if len(order) else ():
        yield int(shard[part[0]]), pack(planned.take(pa.array(part)))


def merge(packed: Iterable[bytes], extra: tuple[pa.Field, ...]) -> tuple[pa.Table, Counter[str]]:
    """A shard's pairs in the order of their uids, each link once, and the count of the repeats that were dropped.

    Of a link's captions one that passes the caption rules comes first, then the smallest uid; of rows that are the
    same pair, the smallest by their text.
    """
    schema = plan_schema(extra)
    table = pa.Table.from_batches([unpack(part, schema) for part in packed], schema)
    key = table["key"].to_pylist()
    kept, repeats = [], Counter[str]()
    for _, rows in groupby(sorted(range(len(key)), key=key.__getitem__), lambda row: key[row][:LINK_HEX]):
        first, *others = rows
        if not others:
            kept.append(first)
            continue
        for same in same_link([first, *others], table):
            kept.append(min(same, key=lambda row: rank(table.slice(row, 1).combine_chunks().to_batches()[0])))
            pairs = len({key[row] for row in same})
            repeats.update(repeat_link=pairs - 1, repeat_pair=len(same) - pairs)
    return table.take(pa.array(sorted(kept, key=key.__getitem__), pa.int64())), +repeats


def rank(row: pa.RecordBatch) -> tuple[bool, str, str]:
    """A row's rank among those of its link, the least is kept: not rejected, smaller key, smaller text."""
    fields = integral(row).to_pylist()[0]
    return fields["reason"] is not None, fields["key"], repr(fields)


def same_link(rows: list[int], table: pa.Table) -> Iterable[list[int]]:
    """Rows whose uids share a first half, by link: one group but for a collision of 64 bits."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(identity_or_text(table["url"][row].as_py()), []).append(row)
    return groups.values()


def identity_or_text(url: str) -> str:
    try:
        return normalize_url(url)
    except ValueError:
        return url


def write_plan(output: str, index: int, packed: Iterable[bytes], extra: tuple[pa.Field, ...]) -> Counter[str]:
    """Merges and writes `plan/00000.plan`; returns how its pairs are counted: links, reasons, repeats."""
    table, counts = merge(packed, extra)
    with storage.write_whole(storage.join(output, plan_name(index))) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=PLAN_GROUP)
    reasons = Counter(table["reason"].to_pylist())
    counts[PLANNED] = reasons.pop(None, 0)
    return counts + reasons
