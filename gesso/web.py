"""A page's server on this machine: routes of Starlette on uvicorn, behind guards. Imports Starlette.

It listens on loopback alone. Pages of other origins can read nothing, neither through a name that resolves to 127.0.0.1
(the Host header is checked) nor with a script element (Sec-Fetch-Site, Cross-Origin-Resource-Policy), and cannot write
(Origin header, and a token that only the page itself can read). What is written is a JSON object of a limited size. The
guards stand before every route; a refusal is JSON, `{"error": "one line"}`.
"""

import json
import secrets
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Self, cast

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gesso.errors import UserError

Json = dict[str, Any]

LOOPBACK = "127.0.0.1"
BACKLOG = 128  # connections that wait to be accepted
GRACE = 5  # seconds that running answers have once the server is told to end
POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RequestError(Exception):
    """A request that is refused: HTTP status and a one-line message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


class Server:
    """Listens on loopback from its construction on; `serve_forever` answers.

    Raises UserError where the port is not available; 0 is any free one.
    """

    def __init__(self, port: int, routes: Sequence[BaseRoute], max_body: int) -> None:
        self._socket = listen(port)
        self.port: int = self._socket.getsockname()[1]
        self.token = secrets.token_urlsafe(32)
        names = (LOOPBACK, "localhost")
        self.hosts = {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())
        self.app = Guards(Starlette(routes=routes, exception_handlers=REFUSALS), self, max_body)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self.app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("Server", "gesso")],
                timeout_graceful_shutdown=GRACE,
            )
        )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/"

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end: answers that would go on for long end themselves."""
        return self._uvicorn.should_exit

    def serve(self, note: str) -> None:
        """Prints its address with a note and answers until the user interrupts."""
        print(f"{self.url}  ({note})", flush=True)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            print()

    def serve_forever(self) -> None:
        """Answers until `shutdown`, of another thread, or until an interrupt, which it raises in the end."""
        self._uvicorn.run([self._socket])

    def shutdown(self) -> None:
        self._uvicorn.should_exit = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Guards:
    """Lets through what this page's own scripts and a person's browser ask for, and puts POLICY on every answer."""

    def __init__(self, app: ASGIApp, server: Server, max_body: int) -> None:
        self._app, self._server, self._max_body = app, server, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer = self._app
        try:
            await self._check(request)
        except RequestError as error:
            answer = refusal(error.status, error.message)
        except ClientDisconnect:
            return
        await answer(scope, receive, with_policy(send))

    async def _check(self, request: Request) -> None:
        """Raises RequestError. A body is read even if the request is refused, so that the connection stays usable."""
        if request.method == "POST":
            body = await self._read(request)
            request.state.written = await run_in_threadpool(json_object, body)
            self._check_origin(request.headers)
            self._check_token(request.headers)
        elif request.method == "GET":
            self._check_origin(request.headers)
        else:
            raise RequestError(HTTPStatus.NOT_IMPLEMENTED, f"{request.method} is not known here")

    async def _read(self, request: Request) -> bytes:
        length = request.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > self._max_body:
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"give up to {self._max_body} bytes")
        return await request.body()

    def _check_origin(self, headers: Headers) -> None:
        if headers.get("Host", "").lower() not in self._server.hosts:
            raise RequestError(
                HTTPStatus.MISDIRECTED_REQUEST, f"this is {self._server.url}, but the request is for another host"
            )
        if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise RequestError(HTTPStatus.FORBIDDEN, "requested by a page of another origin")

    def _check_token(self, headers: Headers) -> None:
        origin = headers.get("Origin")
        if origin is not None and origin.removeprefix("http://").lower() not in self._server.hosts:
            raise RequestError(HTTPStatus.FORBIDDEN, "written by a page of another origin")
        given = headers.get("X-Gesso-Token", "")
        if not secrets.compare_digest(given.encode(), self._server.token.encode()):
            raise RequestError(HTTPStatus.FORBIDDEN, "not written by this page: reload it")


def written(request: Request) -> Json:
    """The object that a POST brought."""
    return cast(Json, request.state.written)


def respond(value: Json, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """An answer in JSON, which nobody keeps."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return send(body, "application/json; charset=utf-8", "no-store", status)


def send(body: bytes, kind: str, cache_control: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """An answer of some bytes; `kind` is a media type."""
    return Response(body, status, {"Content-Type": kind, "Cache-Control": cache_control})


def refusal(status: HTTPStatus, message: str) -> Response:
    return respond({"error": message}, status)


def refuse(request: Request, error: Exception) -> Response:
    """The answer for what a route raises; a UserError is a fault of the files behind the page, not of the request."""
    if isinstance(error, RequestError):
        return refusal(error.status, error.message)
    if isinstance(error, HTTPException):
        return refusal(HTTPStatus.NOT_FOUND, f"{request.method} {request.url.path} is not known here")
    is_told = isinstance(error, UserError)
    message = str(error) if is_told else f"a bug: {type(error).__name__}: {error}"
    return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, message)


REFUSALS = dict.fromkeys((RequestError, HTTPException, UserError, Exception), refuse)


def listen(port: int) -> socket.socket:
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # named, so that asyncio sends small answers at once
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(
            f"port {port} is not available ({error}): give another --port, or 0 for any free one"
        ) from error
    return listening


def json_object(body: bytes) -> Json:
    """Raises RequestError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(HTTPStatus.BAD_REQUEST, "not a JSON object")
    return value


def with_policy(send: Send) -> Send:
    """`send` of ASGI, with POLICY among the headers."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(POLICY)
        await send(message)

    return sending
