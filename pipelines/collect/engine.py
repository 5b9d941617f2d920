"""One planned shard → one committed shard: fetches and decodes at the same time. One engine a process; no Beam.

plan/00000.plan ─▶ hundreds of requests in flight on one event loop ─▶ a thread a core decodes, hashes, encodes
                          ─▶ spool, by position ─▶ one thread writes tar and rows in the order of the uids
"""

import asyncio
import hashlib
import threading
import weakref
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from time import time
from typing import NamedTuple

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import ClientSession

from gesso import images, storage
from gesso.dataset import shards
from gesso.dataset.manifest import plan_path
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import SUCCESS, status_of
from gesso.dataset.schemas import PLAN_FIELDS
from gesso.dataset.shards import Outcome, Spool
from gesso.errors import Rejected, UserError
from gesso.images import Header
from gesso.machine import local_fault, raise_file_limit
from gesso.pipelines.collect import prepare
from gesso.pipelines.collect.connection import OpenConnections
from gesso.pipelines.collect.fetch import fetch, load_resolver, open_session
from gesso.pipelines.collect.outage import UNREACHED, OutageDetector
from gesso.pipelines.collect.settings import EngineSettings, ImageRules

WAITING_THREADS = 64  # for name look-ups, which block, and for the shards' writers
OTHER_FILES = 48  # that a process opens beside its connections: plans, spools, files of two shards, notes
LARGE_BODIES = 16  # bodies over fetch.LARGE_BODY in memory at a time
THUMBNAIL = 192  # pixels, long side of a rejected picture's sample
PLAN_ROWS = 1024  # planned pairs in memory at a time
FILES_PER_LINK = 3
NOTE_INTERVAL = 1.0  # seconds between two notes on a shard's progress

Written = tuple[shards.Row, Counter[str]]


class Link(NamedTuple):
    """A planned pair to fetch, by its place in the shard."""

    position: int
    url: str


