"""One link, against a server on loopback that misbehaves in each way that a reason stands for."""

import asyncio
import errno
import math
import random
import re
import socket
import tracemalloc
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gesso.errors import Rejected, UserError
from gesso.pipelines.collect import fetch
from gesso.pipelines.collect.settings import FetchLimits
from tests import servers
from tests.servers import Behaviour, Web, serve

LIMITS = FetchLimits(deadline=30.0)
SOON = FetchLimits(deadline=0.3)  # only where the deadline itself is under test
CAP = 1 << 20
CAPPED = FetchLimits(deadline=30.0, max_bytes=CAP)
BUFFERS = 8 << 20  # bytes that the sockets of both sides may swallow before the server notices
REDIRECTED = {
    "/ftp": "ftp://h/a.jpg",
    "/data": "data:image/gif;base64,R0lG",
    "/port": "http://h:99999/",
    "/none": "http://",
}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are noted and not waited for."""
    noted: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        noted.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
    return noted


def get(url: str, limits: FetchLimits = LIMITS, admit: Callable[[], Any] = fetch.no_limit) -> bytes:
    return get_all([url], limits, admit)[0]


def get_all(urls: list[str], limits: FetchLimits = LIMITS, admit: Callable[[], Any] = fetch.no_limit) -> list[bytes]:
    """The bodies of links asked for one after the other in one session."""

    async def run() -> list[bytes]:
        async with fetch.open_session(limits) as session:
            return [await fetch.fetch(session, url, limits, admit) for url in urls]

    return asyncio.run(run())


def reason_of(url: str, limits: FetchLimits = LIMITS) -> str:
    with pytest.raises(Rejected) as caught:
        get(url, limits)
    assert caught.value.message
    return caught.value.reason


def reason_and_requests(behaviour: Behaviour, limits: FetchLimits = LIMITS) -> tuple[str, int]:
    with serve({"/a": behaviour}) as web:
        return reason_of(web.url("/a"), limits), web.requests["/a"]


@pytest.mark.parametrize(
    "behaviour",
    [
        servers.body(b"abc"),
        servers.unmeasured(b"abc"),
        servers.unmeasured(b"abc", "1.1"),
        servers.chunked(b"abc"),
        servers.gzipped(b"abc"),
        servers.body(b"abc", Content_Type="text/html"),
    ],
    ids=["measured", "http/1.0", "until the end", "chunked", "gzip", "another type"],
)
def test_a_whole_body_comes_whole(behaviour: Behaviour) -> None:
    with serve({"/a": behaviour}) as web:
        assert get(web.url("/a")) == b"abc"
        assert web.requests["/a"] == 1


def test_an_empty_body_is_a_body() -> None:
    with serve({"/a": b""}) as web:
        assert get(web.url("/a")) == b""


@pytest.mark.parametrize("code", [202, 204, 205, 300, 304, 400, 401, 403, 404, 410, 451, 501, 505, 599])
def test_other_codes_are_reasons_and_final(code: int) -> None:
    with serve({}) as web:
        assert reason_of(web.url(f"/status/{code}")) == f"http_{code}"
        assert web.requests[f"/status/{code}"] == 1


@pytest.mark.parametrize("code", sorted(fetch.RETRIED_CODES))
def test_codes_that_say_later_are_tried_again(code: int, pauses: list[float]) -> None:
    assert reason_and_requests(servers.status(code)) == (f"http_{code}", 3)
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_the_number_of_attempts(retries: int, pauses: list[float]) -> None:
    limits = FetchLimits(deadline=30.0, retries=retries)
    assert reason_and_requests(servers.status(503), limits) == ("http_503", retries + 1)
    assert pauses == [0.5 * 2**n for n in range(retries)]


def test_twice_overloaded_then_well(pauses: list[float]) -> None:
    with serve({"/a": servers.first(2, servers.status(503), servers.body(b"abc"))}) as web:
        assert get(web.url("/a")) == b"abc"
        assert web.requests["/a"] == 3


@pytest.mark.parametrize(
    ("header", "pause"),
    [("3", 3.0), ("0", 0.5), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.5), ("soon", 0.5), ("-3", 0.5), ("³", 0.5)],
)
def test_retry_after_is_waited_for(header: str, pause: float, pauses: list[float]) -> None:
    with serve({"/a": servers.first(1, servers.status(429, Retry_After=header), servers.body(b"abc"))}) as web:
        assert get(web.url("/a")) == b"abc"
    assert pauses == [pause]


def test_retry_after_as_a_date(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "time", lambda: 1_000_000_000.0)
    date = formatdate(1_000_000_007, usegmt=True)
    with serve({"/a": servers.first(1, servers.status(503, Retry_After=date), servers.body(b"abc"))}) as web:
        assert get(web.url("/a")) == b"abc"
    assert pauses == [7.0]


def test_a_pause_beyond_the_deadline_is_not_begun(pauses: list[float]) -> None:
    assert reason_and_requests(servers.status(429, Retry_After="31")) == ("http_429", 1)
    assert pauses == []


@given(st.one_of(st.text(), st.from_regex(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{1,5} \d\d:\d\d:\d\d [-+]?\w{1,5}")))
@example("Mon, 01 Jan 0001 00:00:00 -0000")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("9" * 400)
def test_any_retry_after_is_a_time_or_nothing(header: str) -> None:
    seconds = fetch.retry_after(header, 0.0)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("behaviour", "reason", "requests"),
    [
        (servers.short(b"a", 3), "body_incomplete", 3),
        (servers.chunked(b"abc", whole=False), "body_incomplete", 3),
        (servers.reset_after(b"abc"), "body_incomplete", 3),
        (servers.reset_before, "connection", 6),  # aiohttp asks twice in each of our three attempts
        (servers.close_before, "connection", 6),
    ],
    ids=["short", "chunks cut off", "reset within", "reset before", "closed before"],
)
def test_broken_answers_are_tried_again(behaviour: Behaviour, reason: str, requests: int, pauses: list[float]) -> None:
    assert reason_and_requests(behaviour) == (reason, requests)
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("code", [200, 201, 203, 206])
def test_codes_with_a_whole_body(code: int) -> None:
    with serve({"/a": lambda exchange: exchange.answer(b"abc", code)}) as web:
        assert get(web.url("/a")) == b"abc"


@pytest.mark.parametrize(
    ("content_range", "whole"),
    [
        ("bytes 0-2/3", True),
        ("bytes 0-2/4", False),
        ("bytes 1-3/4", False),
        ("bytes 1-3/3", False),
        ("bytes 0-2/*", False),
        ("0-2", False),
    ],
)
def test_a_part_is_a_body_where_it_is_the_whole(content_range: str, whole: bool) -> None:
    with serve({"/a": lambda exchange: exchange.answer(b"abc", 206, Content_Range=content_range)}) as web:
        if whole:
            assert get(web.url("/a")) == b"abc"
        else:
            assert reason_of(web.url("/a")) == "http_206"
        assert web.requests["/a"] == 1


@pytest.mark.parametrize("encoding", ["utf-8", "none", "identity", "binary", "image/jpeg"])
def test_an_encoding_that_is_none_means_nothing(encoding: str) -> None:
    with serve({"/a": servers.body(b"abc", Content_Encoding=encoding)}) as web:
        assert get(web.url("/a")) == b"abc"


@pytest.mark.parametrize(
    ("encoding", "wbits"), [("gzip", 31), ("x-gzip", 31), ("GZIP", 31), ("deflate", 15), ("deflate", -15)]
)
def test_compression_that_nobody_asked_for(encoding: str, wbits: int) -> None:
    packed = servers.packed_zeros(len(servers.PIECE), wbits)
    with serve({"/a": servers.body(packed, Content_Encoding=encoding)}) as web:
        assert get(web.url("/a")) == servers.PIECE


@pytest.mark.parametrize(
    "behaviour",
    [
        servers.garbage,
        servers.raw(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        servers.body(b"abc", Content_Encoding="gzip"),
        servers.body(b"abc", Content_Encoding="br"),
        servers.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nthree\r\nabc\r\n0\r\n\r\n"),
    ],
    ids=["garbage", "another protocol", "no gzip", "brotli", "no chunk"],
)
def test_what_cannot_be_parsed_is_not_asked_for_again(behaviour: Behaviour, pauses: list[float]) -> None:
    assert reason_and_requests(behaviour) == ("bad_response", 1)
    assert pauses == []


def test_nobody_listens(pauses: list[float]) -> None:
    assert reason_of(f"http://127.0.0.1:{servers.closed_port()}/") == "connection"
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    ("code", "lookups"),
    [
        (socket.EAI_NONAME, 1),
        (socket.EAI_NODATA, 1),
        (socket.EAI_AGAIN, 3),
        (socket.EAI_FAIL, 3),
    ],
    ids=["not known", "no address", "try again", "failure"],
)
def test_only_an_unknown_name_is_final(
    code: int, lookups: int, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = NoNames(code)
    monkeypatch.setattr(aiohttp.connector, "DefaultResolver", lambda **_: names)
    assert reason_of("http://nowhere.invalid/a.jpg") == "dns"
    assert (names.lookups, len(pauses)) == (lookups, lookups - 1)


def test_a_name_that_is_found_at_the_second_try(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    names = NoNames(socket.EAI_AGAIN, fails=1)
    monkeypatch.setattr(aiohttp.connector, "DefaultResolver", lambda **_: names)
    with serve({"/a": b"abc"}) as web:
        assert get(web.url("/a").replace("127.0.0.1", "host.example")) == b"abc"
    assert names.lookups == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files: raise `ulimit -n`"),
        (OSError(errno.ENFILE, "Too many open files in system"), "Too many open files in system: "),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied: "),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory: "),
        (MemoryError(), "Cannot allocate memory: "),
    ],
    ids=["files", "files of all", "permission", "memory", "memory of Python"],
)
def test_a_fault_of_this_machine_is_no_reason(error: Exception, line: str) -> None:
    def fail(_: Any) -> Any:
        raise error

    async def run() -> None:
        connector = aiohttp.TCPConnector(socket_factory=fail)
        async with aiohttp.ClientSession(connector=connector) as session:
            await fetch.fetch(session, "http://127.0.0.1:1/a.jpg", LIMITS)

    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        asyncio.run(run())


def test_a_certificate_that_nobody_trusts(pauses: list[float]) -> None:
    with serve({"/a": b"abc"}, tls=True) as web:
        assert reason_of(web.url("/a")) == "tls"
        assert web.requests.total() == 0
    assert pauses == []


@pytest.mark.parametrize("behaviour", [servers.drip, servers.stall], ids=["drip", "stall"])
def test_the_deadline_ends_what_does_not_end(behaviour: Behaviour) -> None:
    with serve({"/a": behaviour}) as web:
        assert reason_of(web.url("/a"), SOON) == "timeout"
        web.rest()
        assert (web.requests["/a"], web.left["/a"]) == (1, 1)


def test_the_deadline_covers_attempts_and_redirects(pauses: list[float]) -> None:
    routes = {"/a": servers.redirect("/b"), "/b": servers.first(1, servers.status(503), servers.stall)}
    with serve(routes) as web:
        assert reason_of(web.url("/a"), FetchLimits(deadline=0.8)) == "timeout"
        assert (web.requests["/a"], web.requests["/b"]) == (2, 2)
    assert pauses == [0.5]


def test_the_wait_for_leave_does_not_count() -> None:
    async def run() -> None:
        end = asyncio.get_running_loop().time() + 60

        async def wait() -> None:
            assert deadline.when() is None

        async with asyncio.timeout_at(end) as deadline:
            await fetch.outside_deadline(deadline, wait)
            assert end < (deadline.when() or 0)

    asyncio.run(run())


@pytest.mark.parametrize(
    "behaviour",
    [
        servers.endless,
        servers.body(bytes(CAP + 1)),
        servers.unmeasured(bytes(CAP + 1)),
        servers.chunked(bytes(CAP + 1)),
    ],
    ids=["endless", "measured", "unmeasured", "chunked"],
)
def test_a_body_over_the_cap_is_given_up(behaviour: Behaviour, pauses: list[float]) -> None:
    assert reason_and_requests(behaviour, CAPPED) == ("body_too_large", 1)
    assert pauses == []


@pytest.mark.parametrize("behaviour", [servers.body, servers.unmeasured, servers.chunked])
def test_a_body_at_the_cap_is_taken(behaviour: Callable[[bytes], Behaviour]) -> None:
    with serve({"/a": behaviour(bytes(CAP))}) as web:
        assert len(get(web.url("/a"), CAPPED)) == CAP


def test_an_endless_body_is_read_to_the_cap_and_left() -> None:
    with serve({"/a": servers.endless}) as web:
        assert reason_of(web.url("/a"), CAPPED) == "body_too_large"
        web.rest()
        assert web.left["/a"] == 1
        assert CAP < web.sent["/a"] < CAP + BUFFERS


def test_an_announced_body_over_the_cap_is_not_read() -> None:
    with serve({"/a": bytes(64 << 20)}) as web:
        assert reason_of(web.url("/a"), CAPPED) == "body_too_large"
        web.rest()
        assert (web.left["/a"], web.sent["/a"] < BUFFERS) == (1, True)


@pytest.mark.parametrize(("code", "reason"), [(404, "http_404"), (503, "http_503")])
def test_the_endless_body_of_an_error_is_not_read(code: int, reason: str) -> None:
    limits = FetchLimits(deadline=30.0, retries=0)
    with serve({"/a": servers.endless_error(code)}) as web:
        assert reason_of(web.url("/a"), limits) == reason
        web.rest()
        assert web.left["/a"] == 1


def test_the_endless_body_of_a_redirect_is_not_read() -> None:
    with serve({"/a": servers.endless_error(302)}) as web:
        assert get(web.url("/a")) == b"end"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compression_bomb_ends_at_the_cap_in_bounded_memory(encoding: str) -> None:
    """100 MB in 100 KB. Measured peak: 3.9 MiB, server included, with a cap of 1 MiB."""
    with serve({"/a": servers.bomb(100 << 20, encoding)}) as web:
        tracemalloc.start()
        try:
            assert reason_of(web.url("/a"), CAPPED) == "body_too_large"
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_no_compression_is_asked_for() -> None:
    with serve({"/a": b"abc"}) as web:
        get(web.url("/a"))
        headers = web.received[0][1]
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "gesso/0.1"
    assert headers["accept"] == fetch.ACCEPT


@pytest.mark.parametrize(
    ("size", "asked"), [(fetch.LARGE_BODY - 1, 0), (fetch.LARGE_BODY, 0), (fetch.LARGE_BODY + 1, 1), (9 << 20, 1)]
)
def test_a_large_body_asks_for_leave_once(size: int, asked: int) -> None:
    times = 0

    async def admit() -> None:
        nonlocal times
        times += 1

    with serve({"/a": bytes(size)}) as web:
        assert len(get(web.url("/a"), LIMITS, admit)) == size
    assert times == asked


def test_connections_are_kept_and_used_again() -> None:
    with serve({"/a": b"abc", "/b": servers.chunked(b"def")}) as web:
        assert get_all([web.url(path) for path in ("/a", "/b", "/a", "/redirect/2")]) == [
            b"abc",
            b"def",
            b"abc",
            b"end",
        ]
        assert web.connections == 1


def test_many_links_of_one_host_are_asked_for_at_once() -> None:
    async def run(web: Web) -> list[bytes]:
        async with fetch.open_session(LIMITS) as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch.fetch(session, web.url(f"/{n}"), LIMITS)) for n in range(20)]
        return [task.result() for task in tasks]

    def arrive_last(exchange: servers.Exchange) -> Any:
        if sum(exchange.web.requests.values()) == 20:
            exchange.web.released.set()
        return servers.held(exchange.path.encode())(exchange)

    with serve({f"/{n}": arrive_last for n in range(20)}) as web:
        assert asyncio.run(run(web)) == [f"/{n}".encode() for n in range(20)]
        assert (web.most_at_once, web.connections) == (20, 20)


def test_no_cookie_is_kept() -> None:
    with serve({"/a": servers.body(b"abc", Set_Cookie="who=you; Path=/")}) as web:
        get_all([web.url("/a")] * 2)
        assert ["cookie" in headers for _, headers in web.received] == [False, False]


@pytest.mark.parametrize(("most", "hops"), [(5, 5), (0, 0), (1, 1)])
def test_redirects_are_followed_up_to_their_number(most: int, hops: int) -> None:
    limits = FetchLimits(deadline=30.0, max_redirects=most)
    with serve({}) as web:
        assert get(web.url(f"/redirect/{hops}"), limits) == b"end"
        assert reason_of(web.url(f"/redirect/{hops + 1}"), limits) == "redirects"
        assert reason_of(web.url("/loop"), limits) == "redirects"
        assert web.requests["/loop"] == most + 1


@pytest.mark.parametrize("target", ["a.jpg", "/x/a.jpg", "../x/a.jpg", "//{host}/x/a.jpg", "{origin}/x/a.jpg"])
def test_a_redirect_to_a_relative_place(target: str) -> None:
    with serve({"/x/a.jpg": b"abc"}) as web:
        origin = web.url("")
        web.routes["/x/b"] = servers.redirect(target.format(host=origin.removeprefix("http://"), origin=origin))
        assert get(web.url("/x/b")) == b"abc"


@pytest.mark.parametrize("target", REDIRECTED.values(), ids=REDIRECTED)
def test_a_redirect_to_something_else_than_http(target: str) -> None:
    assert reason_and_requests(servers.redirect(target)) == ("redirects", 1)


def test_a_redirect_to_nowhere_is_its_code() -> None:
    assert reason_and_requests(servers.status(302)) == ("http_302", 1)


@pytest.mark.parametrize(
    ("path", "wire"),
    [
        ("/ü.jpg", "/%C3%BC.jpg"),
        ("/a b.jpg", "/a%20b.jpg"),
        ("/%C3%BC%2F.jpg?q=%26&r=a+b", "/%C3%BC%2F.jpg?q=%26&r=a+b"),
        ("/a%2Cb.jpg?ct=image%2Fjpeg", "/a%2Cb.jpg?ct=image%2Fjpeg"),
        ("/a.jpg#part", "/a.jpg"),
    ],
)
def test_how_paths_go_over_the_wire(path: str, wire: str) -> None:
    with serve({wire: b"abc"}) as web:
        assert get(web.url(path)) == b"abc"


@pytest.mark.parametrize(
    ("location", "wire"),
    [
        ("/a%2Cb.jpg?ct=image%2Fjpeg&sig=%2b~", "/a%2Cb.jpg?ct=image%2Fjpeg&sig=%2b~"),
        ("{origin}/a%2Cb.jpg?", "/a%2Cb.jpg?"),
        ("?ct=image%2Fjpeg", "/x/b?ct=image%2Fjpeg"),
        ("c%2Cd.jpg", "/x/c%2Cd.jpg"),
        ("/ü b.jpg", "/%C3%BC%20b.jpg"),
    ],
)
def test_how_redirects_go_over_the_wire(location: str, wire: str) -> None:
    with serve({wire: b"abc"}) as web:
        web.routes["/x/b"] = servers.redirect(location.format(origin=web.url("")))
        assert get(web.url("/x/b")) == b"abc"


def test_ipv6() -> None:
    with serve({"/a": b"abc"}, host="::1") as web:
        assert get(web.url("/a")) == b"abc"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://127.0.0.1/a",
        "ws://127.0.0.1/a",
        "//127.0.0.1/a",
        "/a.jpg",
        "",
        "http://",
        "http:///a",
        "http://[::1/a",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://a..b/",
        f"http://{'a' * 64}.com/",
        "http://2130706433/",
        "http://\ud800/",
    ],
)
def test_links_that_are_none(url: str, pauses: list[float]) -> None:
    assert reason_of(url) == "url_unusable"
    assert pauses == []


class NoNames(AbstractResolver):
    """A name server that fails with one of getaddrinfo's codes, at first or always, then knows every name.

    It refuses like the real one what is no name.
    """

    def __init__(self, code: int = socket.EAI_NONAME, fails: float = math.inf) -> None:
        self.code, self.fails = code, fails
        self.lookups = 0

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        self.lookups += 1
        host.encode("idna")
        if self.lookups <= self.fails:
            raise socket.gaierror(self.code, "no such name")
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def no_socket(_: Any) -> Any:
    raise OSError("no network in tests")


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.text(st.sampled_from("htps:/\\[]@#?%.0127ü \x00\t\n。١a-"), max_size=40).map("http://".__add__),
        st.tuples(st.sampled_from(["http", "https", "HTTP", ""]), st.text(max_size=20), st.text(max_size=20)).map(
            lambda parts: f"{parts[0]}://{parts[1]}/{parts[2]}"
        ),
        st.tuples(st.ip_addresses(), st.integers(-1, 70_000)).map(lambda pair: f"http://[{pair[0]}]:{pair[1]}/"),
    )
)
def test_any_text_as_a_link_is_rejected_with_a_reason(url: str) -> None:
    async def run() -> None:
        connector = aiohttp.TCPConnector(resolver=NoNames(), socket_factory=no_socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            await fetch.fetch(session, url, FetchLimits(deadline=30.0, retries=0))

    with pytest.raises(Rejected) as caught:
        asyncio.run(run())
    assert caught.value.reason in ("url_unusable", "dns", "connection")
