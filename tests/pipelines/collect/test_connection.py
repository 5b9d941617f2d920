"""Heads as browsers take them, and connections that never give one link the response of another."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.errors import Rejected
from gesso.pipelines.collect import fetch
from gesso.pipelines.collect.connection import MAX_HEAD, OpenConnections, strict_head
from gesso.pipelines.collect.settings import FetchLimits
from tests import servers
from tests.servers import Behaviour, Exchange, Web, serve

LIMITS = FetchLimits(deadline=30.0, retries=0)
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 3\r\n\r\nabc"
CHUNKS = b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
SECOND = OK + b"Content-Length: 6\r\n\r\nSECOND"


def get(web: Web, *paths: str, between: Callable[[], None] = lambda: None) -> list[bytes]:
    """The bodies of paths asked for one after the other, with something done in between that stops the event loop."""

    async def run() -> list[bytes]:
        async with fetch.open_session(LIMITS) as session:
            bodies = []
            for path in paths:
                bodies.append(await fetch.fetch(session, web.url(path), LIMITS))
                between()
            return bodies

    return asyncio.run(run())


@pytest.mark.parametrize(
    "response",
    [
        OK + b"X-A: " + b"a" * 9_000 + b"\r\n" + LENGTH,
        OK + b"X-A: " + b"a" * 200_000 + b"\r\n" + LENGTH,
        OK + b"".join(b"X-%d: a\r\n" % number for number in range(300)) + LENGTH,
        OK + b"X-A : one\r\nContent-Length : 3\r\n\r\nabc",
        OK + b"no colon here\r\n" + LENGTH,
        OK + b": no name\r\n" + LENGTH,
        OK + b"X-A: \x01\x00\xff\r\n\xff: b\r\n" + LENGTH,
        OK + b"X-A: one\r\n\ttwo\r\nContent-Length:\r\n 3\r\n\r\nabc",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked" + CHUNKS,
        OK + b"Transfer-Encoding: gzip, Chunked\r\nContent-Length: 9" + CHUNKS,
        OK + b"Transfer-Encoding: identity\r\n" + LENGTH,
        OK + b"Content-Length: 3\r\n" + LENGTH,
        OK + b"Content-Length: 3, 3\r\n\r\nabc",
        OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\n" + LENGTH,
        b"HTTP/1.1 200 OK\n" + LENGTH.replace(b"\r", b""),
        b"\r\n\r\nhttp/1.1  200\r\n" + LENGTH,
        b"HTTP/1.1 200 D\xe9j\xe0 vu\r\n" + LENGTH,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH,
    ],
    ids=[
        "long line",
        "very long line",
        "many lines",
        "blank before a colon",
        "no colon",
        "no name",
        "control characters",
        "continued lines",
        "length and chunks",
        "chunks and length",
        "no transfer encoding",
        "length twice",
        "length as a list",
        "upgrade offered",
        "line feeds",
        "status line",
        "latin-1",
        "informational",
    ],
)
@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "byte by byte"])
def test_what_browsers_take(response: bytes, pieces: bool) -> None:
    behaviour = byte_by_byte(response) if pieces and len(response) < 1_000 else servers.raw(response)
    with serve({"/a": behaviour}) as web:
        assert get(web, "/a", "/a") == [b"abc", b"abc"]
        assert (web.requests["/a"], web.connections) == (2, 1)


def byte_by_byte(data: bytes) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        for at in range(len(data)):
            await exchange.send(data[at : at + 1])
            await asyncio.sleep(0)

    return behave


@pytest.mark.parametrize("length", [b"three", b"-3", b"+3", b""])
def test_a_length_that_is_no_number_means_nothing(length: bytes) -> None:
    with serve({"/a": servers.raw(OK + b"Content-Length: " + length + b"\r\n\r\nabc", keep=False)}) as web:
        assert get(web, "/a") == [b"abc"]


@pytest.mark.parametrize(
    "response",
    [
        OK + b"X-A: " + b"a" * MAX_HEAD + b"\r\n" + LENGTH,
        OK + b"X-A: " + b"a" * MAX_HEAD,
        OK + b"Content-Length: 4\r\n" + LENGTH,
        OK + b"Content-Length: 99999999999999999999\r\n\r\nabc",
        OK + b"Retry-After: \x00\r\n" + LENGTH,
        b"HTTP/2 200 OK\r\n" + LENGTH,
        b"HTTP/1.1 OK\r\n" + LENGTH,
        b"<html>",
    ],
    ids=["too long", "endless", "two lengths", "length too large", "zero byte", "HTTP/2", "no code", "no HTTP"],
)
def test_what_browsers_refuse(response: bytes) -> None:
    with serve({"/a": servers.raw(response)}) as web, pytest.raises(Rejected) as caught:
        get(web, "/a")
    assert caught.value.reason == "bad_response"
    assert web.requests["/a"] == 1


@pytest.mark.parametrize("later", [b"three\r\nabc\r\n", b"3\r\nabcdef\r\n", b"0\r\nno colon\r\n\r\n"])
def test_a_body_that_becomes_malformed_ends_at_once(later: bytes) -> None:
    """The rest is sent when the client has begun to read the body, which aiohttp by itself would wait for for good."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(large) + large + b"\r\n")
        await exchange.until_released()
        await exchange.send(later)

    async def run(web: Web) -> None:
        async def release() -> None:
            web.release()

        async with fetch.open_session(LIMITS) as session:
            await fetch.fetch(session, web.url("/a"), LIMITS, release)

    large = bytes(fetch.LARGE_BODY + 1)
    with serve({"/a": behave}) as web, pytest.raises(Rejected) as caught:
        asyncio.run(run(web))
    assert caught.value.reason == "bad_response"


