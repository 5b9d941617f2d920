"""A directory of embeddings as `gesso embed` leaves it: opened whole or refused, then read block by block. No Beam.

img_emb/img_emb_00000.npy            float16 (n, d), rows of unit L2 norm
metadata/metadata_00000.parquet      schemas.METADATA_FIELDS, n rows in the same order
manifest.json                        the model, the source, every block with its files' sizes
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.layout import MANIFEST, PLAN, embedding_name, metadata_name
from gesso.errors import UserError

Json = dict[str, Any]
Vectors = npt.NDArray[np.float16]

# How far a squared norm may be from 1. Rounding to float16 moves an element by 2^-11 of itself at most, so a squared
# norm by 2^-10 and a little; what is further off was no unit vector.
UNIT = 2.0**-8
NO_SHARD = -1
NO_HASH = 16 * "0"
ROWS = 1 << 14  # embeddings that are worked on at a time: 32 MiB as float32 in 512 dimensions


class Block(NamedTuple):
    """One file of embeddings with the rows that belong to it."""

    shard: int
    rows: int


class Slice(NamedTuple):
    """Consecutive rows of a block."""

    block: Block
    start: int
    stop: int


Portion = list[Slice]


class Pictures(NamedTuple):
    """Pictures as a search takes them; all arrays have one entry a picture."""

    vectors: npt.NDArray[np.float32]  # (n, d), float16's values
    keys: npt.NDArray[np.bytes_]  # UTF-8
    shards: npt.NDArray[np.int32]  # NO_SHARD: a folder's picture
    phash: npt.NDArray[np.uint64]
    hashed: npt.NDArray[np.bool_]  # whether it has a perceptual hash


@dataclass(frozen=True)
class Embeddings:
    """A finished directory of embeddings."""

    path: str
    model: Json  # comparable are those whose models are equal
    source: Json  # kind and path of what was embedded
    sha256: str  # of the manifest
    blocks: tuple[Block, ...]  # those that are not empty, by shard

    @property
    def dimension(self) -> int:
        return int(self.model["dimension"])

    @property
    def samples(self) -> int:
        return sum(block.rows for block in self.blocks)

    def keys(self) -> npt.NDArray[np.bytes_]:
        """The keys of all rows, in the order of the blocks, UTF-8."""
        tables = [self.metadata(block, ["key"]) for block in self.blocks]
        return np.array([key.encode() for table in tables for key in table["key"].to_pylist()], np.bytes_)

    def vectors(self, block: Block) -> Vectors:
        """The block's embeddings, (count, dimension); mapped, not read, where they lie on this machine."""
        path = storage.join(self.path, embedding_name(block.shard))
        try:
            if storage.is_local(path):
                vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                with storage.open_input(path) as stream:
                    vectors = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged(path, str(error)) from error
        shape = (block.rows, self.dimension)
        if vectors.dtype != np.float16 or vectors.shape != shape:
            raise damaged(path, f"{vectors.dtype} {vectors.shape} in the place of float16 {shape}")
        return vectors

    def metadata(self, block: Block, columns: list[str]) -> pa.Table:
        """Some columns of the rows that belong to the block's embeddings, in their order."""
        path = storage.join(self.path, metadata_name(block.shard))
        try:
            with storage.open_input(path) as stream:
                table = pq.read_table(stream, columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(path, str(error)) from error
        if table.num_rows != block.rows or table.column_names != columns:
            raise damaged(path, f"{table.num_rows} rows of {table.column_names}, {block.rows} of {columns} expected")
        return table


def open_embeddings(path: str) -> Embeddings:
    """Raises UserError where there are none, none that are finished, or others than the manifest names."""
    path = storage.absolute(path)
    manifest, sha256 = read_manifest(path)
    blocks = [Block(int(entry["index"]), int(entry["successes"])) for entry in manifest["shards"]]
    check_sizes(path, manifest)
    filled = tuple(sorted(block for block in blocks if block.rows))
    return Embeddings(path, manifest["model"], manifest["source"], sha256, filled)


def read_manifest(path: str) -> tuple[Json, str]:
    """The manifest of a finished directory and its sha256. Raises UserError where there is none."""
    name = storage.join(path, MANIFEST)
    if not storage.exists(name):
        if storage.exists(storage.join(path, PLAN)):
            raise UserError(f"{path} is not finished: run its `gesso embed` again, it goes on where it stopped")
        raise UserError(f"{path} holds no embeddings: give the --output of a `gesso embed`")
    try:
        with storage.open_input(name) as stream:
            body = stream.read()
        manifest: Json = json.loads(body)
    except (OSError, ValueError) as error:
        raise damaged(name, str(error)) from error
    if manifest.get("kind") != "embeddings":
        kind = manifest.get("kind", "shards")
        raise UserError(f"{path} holds {kind}, not embeddings: give the --output of a `gesso embed`")
    return manifest, hashlib.sha256(body).hexdigest()


def check_sizes(path: str, manifest: Json) -> None:
    """Raises UserError with the first file that is missing or has another size than the manifest names."""
    folders = {folder: storage.sizes(storage.join(path, folder)) for folder in ("img_emb", "metadata")}
    sizes = {f"{folder}/{name}": size for folder, held in folders.items() for name, size in held.items()}
    for entry in manifest["shards"]:
        for name, expected in entry["files"].items():
            if name not in sizes:
                raise damaged(storage.join(path, name), "it is missing")
            if sizes[name] != expected["bytes"]:
                raise damaged(storage.join(path, name), f"{sizes[name]:,} bytes, {expected['bytes']:,} expected")


def check_comparable(one: Embeddings, other: Embeddings) -> None:
    """Raises UserError where two directories were embedded by different models: their numbers mean different things."""
    if one.model == other.model:
        return
    names = [name for name in one.model if one.model[name] != other.model.get(name)]
    told = "; ".join(f"{name} {one.model[name]!r} and {other.model.get(name)!r}" for name in names)
    raise UserError(
        f"{one.path} and {other.path} are of different models ({told}): embed both with one --model to compare them"
    )


def portions(blocks: Iterable[Block], rows: int = ROWS) -> Iterator[Portion]:
    """The blocks in portions of `rows` rows, the last of fewer: large blocks cut, small ones side by side."""
    portion: Portion = []
    room = rows
    for block in blocks:
        start = 0
        while start < block.rows:
            stop = min(block.rows, start + room)
            portion.append(Slice(block, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield portion
                portion, room = [], rows
    if portion:
        yield portion


def all_rows(embeddings: Embeddings) -> Portion:
    """The whole directory as one portion."""
    return [Slice(block, 0, block.rows) for block in embeddings.blocks]


def read_pictures(embeddings: Embeddings, portion: Portion) -> Pictures:
    """A portion with all that a search needs of it. Raises UserError where the directory is damaged."""
    table = pa.concat_tables(
        embeddings.metadata(part.block, ["key", "shard", "phash"]).slice(part.start, part.stop - part.start)
        for part in portion
    )
    hashes = table["phash"].fill_null(NO_HASH).to_pylist()
    name = storage.join(embeddings.path, metadata_name(portion[0].block.shard))
    try:
        phash = np.frombuffer(bytes.fromhex("".join(hashes)), ">u8").astype(np.uint64)
    except ValueError as error:
        raise damaged(name, f"a phash is no 16 hex digits: {error}") from error
    if len(phash) != table.num_rows:
        raise damaged(name, "a phash is no 16 hex digits")
    return Pictures(
        read_vectors(embeddings, portion),
        np.array([key.encode() for key in table["key"].to_pylist()], np.bytes_),
        table["shard"].fill_null(NO_SHARD).to_numpy(),
        phash,
        table["phash"].is_valid().to_numpy(),
    )


def read_ahead(embeddings: Embeddings, portions: list[Portion]) -> Iterator[Pictures]:
    """Portions in their order, each read and converted while the one before it is worked on."""
    with ThreadPoolExecutor(1, "read") as pool:
        coming = pool.submit(read_pictures, embeddings, portions[0])
        for portion in portions[1:]:
            here, coming = coming.result(), pool.submit(read_pictures, embeddings, portion)
            yield here
        yield coming.result()


def read_vectors(embeddings: Embeddings, portion: Portion) -> npt.NDArray[np.float32]:
    """The embeddings of a portion as float32, (rows, dimension). Raises UserError where one is no unit vector."""
    result = np.empty((sum(part.stop - part.start for part in portion), embeddings.dimension), np.float32)
    end = 0
    for part in portion:
        begin, end = end, end + part.stop - part.start
        result[begin:end] = embeddings.vectors(part.block)[part.start : part.stop]
        norms = np.einsum("nd,nd->n", result[begin:end], result[begin:end])
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT))
        if wrong.size:
            row = int(wrong[0])
            name = storage.join(embeddings.path, embedding_name(part.block.shard))
            raise damaged(name, f"row {part.start + row} has norm {np.sqrt(norms[row]):.4g}, not 1")
    return result


def damaged(path: str, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): run `gesso embed` again with another --output")
