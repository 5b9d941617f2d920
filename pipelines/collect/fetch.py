"""One link → its body, or the reason why not. Asynchronous, over aiohttp. Knows no Beam and no pictures."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from functools import partial
from time import time

import aiohttp

from gesso.errors import Rejected
from gesso.pipelines.collect.settings import FetchLimits

ACCEPT = "image/jpeg, image/png, image/webp, image/gif, */*;q=0.1"
# Codes by which a server says "later": too many requests, and the errors of gateways and overload.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
FIRST_PAUSE = 0.5  # seconds before the second attempt; doubled for each one after, and spread by half
LARGE_BODY = 1 << 20  # bytes; a body that grows beyond asks for leave, so that memory has a bound
DNS_CACHE = 300  # seconds


class Passing(Rejected):
    """A failure that another attempt may mend, after `pause` seconds where the server named a time."""

    def __init__(self, reason: str, message: str = "", pause: float | None = None) -> None:
        super().__init__(reason, message)
        self.pause = pause


async def no_limit() -> None:
    """Leave for a large body, always given."""


def open_session(limits: FetchLimits) -> aiohttp.ClientSession:
    """A session that keeps connections alive, keeps no cookies and sets no limit of its own to their number."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=DNS_CACHE),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": limits.user_agent, "Accept": ACCEPT, "Accept-Encoding": "identity"},
    )


async def fetch(
    session: aiohttp.ClientSession,
    url: str,
    limits: FetchLimits,
    admit_large: Callable[[], Awaitable[None]] = no_limit,
) -> bytes:
    """The whole body behind `url`, with retries, within the deadline.

    Raises Rejected: `http_<code>`, timeout, dns, connection, tls, redirects, body_too_large, body_incomplete,
    url_unusable. A pause that the deadline has no room for is not begun, and waiting for leave does not count.
    """
    end = asyncio.get_running_loop().time() + limits.deadline
    try:
        async with asyncio.timeout_at(end) as deadline:
            admit = partial(off_the_clock, deadline, admit_large)
            for attempt in range(limits.retries):
                try:
                    return await fetch_once(session, url, limits, admit)
                except Passing as failure:
                    await pause(failure.pause or backoff(attempt), deadline.when() or end, failure)
            return await fetch_once(session, url, limits, admit)
    except TimeoutError:
        raise Rejected("timeout", f"no whole answer in {limits.deadline:g} s") from None


async def off_the_clock(deadline: asyncio.Timeout, wait: Callable[[], Awaitable[None]]) -> None:
    """Waits for something of our own making: the deadline moves back by as long as that takes."""
    now, end = asyncio.get_running_loop().time, deadline.when()
    begun = now()
    deadline.reschedule(None)
    await wait()
    deadline.reschedule(end and end + now() - begun)


async def pause(seconds: float, end: float, failure: Passing) -> None:
    """Sleeps before the next attempt; raises the failure where the loop's clock would then be past `end`."""
    if asyncio.get_running_loop().time() + seconds >= end:
        raise failure
    await asyncio.sleep(seconds)


async def fetch_once(
    session: aiohttp.ClientSession, url: str, limits: FetchLimits, admit_large: Callable[[], Awaitable[None]]
) -> bytes:
    """One attempt. Raises Rejected, or Passing where a further one may help.

    A connection that breaks before any answer is tried twice in it: aiohttp does not tell a kept one, which the server
    has just closed, from a new one.
    """
    try:
        check_scheme(url)
        # aiohttp gives up at the redirect of that number, and never at 0.
        async with session.get(url, max_redirects=limits.max_redirects + 1) as response:
            check_status(response)
            return await read_body(response, limits.max_bytes, admit_large)
    except aiohttp.TooManyRedirects as error:
        raise Rejected("redirects", f"more than {limits.max_redirects}") from error
    except (aiohttp.InvalidUrlRedirectClientError, aiohttp.NonHttpUrlRedirectClientError) as error:
        raise Rejected("redirects", f"to {error}") from error
    except aiohttp.ClientSSLError as error:  # before ValueError, which a bad certificate is as well
        raise Rejected("tls", str(error)) from error
    except (aiohttp.NonHttpUrlClientError, ValueError) as error:
        raise Rejected("url_unusable", str(error)) from error
    except aiohttp.ClientConnectorDNSError as error:
        raise Rejected("dns", str(error)) from error
    except aiohttp.ClientPayloadError as error:
        raise Passing("body_incomplete", str(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise Passing("connection", f"{type(error).__name__}: {error}") from error


def check_scheme(url: str) -> None:
    """Raises ValueError unless the link is http or https: aiohttp takes ws:// and trips over //host."""
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"no http or https link: {url[:200]!r}")


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raises Rejected unless the answer is 200; Passing for codes that ask to come back."""
    if response.status == 200:
        return
    reason, message = f"http_{response.status}", response.reason or ""
    if response.status in PASSING:
        raise Passing(reason, message, retry_after(response.headers.get("Retry-After"), time()))
    raise Rejected(reason, message)


async def read_body(response: aiohttp.ClientResponse, most: int, admit_large: Callable[[], Awaitable[None]]) -> bytes:
    """The body in memory; a body over `most` bytes is given up as soon as it shows."""
    body = bytearray()
    announced = response.content_length or 0
    while announced <= most and len(body) <= most:
        chunk = await response.content.readany()
        if not chunk:
            return bytes(body)
        if len(body) <= LARGE_BODY < len(body) + len(chunk):
            await admit_large()
        body += chunk
    raise Rejected("body_too_large", f"over {most:,} bytes")


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
