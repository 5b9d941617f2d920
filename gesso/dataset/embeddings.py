"""A directory of embeddings as `gesso embed` writes it: checked when opened, then read block by block. No Beam.

img_emb/img_emb_00000.npy            float16 (n, d), rows of unit L2 norm
metadata/metadata_00000.parquet      schemas.METADATA_FIELDS, n rows in the same order
manifest.json                        model, source, settings, and every block with its files' sizes

A sample of V views has V consecutive rows, in the order of the views: row r of a block is view r % V, 0 is the whole.

Without a manifest it may be clip-retrieval's own (clip_retrieval.py), which is read as if it were such a directory.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import clip_retrieval, identity
from gesso.dataset.clip_retrieval import BlockFiles, Head
from gesso.dataset.layout import MANIFEST, PLAN, embedding_name, metadata_name
from gesso.errors import UserError

Json = dict[str, Any]
Vectors = npt.NDArray[np.float16]
Floating = npt.NDArray[np.floating]

# How far a squared norm may be from 1. Rounding to float16 changes an element by at most 2^-11 of itself, so a squared
# norm by little more than 2^-10; a vector that is further off was not of unit norm.
UNIT_TOLERANCE = 2.0**-8
NO_SHARD = -1
NO_HASH = 16 * "0"
UNKNOWN = "unknown"  # the name of a model that nothing tells
READERS = 16  # headers read at a time
ROWS = 1 << 14  # embeddings of a chunk: 32 MiB as float32 in 512 dimensions


class Block(NamedTuple):
    """One file of embeddings and its number of rows: samples times views."""

    shard: int
    rows: int


class Slice(NamedTuple):
    """Consecutive rows of a block."""

    block: Block
    start: int
    stop: int


Chunk = list[Slice]


class Pictures(NamedTuple):
    """Views of pictures as the input of a search; every array has one entry for each view."""

    vectors: npt.NDArray[np.float32]  # (n, d), values that float16 can hold
    keys: npt.NDArray[np.bytes_]  # UTF-8
    shards: npt.NDArray[np.int32]  # NO_SHARD for a folder's picture
    phash: npt.NDArray[np.uint64]
    hashed: npt.NDArray[np.bool_]  # whether it has a perceptual hash
    views: npt.NDArray[np.int32]  # numbers of the views

    def select(self, kept: npt.NDArray[np.bool_]) -> "Pictures":
        """Those that are kept; itself where all are."""
        if kept.all():
            return self
        vectors, keys, shards, phash, hashed, views = self
        return Pictures(vectors[kept], keys[kept], shards[kept], phash[kept], hashed[kept], views[kept])


@dataclass(frozen=True)
class Embeddings:
    """A finished directory of embeddings."""

    path: str
    model: Json  # embeddings of equal models are comparable
    source: Json  # kind, path and checksum of what was embedded
    sha256: str  # of the manifest; without one, see content_sha256
    blocks: tuple[Block, ...]  # without empty ones, sorted by shard
    files: dict[int, BlockFiles] | None = None  # only of clip-retrieval's own: the files of each block
    views: int = 1  # of each sample

    @property
    def dimension(self) -> int:
        return int(self.model["dimension"])

    @property
    def samples(self) -> int:
        return sum(block.rows for block in self.blocks) // self.views

    @property
    def foreign(self) -> bool:
        """Whether clip-retrieval wrote it: model and source are not known."""
        return self.files is not None

    def keys(self) -> npt.NDArray[np.bytes_]:
        """The keys of all samples, in the order of the blocks, UTF-8."""
        tables = [self.metadata(block, ["key"]) for block in self.blocks]
        keys = [key.encode() for table in tables for key in table["key"].to_pylist()[:: self.views]]
        return np.array(keys, np.bytes_)

    def names(self, block: Block) -> BlockFiles:
        """The paths of a block's two files."""
        shard = block.shard
        names = self.files[shard] if self.files else BlockFiles(embedding_name(shard), metadata_name(shard))
        return BlockFiles(*(storage.join(self.path, name) for name in names))

    def vectors(self, block: Block) -> Floating:
        """The block's embeddings as they are in the file, (count, dimension); memory-mapped where it is local."""
        path = self.names(block).embeddings
        try:
            if storage.is_local(path):
                vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                with storage.open_input(path) as stream:
                    vectors = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged_error(path, str(error), self.foreign) from error
        shape = (block.rows, self.dimension)
        if (vectors.dtype != np.float16 and not self.foreign) or vectors.shape != shape:
            raise damaged_error(path, f"{vectors.dtype} {vectors.shape} in the place of float16 {shape}")
        return vectors

    def metadata(self, block: Block, columns: list[str]) -> pa.Table:
        """Some columns of the block's metadata, row-aligned with its embeddings."""
        path = self.names(block).metadata
        try:
            table = clip_retrieval.read_metadata(path, columns) if self.foreign else read_columns(path, columns)
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise damaged_error(path, str(error), self.foreign) from error
        if table.num_rows != block.rows or table.column_names != columns:
            reason = f"{table.num_rows} rows of {table.column_names}, {block.rows} of {columns} expected"
            raise damaged_error(path, reason, self.foreign)
        return table

    def unit_vectors(self, part: Slice) -> npt.NDArray[np.float32]:
        """Some rows as unit vectors (n, dimension); of clip-retrieval's own, zeros for a row without a direction.

        Raises UserError where a row of gesso's own is not of unit norm.
        """
        vectors = self.vectors(part.block)[part.start : part.stop]
        if self.foreign:
            return clip_retrieval.unit(vectors, UNIT_TOLERANCE)
        single = vectors.astype(np.float32)
        norms = np.einsum("nd,nd->n", single, single)
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))
        if wrong.size:
            row = int(wrong[0])
            reason = f"row {part.start + row} has norm {np.sqrt(norms[row]):.4g}, not 1"
            raise damaged_error(self.names(part.block).embeddings, reason)
        return single

    def left_out(self, chunk: Chunk) -> Counter[str]:
        """How many rows of a chunk have no direction, by reason: they are compared with nothing."""
        counts = Counter[str]()
        for part in chunk if self.foreign else ():
            counts.update(clip_retrieval.left_out(self.vectors(part.block)[part.start : part.stop]))
        return counts


