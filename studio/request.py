"""What the page asks to be drawn, checked. Light: no torch."""

import secrets
from dataclasses import dataclass, replace
from typing import Any

from gesso.errors import UserError
from gesso.generation import captions
from gesso.generation.settings import Sampling

Json = dict[str, Any]

MOST = 64  # candidates
LONGEST = 1000  # characters of a caption
MOST_SEED = 1 << 53  # seeds are below it: the numbers that a page's script knows exactly
RANDOM_SEEDS = 1 << 31  # a random seed is below it, short enough to be read and typed
KNOWN = {"caption", "n", "temperature", "top_k", "top_p", "seed", "start"}


@dataclass(frozen=True)
class Start:
    """The first rows of a picture, which the drawn ones keep: of a run's candidate, or of bytes of an image file."""

    rows: int
    run: str = ""
    index: int = 0
    picture: str = ""  # base64


@dataclass(frozen=True)
class DrawRequest:
    """A caption's candidates with the seeds `sampling.seed`, and so on."""

    caption: str
    n: int
    sampling: Sampling
    start: Start | None = None

    @property
    def seeds(self) -> range:
        return range(self.sampling.seed, self.sampling.seed + self.n)


def read_request(value: Json, grid: int) -> DrawRequest:
    """Raises UserError where a value is missing, of another type, or out of range. A seed of null is a random one."""
    unknown = next((name for name in value if name not in KNOWN), None)
    if unknown:
        raise UserError(f"{unknown} is not known: give {', '.join(sorted(KNOWN))}")
    caption = read_text(value, "caption")
    if len(caption) > LONGEST:
        raise UserError(f"the caption has {len(caption):,} characters: give {LONGEST:,} at most")
    n = read_integer(value, "n", 1, MOST)
    start = value.get("start")
    return DrawRequest(
        captions.checked(caption), n, read_sampling(value, n), None if start is None else read_start(start, grid)
    )


def read_sampling(value: Json, n: int) -> Sampling:
    """Raises UserError."""
    temperature, top_p = read_number(value, "temperature"), read_number(value, "top_p")
    top_k = read_integer(value, "top_k", 0, MOST_SEED)
    try:
        sampling = Sampling(temperature, top_k, top_p)
    except UserError as error:
        raise UserError(str(error).removeprefix("--")) from error
    random = value.get("seed") is None
    seed = secrets.randbelow(RANDOM_SEEDS) if random else read_integer(value, "seed", 0, MOST_SEED - n)
    return replace(sampling, seed=seed)


def read_start(value: Any, grid: int) -> Start:
    """Raises UserError."""
    if not isinstance(value, dict) or not {"rows"} < value.keys() <= {"rows", "run", "index", "picture"}:
        raise UserError("start is no picture with rows: give run, index and rows, or picture and rows")
    rows = read_integer(value, "rows", 1, grid - 1)
    if "picture" in value:
        return Start(rows, picture=read_text(value, "picture"))
    return Start(rows, read_text(value, "run"), read_integer(value, "index", 0, MOST - 1))


def read_text(value: Json, name: str) -> str:
    """Raises UserError."""
    found = value.get(name)
    if not isinstance(found, str):
        raise UserError(f"{name} is {found!r}: give a text")
    return found


def read_integer(value: Json, name: str, least: int, most: int) -> int:
    """Raises UserError."""
    found = value.get(name)
    if type(found) is not int or not least <= found <= most:
        raise UserError(f"{name} is {found!r}: give an integer from {least} to {most}")
    return found


def read_number(value: Json, name: str) -> float:
    """Raises UserError."""
    found = value.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise UserError(f"{name} is {found!r}: give a number")
    try:
        return float(found)
    except OverflowError as error:
        raise UserError(f"{name} is {found!r}: give a number") from error
