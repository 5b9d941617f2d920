"""Connections to web servers: aiohttp's, made to accept what browsers accept and to keep two responses apart.

aiohttp has no public way to either. What is used of its insides stands in this module alone: the connector's `_factory`
and `_release`, the protocol's `_parser`, `_payload` and `_buffer` (read in 3.14.5).
"""

import asyncio
import re
import select
from functools import partial
from typing import Any

from aiohttp import StreamReader, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError

MAX_HEAD = 256 << 10  # bytes of a response's head, as in Chromium
MAX_FIELD = 64 << 10  # bytes of one of its lines that is used here
DNS_CACHE = 300  # seconds
HEAD_END = re.compile(rb"\n\r?\n")
CONTINUED_LINE = re.compile(rb"\n[ \t]+")
HTTP = b"HTTP/"
STATUS_LINE = re.compile(rb"HTTP/(1\.[01])[ \t]+(\d{3})(?!\d)[ \t]*([^\r\n]*)", re.IGNORECASE)
INFORMATIONAL = re.compile(rb"HTTP/1\.1[ \t]+1(?!01)\d\d(?!\d)", re.IGNORECASE)
USED_FIELD = re.compile(  # in a head in lower case
    rb"\n(connection|content-encoding|content-length|content-range|location|retry-after|transfer-encoding)[ \t]*:"
)
LENGTH_FIELDS = (b"transfer-encoding", b"content-length")


class OpenConnections:
    """A process's connections, and how many there may be for one to be kept that is not in use."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open: set[ResponseHandler] = set()


class Connector(TCPConnector):
    """As many connections as are asked for; those that are free again are kept while there is room."""

    def __init__(self, connections: OpenConnections) -> None:
        super().__init__(limit=0, ttl_dns_cache=DNS_CACHE)
        self._connections = connections
        self._factory = partial(Protocol, connections, asyncio.get_running_loop())  # type: ignore[assignment]

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(
            key, protocol, should_close=should_close or len(self._connections.open) > self._connections.most
        )


class Protocol(ResponseHandler):
    """One connection. Heads of responses are put into a strict form; one that holds unread bytes is not used again."""

    def __init__(self, connections: OpenConnections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._connections = connections
        self._head: bytearray | None = None  # what has come of the awaited head; None while none is awaited

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.open.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.open.discard(self)
        super().connection_lost(exc)

    def close(self) -> None:
        self._connections.open.discard(self)
        super().close()

    def set_response_params(self, **params: Any) -> None:
        """Starts to wait for a response."""
        self._head = bytearray()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            self._receive_head(self._head)
        elif self._payload is not None and not self._payload.is_eof():
            self._receive_body(data, self._payload)
        elif data:
            self._refuse("bytes that belong to no request")

    def is_connected(self) -> bool:
        return super().is_connected() and not self._holds_unread_bytes()

    def _receive_head(self, received: bytearray) -> None:
        """Gives the awaited head to the parser once it is whole; informational ones (1xx) are left out."""
        head = received.lstrip(b"\r\n")
        end = HEAD_END.search(head)
        if (end.start() if end else len(head)) > MAX_HEAD:
            self._refuse(f"a head over {MAX_HEAD:,} bytes")
        elif not HTTP.startswith(head[: len(HTTP)].upper()):
            self._refuse(f"no HTTP: {bytes(head[:40])!r}")
        elif end and INFORMATIONAL.match(head):
            self._head = head[end.end() :]
            self._receive_head(self._head)
        elif end:
            self._head = None
            super().data_received(strict_head(bytes(head[: end.start()])))
            self.data_received(bytes(head[end.end() :]))  # apart, so that nothing behind the body undoes the head

    def _receive_body(self, data: bytes, body: StreamReader) -> None:
        """Refuses what follows the body; fails one that has become malformed, whose reader aiohttp leaves waiting."""
        waiting = len(self._buffer)
        super().data_received(data)
        error = self.exception()
        if error and not body.is_eof():
            body.set_exception(error)
        elif body.is_eof() and (len(self._buffer) > waiting or self._has_begun_another_response()):
            self._refuse("bytes behind the end of the body")

    def _holds_unread_bytes(self) -> bool:
        """Whether the socket has bytes, or an end, that the event loop has not read yet."""
        if self.transport is None:
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    def _has_begun_another_response(self) -> bool:
        """Whether the parser, after a response that has ended, has a part of a further one."""
        try:
            return self._parser is not None and self._parser.feed_eof() is not None
        except HttpProcessingError:
            return True

    def _refuse(self, message: str) -> None:
        """Ends the connection, and with an error what waits for a response on it."""
        if self.transport is not None:
            self.transport.close()
        self.set_exception(BadHttpMessage(message))


def strict_head(head: bytes) -> bytes:
    """A head that a strict parser takes, with the fields that are used here, from one that browsers take.

    Lines without a colon are left out, as are blanks before a colon; continued lines become one. A body is as long as
    its chunks say, else as Content-Length says once or repeatedly, else it ends with the connection.
    """
    head = CONTINUED_LINE.sub(b" ", head.replace(b"\r\n", b"\n")) + b"\n"
    found = USED_FIELD.finditer(head.lower())
    fields = [(field[1], head[field.end() : head.index(b"\n", field.end())].strip()) for field in found]
    kept = [name + b": " + value for name, value in fields if name not in LENGTH_FIELDS]
    first = STATUS_LINE.sub(rb"HTTP/\1 \2 \3", head[: head.index(b"\n")].rstrip())
    return b"\r\n".join([first, *kept, *body_length(fields), b"", b""])


def body_length(fields: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The lines that say how long a body is; two that differ are left to the parser, which refuses them."""
    chunked, numbers = LENGTH_FIELDS
    if any(name == chunked and b"chunked" in value.lower() for name, value in fields):
        return [b"transfer-encoding: chunked"]
    values = {part.strip() for name, value in fields if name == numbers for part in value.split(b",")}
    return [b"content-length: " + number for number in sorted(values) if number.isdigit()]
