"""One planned shard → one committed shard: exact rows, bytes that know no order of completion, bounded concurrency."""

import asyncio
import hashlib
import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.dataset.records import normalize_url, sample_key
from gesso.dataset.schemas import plan_schema
from gesso.pipelines import packing
from gesso.pipelines.collect import plan
from gesso.pipelines.collect.engine import FirstOfEach, GessoEngine, Leave, Slots
from gesso.pipelines.collect.settings import EngineSettings, FetchLimits, ImageRules
from tests import servers
from tests.datasets import picture
from tests.servers import Routes, Web, serve

RULES = ImageRules(image_size=32, min_side=16)
CAPTION = "a picture to collect"


def settings(**changes: Any) -> EngineSettings:
    limits = FetchLimits(deadline=changes.pop("deadline", 20.0), retries=0)
    return EngineSettings(limits=limits, rules=RULES, **{"concurrency": 8, "decode_threads": 2, **changes})


def write_plan(folder: Path, urls: list[str], rejected: dict[str, str] | None = None) -> list[str]:
    """Plans the links as shard 0; gives them in the order of their keys."""
    keys = {url: sample_key(normalize_url(url), CAPTION) for url in urls}
    rows = [
        {"key": keys[url], "url": url, "caption": CAPTION, "reason": (rejected or {}).get(url)}
        for url in sorted(urls, key=keys.__getitem__)
    ]
    plan.write_plan(str(folder), 0, [packing.pack(pa.RecordBatch.from_pylist(rows, plan_schema()))], ())
    return [row["url"] for row in rows]  # type: ignore[misc]


def collect(folder: Path, **changes: Any) -> dict[str, Any]:
    return GessoEngine(settings(**changes)).submit(str(folder), 0, ()).result()


def checksums(folder: Path) -> dict[str, str]:
    names = ("00000.tar", "00000.parquet", "rejected/00000.thumbnails")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_every_link_ends_in_its_row(tmp_path: Path) -> None:
    panorama, small = picture(1, 400), picture(2, 15, 15)
    routes: Routes = {
        "/good.jpg": picture(0),
        "/panorama.jpg": panorama,
        "/small.jpg": small,
        "/page.jpg": b"<html>parked</html>",
        "/cut.jpg": picture(3, 64, 64)[:-200],
        "/short.jpg": servers.short(picture(4), 10**6),
        "/stalls.jpg": servers.stall,
    }
    with serve(routes) as web:
        urls = [web.url(path) for path in [*routes, "/missing.jpg", "/refused.jpg"]]
        write_plan(tmp_path, urls, {web.url("/refused.jpg"): "caption_too_short"})
        marker = collect(tmp_path, deadline=1.0)
        assert "/refused.jpg" not in web.requests
    rows = {row["url"].rsplit("/")[-1]: row for row in pq.read_table(tmp_path / "00000.parquet").to_pylist()}
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "good.jpg": ("success", None),
        "panorama.jpg": ("failed_to_resize", "aspect_ratio"),
        "small.jpg": ("failed_to_resize", "too_small"),
        "page.jpg": ("failed_to_resize", "not_an_image"),
        "cut.jpg": ("failed_to_resize", "undecodable"),
        "short.jpg": ("failed_to_download", "body_incomplete"),
        "stalls.jpg": ("failed_to_download", "timeout"),
        "missing.jpg": ("failed_to_download", "http_404"),
        "refused.jpg": ("rejected", "caption_too_short"),
    }
    assert rows["panorama.jpg"]["sha256"] == hashlib.sha256(panorama).hexdigest()
    assert (rows["panorama.jpg"]["original_width"], rows["panorama.jpg"]["original_height"]) == (400, 30)
    assert rows["small.jpg"]["original_bytes"] == len(small)
    assert (rows["good.jpg"]["width"], rows["good.jpg"]["height"], rows["good.jpg"]["reencoded"]) == (40, 30, False)
    assert marker["count"] == 9
    assert (marker["successes"], marker["rejected"], marker["failed_to_download"]) == (1, 1, 3)
    assert json.loads((tmp_path / "00000_stats.json").read_text()) == marker
    assert list((tmp_path / ".progress").iterdir()) == []


