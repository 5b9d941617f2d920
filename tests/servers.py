"""A web server on loopback that misbehaves on request.

    with serve({"/a.jpg": jpeg, "/slow.jpg": drip}) as web:
        ... web.url("/a.jpg") ... web.requests["/a.jpg"] ...

A route is bytes (answered with 200) or a behaviour: a function that is given the exchange and writes what it likes.
Besides the given routes there are `/status/404` (any code), `/redirect/3` (that many, then b"end") and `/loop`.
Paths are matched as they came over the wire, percent-encoding and query included.
"""

import asyncio
import gzip
import socket
import ssl
import struct
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import responses
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

T = TypeVar("T")

PIECE = bytes(64 << 10)
WAIT = 60  # seconds after which a server that does not come to rest fails the test


class Exchange:
    """One request and the means to answer it, or to do worse."""

    def __init__(self, web: "Web", path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.web = web
        self.path = path
        self.headers = headers  # names in lower case
        self.writer = writer
        self.attempt = web.requests[path]  # 1 for the first request of this path
        self.keep = True  # the connection, for another request

    async def send(self, data: bytes) -> None:
        """Writes bytes as they are and counts those that the connection took."""
        for start in range(0, len(data), len(PIECE)):
            piece = data[start : start + len(PIECE)]
            self.writer.write(piece)
            await self.writer.drain()
            self.web.sent[self.path] += len(piece)

    async def head(self, status: int = 200, **headers: str) -> None:
        """Sends the status line and headers; `Content_Length="3"` becomes `Content-Length: 3`."""
        await self.send(self.head_bytes(status, headers))

    def head_bytes(self, status: int, headers: dict[str, str]) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {responses.get(status, 'Odd')}",
            *(f"{name.replace('_', '-')}: {headers[name]}" for name in headers),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        """A whole and honest answer, in one piece: a client gives up a connection whose redirect lacks its body."""
        head = self.head_bytes(status, {"Content_Length": str(len(body)), **headers})
        await self.send(head + body)

    async def until_released(self) -> None:
        """Returns when the test calls `web.release()` or the server ends; the client may leave earlier."""
        await self.web.released.wait()

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()
        self.keep = False


Behaviour = Callable[[Exchange], Awaitable[None]]
Routes = Mapping[str, "bytes | Behaviour"]


def body(data: bytes, **headers: str) -> Behaviour:
    """200 with the bytes and further headers."""
    return lambda exchange: exchange.answer(data, 200, **headers)


def status(code: int, **headers: str) -> Behaviour:
    """Any code, with its number as the body where it may have one."""
    data = b"" if code in (204, 304) else str(code).encode()
    return lambda exchange: exchange.answer(data, code, **headers)


def redirect(target: str, code: int = 302) -> Behaviour:
    """A redirect to a link, absolute or relative."""
    return status(code, Location=target)


def first(times: int, before: Behaviour, after: Behaviour) -> Behaviour:
    """`before` for the first requests of a path, then `after`."""
    return lambda exchange: (before if exchange.attempt <= times else after)(exchange)


def held(data: bytes) -> Behaviour:
    """An honest answer that begins when the test releases it: all requests before that are in flight at once."""

    async def behave(exchange: Exchange) -> None:
        await exchange.until_released()
        await exchange.answer(data)

    return behave


async def stall(exchange: Exchange) -> None:
    """Takes the request and says nothing."""
    await exchange.until_released()


async def drip(exchange: Exchange) -> None:
    """Headers and a first byte of three, then nothing."""
    await exchange.head(Content_Length="3")
    await exchange.send(b"a")
    await exchange.until_released()


def short(data: bytes, announced: int) -> Behaviour:
    """Announces more bytes than it sends, then closes."""

    async def behave(exchange: Exchange) -> None:
        exchange.keep = False
        await exchange.head(Content_Length=str(announced))
        await exchange.send(data)

    return behave


async def endless(exchange: Exchange) -> None:
    """A body without length and without end, as fast as the client takes it."""
    await exchange.head(Connection="close")
    while True:
        await exchange.send(PIECE)


def endless_error(code: int) -> Behaviour:
    """An error, or a redirect to /redirect/0, whose body has no end."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(code, Connection="close", Location="/redirect/0")
        while True:
            await exchange.send(PIECE)

    return behave


def unmeasured(data: bytes, version: str = "1.0") -> Behaviour:
    """No length: the end of the connection is the end of the body, as in HTTP/1.0."""

    async def behave(exchange: Exchange) -> None:
        exchange.keep = False
        await exchange.send(f"HTTP/{version} 200 OK\r\n\r\n".encode() + data)

    return behave


def chunked(data: bytes, whole: bool = True) -> Behaviour:
    """A chunked body, whole or cut off before its last chunk."""

    async def behave(exchange: Exchange) -> None:
        exchange.keep = whole
        await exchange.head(Transfer_Encoding="chunked")
        await exchange.send(b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if whole else b""))

    return behave


async def reset_before(exchange: Exchange) -> None:
    """Resets the connection instead of answering."""
    exchange.reset()


async def close_before(exchange: Exchange) -> None:
    """Closes the connection instead of answering."""
    exchange.keep = False


def reset_after(data: bytes) -> Behaviour:
    """Announces twice the bytes, sends them once and resets the connection."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(Content_Length=str(2 * len(data)))
        await exchange.send(data)
        exchange.reset()

    return behave


def raw(data: bytes, *, keep: bool = True) -> Behaviour:
    """The bytes as they are, head included; then the connection is kept for another request or closed."""

    async def behave(exchange: Exchange) -> None:
        exchange.keep = keep
        await exchange.send(data)

    return behave


async def garbage(exchange: Exchange) -> None:
    """Something that is no HTTP."""
    exchange.keep = False
    await exchange.send(b"\x00\xff NOT HTTP \r\n\r\n")


def gzipped(data: bytes) -> Behaviour:
    """The body in gzip, whatever the client accepts."""
    return body(gzip.compress(data), Content_Encoding="gzip")


def bomb(size: int, encoding: str = "gzip") -> Behaviour:
    """`size` zeros in gzip or deflate: a thousandth of that on the wire."""
    return body(packed_zeros(size, 31 if encoding == "gzip" else 15), Content_Encoding=encoding)


def packed_zeros(size: int, wbits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    pieces = [packer.compress(PIECE) for _ in range(size // len(PIECE))]
    return b"".join([*pieces, packer.flush()])


class Web:
    """What the server is asked and does. Counters go by path."""

    def __init__(self, scheme: str, host: str, routes: Routes) -> None:
        self.routes = dict(routes)
        self.requests: Counter[str] = Counter()
        self.received: list[tuple[str, dict[str, str]]] = []  # path and headers of each request
        self.sent: Counter[str] = Counter()  # bytes
        self.left: Counter[str] = Counter()  # answers during which the client went away
        self.connections = 0  # accepted so far
        self.most_at_once = 0  # requests being answered at the same time
        self.port = 0
        self._origin = f"{scheme}://[{host}]" if ":" in host else f"{scheme}://{host}"
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None  # of a behaviour
        self._loop = asyncio.new_event_loop()
        self.released = asyncio.Event()

    def url(self, path: str) -> str:
        return f"{self._origin}:{self.port}{path}"

    def release(self) -> None:
        """Lets held, dripping and stalled answers end."""
        self._loop.call_soon_threadsafe(self.released.set)

    def rest(self) -> None:
        """Waits until every connection has ended: after that the counters stand."""
        self._run(self._all_ended())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    async def _all_ended(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._error = self._error or (None if task.cancelled() else task.exception())

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        begun: bytes | None = b""
        try:
            while begun is not None:
                begun = await self._serve_one(reader, writer, begun)
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes
    ) -> bytes | None:
        """Serves a request that began with the given bytes; returns how the next one begins, None at the end."""
        try:
            head = (begun + await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return None
        request, *lines = head.rstrip().split("\r\n")
        path = request.split(" ")[1]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.requests[path] += 1
        self.received.append((path, headers))
        exchange = Exchange(self, path, headers, writer)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            return await self._unless_gone(exchange, reader)
        except ConnectionError:
            self.left[path] += 1
            return None
        finally:
            self._running -= 1

    async def _unless_gone(self, exchange: Exchange, reader: asyncio.StreamReader) -> bytes | None:
        """Answers until done or the client goes away, which shows as the end of what it sends."""
        answer = asyncio.ensure_future(self._behaviour(exchange.path)(exchange))
        ahead = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answer, ahead}, return_when=asyncio.FIRST_COMPLETED)
            if ahead.done() and ahead.result():
                await asyncio.wait({answer})
            if not answer.done():
                self.left[exchange.path] += 1
                return None
            answer.result()
            begun = ahead.result() if ahead.done() else b""
            return begun if exchange.keep else None
        finally:
            for task in (answer, ahead):
                task.cancel()
            await asyncio.wait({answer, ahead})

    def _behaviour(self, path: str) -> Behaviour:
        route = self.routes.get(path)
        if route is not None:
            return body(route) if isinstance(route, bytes) else route
        kind, _, number = path[1:].partition("/")
        if kind == "loop":
            return redirect("/loop")
        if kind == "redirect":
            return redirect(f"/redirect/{int(number) - 1}") if number != "0" else body(b"end")
        return status(int(number) if kind == "status" else 404)

    async def _open(self, host: str, tls: ssl.SSLContext | None) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, host, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        self.released.set()
        for task in list(self._tasks):
            task.cancel()
        await self._all_ended()
        if self._error:
            raise self._error


@contextmanager
def serve(routes: Routes, host: str = "127.0.0.1", tls: bool = False) -> Iterator[Web]:
    """A server on a free port of its own thread; with `tls` its certificate is its own and trusted by nobody."""
    web = Web("https" if tls else "http", host, routes)
    thread = threading.Thread(target=web._loop.run_forever, name="web", daemon=True)
    thread.start()
    try:
        server = web._run(web._open(host, self_signed(host) if tls else None))
        try:
            yield web
        finally:
            web._run(web._close(server))
    finally:
        web._loop.call_soon_threadsafe(web._loop.stop)
        thread.join()
        web._loop.close()


def closed_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def self_signed(host: str) -> ssl.SSLContext:
    """A server's context with a fresh certificate that it has signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder, "both.pem")
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(pem)
    return context
