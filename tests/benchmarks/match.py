"""Exactness, speed and memory of `gesso match`: `python tests/benchmarks/match.py`.

1. Its search against brute force in float64, bit for bit, on 50,000 training and 5,000 reference embeddings.
2. Its rate against numpy's own matrix product of the same float32 arrays, and against faiss.IndexFlatIP, which finds
   the same candidates without settling them; each the best of some rounds, in turn.
3. Peak memory of the whole command while the training embeddings grow, 1,000 references.

The embeddings are float16 of 512 dimensions around 2,000 centres; each fifth nearly repeats the one before it, and each
hundredth repeats it exactly.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gesso.dataset.layout import embedding_name, metadata_name
from gesso.dataset.schemas import METADATA_FIELDS

Array = npt.NDArray[Any]

DIMENSION, CENTRES, TOP_K = 512, 2000, 8
BLOCK = 10_000  # embeddings in a file
REFERENCES = 1000  # of the memory table
# Set on some machines for the sake of old OpenBLAS builds: they slow numpy, which is the yardstick here.
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


class Run(NamedTuple):
    """What one whole command came to."""

    embeddings: int
    seconds: float
    peak: float  # MiB, of its largest process


def clustered(count: int, seed: int) -> Array:
    """Unit vectors as float16, (count, DIMENSION)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIMENSION), np.float32)
    vectors = centres[rng.integers(0, CENTRES, count)] + 0.5 * rng.standard_normal((count, DIMENSION), np.float32)
    repeats = vectors[3::5][: len(vectors[4::5])]
    vectors[4::5] = repeats + 0.02 * rng.standard_normal(repeats.shape, np.float32)
    vectors[1::100] = vectors[::100][: len(vectors[1::100])]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def keys(start: int, count: int) -> list[str]:
    return [hashlib.blake2b(number.to_bytes(8), digest_size=16).hexdigest() for number in range(start, start + count)]


def write_block(folder: Path, index: int, vectors: Array) -> dict[str, Any]:
    """A block and its metadata; its entry in the manifest."""
    count, start = len(vectors), index * BLOCK
    names = (embedding_name(index), metadata_name(index))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / names[0], vectors)
    columns = {field.name: pa.nulls(count, field.type) for field in METADATA_FIELDS}
    columns |= {"key": keys(start, count), "image_path": count * [""], "shard": pa.array(count * [index], pa.int32())}
    columns["phash"] = [f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for number in range(start, start + count)]
    pq.write_table(pa.table(columns, pa.schema(METADATA_FIELDS)), folder / names[1])
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": ""} for name in names}
    return {"index": index, "count": count, "successes": count, "files": files}


