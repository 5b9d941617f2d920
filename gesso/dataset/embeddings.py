"""A directory of embeddings as `gesso embed` writes it: checked when opened, then read block by block. No Beam.

img_emb/img_emb_00000.npy            float16 (n, d), rows of unit L2 norm
metadata/metadata_00000.parquet      schemas.METADATA_FIELDS, n rows in the same order
manifest.json                        model, source, and every block with its files' sizes
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

# How far a squared norm may be from 1. Rounding to float16 changes an element by at most 2^-11 of itself, so a squared
# norm by little more than 2^-10; a vector that is further off was not of unit norm.
UNIT_TOLERANCE = 2.0**-8
NO_SHARD = -1
NO_HASH = 16 * "0"
ROWS = 1 << 14  # embeddings of a chunk: 32 MiB as float32 in 512 dimensions


class Block(NamedTuple):
    """One file of embeddings and its number of rows."""

    shard: int
    rows: int


class Slice(NamedTuple):
    """Consecutive rows of a block."""

    block: Block
    start: int
    stop: int


Chunk = list[Slice]


class Pictures(NamedTuple):
    """Pictures as the input of a search; every array has one entry for each picture."""

    vectors: npt.NDArray[np.float32]  # (n, d), values that float16 can hold
    keys: npt.NDArray[np.bytes_]  # UTF-8
    shards: npt.NDArray[np.int32]  # NO_SHARD for a folder's picture
    phash: npt.NDArray[np.uint64]
    hashed: npt.NDArray[np.bool_]  # whether it has a perceptual hash


@dataclass(frozen=True)
class Embeddings:
    """A finished directory of embeddings."""

    path: str
    model: Json  # embeddings of equal models are comparable
    source: Json  # kind and path of what was embedded
    sha256: str  # of the manifest
    blocks: tuple[Block, ...]  # without empty ones, sorted by shard

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
        """The block's embeddings, (count, dimension); memory-mapped where the file is local."""
        path = storage.join(self.path, embedding_name(block.shard))
        try:
            if storage.is_local(path):
                vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                with storage.open_input(path) as stream:
                    vectors = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged_error(path, str(error)) from error
        shape = (block.rows, self.dimension)
        if vectors.dtype != np.float16 or vectors.shape != shape:
            raise damaged_error(path, f"{vectors.dtype} {vectors.shape} in the place of float16 {shape}")
        return vectors

    def metadata(self, block: Block, columns: list[str]) -> pa.Table:
        """Some columns of the block's metadata, row-aligned with its embeddings."""
        path = storage.join(self.path, metadata_name(block.shard))
        try:
            with storage.open_input(path) as stream:
                table = pq.read_table(stream, columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged_error(path, str(error)) from error
        if table.num_rows != block.rows or table.column_names != columns:
            raise damaged_error(
                path, f"{table.num_rows} rows of {table.column_names}, {block.rows} of {columns} expected"
            )
        return table


def open_embeddings(path: str) -> Embeddings:
    """Raises UserError where the directory holds no embeddings, is unfinished, or does not match its manifest."""
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
            raise UserError(f"{path} is not finished: run its `gesso embed` again, it continues where it stopped")
        raise UserError(f"{path} holds no embeddings: give the --output of a `gesso embed`")
    try:
        with storage.open_input(name) as stream:
            body = stream.read()
        manifest: Json = json.loads(body)
    except (OSError, ValueError) as error:
        raise damaged_error(name, str(error)) from error
    if manifest.get("kind") != "embeddings":
        kind = manifest.get("kind", "shards")
        raise UserError(f"{path} holds {kind}, not embeddings: give the --output of a `gesso embed`")
    return manifest, hashlib.sha256(body).hexdigest()


def check_sizes(path: str, manifest: Json) -> None:
    """Raises UserError for the first file that is missing or has another size than the manifest states."""
    folders = {folder: storage.sizes(storage.join(path, folder)) for folder in ("img_emb", "metadata")}
    sizes = {f"{folder}/{name}": size for folder, held in folders.items() for name, size in held.items()}
    for entry in manifest["shards"]:
        for name, expected in entry["files"].items():
            if name not in sizes:
                raise damaged_error(storage.join(path, name), "it is missing")
            if sizes[name] != expected["bytes"]:
                raise damaged_error(storage.join(path, name), f"{sizes[name]:,} bytes, {expected['bytes']:,} expected")


def check_comparable(one: Embeddings, other: Embeddings) -> None:
    """Raises UserError where two directories were embedded by different models."""
    if one.model == other.model:
        return
    names = [name for name in one.model if one.model[name] != other.model.get(name)]
    differing = "; ".join(f"{name} {one.model[name]!r} and {other.model.get(name)!r}" for name in names)
    paths = f"{one.path} and {other.path}"
    raise UserError(f"{paths} are of different models ({differing}): embed both with one --model to compare them")


def chunks(blocks: Iterable[Block], rows: int = ROWS) -> Iterator[Chunk]:
    """The blocks in chunks of `rows` rows, the last of fewer: large blocks are split, small ones joined."""
    chunk: Chunk = []
    room = rows
    for block in blocks:
        start = 0
        while start < block.rows:
            stop = min(block.rows, start + room)
            chunk.append(Slice(block, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield chunk
                chunk, room = [], rows
    if chunk:
        yield chunk


def all_rows(embeddings: Embeddings) -> Chunk:
    """The whole directory as one chunk."""
    return [Slice(block, 0, block.rows) for block in embeddings.blocks]


def read_pictures(embeddings: Embeddings, chunk: Chunk) -> Pictures:
    """A chunk's embeddings and metadata for a search. Raises UserError where the directory is damaged."""
    table = pa.concat_tables(
        embeddings.metadata(part.block, ["key", "shard", "phash"]).slice(part.start, part.stop - part.start)
        for part in chunk
    )
    hashes = table["phash"].fill_null(NO_HASH).to_pylist()
    name = storage.join(embeddings.path, metadata_name(chunk[0].block.shard))
    try:
        phash = np.frombuffer(bytes.fromhex("".join(hashes)), ">u8").astype(np.uint64)
    except ValueError as error:
        raise damaged_error(name, f"a phash is no 16 hex digits: {error}") from error
    if len(phash) != table.num_rows:
        raise damaged_error(name, "a phash is no 16 hex digits")
    return Pictures(
        read_vectors(embeddings, chunk),
        np.array([key.encode() for key in table["key"].to_pylist()], np.bytes_),
        table["shard"].fill_null(NO_SHARD).to_numpy(),
        phash,
        table["phash"].is_valid().to_numpy(),
    )


def read_ahead(embeddings: Embeddings, chunks: list[Chunk]) -> Iterator[Pictures]:
    """The chunks in order; each is read while the caller works on the one before."""
    with ThreadPoolExecutor(1, "read") as pool:
        upcoming = pool.submit(read_pictures, embeddings, chunks[0])
        for chunk in chunks[1:]:
            current, upcoming = upcoming.result(), pool.submit(read_pictures, embeddings, chunk)
            yield current
        yield upcoming.result()


def read_vectors(embeddings: Embeddings, chunk: Chunk) -> npt.NDArray[np.float32]:
    """The embeddings of a chunk as float32, (rows, dimension). Raises UserError where one is not of unit norm."""
    result = np.empty((sum(part.stop - part.start for part in chunk), embeddings.dimension), np.float32)
    end = 0
    for part in chunk:
        begin, end = end, end + part.stop - part.start
        result[begin:end] = embeddings.vectors(part.block)[part.start : part.stop]
        norms = np.einsum("nd,nd->n", result[begin:end], result[begin:end])
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))
        if wrong.size:
            row = int(wrong[0])
            name = storage.join(embeddings.path, embedding_name(part.block.shard))
            raise damaged_error(name, f"row {part.start + row} has norm {np.sqrt(norms[row]):.4g}, not 1")
    return result


def damaged_error(path: str, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): run `gesso embed` again with another --output")
