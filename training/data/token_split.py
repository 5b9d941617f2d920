"""A split of what `gesso encode` wrote: arrays of codes, and rows with key and caption. No torch.

train/00000.npy      uint16 (n, views, g, g)      train/00000.parquet    key and caption of each, in the same order
"""

import io
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gesso import storage
from gesso.dataset.layout import MANIFEST, codes_name
from gesso.errors import UserError
from gesso.storage import Ranges, join
from gesso.training.data.shards import (
    BLOCK,
    Damage,
    Damaged,
    Format,
    Json,
    Shard,
    ShardSplit,
    read_manifest,
    shards_of,
    without_damage,
)

Codes = npt.NDArray[np.uint16]

CAPTIONED = ("key", "caption")
CODE = np.dtype("<u2")
HEADER = 1024  # bytes, more than the header of an array of four axes
TOKENS = Format(
    kind="tokens",
    verb="encode",
    missing="holds no tokens",
    empty="`gesso encode` writes some for an export that has them",
    left_out="`gesso train prior` leaves such shards out with --damaged quarantine",
    counted="successes",
    columns=CAPTIONED,
    data_name=codes_name,
)


@dataclass(frozen=True)
class TokenSplit(ShardSplit):
    """The readable shards of a split of tokens, and what the codes are."""

    FORMAT: ClassVar[Format] = TOKENS

    vocabulary: int  # codes are below it
    views: int  # crops of each picture
    grid: int  # side g of a picture's codes
    dvae: Json  # identity of the dVAE that made them

    def file(self, shard: Shard) -> str:
        return join(self.path, self.name(shard))

    def shape(self, shard: Shard) -> tuple[int, int, int, int]:
        return shard.count, self.views, self.grid, self.grid

    def first_byte(self, shard: Shard) -> int:
        """Where the codes begin in a shard's file. Raises UserError where its header is not as the manifest says."""
        try:
            return first_byte(self, shard)
        except Damage as damage:
            raise self.refusal(str(damage)) from damage

    def codes(self, shard: Shard) -> Codes:
        """All codes of a shard, (n, views, g, g). Raises UserError where they are not as the manifest says."""
        try:
            return read_codes(self, shard)
        except Damage as damage:
            raise self.refusal(str(damage)) from damage

    def check(self, shard: Shard) -> None:
        super().check(shard)
        first = first_byte(self, shard)
        with storage.open_input(self.file(shard)) as stream:
            stream.seek(first)
            while body := stream.read(BLOCK):
                check_vocabulary(self, np.frombuffer(body, CODE), shard)


def open_token_split(data: str, split: str, damaged: Damaged = "refuse", checksums: bool = False) -> TokenSplit:
    """A split of what `gesso encode` wrote to `data`, with no shard that is missing or has another size.

    `checksums` and "quarantine" as for `open_split`. Raises UserError where `data` holds no finished tokens or has no
    samples left, and with "refuse" for the first damaged shard.
    """
    data = storage.plain(data)
    manifest, sha256 = read_manifest(data, TOKENS)
    shards = shards_of(manifest, split, TOKENS)
    return without_damage(TokenSplit(data, split, shards, sha256, *description(data, manifest)), damaged, checksums)


def description(data: str, manifest: Json) -> tuple[int, int, int, Json]:
    """Vocabulary, views, grid and dVAE of the tokens. Raises UserError where the manifest lacks one."""
    try:
        codes, dvae = manifest["codes"], manifest["settings"]["dvae"]
        return int(codes["vocabulary"]), int(codes["views"]), int(codes["grid"]), dict(dvae)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{join(data, MANIFEST)} does not describe its codes ({error!r}): encode again") from error


def first_byte(split: TokenSplit, shard: Shard) -> int:
    """Where the codes begin in a shard's file. Raises Damage where its header is not as the manifest says."""
    name, shape = split.name(shard), split.shape(shard)
    first, found = read_header(name, split.file(shard))
    if (found[0], found[2]) != (shape, CODE):
        raise Damage(f"{name} holds {found[2]} {found[0]}, by {MANIFEST} {CODE} {shape}")
    if found[1]:
        raise Damage(f"{name} is not in C order")
    if shard.files[codes_name(shard.index)]["bytes"] != first + CODE.itemsize * prod(shape):
        raise Damage(f"{name} is not as long as its header says")
    return first


def read_codes(split: TokenSplit, shard: Shard) -> Codes:
    """All codes of a shard, (n, views, g, g). Raises Damage."""
    first, name, shape = first_byte(split, shard), split.name(shard), split.shape(shard)
    try:
        body = storage.read(split.file(shard))
    except OSError as error:
        raise Damage(f"{name} cannot be read ({error.strerror or error})") from error
    if len(body) != first + CODE.itemsize * prod(shape):
        raise Damage(f"{name} has changed since it was opened")
    codes = np.frombuffer(body, CODE, offset=first).reshape(shape)
    check_vocabulary(split, codes, shard)
    return codes


def check_vocabulary(split: TokenSplit, codes: Codes, shard: Shard) -> None:
    """Raises Damage where a code is not below the manifest's vocabulary."""
    if codes.size and codes.max() >= split.vocabulary:
        has = f"{split.name(shard)} has the code {codes.max():,}"
        raise Damage(f"{has}, by {MANIFEST} all are below {split.vocabulary:,}")


def read_header(name: str, path: str) -> tuple[int, tuple[Any, ...]]:
    """The size of the header of a .npy, and its shape, order and dtype. Raises Damage."""
    try:
        stream = io.BytesIO(Ranges(path).read(0, HEADER))
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("another version of the format")
        found = np.lib.format.read_array_header_1_0(stream)
    except OSError as error:
        raise Damage(f"{name} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise Damage(f"{name} is no array of NumPy ({error})") from error
    return stream.tell(), found
