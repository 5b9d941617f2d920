"""The server of the review: the page's files, and /decision, which reads and saves it."""

import hashlib
import os
import threading
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gesso import storage, web
from gesso.dedup import decision
from gesso.dedup.decision import DECISION, DRAFT, DRAFT_KIND, KIND
from gesso.dedup.overlap import Overlap
from gesso.dedup.review import folder
from gesso.dedup.review.suggestion import suggest
from gesso.errors import UserError
from gesso.web import RequestError

Json = dict[str, Any]

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
}
MAX_BODY = 1 << 26  # bytes; a verdict on each of 324,032 pairs is 40 MB


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
            found = {"model": self._overlap.model, "matches_sha256": self._overlap.sha256, "views": self._overlap.views}
            kind = KIND if str(change.get("who", "")).strip() else DRAFT_KIND
            fixed = {"format": 1, "kind": kind, "when": decision.now(), **found}
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


class Server(web.Server):
    """Serves the folder of a review and its decision."""

    def __init__(self, port: int, target: str, store: DecisionStore) -> None:
        self.target, self.store = os.path.realpath(target), store
        routes = [
            Route("/decision", self.get_decision, methods=["GET"]),
            Route("/decision", self.save_decision, methods=["POST"]),
            Route("/{path:path}", self.send_file, methods=["GET"]),
        ]
        super().__init__(port, routes, MAX_BODY)

    def get_decision(self, _: Request) -> Response:
        return web.respond({**self.store.get(), "token": self.token})

    def save_decision(self, request: Request) -> Response:
        return web.respond(self.store.save(web.written(request)))

    def send_file(self, request: Request) -> Response:
        """A file of the folder. URLs of pictures contain the checksum of their matches, so they can be cached."""
        path = request.path_params["path"].replace("\0", "").lstrip("/") or "index.html"
        name = os.path.realpath(os.path.join(self.target, path))
        kind = TYPES.get(os.path.splitext(name)[1])
        if not kind or not name.startswith(self.target + os.sep) or not os.path.isfile(name):
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such file")
        return web.send(storage.read(name), kind, "max-age=86400, immutable" if kind == "image/jpeg" else "no-cache")