class FirstOfEach:
    """Tells whether a rejected picture can still be among the first few of its reason, in the order of positions.

    Pictures come in any order; the answer is yes for a superset of the first `most`, which does not depend on it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._first: defaultdict[str, list[int]] = defaultdict(list)
        self._lock = threading.Lock()

    def wants(self, reason: str, position: int) -> bool:
        with self._lock:
            first = self._first[reason]
            insort(first, position)
            del first[self._most :]
            return position in first


class Slots:
    """Permits for links in flight. They are released in batches: to wake the loop for each costs much of a request."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._free = asyncio.Semaphore(count)
        self._loop = loop
        self._batch = max(1, count // 16)
        self._released = 0
        self._lock = threading.Lock()

    async def acquire(self) -> None:
        await self._free.acquire()

    def release(self) -> None:
        """From any thread."""
        with self._lock:
            self._released += 1
            if self._released < self._batch:
                return
            count, self._released = self._released, 0
        self._loop.call_soon_threadsafe(self._release, count)

    def _release(self, count: int) -> None:
        for _ in range(count):
            self._free.release()


class LargeBodyPermit:
    """A permit to hold a large body, acquired once at most and released at the end."""

    def __init__(self, permits: asyncio.Semaphore) -> None:
        self._permits = permits
        self.held = False

    async def acquire(self) -> None:
        if not self.held:
            await self._permits.acquire()
            self.held = True

    async def __aenter__(self) -> "LargeBodyPermit":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.held:
            self._permits.release()


def share_files(files: int, concurrency: int) -> tuple[int, OpenConnections]:
    """How many links may be in flight, and how many connections may stay open, where so many files can be opened.

    A link opens two at a time, for a look-up or for two addresses that are tried at once. A third of the files is left
    for connections that are kept. Raises UserError where the files do not suffice for one link.
    """
    files -= OTHER_FILES
    if files < FILES_PER_LINK:
        raise UserError(f"too few files may be opened: raise `ulimit -n` by {FILES_PER_LINK - files} or more")
    in_flight = min(concurrency, files // FILES_PER_LINK)
    return in_flight, OpenConnections(files - 2 * in_flight)


class GessoEngine:
    """Fetches, decodes and writes shards on threads of its own: `submit` returns at once."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        cv2.setNumThreads(1)  # a picture a thread: OpenCV's own threads would only get in the way
        images.load_codecs()
        load_resolver()
        concurrency, self._connections = share_files(raise_file_limit(), settings.concurrency)
        self._outage = OutageDetector()
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        self._large = asyncio.Semaphore(LARGE_BODIES)
        self._loop = asyncio.new_event_loop()
        self._slots = Slots(concurrency, self._loop)
        self._loop.set_default_executor(ThreadPoolExecutor(WAITING_THREADS, "wait"))
        threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def submit(self, output: str, index: int, extra: tuple[pa.Field, ...]) -> "Future[shards.Row]":
        """Starts shard `index` of the plan under `output`; the future holds its marker once it is committed."""
        return asyncio.run_coroutine_threadsafe(self._collect(output, index, extra), self._loop)

    async def _collect(self, output: str, index: int, extra: tuple[pa.Field, ...]) -> shards.Row:
        """Raises UserError for a fault of this machine: its shard is not committed."""
        try:
            return await self._collect_shard(output, index, extra)
        except Exception as error:
            if fault := local_fault(error):
                raise fault from error
            raise

    async def _collect_shard(self, output: str, index: int, extra: tuple[pa.Field, ...]) -> shards.Row:
        plan = plan_path(output, index)
        started, total = time(), await asyncio.to_thread(count_rows, plan)
        spool = Spool(total)
        note = ProgressFile(output, index, spool.counts)
        writing = asyncio.to_thread(shards.write_shard, output, index, read_plan(plan), spool.take, extra)
        fetching = self._fetch_all(links(read_plan(plan)), spool)
        try:
            async with noting(note):
                written, counts = await both(fetching, writing, spool)
        finally:
            spool.close()
        marker = await asyncio.to_thread(shards.commit, output, index, written, counts, started, time())
        note.remove()
        return marker

    async def _fetch_all(self, planned: Iterator[Link], spool: Spool) -> None:
        samples = FirstOfEach(shards.EXAMPLES_PER_REASON)
        async with open_session(self._settings.limits, self._connections) as session, asyncio.TaskGroup() as group:
            for link in planned:
                await self._slots.acquire()
                group.create_task(self._one(session, link, spool, samples))

    async def _one(self, session: ClientSession, link: Link, spool: Spool, samples: FirstOfEach) -> None:
        """Fetches a link and leaves its body to a decoding thread, which releases the slot."""
        decoding: Future[None] | None = None
        request, reached = self._outage.start(link.url), None
        try:
            async with LargeBodyPermit(self._large) as permit:
                body = await fetch(session, link.url, self._settings.limits, permit.acquire)
                reached = True
                decoding = self._decoders.submit(examine_into, spool, link, body, self._settings.rules, samples)
                decoding.add_done_callback(partial(self._decoded, spool))
                if permit.held:
                    await asyncio.wrap_future(decoding)
        except Rejected as rejection:
            reached = was_reached(rejection.reason)
            spool.put(link.position, Outcome(failure(rejection)))
        finally:
            if decoding is None:
                self._slots.release()
            self._outage.end(request, reached)

    def _decoded(self, spool: Spool, decoding: "Future[None]") -> None:
        self._slots.release()
        error = decoding.exception()
        if error:
            spool.fail(error)


def examine_into(spool: Spool, link: Link, body: bytes, rules: ImageRules, samples: FirstOfEach) -> None:
    """Examines a body on a decoding thread and puts the outcome into the spool."""
    spool.put(link.position, examine(body, rules, lambda reason: samples.wants(reason, link.position)))


def examine(body: bytes, rules: ImageRules, wants: Callable[[str], bool]) -> Outcome:
    """What a downloaded body is: a picture to keep, or a reason, with a thumbnail where `wants(reason)`."""
    fields: shards.Row = {"sha256": hashlib.sha256(body).hexdigest(), "original_bytes": len(body)}
    try:
        header = images.read_header(body)
    except Rejected as rejection:
        return Outcome({**fields, **failure(rejection)})
    fields |= {
        "original_width": header.width,
        "original_height": header.height,
        "original_format": header.format,
    }
    try:
        prepare.check(header, rules)
        picture = prepare.prepare(body, header, rules)
    except Rejected as rejection:
        sample = sample_of(body, header, rules) if wants(rejection.reason) else b""
        return Outcome({**fields, **failure(rejection)}, sample)
    kept = {"width": picture.width, "height": picture.height, "reencoded": picture.reencoded, "phash": picture.phash}
    return Outcome({**fields, **kept, "status": SUCCESS, "reason": None}, picture.body)


def sample_of(body: bytes, header: Header, rules: ImageRules) -> bytes:
    """A thumbnail of a rejected picture; nothing where it cannot or must not be decoded."""
    if header.width * header.height > rules.max_pixels:
        return b""
    try:
        return images.thumbnail(body, header, THUMBNAIL)
    except Rejected as rejection:
        raise_local_fault(rejection)
        return b""


def was_reached(reason: str) -> bool | None:
    """Whether a server has answered where a link failed so; None where none was asked."""
    return None if reason == "url_unusable" else reason not in UNREACHED


def raise_local_fault(rejection: Rejected) -> None:
    """Raises UserError where a picture was taken for broken because of a fault of this machine."""
    if fault := local_fault(rejection):
        raise fault from rejection


def failure(rejection: Rejected) -> shards.Row:
    """A row's fields for a rejection. Raises UserError where the cause is a fault of this machine."""
    raise_local_fault(rejection)
    return {
        "status": status_of(rejection.reason),
        "reason": rejection.reason,
        "error_message": rejection.message,
    }


async def both(fetching: Awaitable[None], writing: Awaitable[Written], spool: Spool) -> Written:
    """What the writer returns once both are through; the first failure of either ends the other and is raised."""
    fetch_task, write_task = asyncio.ensure_future(fetching), asyncio.ensure_future(writing)
    done, _ = await asyncio.wait({fetch_task, write_task}, return_when=asyncio.FIRST_EXCEPTION)
    error = next((task.exception() for task in done if task.exception()), None)
    if error:
        spool.fail(error)
        fetch_task.cancel()
        await asyncio.gather(fetch_task, write_task, return_exceptions=True)
        raise error
    return write_task.result()


@asynccontextmanager
async def noting(note: ProgressFile) -> AsyncIterator[None]:
    """Notes the progress every second while the body runs."""

    async def write_notes() -> None:
        while True:
            await asyncio.to_thread(note.write)
            await asyncio.sleep(NOTE_INTERVAL)

    task = asyncio.ensure_future(write_notes())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def count_rows(path: str) -> int:
    with storage.open_input(path) as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def read_plan(path: str) -> Iterator[pa.RecordBatch]:
    """The planned pairs in the order of their uids, a bounded number at a time."""
    with storage.open_input(path) as stream:
        yield from pq.ParquetFile(stream).iter_batches(PLAN_ROWS)


def links(plan: Iterable[pa.RecordBatch]) -> Iterator[Link]:
    """The pairs that no rule has rejected before the fetch."""
    position = 0
    url, reason = (next(i for i, f in enumerate(PLAN_FIELDS) if f.name == name) for name in ("url", "reason"))
    for batch in plan:
        for link, rejected in zip(batch[url].to_pylist(), batch[reason].to_pylist(), strict=True):
            if rejected is None:
                yield Link(position, link)
            position += 1
