"""One link → its body, or the reason why not. Asynchronous, over aiohttp. Knows no Beam and no pictures."""

import asyncio
import random
import re
import socket
import zlib
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from functools import partial
from time import time

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from gesso.errors import Rejected
from gesso.machine import local_fault
from gesso.pipelines.collect.connection import MAX_FIELD, Connector, OpenConnections
from gesso.pipelines.collect.request_url import redirect_link, request_url
from gesso.pipelines.collect.settings import FetchLimits

ACCEPT = "image/jpeg, image/png, image/webp, image/gif, */*;q=0.1"
# Codes by which a server says "later": too many requests, and the errors of gateways and overload.
RETRIED_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
WITH_BODY = frozenset({200, 201, 203})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
WHOLE_RANGE = re.compile(r"bytes 0-(\d+)/(\d+)")
# A name server's final answers: there is no such name, or it has no address. All others may differ the next time.
UNKNOWN_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})
NOT_DECODED = frozenset({"br", "zstd"})
FIRST_PAUSE = 0.5  # seconds before the second attempt; doubled for each one after, and spread by half
LARGE_BODY = 1 << 20  # bytes; a body that grows beyond waits for a permit, so that memory has a bound
KEPT_CONNECTIONS = 1000  # where the caller sets no limit


class TransientFailure(Rejected):
    """A failure that another attempt may mend, after `pause` seconds where the server named a time."""

    def __init__(self, reason: str, message: str = "", pause: float | None = None) -> None:
        super().__init__(reason, message)
        self.pause = pause


async def no_limit() -> None:
    """The permit for a large body, always given."""


def load_resolver() -> None:
    """Loads what a look-up of a name loads: in a process short of files a first one would blame the name."""
    socket.getaddrinfo("localhost".encode("idna"), 80)


def open_session(limits: FetchLimits, connections: OpenConnections | None = None) -> aiohttp.ClientSession:
    """A session that keeps connections open, keeps no cookies, and leaves Content-Encoding to `fetch`."""
    return aiohttp.ClientSession(
        connector=Connector(connections or OpenConnections(KEPT_CONNECTIONS)),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": limits.user_agent, "Accept": ACCEPT, "Accept-Encoding": "identity"},
        auto_decompress=False,
        max_line_size=MAX_FIELD,
        max_field_size=MAX_FIELD,
    )


async def fetch(
    session: aiohttp.ClientSession,
    link: str,
    limits: FetchLimits,
    acquire_large: Callable[[], Awaitable[None]] = no_limit,
) -> bytes:
    """The whole body behind `link`, with retries, within the deadline.

    Raises Rejected: `http_<code>`, timeout, dns, connection, tls, redirects, body_too_large, body_incomplete,
    bad_response, url_unusable; and UserError for a fault of this machine, which says nothing about the link. A pause
    that the deadline has no room for is not started, and waiting for the permit of a large body does not count.
    """
    end = asyncio.get_running_loop().time() + limits.deadline
    try:
        async with asyncio.timeout_at(end) as deadline:
            acquire = partial(outside_deadline, deadline, acquire_large)
            for attempt in range(limits.retries):
                try:
                    return await fetch_once(session, link, limits, acquire)
                except TransientFailure as failure:
                    await pause(failure.pause or backoff(attempt), deadline.when() or end, failure)
            return await fetch_once(session, link, limits, acquire)
    except TimeoutError:
        raise Rejected("timeout", f"no whole response in {limits.deadline:g} s") from None


async def outside_deadline(deadline: asyncio.Timeout, wait: Callable[[], Awaitable[None]]) -> None:
    """Waits for something of our own making: the deadline moves back by as long as that takes."""
    now, end = asyncio.get_running_loop().time, deadline.when()
    started = now()
    deadline.reschedule(None)
    await wait()
    deadline.reschedule(end and end + now() - started)


async def pause(seconds: float, end: float, failure: TransientFailure) -> None:
    """Sleeps before the next attempt; raises the failure where the loop's clock would then be past `end`."""
    if asyncio.get_running_loop().time() + seconds >= end:
        raise failure
    await asyncio.sleep(seconds)


