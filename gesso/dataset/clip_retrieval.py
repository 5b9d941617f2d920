"""Embeddings that clip-retrieval wrote itself: its files, its columns as gesso's, its vectors as unit vectors. No Beam.

    img_emb/img_emb_0.npy          float16 or float32 (n, d), numbered with any number of digits
    metadata/metadata_0.parquet    image_path, and caption, key, url, … where it was asked for them; n rows

There is no manifest: the model and the source are not known. Vectors are normalised in float64 and rounded to float16,
as `gesso embed` does, so that a search is exact for what is compared; float16 of unit norm stays bit for bit.
"""

import hashlib
import os
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.members import SUFFIXES, suffix_of
from gesso.dataset.schemas import METADATA_FIELDS
from gesso.errors import UserError

KIND = "clip-retrieval"  # of a source; its paths start at the root: image_path is what the command was given
EMBEDDINGS, METADATA = re.compile(r"img_emb_(\d+)\.npy"), re.compile(r"metadata_(\d+)\.parquet")
NOT_FINITE, ZERO = "vector_not_finite", "vector_zero"  # why a vector is left out
PICTURES = {*SUFFIXES, "bmp"}  # of the files that clip-retrieval reads
HEAD = 1 << 16  # bytes of a file that tell its vectors from another model's
ROWS = 1024  # vectors that are float64 at a time
FIELDS = {field.name: field for field in METADATA_FIELDS}
PHASH = "^[0-9a-f]{16}$"


class BlockFiles(NamedTuple):
    """The two files of a block, relative to the directory."""

    embeddings: str
    metadata: str


class Head(NamedTuple):
    """Shape and checksum of the beginning of a file of embeddings, a dozen vectors or more."""

    rows: int
    dimension: int
    sha256: str


def find(path: str) -> dict[int, BlockFiles]:
    """The blocks of a directory by their numbers. Raises UserError where a block has no metadata, or two have a number.

    Nothing where no file has clip-retrieval's name.
    """
    embeddings, metadata = (_numbered(path, *of) for of in (("img_emb", EMBEDDINGS), ("metadata", METADATA)))
    for number, name in embeddings.items():
        if number not in metadata:
            raise UserError(f"{path}/{name} has no metadata/metadata_{number}.parquet beside it: bring it back")
    return {number: BlockFiles(name, metadata[number]) for number, name in sorted(embeddings.items())}


def _numbered(path: str, folder: str, pattern: re.Pattern[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in storage.sizes(storage.join(path, folder)):
        match = pattern.fullmatch(name)
        if match and found.setdefault(int(match[1]), f"{folder}/{name}") != f"{folder}/{name}":
            raise UserError(f"{path} holds {found[int(match[1])]} and {folder}/{name}, both of one number: remove one")
    return found


def read_head(path: str) -> Head:
    """The head of a file of embeddings. Raises ValueError where it is none or is cut off, and OSError."""
    with storage.open_input(path) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        expected = stream.tell() + int(np.prod(shape)) * dtype.itemsize
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        sha256 = hashlib.sha256(stream.read(HEAD)).hexdigest()
    if dtype.kind != "f" or len(shape) != 2 or not shape[1]:
        raise ValueError(f"{dtype} {shape} in the place of float16 or float32 (n, d)")
    if size != expected:
        raise ValueError(f"{size:,} bytes, {expected:,} expected")
    return Head(int(shape[0]), int(shape[1]), sha256)


def unit(vectors: npt.NDArray[np.floating], tolerance: float) -> npt.NDArray[np.float32]:
    """Vectors (n, d) of any norm → unit vectors of values that float16 can hold, (n, d).

    Those with NaN or infinity, and those of norm 0, become zeros. float16 whose squared norm is 1 within `tolerance`
    stays as it is.
    """
    result = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), ROWS):
        some = slice(start, start + ROWS)
        result[some] = _unit(vectors[some], tolerance)
    return result


def _unit(vectors: npt.NDArray[np.floating], tolerance: float) -> npt.NDArray[np.float16]:
    wide = vectors.astype(np.float64)
    wide[~np.isfinite(wide).all(axis=1)] = 0
    squared = np.einsum("nd,nd->n", wide, wide)
    kept = np.abs(squared - 1) <= tolerance if vectors.dtype == np.float16 else np.zeros(len(wide), np.bool_)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    scaled = wide / np.where(largest > 0, largest, 1)  # else the squares of very small or large numbers are lost
    norm = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    normalised = scaled / np.where(norm > 0, norm, 1)
    return np.where(kept[:, None], wide, normalised).astype(np.float16)


def left_out(vectors: npt.NDArray[np.floating]) -> Counter[str]:
    """How many vectors (n, d) have no direction, by reason."""
    finite = np.isfinite(vectors).all(axis=1)
    zero = ~vectors.any(axis=1)
    counts = {NOT_FINITE: int((~finite).sum()), ZERO: int(zero.sum())}
    return Counter({reason: count for reason, count in counts.items() if count})


def read_metadata(path: str, columns: list[str]) -> pa.Table:
    """Some of schemas.METADATA_FIELDS of a block; null where the file has none, or one of another type.

    A key is that of the column `key`, else `image_path` less folders and a picture's suffix. Raises ValueError for a
    row without, and pa.ArrowException and OSError where the file cannot be read.
    """
    with storage.open_input(path) as stream:
        parquet = pq.ParquetFile(stream)
        wanted = [*columns, *(["image_path"] if "key" in columns else ["key"] if "image_path" in columns else [])]
        present = [name for name in dict.fromkeys(wanted) if name in parquet.schema_arrow.names]
        table = parquet.read(present)
        rows = parquet.metadata.num_rows
    return pa.table({name: _column(table, name, rows) for name in columns}, pa.schema([FIELDS[n] for n in columns]))


def _column(table: pa.Table, name: str, rows: int) -> pa.Array:
    if name == "key":
        return _keys(table)
    if name == "image_path":
        path = _cast(table, "image_path", rows)
        return pc.fill_null(pc.utf8_ltrim(pc.coalesce(path, _cast(table, "key", rows)), characters="/"), "")
    values = _cast(table, name, rows)
    if name != "phash":
        return values
    return pc.if_else(pc.fill_null(pc.match_substring_regex(values, PHASH), False), values, None)


def _cast(table: pa.Table, name: str, rows: int) -> pa.Array:
    """A column as gesso's type; nulls where there is none, or it cannot be told as that."""
    field = FIELDS[name]
    if name not in table.column_names:
        return pa.nulls(rows, field.type)
    try:
        return table[name].combine_chunks().cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(rows, field.type)


def _keys(table: pa.Table) -> pa.Array:
    rows = table.num_rows
    paths = _cast(table, "image_path", rows).to_pylist()
    keys = _cast(table, "key", rows).to_pylist() if _is_text(table, "key") else rows * [None]
    found = [key or (path and _stem(path)) for key, path in zip(keys, paths, strict=True)]
    if not all(found):
        missing = next(row for row, key in enumerate(found) if not key)
        raise ValueError(f"row {missing} has neither key nor image_path")
    return pa.array(found, pa.string())


def _is_text(table: pa.Table, name: str) -> bool:
    """Not so a column of numbers: the zeros before a key of img2dataset are lost there."""
    return name in table.column_names and (
        pa.types.is_string(table[name].type) or pa.types.is_large_string(table[name].type)
    )


def _stem(path: str) -> str:
    """A file's name without folder and suffix; a key of webdataset's is what it is."""
    return os.path.splitext(os.path.basename(path))[0] if suffix_of(path) in PICTURES else path