def read_columns(path: str, columns: list[str]) -> pa.Table:
    with storage.open_input(path) as stream:
        return pq.read_table(stream, columns=columns)


def open_embeddings(path: str) -> Embeddings:
    """Raises UserError where the directory holds no embeddings, is unfinished, or does not match its manifest."""
    path = storage.absolute(path)
    if not any(storage.exists(storage.join(path, name)) for name in (MANIFEST, PLAN)):
        files = clip_retrieval.find(path)
        if files:
            return open_foreign(path, files)
    manifest, sha256 = read_manifest(path)
    views = int(manifest.get("settings", {}).get("views", 1))
    blocks = [Block(int(entry["index"]), int(entry["successes"]) * views) for entry in manifest["shards"]]
    check_sizes(path, manifest)
    filled = tuple(sorted(block for block in blocks if block.rows))
    source = identity.with_paths(manifest["source"], partial(identity.resolve, output=path))
    return Embeddings(path, manifest["model"], source, sha256, filled, views=views)


def open_foreign(path: str, files: dict[int, BlockFiles]) -> Embeddings:
    """A directory of clip-retrieval's own. Raises UserError where a file is damaged or of another dimension."""
    with ThreadPoolExecutor(READERS) as pool:
        heads = list(pool.map(lambda names: read_head(storage.join(path, names.embeddings)), files.values()))
    dimension = heads[0].dimension
    for names, head in zip(files.values(), heads, strict=True):
        if head.dimension != dimension:
            reason = f"{head.dimension:,} dimensions, others {dimension:,}"
            raise UserError(f"{path}/{names.embeddings} has {reason}: remove it")
    blocks = tuple(Block(number, head.rows) for number, head in zip(files, heads, strict=True) if head.rows)
    model = {"name": UNKNOWN, "pretrained": None, "sha256": None, "image_size": None, "dimension": dimension}
    source = {"kind": clip_retrieval.KIND, "path": "/"}
    return Embeddings(path, model, source, content_sha256(path, heads), blocks, files)