def write_manifest(folder: Path, entries: list[dict[str, Any]]) -> None:
    model = {"name": "drawn", "pretrained": None, "sha256": "", "image_size": 224, "dimension": DIMENSION}
    source = {"kind": "shards", "path": "/drawn"}
    manifest = {"format": 1, "kind": "embeddings", "model": model, "source": source, "shards": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_directory(folder: Path, vectors: Array) -> None:
    starts = range(0, len(vectors), BLOCK)
    entries = [write_block(folder, start // BLOCK, vectors[start : start + BLOCK]) for start in starts]
    write_manifest(folder, entries)


def extend(folder: Path, blocks: int, to: int, drawn: Array) -> None:
    """A directory of `blocks` blocks becomes one of `to`: drawn vectors again, their dimensions turned round."""
    entries = json.loads((folder / "manifest.json").read_text())["shards"] if blocks else []
    for index in range(blocks, to):
        entries.append(write_block(folder, index, np.roll(drawn, index % DIMENSION, axis=1)))
    write_manifest(folder, entries)


def brute_force(queries: Array, training: Array, keys: Array) -> tuple[Array, Array]:
    """The nearest by float64 products, rounded once: similarities and keys, (Q, TOP_K)."""
    similarity, key = [], []
    for start in range(0, len(queries), 250):
        every = (queries[start : start + 250].astype(np.float64) @ training.T).astype(np.float32)
        # All that ties with the k-th comes along.
        bar = np.partition(every, -TOP_K, axis=1)[:, -TOP_K, None]
        for row, least in zip(every, bar, strict=True):
            near = np.flatnonzero(row >= least)
            best = near[np.lexsort((keys[near], -row[near]))][:TOP_K]
            similarity.append(row[best])
            key.append(keys[best])
    return np.array(similarity), np.array(key)


def read(folder: Path) -> Any:
    from gesso.dataset.embeddings import open_embeddings
    from gesso.dedup.matches import read_references

    opened = open_embeddings(str(folder))
    return opened, read_references(opened)


def check_exact(folder: Path, training: Array, references: Array) -> Callable[[], Any]:
    """Compares the search with brute force, prints what it found, and gives the search to be timed."""
    from gesso.dataset.embeddings import chunks
    from gesso.dedup.matches import search_part

    write_directory(folder / "training", training)
    write_directory(folder / "references", references)
    opened, _ = read(folder / "training")
    _, queries = read(folder / "references")
    search = partial(search_part, queries, opened, list(chunks(opened.blocks)), TOP_K, lambda rows: None)
    found = search()
    similarity, key = brute_force(references, training.astype(np.float64), opened.keys())
    same = (found["uid"] == key).all() and (found["similarity"].view(np.uint32) == similarity.view(np.uint32)).all()
    ties = (np.diff(similarity, axis=1) == 0).any(axis=1).sum()
    print(f"{len(training):,} × {len(references):,}: {TOP_K} nearest, {ties:,} references with ties among them")
    print(f"keys and similarities equal to brute force in float64, bit for bit: {'yes' if same else 'NO'}")
    if not same:
        sys.exit(1)
    return search


def rates(search: Callable[[], Any], training: Array, references: Array, rounds: int) -> None:
    import faiss

    single, queries = training.astype(np.float32), references.astype(np.float32)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(single)
    starts = range(0, len(single), 1 << 14)
    work: dict[str, Callable[[], Any]] = {
        "numpy: the products alone": lambda: [queries @ single[start : start + (1 << 14)].T for start in starts],
        "faiss.IndexFlatIP: float32, not settled": lambda: index.search(queries, TOP_K),
        "gesso match: read, search, settle, merge": search,
    }
    best = dict.fromkeys(work, np.full(2, np.inf))
    for _ in range(rounds):
        for name, run in work.items():
            best[name] = np.minimum(best[name], cost(run))
    operations = 2e-9 * len(training) * len(references) * DIMENSION
    yardstick = best["numpy: the products alone"]
    print(f"\n{'':42} {'seconds':>8} {'CPU s':>6} {'GFLOP/s':>8} {'of numpy':>9} {'by CPU s':>9}")
    for name, (seconds, cpu) in best.items():
        ratio, by_cpu = yardstick / best[name]
        print(f"{name:42} {seconds:8.2f} {cpu:6.2f} {operations / seconds:8.0f} {ratio:9.0%} {by_cpu:9.0%}")


def cost(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and CPU seconds; the second says more where the machine is shared."""
    begun, cpu = perf_counter(), process_time()
    run()
    return perf_counter() - begun, process_time() - cpu


def measure(folder: Path, embeddings: int) -> Run:
    output = folder / f"overlap-{embeddings}"
    sides = ["--embeddings", str(folder / "growing"), "--reference", str(folder / "few"), "--output", str(output)]
    begun = perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "gesso", "match", *sides], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"gesso match failed:\n{(folder / 'log').read_text()[-2000:]}")
    return Run(embeddings, perf_counter() - begun, usage.ru_maxrss / 1024)


def memory(folder: Path, sizes: list[int]) -> None:
    write_directory(folder / "few", clustered(REFERENCES, 2))
    drawn, blocks = clustered(BLOCK, 3), 0
    print(f"\nthe whole command, {REFERENCES:,} references\n{'embeddings':>12} {'seconds':>8} {'peak MiB':>9}")
    for size in sizes:
        (folder / "growing").mkdir(exist_ok=True)
        extend(folder / "growing", blocks, size // BLOCK, drawn)
        blocks = size // BLOCK
        run = measure(folder, size)
        print(f"{run.embeddings:12,} {run.seconds:8.1f} {run.peak:9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", type=int, default=50_000)
    parser.add_argument("--references", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    sizes = [100_000, 1_000_000, 5_000_000]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes, help="of the memory table; 5 million take 6 GB")
    given = parser.parse_args()
    if any(name in os.environ for name in SLOWING):
        fast = {name: value for name, value in os.environ.items() if name not in SLOWING}
        os.execve(sys.executable, [sys.executable, *sys.argv], fast)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory(folder, given.sizes)  # first: a child's peak is at least what its parent held at the fork
        training, references = clustered(given.training, 0), clustered(given.references, 1)
        search = check_exact(folder, training, references)
        rates(search, training, references, given.rounds)


if __name__ == "__main__":
    main()
