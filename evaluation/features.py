"""What is computed of each picture, once: kept in files known by content, a rerun computes what is new. No torch.

    features/KEY.npy    the rows of a block of pictures, (n, d) float32, as one model tells them at one radius of blur

KEY is the sha256 of the pictures' own bytes and of everything else that decides the rows. A block's file is written
whole, so that a command that was killed goes on with the next block. n pictures, d features, S side.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gesso import images, storage
from gesso.errors import Rejected, UserError
from gesso.evaluation import prepare
from gesso.evaluation.pictures import Picture, Side, read
from gesso.images import Header, Pixels

Floats = npt.NDArray[np.float32]
Json = dict[str, Any]

FORMAT = 1  # of the steps from bytes to features; another one computes all anew
BLOCK = 256  # pictures
FOLDER = "features"


class Model(NamedTuple):
    """What tells something of pictures. `rows`: n pictures (S, S, 3) and a caption of each → (n, d) float32."""

    identity: Json
    rows: Callable[[list[Pixels], list[str]], Floats]
    takes_captions: bool = False


class Told(NamedTuple):
    """What models tell of a side's pictures, (n, d) by model and radius; and what was seen of the pictures."""

    rows: dict[tuple[str, float], Floats]
    sha256: str  # of all pictures' bytes
    enlarged: int  # pictures that were smaller than they had to be


class Block:
    """Some pictures that are read."""

    def __init__(self, pictures: Sequence[Picture], threads: Executor) -> None:
        self.pictures, self._threads = pictures, threads
        self._bodies = list(threads.map(read, pictures))
        self.hashes = [hashlib.sha256(body).hexdigest() for body in self._bodies]
        self.headers = [header_of(*each) for each in zip(pictures, self._bodies, strict=True)]

    @cached_property
    def captions(self) -> list[str]:
        """One of each picture, the first."""
        return [next(iter(picture.captions), "") for picture in self.pictures]

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        return [(header.width, header.height) for header in self.headers]

    def squares(self, size: int) -> list[Pixels]:
        """Raises UserError where a picture is damaged."""
        return list(self._threads.map(partial(square_of, size), self.pictures, self._bodies, self.headers))

    def key(self, model: Model, size: int, radius: float) -> str:
        """What the rows depend on."""
        captions = self.captions if model.takes_captions else None
        value = [FORMAT, model.identity, size, radius, self.hashes, captions]
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Features:
    """Finds what models tell of pictures at radii of blur, or computes it."""

    def __init__(self, output: str, size: int, radii: Sequence[float], threads: Executor) -> None:
        self._folder, self._size, self._radii, self._threads = storage.join(output, FOLDER), size, radii, threads

    def tell(self, side: Side, models: dict[str, Model], exact: bool, progress: Callable[[int], None]) -> Told:
        """Raises UserError where a picture is damaged, and with `exact` where it is not `size` pixels wide and high.

        `progress` is told how many rows have come.
        """
        parts: dict[tuple[str, float], list[Floats]] = {(name, radius): [] for radius in self._radii for name in models}
        hashes, enlarged = list[str](), 0
        for start in range(0, len(side.pictures), BLOCK):
            block = Block(side.pictures[start : start + BLOCK], self._threads)
            if exact:
                check_sizes(block, self._size)
            hashes += block.hashes
            enlarged += sum(min(size) < self._size for size in block.sizes)
            for key, rows in self._block(block, models):
                parts[key].append(rows)
                progress(len(rows))
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return Told({key: np.concatenate(rows) for key, rows in parts.items()}, digest, enlarged)

    def _block(self, block: Block, models: dict[str, Model]) -> Iterator[tuple[tuple[str, float], Floats]]:
        squares: list[Pixels] = []
        for radius in self._radii:
            blurred: list[Pixels] = []
            for name, model in models.items():
                path = storage.join(self._folder, f"{block.key(model, self._size, radius)}.npy")
                if not storage.exists(path):
                    squares = squares or block.squares(self._size)
                    blurred = blurred or list(self._threads.map(partial(prepare.blur, radius=radius), squares))
                    save(path, model.rows(blurred, block.captions))
                yield (name, radius), load(path)


def header_of(picture: Picture, body: bytes) -> Header:
    """Raises UserError where the bytes are no picture."""
    try:
        return images.read_header(body)
    except Rejected as rejected:
        raise refusal(picture, rejected) from rejected


def square_of(size: int, picture: Picture, body: bytes, header: Header) -> Pixels:
    """Raises UserError where the picture is damaged."""
    try:
        return prepare.square(body, header, size)
    except Rejected as rejected:
        raise refusal(picture, rejected) from rejected


def refusal(picture: Picture, rejected: Rejected) -> UserError:
    return UserError(f"{picture.name} is damaged ({rejected.message}): replace it, or leave it out")


def check_sizes(block: Block, size: int) -> None:
    """Raises UserError where a picture is not `size` pixels wide and high."""
    for picture, (width, height) in zip(block.pictures, block.sizes, strict=True):
        if (width, height) != (size, size):
            raise UserError(
                f"{picture.name} is {width}×{height}, the first generated picture {size}×{size}: give --size, to "
                "which all are cut and resized"
            )


def side_of(picture: Picture) -> int:
    """The side of a generated picture, pixels. Raises UserError where it is damaged or not square."""
    header = header_of(picture, read(picture))
    if header.width != header.height:
        raise UserError(
            f"{picture.name} is {header.width}×{header.height}, not square: give --size, to which all are cut and "
            "resized"
        )
    return header.width


def save(path: str, rows: Floats) -> None:
    with storage.write_whole(path) as stream:
        np.save(stream, rows.astype(np.float32))


def load(path: str) -> Floats:
    """Raises UserError where the file is damaged."""
    try:
        return np.asarray(np.load(io.BytesIO(storage.read(path)), allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, it is computed again") from error
