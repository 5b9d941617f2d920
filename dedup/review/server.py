"""The review's page on this machine alone: its folder, and one address that keeps the decision. Standard library.

Only loopback is listened to, and a page of another origin gets nothing: neither by a name that resolves to 127.0.0.1
(the Host must be ours), nor by a script element (Sec-Fetch-Site, Cross-Origin-Resource-Policy), nor can it write
(Origin, and a token that only the page's own requests can read).
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
from gesso.dedup.decision import DECISION, Decision
from gesso.dedup.overlap import Overlap
from gesso.dedup.review import folder
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


class Refused(Exception):
    """A request that is not answered: status and one line."""

    def __init__(self, status: HTTPStatus, message: str, **more: Any) -> None:
        super().__init__(status, message)
        self.status, self.body = status, {"error": message, **more}


class Keeper:
    """The decision on disk. Each change names the revision that it was made on, so that no tab undoes another's."""

    def __init__(self, overlap: Overlap, target: str, who: str) -> None:
        self._overlap, self._target, self._who = overlap, target, who
        self._path = storage.join(overlap.path, DECISION)
        self._lock = threading.Lock()

    def look(self) -> Json:
        """The decision so far with its revision, and who is asked to decide."""
        with self._lock:
            kept = self._read()
            told = decision.to_json(kept) if kept else None
            return {"decision": told, "revision": self._revision(), "who": self._who}

    def keep(self, change: Json) -> Json:
        """Writes the page's threshold, overrides and name. Raises Refused where it is no decision, or out of date."""
        with self._lock:
            if change.get("revision") != self._revision():
                raise Refused(HTTPStatus.CONFLICT, "the decision was changed elsewhere, in another tab or by a command")
            model, sha256 = self._overlap.model, self._overlap.sha256
            fixed = {"format": 1, "kind": "decision", "when": decision.now(), "model": model, "matches_sha256": sha256}
            try:
                new = decision.checked(decision.from_json({**change, **fixed}, "the page"), self._overlap, "the page")
            except UserError as error:
                raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
            decision.write(self._path, new)
            folder.write_session(self._target, new)
            return {"revision": self._revision(), "when": new.when}

    def _read(self) -> Decision | None:
        return decision.read(self._path, self._overlap) if storage.exists(self._path) else None

    def _revision(self) -> str:
        if not storage.exists(self._path):
            return ""
        with storage.open_input(self._path) as stream:
            return hashlib.sha256(stream.read()).hexdigest()


class Server(ThreadingHTTPServer):
    """Listens on loopback from its construction on; `serve_forever` answers."""

    daemon_threads = True

    def __init__(self, port: int, target: str, keeper: Keeper) -> None:
        self.target, self.keeper = os.path.realpath(target), keeper
        self.token = secrets.token_urlsafe(32)
        try:
            super().__init__((LOOPBACK, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} cannot be had ({error}): give another --port, or 0 for any") from error
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
        """A browser breaks connections off when it scrolls past pictures: that is no error."""
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
                self.tell(HTTPStatus.OK, {**self.server.keeper.look(), "token": self.server.token})
            else:
                self.send_file(path)
        except Refused as refused:
            self.tell(refused.status, refused.body)
        except UserError as error:
            self.tell(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)})

    def do_POST(self) -> None:
        try:
            change = self.read_change()
            self.check_origin()
            self.check_token()
            self.tell(HTTPStatus.OK, self.server.keeper.keep(change))
        except Refused as refused:
            self.tell(refused.status, refused.body)

    def read_change(self) -> Json:
        """The body, read also where the request is refused then, so that the connection stays usable."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"give up to {MAX_BODY} bytes")
        body = self.rfile.read(int(length))
        if self.path != "/decision":
            raise Refused(HTTPStatus.NOT_FOUND, "only /decision is written to")
        try:
            change = json.loads(body)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"no JSON: {error}") from error
        if not isinstance(change, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "no JSON object")
        return change

    def check_origin(self) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this is {self.server.url}, asked for under another name")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise Refused(HTTPStatus.FORBIDDEN, "asked for by a page of another origin")

    def check_token(self) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://").lower() not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "written by a page of another origin")
        given = self.headers.get("X-Gesso-Token", "")
        if not secrets.compare_digest(given.encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "not written by this page: load it again")

    def send_file(self, path: str) -> None:
        """A file of the folder. Names of pictures carry the matches they belong to, so that they may be kept."""
        name = os.path.realpath(os.path.join(self.server.target, path.replace("\0", "").lstrip("/") or "index.html"))
        kind = TYPES.get(os.path.splitext(name)[1])
        if not kind or not name.startswith(self.server.target + os.sep) or not os.path.isfile(name):
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such file")
        with storage.open_input(name) as stream:
            body = stream.read()
        kept = "max-age=86400, immutable" if kind == "image/jpeg" else "no-cache"
        self.answer(HTTPStatus.OK, body, kind, kept)

    def tell(self, status: HTTPStatus, value: Json) -> None:
        self.answer(status, json.dumps(value, ensure_ascii=False).encode(), "application/json", "no-store")

    def answer(self, status: HTTPStatus, body: bytes, kind: str, kept: str) -> None:
        self.send_response(status)
        charset = "" if kind.startswith("image/") else "; charset=utf-8"
        for name, value in {**POLICY, "Content-Type": kind + charset, "Cache-Control": kept}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each picture would bury what matters."""