def read_head(path: str) -> Head:
    try:
        return clip_retrieval.read_head(path)
    except (OSError, ValueError) as error:
        raise damaged_error(path, str(error), foreign=True) from error


def content_sha256(path: str, heads: list[Head]) -> str:
    """What tells embeddings without a manifest from others: names and sizes of all files, and their first vectors."""
    folders = {folder: storage.sizes(storage.join(path, folder)) for folder in ("img_emb", "metadata")}
    lines = [f"{folder}/{name}\t{size}\n" for folder, held in folders.items() for name, size in sorted(held.items())]
    return hashlib.sha256("".join([*lines, *(head.sha256 for head in heads)]).encode()).hexdigest()


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
    """Raises UserError where two directories are of different models; of an unknown one the dimension decides."""
    if one.model == other.model:
        return
    unknown = one.foreign or other.foreign
    names = [name for name in one.model if one.model[name] != other.model.get(name)]
    names = [name for name in names if name == "dimension" or not unknown]
    if not names:
        return
    differing = "; ".join(f"{name} {one.model[name]!r} and {other.model.get(name)!r}" for name in names)
    paths = f"{one.path} and {other.path}"
    raise UserError(f"{paths} are of different models ({differing}): embed both with one --model to compare them")


def common_model(one: Embeddings, other: Embeddings) -> Json:
    """The model of two directories that are comparable: that of the one which tells it."""
    return other.model if one.foreign else one.model


def assumption(one: Embeddings, other: Embeddings) -> str:
    """What has to be assumed to compare them, in one line; nothing where both tell their models."""
    unknown = [side.path for side in (one, other) if side.foreign]
    if not unknown:
        return ""
    name = common_model(one, other)["name"]
    model = "one and the same" if name == UNKNOWN else f"{name}, as of the other side"
    tell = "do not tell their models, taken" if len(unknown) == 2 else "does not tell its model, taken"
    return f"{' and '.join(unknown)} {tell} to be {model}: both have {one.dimension:,} dimensions"


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
    name = embeddings.names(chunk[0].block).metadata
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
        view_numbers(embeddings, chunk),
    )


def view_numbers(embeddings: Embeddings, chunk: Chunk) -> npt.NDArray[np.int32]:
    """The view of each row of a chunk."""
    return np.concatenate([np.arange(part.start, part.stop, dtype=np.int32) % embeddings.views for part in chunk])


def read_ahead(embeddings: Embeddings, chunks: list[Chunk]) -> Iterator[Pictures]:
    """The chunks in order; each is read while the caller works on the one before."""
    with ThreadPoolExecutor(1, "read") as pool:
        upcoming = pool.submit(read_pictures, embeddings, chunks[0])
        for chunk in chunks[1:]:
            current, upcoming = upcoming.result(), pool.submit(read_pictures, embeddings, chunk)
            yield current
        yield upcoming.result()


def read_vectors(embeddings: Embeddings, chunk: Chunk) -> npt.NDArray[np.float32]:
    """The embeddings of a chunk as unit vectors, (rows, dimension): see `Embeddings.unit_vectors`."""
    result = np.empty((sum(part.stop - part.start for part in chunk), embeddings.dimension), np.float32)
    end = 0
    for part in chunk:
        begin, end = end, end + part.stop - part.start
        result[begin:end] = embeddings.unit_vectors(part)
    return result


def damaged_error(path: str, why: str, foreign: bool = False) -> UserError:
    way = "make it anew with clip-retrieval" if foreign else "run `gesso embed` again with another --output"
    return UserError(f"{path} is damaged ({why}): {way}")
