"""One planned shard → one committed shard: exact rows, bytes that know no order of completion, bounded concurrency."""

import asyncio
import errno
import hashlib
import json
import pickle
import re
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gesso.dataset.records import normalize_url, sample_key
from gesso.dataset.schemas import plan_schema
from gesso.errors import UserError
from gesso.machine import local_fault
from gesso.pipelines import packing
from gesso.pipelines.collect import plan
from gesso.pipelines.collect.engine import FirstOfEach, GessoEngine, LargeBodyPermit, Slots, share_files
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
        with pytest.raises(UserError, match="No space left on device: free some space"):
            collect(tmp_path)
    assert list(tmp_path.glob("0*")) == []


@given(st.permutations(range(30)), st.integers(1, 9))
def test_the_first_of_a_reason_are_always_among_the_wanted(order: list[int], most: int) -> None:
    first = FirstOfEach(most)
    wanted = {position for position in order if first.wants("too_small", position)}
    assert wanted >= set(range(most))


def test_the_permit_of_a_large_body_is_acquired_once_and_released() -> None:
    async def run() -> list[bool]:
        permits, seen = asyncio.Semaphore(1), []
        async with LargeBodyPermit(permits) as permit:
            seen.append(permits.locked())
            await permit.acquire()
            await permit.acquire()
            seen.append(permits.locked())
        return [*seen, permits.locked()]

    assert asyncio.run(run()) == [False, True, False]


@pytest.mark.parametrize("count", [1, 15, 16, 100])
def test_slots_are_released_as_long_as_links_end(count: int) -> None:
    """So many links in flight and never more; batches that are not full never stop the acquiring."""

    async def run() -> int:
        slots, most = Slots(count, asyncio.get_running_loop()), 0
        in_flight: deque[None] = deque()
        with ThreadPoolExecutor(1) as thread:
            for _ in range(5 * count):
                await slots.acquire()
                in_flight.append(None)
                most = max(most, len(in_flight))
                thread.submit(lambda: (in_flight.popleft(), slots.release()))
        return most

    assert asyncio.run(asyncio.wait_for(run(), 60)) <= count


FAULTS = [OSError(errno.EMFILE, "x"), OSError(errno.ENOSPC, "x"), PermissionError(errno.EACCES, "x"), MemoryError()]


@pytest.mark.parametrize("fault", FAULTS, ids=["files", "space", "permission", "memory"])
@pytest.mark.parametrize("place", ["PIL.Image.open", "gesso.images.decode", "gesso.dataset.shards.Spool.put"])
def test_a_fault_of_this_machine_ends_the_shard_and_is_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, fault: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    engine = GessoEngine(settings())
    monkeypatch.setattr(place, fail)
    with serve({"/a.jpg": picture(0, 64, 48), "/b.jpg": servers.stall}) as web:
        write_plan(tmp_path, [web.url("/a.jpg"), web.url("/b.jpg")])
        with pytest.raises(UserError, match=re.escape(str(local_fault(fault)))):
            engine.submit(str(tmp_path), 0, ()).result()
    assert list(tmp_path.glob("0*")) == []


KINDS = [
    *((kind, mode) for kind in ("JPEG", "MPO") for mode in ("RGB", "L", "CMYK") if (kind, mode) != ("MPO", "CMYK")),
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *((kind, mode) for kind in ("WEBP", "GIF") for mode in ("RGB", "P")),
    ("TIFF", "RGB"),
    ("BMP", "RGB"),
]


def bodies() -> list[bytes]:
    """Pictures of all kinds, whole and cut off, and what is no picture."""
    found = [b"", b"<html>parked</html>", b"\x00\x00\x00\x1cftypavif" + bytes(40)]
    for kind, mode in KINDS:
        stream, image = BytesIO(), Image.new(mode, (64, 48))
        image.save(stream, kind, **({"save_all": True, "append_images": [image]} if kind == "MPO" else {}))
        found += [stream.getvalue(), stream.getvalue()[: len(stream.getvalue()) // 2], stream.getvalue()[:40]]
    return found


def test_no_picture_opens_a_file() -> None:
    """Once the codecs are loaded: so a process that is short of files finds no picture broken."""
    program = """
import pickle, sys
from gesso import images
from gesso.pipelines.collect.engine import examine
from gesso.pipelines.collect.settings import ImageRules
images.load_codecs()
bodies, rules, opened = pickle.load(sys.stdin.buffer), ImageRules(image_size=32, min_side=16), []
sys.addaudithook(lambda event, args: opened.append(args) if event in ("open", "import", "os.listdir") else None)
reasons = [examine(body, rules, lambda reason: True).fields["reason"] for body in bodies]
print(reasons[3::3].count(None), opened[:3])
"""
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, check=True, capture_output=True, input=pickle.dumps(bodies())).stdout
    assert told == b"%d []\n" % (len(KINDS) - 2)


@pytest.mark.parametrize(
    ("files", "concurrency", "in_flight", "kept"),
    [(20_000, 256, 256, 19_440), (1_000, 256, 256, 440), (220, 256, 57, 58), (51, 256, 1, 1), (20_000, 1, 1, 19_950)],
)
def test_links_in_flight_fit_the_limit_of_open_files(files: int, concurrency: int, in_flight: int, kept: int) -> None:
    count, connections = share_files(files, concurrency)
    assert (count, connections.most) == (in_flight, kept)
    assert 2 * count + connections.most <= files


def test_too_few_files_for_one_link() -> None:
    with pytest.raises(UserError, match="raise `ulimit -n` by 11 or more"):
        share_files(40, 256)


def dead_host(number: int) -> str:
    """A link to an address of loopback on which nobody listens: a host of its own."""
    return f"http://127.1.{number // 250}.{1 + number % 250}:{servers.closed_port()}/{number}.jpg"


def test_a_network_that_is_down_ends_the_shard(tmp_path: Path) -> None:
    write_plan(tmp_path, [dead_host(number) for number in range(60)])
    with pytest.raises(UserError, match=r"^no network: \d+ of the last \d+ links, of 3\d different hosts, could not"):
        collect(tmp_path)
    assert list(tmp_path.glob("0*")) == []


def test_dead_hosts_among_others_are_reasons(tmp_path: Path) -> None:
    with serve({f"/{number}.jpg": picture(number) for number in range(10)}) as web:
        dead = [dead_host(number) for number in range(60)]
        write_plan(tmp_path, [*dead, *(web.url(path) for path in web.routes)])
        marker = collect(tmp_path)
    assert marker["status_dict"] == {"connection": 60, "success": 10}


def test_a_decoder_that_fails_ends_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gesso.images.read_header", bug)
    with serve({"/a.jpg": picture(0), "/b.jpg": servers.stall}) as web:
        write_plan(tmp_path, [web.url("/a.jpg"), web.url("/b.jpg")])
        with pytest.raises(ZeroDivisionError, match="a bug"):
            collect(tmp_path)
    assert list(tmp_path.glob("0*")) == []
