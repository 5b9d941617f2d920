"""Small overlaps, decisions and repeats for tests, in the form that match, review and repeats leave."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.schemas import DROP_FIELDS, MATCH_FIELDS
from gesso.dedup import decision, overlap
from gesso.dedup.decision import Decision, Override

MODEL = {"name": "detector", "pretrained": None, "sha256": "a" * 64, "image_size": 64, "dimension": 8}
WHO, WHEN = "Ada", "2026-11-24T12:00:00+00:00"

Pair = tuple[str, str, float]  # reference, training sample, similarity


def write_overlap(folder: Path, shards: str, pairs: Sequence[Pair]) -> str:
    """An overlap without a decision; the pairs in the order of their references and ranks."""
    rank: dict[str, int] = {}
    rows = []
    for reference, key, similarity in pairs:
        rank[reference] = rank.get(reference, 0) + 1
        row = {"reference_key": reference, "rank": rank[reference], "uid": key, "similarity": similarity}
        rows.append({**row, "shard": 0, "phash_distance": None, "reference_view": 0})
    storage.make_parent(str(folder / "matches.parquet"))
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(MATCH_FIELDS)), folder / "matches.parquet")
    source = {"kind": "shards", "path": str(Path(shards).resolve())}
    reference = {"kind": "images", "path": "/coco/val2014"}
    manifest = {
        "format": 1,
        "kind": "matches",
        "model": MODEL,
        "top_k": max(rank.values(), default=1),
        "references": len(rank),
        "samples": len(pairs),
        "metric": "cosine",
        "training": {"embeddings": "/embeddings", "source": source},
        "reference": {"embeddings": "/coco/embeddings", "source": reference},
        "files": {"matches.parquet": summary(folder / "matches.parquet")},
        "versions": {},
    }
    storage.write_json(str(folder / "manifest.json"), manifest)
    return str(folder)


def decide(folder: str, threshold: float, overrides: Sequence[Override] = (), **changes: Any) -> None:
    """A person's decision on an overlap."""
    found = overlap.read(folder)
    fields = {"who": WHO, "when": WHEN, "model": found.model, "matches_sha256": found.sha256, **changes}
    decision.write(f"{folder}/decision.json", Decision(threshold, tuple(sorted(overrides)), **fields))


def write_repeats(folder: Path, shards: str, exact: Sequence[str], near: Sequence[str] | None = None) -> str:
    """Drop lists of repeats within the shards."""
    storage.make_parent(str(folder / "exact.parquet"))
    lists = {"exact": exact} if near is None else {"exact": exact, "near": near}
    for name, keys in lists.items():
        rows = [{"uid": key, "reason": f"repeat_{name}", "of": "0" * 32, "similarity": None} for key in sorted(keys)]
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(DROP_FIELDS)), folder / f"{name}.parquet")
    entries = {f"{name}.parquet": summary(folder / f"{name}.parquet") for name in lists}
    manifest = {"format": 1, "kind": "repeats", "shards": str(Path(shards).resolve()), "files": entries}
    storage.write_json(str(folder / "manifest.json"), manifest)
    return str(folder)


def summary(path: Path) -> dict[str, Any]:
    body = path.read_bytes()
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
