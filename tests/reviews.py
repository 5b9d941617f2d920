"""Small overlaps with all that a review reads of them: real pictures in shards and a folder, made-up scores."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import images, storage
from gesso.dataset import layout
from gesso.dataset.schemas import MATCH_FIELDS, METADATA_FIELDS
from gesso.dataset.shards import HashingWriter, TarWriter
from tests.datasets import picture

Json = dict[str, Any]

MODEL = {"name": "detector", "pretrained": None, "sha256": "ab" * 32, "image_size": 64, "dimension": 8}
HOSTILE = '</script><img src=x onerror=alert(1)> "quoted" ‮مرحبا😀'
REAL = sorted((Path(__file__).parents[1] / "examples/pictures/files").glob("animal-*.jpg"))


class Sample(NamedTuple):
    """A picture with what its metadata tells."""

    key: str
    body: bytes
    caption: str | None = None
    url: str | None = None


class Match(NamedTuple):
    """A reference's neighbour: a place among the samples."""

    sample: int
    similarity: float
    phash_distance: int | None
    view: int = 0  # of the reference


def metadata_row(sample: Sample, shard: int | None) -> Json:
    header = images.read_header(sample.body)
    size = {"width": header.width, "height": header.height}
    original = {"original_width": 2 * header.width, "original_height": 2 * header.height}
    named = {"key": sample.key, "image_path": f"{sample.key}.jpg", "caption": sample.caption, "url": sample.url}
    return {**named, "shard": shard, **size, **(original if shard is not None else {})}


def write_embeddings(embeddings: Path, blocks: list[list[Json]], source: Json, views: int = 1) -> None:
    """Metadata and manifest; a review reads nothing else of embeddings."""
    entries = []
    for index, samples in enumerate(blocks):
        name, rows = layout.metadata_name(index), [{**row, "view": view} for row in samples for view in range(views)]
        storage.make_parent(str(embeddings / name))
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(METADATA_FIELDS)), embeddings / name)
        named = {name: {"bytes": (embeddings / name).stat().st_size, "sha256": ""}}
        entries.append({"index": index, "count": len(samples), "successes": len(samples), "files": named})
    manifest = {"format": 1, "kind": "embeddings", "model": MODEL, "source": source, "shards": entries}
    manifest["settings"] = {"views": views}
    storage.write_json(str(embeddings / layout.MANIFEST), manifest)


def write_shards(folder: Path, embeddings: Path, samples: Sequence[Sample], size: int) -> list[int]:
    """Tars of `size` samples with their metadata; returns the shard of each sample."""
    blocks = []
    for index, first in enumerate(range(0, len(samples), size)):
        some = samples[first : first + size]
        with storage.write_whole(str(folder / layout.tar_name(index))) as stream:
            tar = TarWriter(HashingWriter(stream))
            for sample in some:
                tar.add_sample({"key": sample.key, "caption": sample.caption or "", "url": sample.url}, sample.body)
            tar.end()
        blocks.append([metadata_row(sample, index) for sample in some])
    write_embeddings(embeddings, blocks, {"kind": "shards", "path": str(folder)})
    return [place // size for place in range(len(samples))]


def write_folder(folder: Path, embeddings: Path, references: Sequence[Sample], views: int) -> None:
    folder.mkdir(parents=True)
    for reference in references:
        (folder / f"{reference.key}.jpg").write_bytes(reference.body)
    rows = [metadata_row(item, None) for item in references]
    write_embeddings(embeddings, [rows], {"kind": "images", "path": str(folder)}, views)


def write_overlap(
    root: Path,
    references: Sequence[Sample],
    samples: Sequence[Sample],
    found: Sequence[Sequence[Match]],
    size: int = 10,
    views: int = 1,
) -> str:
    """`root`/overlap with all that it names: coco/ and coco_embeddings/, raw/ and embeddings/. Returns its path."""
    write_folder(root / "coco", root / "coco_embeddings", references, views)
    shards = write_shards(root / "raw", root / "embeddings", samples, size)
    rows = [
        {
            "reference_key": reference.key,
            "rank": rank,
            "uid": samples[match.sample].key,
            "shard": shards[match.sample],
            "similarity": match.similarity,
            "phash_distance": match.phash_distance,
            "reference_view": match.view,
        }
        for reference, neighbours in sorted(zip(references, found, strict=True))
        for rank, match in enumerate(neighbours, 1)
    ]
    table = pa.Table.from_pylist(rows, pa.schema(MATCH_FIELDS))
    return write_matches(root, table, len(references), len(samples), max(map(len, found), default=0), views)


def write_matches(root: Path, table: pa.Table, references: int, samples: int, top_k: int, views: int = 1) -> str:
    overlap = root / "overlap"
    overlap.mkdir()
    pq.write_table(table, overlap / "matches.parquet")
    body = (overlap / "matches.parquet").read_bytes()
    shards, images = {"kind": "shards", "path": str(root / "raw")}, {"kind": "images", "path": str(root / "coco")}
    manifest = {
        "format": 1,
        "kind": "matches",
        "model": MODEL,
        "top_k": top_k,
        "references": references,
        "samples": samples,
        "metric": "cosine",
        "training": {"embeddings": str(root / "embeddings"), "source": shards},
        "reference": {"embeddings": str(root / "coco_embeddings"), "source": images, "views": views},
        "files": {"matches.parquet": {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}},
        "versions": {},
    }
    (overlap / "manifest.json").write_text(json.dumps(manifest))
    return str(overlap)


def similarity(place: int, rank: int, references: int) -> float:
    """From 0.99 downwards, evenly; a rank costs 0.02. Float32, as it stands in the table."""
    return float(np.float32(0.99 - 0.5 * place / references - 0.02 * rank))


def write_tiny(root: Path, references: int = 12, top_k: int = 4, views: int = 1) -> str:
    """Reference `r0007` is the 8th of the page, its neighbours are the samples 7, 8, …; the first pictures are real.

    Of several views the one that matched has the number of the rank, from 0, and of the place.
    """
    bodies = [path.read_bytes() for path in REAL[:references]]
    bodies += [picture(number, 60, 40) for number in range(len(bodies), references)]
    captions = [HOSTILE, None, *(f"reference number {number}" for number in range(2, references))]
    shown = [Sample(f"r{number:04d}", body, captions[number]) for number, body in enumerate(bodies)]
    urls = ["javascript:alert(1)", *(f"https://pictures.example/{number}.jpg" for number in range(1, references))]
    samples = [
        Sample(f"{number:032x}", body, f"a sample called {number}", urls[number]) for number, body in enumerate(bodies)
    ]
    found = [
        [
            Match(
                (place + rank) % references,
                similarity(place, rank, references),
                distance(place, rank),
                (place + rank) % views,
            )
            for rank in range(top_k)
        ]
        for place in range(references)
    ]
    return write_overlap(root, shown, samples, found, views=views)


def distance(place: int, rank: int) -> int | None:
    return None if place == 2 else (3 * rank + place) % 64
