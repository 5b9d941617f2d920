"""Small directories of embeddings for tests, in the layout of `gesso embed`, without a model."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.embeddings import Vectors
from gesso.dataset.layout import MANIFEST, embedding_name, metadata_name
from gesso.dataset.schemas import METADATA_FIELDS

MODEL = {"name": "test", "pretrained": None, "sha256": 64 * "0", "image_size": 32}
Row = dict[str, Any]


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Rows normalised in float32, then rounded, as `gesso embed` does."""
    single = np.asarray(vectors, np.float32)
    return (single / np.linalg.norm(single, axis=1, keepdims=True)).astype(np.float16)


def clustered(count: int, dimension: int, seed: int, centres: int = 10) -> Vectors:
    """Unit vectors around a few centres that are the same for every seed; each fifth repeats the one before, nearly."""
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(0).standard_normal((centres, dimension))
    vectors = middle[rng.integers(0, centres, count)] + 0.5 * rng.standard_normal((count, dimension))
    vectors[4::5] = vectors[3::5][: len(vectors[4::5])] + 0.01 * rng.standard_normal((len(vectors[4::5]), dimension))
    return unit(vectors)


def row(key: str, shard: int | None, phash: str | None) -> Row:
    """What metadata says of a picture; a folder's has no shard."""
    empty = {field.name: None for field in METADATA_FIELDS}
    return {**empty, "key": key, "image_path": f"{key}.jpg", "shard": shard, "phash": phash}


def write_embeddings(
    folder: Path,
    vectors: Vectors,
    keys: list[str],
    sizes: list[int],
    *,
    kind: str = "shards",
    source: str = "/raw",
    phash: list[str | None] | None = None,
    model: Row | None = None,
    views: int = 1,
) -> str:
    """A finished directory: consecutive samples in blocks of `sizes`, with as many rows of `vectors` as views each."""
    hashes = phash or [f"{number:016x}" for number in range(len(keys))]
    shards, start = [], 0
    for index, size in enumerate(sizes):
        shard = index if kind == "shards" else None
        samples = [row(keys[at], shard, hashes[at]) for at in range(start, start + size)]
        rows = [{**sample, "view": view} for sample in samples for view in range(views)]
        entry = write_block(folder, index, vectors[start * views : (start + size) * views], rows)
        shards.append({"index": index, "count": size, "successes": size, "files": entry})
        start += size
    manifest = {
        "format": 1,
        "kind": "embeddings",
        "model": {**MODEL, "dimension": vectors.shape[1], **(model or {})},
        "source": {"kind": kind, "path": source},
        "shards": shards,
        "samples": start,
        **({"settings": {"views": views}} if views > 1 else {}),
    }
    storage.write_json(str(folder / MANIFEST), manifest)
    return str(folder)


def write_clip_retrieval(folder: Path, blocks: list[tuple[npt.NDArray[Any], dict[str, Any]]], digits: int = 1) -> str:
    """A directory as clip-retrieval 2.45 writes it: for each block its vectors and the columns of its metadata."""
    for number, (vectors, columns) in enumerate(blocks):
        names = (f"img_emb/img_emb_{number:0{digits}}.npy", f"metadata/metadata_{number:0{digits}}.parquet")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / names[0], vectors)
        pd.DataFrame(columns).to_parquet(folder / names[1])
    return str(folder)


def write_block(folder: Path, index: int, vectors: Vectors, rows: list[Row]) -> dict[str, Row]:
    """A block's two files; their sizes and checksums by name."""
    names = (embedding_name(index), metadata_name(index))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / names[0], vectors)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(METADATA_FIELDS)), folder / names[1])
    bodies = {name: (folder / name).read_bytes() for name in names}
    return {n: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for n, body in bodies.items()}
