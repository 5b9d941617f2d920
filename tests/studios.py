"""A generator that behaves as a model does, row by row, without one: its pictures follow from caption and seed.

And folders to browse.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gesso.errors import UserError
from gesso.evaluation import report
from gesso.generation.output import Kept, Output
from gesso.generation.settings import Sampling
from gesso.images import Pixels
from gesso.studio.runs import Codes, OnRow, Runs

GRID, SIDE, CODES = 8, 64, 512


class Gate:
    """Where a generator's rows wait until a test lets them through."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Semaphore(0), threading.Semaphore(0)

    def wait(self) -> None:
        """Of the generator."""
        self._reached.release()
        self._opened.acquire()

    def reached(self) -> None:
        """Once the next row waits: those before it are shown."""
        assert self._reached.acquire(timeout=20)

    def step(self, rows: int = 1) -> None:
        """Lets rows through, and waits for the one behind them."""
        for _ in range(rows):
            self._opened.release()
            self.reached()

    def open(self, rows: int = 100_000) -> None:
        self._opened.release(rows)


class Fake:
    """512 codes are 512 colours. With a gate each row waits there."""

    grid, side, together = GRID, SIDE, 4

    def __init__(
        self, ranker: str = "fake ranker", gate: Gate | None = None, sampling: dict[str, float] | None = None
    ) -> None:
        self.ranker, self.gate = ranker, gate
        self.sampling = sampling or {}
        self.identity: dict[str, Any] = {"prior": {"path": "fake", "sha256": "00" * 32}}
        self.drawn: list[tuple[str, list[int], Sampling]] = []

    def check(self, caption: str) -> None:
        if len(caption.split()) > 20:
            raise UserError("the caption has more than the 20 tokens that the model reads: shorten it")

    def draw(
        self, caption: str, seeds: Sequence[int], sampling: Sampling, prefix: Codes | None, on_row: OnRow
    ) -> Codes:
        if caption == "out of memory":
            raise RuntimeError("the device has no memory left\nallocated: 12 GiB")
        self.drawn.append((caption, list(seeds), sampling))
        codes = np.zeros((len(seeds), GRID**2), np.int64)
        given = 0 if prefix is None else len(prefix)
        if prefix is not None:
            codes[:, :given] = prefix
        for row in range(given // GRID, GRID):
            if self.gate:
                self.gate.wait()
            place = slice(row * GRID, (row + 1) * GRID)
            codes[:, place] = [codes_of(caption, seed)[place] for seed in seeds]
            on_row(row, codes)
        return codes

    def decode(self, codes: Codes) -> Pixels:
        colours = np.stack([codes // 64, codes // 8 % 8, codes % 8], axis=-1) * 36
        small = colours.reshape(len(codes), GRID, GRID, 3).astype(np.uint8)
        return small.repeat(SIDE // GRID, axis=1).repeat(SIDE // GRID, axis=2)

    def encode(self, pixels: Pixels) -> Codes:
        step = min(pixels.shape[:2]) // GRID
        if not step:
            raise UserError(f"the picture is small: give one with {GRID} pixels or more each way")
        small = pixels[step // 2 :: step, step // 2 :: step][:GRID, :GRID].astype(np.int64) // 36
        return np.asarray((small @ [64, 8, 1]).ravel())

    def score(self, caption: str, pictures: Pixels) -> list[float]:
        return [round(float(picture.mean()) / 255, 4) for picture in pictures]


def codes_of(caption: str, seed: int) -> Codes:
    """(N,), even for neighbouring seeds unlike."""
    digest = hashlib.sha512(f"{caption} {seed}".encode()).digest()
    return np.frombuffer(digest * 2, np.uint16).astype(np.int64) % CODES


def runs_of(generator: Fake) -> Runs:
    """Runs with a preview of every row: their clock stands still."""
    return Runs(generator, 0, lambda: 0.0)


def write_generated(folder: Path, captions: Sequence[str] = ("a red apple", "two pears"), keep: int = 3) -> Path:
    """An --output of `gesso generate`, by its own words; caption and rank of a picture are its colour."""
    output = Output(str(folder), captions, {"models": {}, "ranker": {"name": "fake"}, "n": 8, "keep": keep})
    output.begin()
    for index in range(len(captions)):
        colours = [(40 * index % 256, 80 * rank % 256, 90) for rank in range(keep)]
        pictures = [np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in colours]
        kept = [Kept(picture, 100 - rank, 0.5 - rank / 10) for rank, picture in enumerate(pictures)]
        output.write(index, kept, [0.1] * 8)
    output.finish()
    return folder


def write_evaluation(folder: Path) -> Path:
    """An --output of `gesso evaluate`, by its own words."""
    rows = [
        {"pictures": name, "blur": blur, "generated": 30, "reference": 40, **figures(blur)}
        for name in ("all", "without the overlap")
        for blur in (0.0, 1.0)
    ]
    sides = {side: {"name": side, "path": f"../{side}", "pictures": 30} for side in ("generated", "reference")}
    folder.mkdir(parents=True, exist_ok=True)
    told = {"models": {"inception": {}}, "rows": rows, "notes": ["a note"]}
    report.write(str(folder), {"format": 1, "kind": "evaluation", **sides, **told})
    return folder


def figures(blur: float) -> dict[str, Any]:
    found = {"fid": 27.5 + blur, "inception_score": 17.9, "kid": 0.0125}
    return {
        **{name: {"value": value, "low": value - 1, "high": value + 1} for name, value in found.items()},
        "clip_score": None,
    }