def test_bytes_do_not_depend_on_the_order_of_completion(tmp_path: Path) -> None:
    routes: Routes = {f"/{n}.jpg": picture(n, 400 if n % 3 == 0 else 40) for n in range(40)}
    with serve(routes) as web:
        order = write_plan(tmp_path, [web.url(path) for path in routes])
        collect(tmp_path)
        one = checksums(tmp_path)
        first = order[0].replace(web.url(""), "")
        web.routes[first] = until_all_others(web, first, routes[first], len(order))  # type: ignore[arg-type]
        collect(tmp_path, concurrency=3, decode_threads=1)
        assert web.requests.total() == 2 * len(order)
    assert checksums(tmp_path) == one


def until_all_others(web: Web, held: str, data: bytes, links: int) -> servers.Behaviour:
    """An answer that waits until every other link has been asked for twice."""

    async def answer(exchange: servers.Exchange) -> None:
        while sum(web.requests[path] == 2 for path in web.requests) < links:
            await asyncio.sleep(0)
        await servers.body(data)(exchange)

    return answer


def test_as_many_requests_in_flight_as_asked_for(tmp_path: Path) -> None:
    with serve({}) as web:
        release = servers.held(picture(0))

        async def last_one_opens(exchange: servers.Exchange) -> None:
            if web._running == 5:
                web.released.set()
            await release(exchange)

        paths = [f"/{n}.jpg" for n in range(12)]
        web.routes |= dict.fromkeys(paths, last_one_opens)
        write_plan(tmp_path, [web.url(path) for path in paths])
        collect(tmp_path, concurrency=5)
        assert web.most_at_once == 5


def test_a_writer_that_fails_ends_the_shard_without_a_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gesso.dataset.shards.iter_rows", full)
    with serve({"/a.jpg": picture(0), "/b.jpg": servers.stall}) as web:
        write_plan(tmp_path, [web.url("/a.jpg"), web.url("/b.jpg")])
        with pytest.raises(OSError, match="No space left on device"):
            collect(tmp_path)
    assert list(tmp_path.glob("0*")) == []


@given(st.permutations(range(30)), st.integers(1, 9))
def test_the_first_of_a_reason_are_always_among_the_wanted(order: list[int], most: int) -> None:
    first = FirstOfEach(most)
    wanted = {position for position in order if first.wants("too_small", position)}
    assert wanted >= set(range(most))


def test_leave_is_taken_once_and_given_back() -> None:
    async def run() -> list[bool]:
        gate, seen = asyncio.Semaphore(1), []
        async with Leave(gate) as leave:
            seen.append(gate.locked())
            await leave.ask()
            await leave.ask()
            seen.append(gate.locked())
        return [*seen, gate.locked()]

    assert asyncio.run(run()) == [False, True, False]


@pytest.mark.parametrize("count", [1, 15, 16, 100])
def test_slots_come_back_as_long_as_links_end(count: int) -> None:
    """So many links in flight and never more; handfuls that are kept back never stop the taking."""

    async def run() -> int:
        slots, most = Slots(count, asyncio.get_running_loop()), 0
        in_flight: deque[None] = deque()
        with ThreadPoolExecutor(1) as thread:
            for _ in range(5 * count):
                await slots.take()
                in_flight.append(None)
                most = max(most, len(in_flight))
                thread.submit(lambda: (in_flight.popleft(), slots.give_back()))
        return most

    assert asyncio.run(asyncio.wait_for(run(), 60)) <= count


def test_a_decoder_that_fails_ends_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gesso.images.read_header", bug)
    with serve({"/a.jpg": picture(0), "/b.jpg": servers.stall}) as web:
        write_plan(tmp_path, [web.url("/a.jpg"), web.url("/b.jpg")])
        with pytest.raises(ZeroDivisionError, match="a bug"):
            collect(tmp_path)
    assert list(tmp_path.glob("0*")) == []
