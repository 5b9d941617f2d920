"""The local web server of the review: the page's files, and /decision, which reads and saves it. Standard library.

It listens on loopback alone. Pages of other origins can read nothing, neither through a name that resolves to 127.0.0.1
(the Host header is checked) nor with a script element (Sec-Fetch-Site, Cross-Origin-Resource-Policy), and cannot write
(Origin header, and a token that only the page itself can read).
"""

import hashlib
import json
import os
import secrets
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from gesso import storage
from gesso.dedup import decision
from gesso.dedup.decision import DECISION, DRAFT, DRAFT_KIND, KIND
from gesso.dedup.overlap import Overlap
from gesso.dedup.review import folder
from gesso.dedup.review.suggestion import suggest
from gesso.errors import UserError

Json = dict[str, Any]

LOOPBACK = "127.0.0.1"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".jpg": "image/jpeg"}
MAX_BODY = 1 << 26  # bytes; a verdict on each of 324,032 pairs is 40 MB
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

    def __init__(self, status: HTTPStatus, message: str, **more: Any) -> None:
        super().__init__(status, message)
        self.status, self.body = status, {"error": message, **more}


class DecisionStore:
    """The decision on disk, or its draft. Each change states the revision it was based on, so that no tab overwrites
    another's."""

    def __init__(self, overlap: Overlap, target: str, who: str) -> None:
        self._overlap, self._target, self._who = overlap, target, who
        self._suggestion = suggest(overlap)
        self._lock = threading.Lock()

    def get(self) -> Json:
        """The decision or its draft with the revision, the name given to --who, and the suggested threshold."""
        with self._lock:
            kept = decision.read_latest(self._overlap)
            value = decision.to_json(kept) if kept else None
            suggested = self._suggestion._asdict()
            return {"decision": value, "revision": self._revision(), "who": self._who, "suggestion": suggested}

    def save(self, change: Json) -> Json:
        """Writes the page's threshold, overrides and name, without a name as a draft.

        Raises RequestError where it is invalid or outdated.
        """
        with self._lock:
            if change.get("revision") != self._revision():
                raise RequestError(
                    HTTPStatus.CONFLICT, "the decision was changed elsewhere, in another tab or by a command"
                )
            model, sha256 = self._overlap.model, self._overlap.sha256
            kind = KIND if str(change.get("who", "")).strip() else DRAFT_KIND
            fixed = {"format": 1, "kind": kind, "when": decision.now(), "model": model, "matches_sha256": sha256}
            try:
                new = decision.from_json({**change, **fixed}, "the page", kind)
                decision.save(self._overlap, decision.checked(new, self._overlap, "the page"))
            except UserError as error:
                raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
            folder.write_session(self._target, new, self._suggestion)
            return {"revision": self._revision(), "when": new.when}

    def _revision(self) -> str:
        paths = [storage.join(self._overlap.path, name) for name in (DECISION, DRAFT)]
        bodies = [storage.read(path) for path in paths if storage.exists(path)]
        return hashlib.sha256(b"\0".join(bodies)).hexdigest() if bodies else ""


class Server(ThreadingHTTPServer):
    """Listens on loopback from its construction on; `serve_forever` answers."""

    daemon_threads = True

    def __init__(self, port: int, target: str, store: DecisionStore) -> None:
        self.target, self.store = os.path.realpath(target), store
        self.token = secrets.token_urlsafe(32)
        try:
            super().__init__((LOOPBACK, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} is not available ({error}): give another --port, or 0 for any free one"
            ) from error
        names = (LOOPBACK, "localhost")
        self.hosts = {f"{name}:{self.server_port}" for name in names} | (
            set(names) if self.server_port == 80 else set()
        )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "gesso", ""

    def handle(self) -> None:
        """A browser closes connections when it scrolls past pictures: not an error."""
        with suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with suppress(ConnectionError):
            super().finish()

    def do_GET(self) -> None:
        try:
            self.check_origin()
            path = unquote(self.path.partition("?")[0])
            if path == "/decision":
                self.send_json(HTTPStatus.OK, {**self.server.store.get(), "token": self.server.token})
            else:
                self.send_file(path)
        except RequestError as error:
            self.send_json(error.status, error.body)
        except UserError as error:
            self.send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)})

    def do_POST(self) -> None:
        try:
            change = self.read_change()
            self.check_origin()
            self.check_token()
            self.send_json(HTTPStatus.OK, self.server.store.save(change))
        except RequestError as error:
            self.send_json(error.status, error.body)

    def read_change(self) -> Json:
        """The body; it is read even if the request is refused, so that the connection stays usable."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"give up to {MAX_BODY} bytes")
        body = self.rfile.read(int(length))
        if self.path != "/decision":
            raise RequestError(HTTPStatus.NOT_FOUND, "only /decision can be written")
        try:
            change = json.loads(body)
        except ValueError as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"not JSON: {error}") from error
        if not isinstance(change, dict):
            raise RequestError(HTTPStatus.BAD_REQUEST, "not a JSON object")
        return change

    def check_origin(self) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            raise RequestError(
                HTTPStatus.MISDIRECTED_REQUEST, f"this is {self.server.url}, but the request is for another host"
            )
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise RequestError(HTTPStatus.FORBIDDEN, "requested by a page of another origin")

    def check_token(self) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://").lower() not in self.server.hosts:
            raise RequestError(HTTPStatus.FORBIDDEN, "written by a page of another origin")
        given = self.headers.get("X-Gesso-Token", "")
        if not secrets.compare_digest(given.encode(), self.server.token.encode()):
            raise RequestError(HTTPStatus.FORBIDDEN, "not written by this page: reload it")

    def send_file(self, path: str) -> None:
        """Sends a file of the folder. URLs of pictures contain the checksum of their matches, so they can be cached."""
        name = os.path.realpath(os.path.join(self.server.target, path.replace("\0", "").lstrip("/") or "index.html"))
        kind = TYPES.get(os.path.splitext(name)[1])
        if not kind or not name.startswith(self.server.target + os.sep) or not os.path.isfile(name):
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such file")
        with storage.open_input(name) as stream:
            body = stream.read()
        cache_control = "max-age=86400, immutable" if kind == "image/jpeg" else "no-cache"
        self.send(HTTPStatus.OK, body, kind, cache_control)

    def send_json(self, status: HTTPStatus, value: Json) -> None:
        self.send(status, json.dumps(value, ensure_ascii=False).encode(), "application/json", "no-store")

    def send(self, status: HTTPStatus, body: bytes, kind: str, cache_control: str) -> None:
        self.send_response(status)
        charset = "" if kind.startswith("image/") else "; charset=utf-8"
        for name, value in {**POLICY, "Content-Type": kind + charset, "Cache-Control": cache_control}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""
