"""The server of the studio: the page's files, its runs and their pictures, folders to browse."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from importlib.resources import files as resources
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gesso import web
from gesso.errors import UserError
from gesso.generation.output import png
from gesso.studio import pictures
from gesso.studio.folders import Folder
from gesso.studio.request import LONGEST, MOST, MOST_SEED, Start, read_request
from gesso.studio.runs import Candidate, Prefix, Run, Runs
from gesso.web import RequestError

Json = dict[str, Any]

PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "studio.css": ("studio.css", "text/css; charset=utf-8"),
    "studio.js": ("studio.js", "text/javascript; charset=utf-8"),
}
MAX_BODY = 1 << 25  # bytes; a picture of 25 MB in base64
LOOK = 0.1  # seconds between two looks at what has changed
QUIET = 15  # seconds after which a stream says that it lives
PART = 24  # captions that are listed at once
KEEP, CHECK = "max-age=86400, immutable", "no-cache"


class Server(web.Server):
    """Serves the page on 127.0.0.1."""

    def __init__(self, port: int, runs: Runs, folders: Sequence[Folder] = ()) -> None:
        self.runs, self.folders = runs, folders
        routes = [
            Route("/about", self.about),
            Route("/events", self.events),
            Route("/draw", self.draw, methods=["POST"]),
            Route("/stop", self.stop, methods=["POST"]),
            Route("/runs/{run}/{index:int}.png", self.send_candidate),
            Route("/folders/{folder:int}", self.list_captions),
            Route("/folders/{folder:int}/evaluation", self.send_evaluation),
            Route("/folders/{folder:int}/evaluation.png", self.send_chart),
            Route("/folders/{folder:int}/pictures/{name:path}", self.send_picture),
            Route("/{name:path}", self.send_page),
        ]
        super().__init__(port, routes, MAX_BODY)

    def about(self, _: Request) -> Response:
        """What the page needs to know once, with the token of its writes."""
        generator = self.runs.generator
        limits = {"n": MOST, "caption": LONGEST, "seed": MOST_SEED}
        model = {name: getattr(generator, name) for name in ("grid", "side", "ranker", "sampling")}
        folders = [folder.about() for folder in self.folders]
        return web.respond({"token": self.token, "model": model, "limits": limits, "folders": folders})

    def events(self, _: Request) -> Response:
        """Server-sent events: the state of each run that has changed, all at first."""
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(self._changes(), headers=headers, media_type="text/event-stream")

    async def _changes(self) -> AsyncIterator[bytes]:
        seen, quiet = -1, 0.0
        while not self.is_ending:
            if self.runs.version != seen:
                changes = self.runs.changes(seen)
                seen, quiet = changes["version"], 0.0
                yield f"data: {json.dumps(changes)}\n\n".encode()
            elif quiet >= QUIET:
                quiet = 0.0
                yield b": still here\n\n"
            await asyncio.sleep(LOOK)
            quiet += LOOK

    def draw(self, request: Request) -> Response:
        try:
            wanted = read_request(web.written(request), self.runs.generator.grid)
            self.runs.generator.check(wanted.caption)
            run = self.runs.add(wanted, self.prefix(wanted.start) if wanted.start else None)
        except UserError as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
        return web.respond({"id": run.id})

    def prefix(self, start: Start) -> Prefix:
        """The codes that a run begins with. Raises UserError, and RequestError for a picture that is not there."""
        size = start.rows * self.runs.generator.grid
        if start.picture:
            codes = self.runs.generator.encode(pictures.read_picture(start.picture))
            return Prefix(codes[:size], start.rows, "a picture")
        candidate = self.candidate(self.run(start.run), start.index)
        if candidate.codes is None:
            raise UserError("the picture to continue is not drawn yet: wait for its last row")
        return Prefix(candidate.codes[:size], start.rows, f"seed {candidate.seed}")

    def stop(self, request: Request) -> Response:
        self.runs.stop(self.run(str(web.written(request).get("run"))))
        return web.respond({})

    def send_candidate(self, request: Request) -> Response:
        """A candidate's picture: what is drawn of it, or all with a text chunk that tells how it was made."""
        run = self.run(request.path_params["run"])
        candidate = self.candidate(run, request.path_params["index"])
        if candidate.pixels is None:
            raise RequestError(HTTPStatus.NOT_FOUND, "nothing of that picture is drawn yet")
        if candidate.codes is None:
            part = pictures.drawn_part(candidate.pixels, candidate.rows, self.runs.generator.grid)
            return web.send(png(part, {"rows": candidate.rows}), "image/png", CHECK)
        return web.send(png(candidate.pixels, self.told(run, candidate)), "image/png", KEEP)

    def told(self, run: Run, candidate: Candidate) -> Json:
        """How a candidate can be drawn again."""
        sampling = run.request.sampling
        settings = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        start = {"rows": run.prefix.rows, "codes": run.prefix.codes.tolist()} if run.prefix else None
        return {
            "caption": run.request.caption,
            "seed": candidate.seed,
            "score": candidate.score,
            "start": start,
            "sampling": settings,
            "models": self.runs.generator.identity,
        }

    def list_captions(self, request: Request) -> Response:
        """Some captions of a folder: `words` that they have, `from` which one on."""
        start = request.query_params.get("from", "0")
        if not start.isdecimal():
            raise RequestError(HTTPStatus.BAD_REQUEST, f"from is {start!r}: give a number")
        return web.respond(self.folder(request).find(request.query_params.get("words", ""), int(start), PART))

    def send_evaluation(self, request: Request) -> Response:
        found = self.folder(request).read_evaluation()
        if found is None:
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no evaluation")
        return web.respond(found)

    def send_chart(self, request: Request) -> Response:
        return self.found(self.folder(request).read_chart())

    def send_picture(self, request: Request) -> Response:
        return self.found(self.folder(request).read_picture(request.path_params["name"]))

    def send_page(self, request: Request) -> Response:
        if request.path_params["name"] not in PAGE:
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such page")
        name, kind = PAGE[request.path_params["name"]]
        return web.send(resources("gesso.studio").joinpath(name).read_bytes(), kind, CHECK)

    def found(self, body: bytes | None) -> Response:
        if body is None:
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such picture")
        return web.send(body, "image/png", CHECK)

    def run(self, name: str) -> Run:
        """Raises RequestError."""
        run = self.runs.get(name)
        if run is None:
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such run any more")
        return run

    def candidate(self, run: Run, index: int) -> Candidate:
        """Raises RequestError."""
        if index >= len(run.candidates):
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such picture")
        return run.candidates[index]

    def folder(self, request: Request) -> Folder:
        """Raises RequestError."""
        index = request.path_params["folder"]
        if index >= len(self.folders):
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such folder")
        return self.folders[index]