@given(st.binary(max_size=200), st.sampled_from([b"\r\n", b"\n", b"\r\n ", b": ", b" :", b"Location: ", b""]))
def test_any_head_becomes_a_strict_one(junk: bytes, between: bytes) -> None:
    lines = strict_head(OK + junk + between + junk).split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 200")
    assert lines[-2:] == [b"", b""]
    assert all(b": " in line and b"\n" not in line for line in lines[1:-2])


@pytest.mark.parametrize(
    "unasked",
    [SECOND, SECOND[:-1], SECOND[:20], b"H", b"junk"],
    ids=["whole", "without its end", "half a head", "a byte", "junk"],
)
@pytest.mark.parametrize(
    "response", [OK + LENGTH, OK + b"Transfer-Encoding: chunked" + CHUNKS], ids=["length", "chunks"]
)
@pytest.mark.parametrize("when", ["with it", "before the loop reads on", "while the loop runs"])
def test_an_unasked_response_reaches_no_other_link(response: bytes, unasked: bytes, when: str) -> None:
    """The server sends more than it was asked for: in one piece with the first response, or when that has been read."""
    sent = threading.Event()

    async def behave(exchange: Exchange) -> None:
        if when == "with it":
            await exchange.send(response + unasked)
        else:
            await exchange.send(response)
            await exchange.until_released()
            await exchange.send(unasked)
        sent.set()

    async def run(web: Web) -> list[bytes]:
        connections = OpenConnections(100)
        async with fetch.open_session(LIMITS, connections) as session:
            first = await fetch.fetch(session, web.url("/a"), LIMITS)
            web.release()
            assert sent.wait(60)
            while when == "while the loop runs" and connections.open:
                await asyncio.sleep(0)
            return [first, await fetch.fetch(session, web.url("/b"), LIMITS)]

    with serve({"/a": behave, "/b": b"own"}) as web:
        assert asyncio.run(run(web)) == [b"abc", b"own"]
        assert web.connections == 2


@pytest.mark.parametrize("unasked", [SECOND, SECOND[:20]], ids=["whole", "half a head"])
def test_an_unasked_response_behind_a_body_that_is_being_read(unasked: bytes) -> None:
    """The body's last byte and the second response come in one piece, when the reader waits for that byte."""
    large = bytes(fetch.LARGE_BODY + 2)

    async def behave(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: %d\r\n\r\n" % len(large) + large[:-1])
        await exchange.until_released()
        await exchange.send(large[-1:] + unasked)

    async def run(web: Web) -> list[bytes]:
        async def release() -> None:
            web.release()

        async with fetch.open_session(LIMITS) as session:
            return [await fetch.fetch(session, web.url(path), LIMITS, release) for path in ("/a", "/b")]

    with serve({"/a": behave, "/b": b"own"}) as web:
        assert asyncio.run(run(web)) == [large, b"own"]
        assert web.connections == 2


def test_free_connections_are_kept_while_there_is_room() -> None:
    async def run(web: Web, most: int) -> int:
        connections = OpenConnections(most)
        async with fetch.open_session(LIMITS, connections) as session:
            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(fetch.fetch(session, web.url(f"/{number}"), LIMITS))
            await asyncio.sleep(0)
            return len(connections.open)

    def together(exchange: Exchange) -> object:
        if len(exchange.web.requests) == 4:
            exchange.web.released.set()
        return servers.held(b"abc")(exchange)

    for most, kept in ((2, 2), (4, 4)):
        with serve({f"/{number}": together for number in range(4)}) as web:  # type: ignore[dict-item]
            assert asyncio.run(run(web, most)) == kept