async def fetch_once(
    session: aiohttp.ClientSession, link: str, limits: FetchLimits, acquire_large: Callable[[], Awaitable[None]]
) -> bytes:
    """One attempt. Raises Rejected, TransientFailure where a further one may help, or UserError.

    A connection that breaks before any response is tried twice in it: aiohttp does not tell a kept one, which the
    server has just closed, from a new one.
    """
    try:
        return await follow(session, request_url(link), limits, acquire_large)
    except aiohttp.ClientSSLError as error:  # before ValueError, which a bad certificate is as well
        raise Rejected("tls", str(error)) from error
    except ValueError as error:
        raise Rejected("url_unusable", str(error)) from error
    except (aiohttp.ClientResponseError, HttpProcessingError) as error:
        raise Rejected("bad_response", " ".join(error.message.split())) from error
    except aiohttp.ClientPayloadError as error:
        raise TransientFailure("body_incomplete", str(error)) from error
    except (aiohttp.ClientError, OSError, MemoryError) as error:
        raise connection_failure(error) from error


def connection_failure(error: Exception) -> Exception:
    """What a failure to connect, or of a connection, is raised as."""
    if fault := local_fault(error):
        return fault
    if isinstance(error, TimeoutError):
        return error
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        final = error.os_error.errno in UNKNOWN_NAME
        return Rejected("dns", str(error)) if final else TransientFailure("dns", str(error))
    return TransientFailure("connection", f"{type(error).__name__}: {error}")


async def follow(
    session: aiohttp.ClientSession, url: URL, limits: FetchLimits, acquire_large: Callable[[], Awaitable[None]]
) -> bytes:
    """The body behind a URL and its redirects."""
    for _ in range(limits.max_redirects + 1):
        async with session.get(url, allow_redirects=False) as response:
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or not location:
                check_status(response)
                return await read_body(response, limits.max_bytes, acquire_large)
            url = redirect_url(url, location)
    raise Rejected("redirects", f"more than {limits.max_redirects}")


def redirect_url(requested: URL, location: str) -> URL:
    """Where a redirect leads. Raises Rejected where that is no usable http or https link."""
    try:
        return request_url(redirect_link(requested, location))
    except ValueError as error:
        raise Rejected("redirects", f"to {location[:200]!r}: {error}") from error


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raises Rejected unless the response holds the whole of something; TransientFailure for codes that say "later"."""
    if response.status in WITH_BODY or (response.status == 206 and is_whole(response.headers.get("Content-Range"))):
        return
    reason, message = f"http_{response.status}", response.reason or ""
    if response.status in RETRIED_CODES:
        raise TransientFailure(reason, message, retry_after(response.headers.get("Retry-After"), time()))
    raise Rejected(reason, message)


def is_whole(content_range: str | None) -> bool:
    """Whether a 206, which nobody asked for, has the whole body: it says so, or it does not say which part it has."""
    found = WHOLE_RANGE.fullmatch(content_range or "bytes 0-0/1")
    return found is not None and int(found[1]) + 1 == int(found[2])


async def read_body(response: aiohttp.ClientResponse, most: int, acquire_large: Callable[[], Awaitable[None]]) -> bytes:
    """The body in memory, decompressed; one over `most` bytes is given up as soon as it shows."""
    body = bytearray()
    announced = response.content_length or 0
    encoding = response.headers.get("Content-Encoding", "").lower()
    while announced <= most and len(body) <= most:
        chunk = await response.content.readany()
        if not chunk:
            return await decompressed(body, encoding, most, acquire_large)
        if len(body) <= LARGE_BODY < len(body) + len(chunk):
            await acquire_large()
        body += chunk
    raise Rejected("body_too_large", f"over {most:,} bytes")


async def decompressed(
    body: bytearray, encoding: str, most: int, acquire_large: Callable[[], Awaitable[None]]
) -> bytes:
    """The body without a Content-Encoding, which nobody asked for; names that stand for no compression mean nothing."""
    if encoding in NOT_DECODED:
        raise Rejected("bad_response", f"compressed with {encoding} unasked")
    if encoding not in COMPRESSED or not body:
        return bytes(body)
    await acquire_large()
    raw = encoding == "deflate" and body[0] & 15 != zlib.DEFLATED  # without zlib's header, as browsers take it too
    try:
        unpacked = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32).decompress(body, most + 1)
    except zlib.error as error:
        raise Rejected("bad_response", f"Content-Encoding is {encoding}, the body is not: {error}") from error
    if len(unpacked) > most:
        raise Rejected("body_too_large", f"over {most:,} bytes")
    return unpacked


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header, given as seconds or as a date; None where it says nothing."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None


def backoff(attempt: int) -> float:
    """Seconds before attempt number `attempt` + 2, spread so that a host's links do not return together."""
    return FIRST_PAUSE * float(2**attempt) * random.uniform(0.5, 1.5)
