"""Runs of the studio: requests that wait, one that is drawn, and what was drawn. Knows no model and no server.

    request ─ queue ─▶ one thread: codes, row by row ─ at times ─▶ previews ─▶ pictures, then their scores

What the page shows is a state with a version: whoever asks for the changes since a version gets each run that has
changed, as it is now, so that a slow reader misses nothing and delays nobody.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gesso.errors import UserError
from gesso.generation.settings import Sampling
from gesso.images import Pixels
from gesso.studio.request import DrawRequest

Json = dict[str, Any]
Codes = npt.NDArray[np.int64]
OnRow = Callable[[int, Codes], None]

WAITING, DRAWING, DONE, STOPPED, FAILED = "waiting", "drawing", "done", "stopped", "failed"
KEPT = 24  # runs; an older one is forgotten with its pictures
PREVIEW_EVERY = 0.3  # seconds, at least
PREVIEW_SHARE = 0.2  # of the time, at most


class Generator(Protocol):
    """What draws: captions → codes of grid × grid → pictures of side × side pixels → scores."""

    grid: int
    side: int
    together: int  # candidates that are drawn as fast as one
    identity: Json
    ranker: str  # its name; empty: pictures have no scores
    sampling: Json  # what it is best sampled by, in the place of the page's defaults

    def check(self, caption: str) -> None:
        """Raises UserError where the model cannot read all of it."""

    def draw(
        self, caption: str, seeds: Sequence[int], sampling: Sampling, prefix: Codes | None, on_row: OnRow
    ) -> Codes:
        """The codes of candidates, (n, N). Calls on_row(row, codes so far) after each row; what that raises ends it."""

    def decode(self, codes: Codes) -> Pixels:
        """(n, N) → uint8 (n, side, side, 3)."""

    def encode(self, pixels: Pixels) -> Codes:
        """uint8 (H, W, 3) → (N,). Raises UserError."""

    def score(self, caption: str, pictures: Pixels) -> list[float]:
        """How well each of the pictures fits the caption; more is better."""


class Stopped(Exception):
    """The run that is drawn was stopped."""


class Candidate(NamedTuple):
    """A picture that is drawn: `pixels` shows its first `rows` rows of codes."""

    seed: int
    rows: int = 0
    pixels: Pixels | None = None  # (side, side, 3)
    codes: Codes | None = None  # (N,), once all are drawn
    score: float | None = None


class Prefix(NamedTuple):
    """Where a run starts from: codes of the first rows, and words for it."""

    codes: Codes  # (rows · grid,)
    rows: int
    text: str


class Run:
    """A request, and what has come of it."""

    def __init__(self, request: DrawRequest, prefix: Prefix | None) -> None:
        self.id = secrets.token_hex(6)
        self.request, self.prefix = request, prefix
        self.candidates = [Candidate(seed) for seed in request.seeds]
        self.state, self.error, self.version = WAITING, "", 0
        self.stopping = threading.Event()
        self.future: Future[None] | None = None

    def to_json(self) -> Json:
        sampling = self.request.sampling
        return {
            "id": self.id,
            "caption": self.request.caption,
            "state": self.state,
            "error": self.error,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "start": self.prefix and {"rows": self.prefix.rows, "text": self.prefix.text},
            "seeds": [str(each.seed) for each in self.candidates],
            "rows": [each.rows for each in self.candidates],
            "scores": [each.score for each in self.candidates],
        }


class Pace:
    """Makes previews: not too often, and in a share of the time at most."""

    def __init__(self, every: float, clock: Callable[[], float]) -> None:
        self._every, self._clock, self._next = every, clock, clock()

    def preview(self, make: Callable[[], None]) -> None:
        """Calls `make` if a preview is due."""
        since = self._clock()
        if since >= self._next:
            make()
            now = self._clock()
            self._next = now + max(self._every, (now - since) * (1 / PREVIEW_SHARE - 1))


class Runs:
    """The queue and the thread that draws. `clock` tells seconds."""

    def __init__(self, generator: Generator, every: float = PREVIEW_EVERY, clock: Callable[[], float] = monotonic):
        self.generator, self.version = generator, 0
        self._every, self._clock = every, clock
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "studio")

    def add(self, request: DrawRequest, prefix: Prefix | None) -> Run:
        """Puts a request at the end of the queue. Raises UserError where that is too long."""
        run = Run(request, prefix)
        with self._lock:
            self._forget()
            self._runs[run.id] = run
            self._touch(run)
            run.future = self._thread.submit(self._draw, run)
        run.future.add_done_callback(lambda future: self._end(run, future))
        return run

    def get(self, name: str) -> Run | None:
        with self._lock:
            return self._runs.get(name)

    def stop(self, run: Run) -> None:
        """Takes a run out of the queue, or ends its drawing; what is drawn of it stays."""
        run.stopping.set()
        if run.future and run.future.cancel():
            with self._lock:
                self._runs.pop(run.id, None)
                self.version += 1

    def changes(self, since: int) -> Json:
        """The runs that have changed since a version, the names of all, and the version to ask for next."""
        with self._lock:
            changed = [run.to_json() for run in self._runs.values() if run.version > since]
            return {"version": self.version, "order": list(self._runs), "runs": changed}

    def close(self) -> None:
        """Ends the drawing."""
        for run in list(self._runs.values()):
            run.stopping.set()
        self._thread.shutdown(cancel_futures=True)

    def _forget(self) -> None:
        ended = [run.id for run in self._runs.values() if run.state not in (WAITING, DRAWING)]
        if len(self._runs) >= KEPT:
            if not ended:
                raise UserError(f"{KEPT} runs are waiting: stop one first")
            del self._runs[ended[0]]

    def _touch(self, run: Run, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(run, name, value)
        self.version += 1
        run.version = self.version

    def _end(self, run: Run, future: "Future[None]") -> None:
        """Whatever ends a run is told on its page: nothing else would tell it."""
        error = None if future.cancelled() else future.exception()
        stopped = future.cancelled() or isinstance(error, Stopped)
        if error and not stopped and not isinstance(error, UserError):
            logging.getLogger("gesso").error("", exc_info=error)
        with self._lock:
            state = STOPPED if stopped else FAILED if error else DONE
            self._touch(run, state=state, error="" if stopped or not error else one_line(error))

    def _draw(self, run: Run) -> None:
        with self._lock:
            self._touch(run, state=DRAWING)
        if run.prefix:
            self._show_prefix(run, run.prefix)
        pace = Pace(self._every, self._clock)
        for start in range(0, run.request.n, self.generator.together):
            self._draw_some(run, range(start, min(start + self.generator.together, run.request.n)), pace)

    def _draw_some(self, run: Run, places: range, pace: Pace) -> None:
        """Draws candidates together, with previews on the way, and scores them."""

        def on_row(row: int, codes: Codes) -> None:
            if run.stopping.is_set():
                raise Stopped
            if row + 1 < self.generator.grid:
                pace.preview(lambda: self._show(run, places, row + 1, self.generator.decode(codes)))

        request, prefix = run.request, run.prefix.codes if run.prefix else None
        seeds = [run.candidates[place].seed for place in places]
        codes = self.generator.draw(request.caption, seeds, request.sampling, prefix, on_row)
        pictures = self.generator.decode(codes)
        self._show(run, places, self.generator.grid, pictures)
        scores = self.generator.score(request.caption, pictures) if self.generator.ranker else [None] * len(places)
        with self._lock:
            for place, its_codes, score in zip(places, codes, scores, strict=True):
                run.candidates[place] = run.candidates[place]._replace(codes=its_codes, score=score)
            self._touch(run)

    def _show_prefix(self, run: Run, prefix: Prefix) -> None:
        codes = np.zeros((1, self.generator.grid**2), np.int64)
        codes[0, : len(prefix.codes)] = prefix.codes
        places = range(run.request.n)
        self._show(run, places, prefix.rows, np.repeat(self.generator.decode(codes), len(places), axis=0))

    def _show(self, run: Run, places: range, rows: int, pictures: Pixels) -> None:
        with self._lock:
            for place, pixels in zip(places, pictures, strict=True):
                run.candidates[place] = run.candidates[place]._replace(rows=rows, pixels=pixels)
            self._touch(run)


def one_line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"a bug: {type(error).__name__}: {first}"
