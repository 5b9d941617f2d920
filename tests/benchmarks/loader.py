"""The loader against webdataset and torchdata on the same shards: `python tests/benchmarks/loader.py`.

An export of photographs of 512×384, as `gesso export` writes it, and one function that makes a view by listing 1 of a
JPEG, with each tool's best way of calling it: as many threads or processes each, batches of the same size, the same
cores. torchdata has no way to read tars at random: it is given our index of byte ranges. Tools take turns; the table
has the medians of an epoch each: seconds to the first batch, from nothing, index and processes included; images a
second of all of it; and of what follows the first batch, when those who make a batch a worker have another one ready.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torchdata.nodes as nodes
import webdataset as wds
from collect import HERE, photographs
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

sys.path.insert(0, str(HERE.parents[2]))
from gesso import storage
from gesso.storage import Range, join
from gesso.training.data.loader import Loader
from gesso.training.data.randomness import random_of
from gesso.training.data.samples import decode
from gesso.training.data.split import PLACE, open_split
from gesso.training.data.views import dvae_view
from tests.exports import write_export

Pixels = torch.Tensor  # (b, size, size, 3) uint8
Place = tuple[str, Range]  # key, and where the JPEG stands


class Case(NamedTuple):
    """What a tool is asked for."""

    export: str
    size: int
    batch_size: int
    workers: int


class Run(NamedTuple):
    """One epoch of one tool."""

    first: float  # seconds to the first batch
    whole: float  # images/s, the start included
    steady: float  # images/s behind the first batch


def view(size: int, key: str, body: bytes) -> np.ndarray:
    """What every tool calls for a sample."""
    return dvae_view(decode(body, size), size, random_of("augment", 0, 0, key))


def stacked(views: list[np.ndarray]) -> Pixels:
    return torch.from_numpy(np.stack(views))


def gesso(case: Case) -> Iterator[Pixels]:
    split = open_split(case.export, "train")
    with closing(Loader(split, case.size, 0, case.batch_size, threads=case.workers)) as loader:
        for batch in islice(loader, split.samples // case.batch_size):
            yield batch.pixels


def webdataset(case: Case) -> Iterator[Pixels]:
    """Shards and a buffer of samples shuffled; batches made and stacked by the processes."""
    split = open_split(case.export, "train")
    urls = [split.tar(shard) for shard in split.shards]

    def of(sample: dict[str, Any]) -> np.ndarray:
        return view(case.size, sample["__key__"], sample["jpg"])

    dataset = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000).map(of)
    batches = dataset.batched(case.batch_size, collation_fn=stacked, partial=False)
    yield from DataLoader(batches, batch_size=None, num_workers=case.workers, worker_init_fn=alone)


def places(case: Case) -> list[Place]:
    split, found = open_split(case.export, "train"), list[Place]()
    for shard in split.shards:
        keys, *ranges = (split.rows(shard, PLACE)[name].to_pylist() for name in PLACE)
        found += [(key, Range(split.tar(shard), *place)) for key, *place in zip(keys, *ranges, strict=True)]
    return found


def read(size: int, group: list[Place]) -> list[np.ndarray]:
    bodies = storage.read_ranges([place for _, place in group])
    return [view(size, key, body) for (key, _), body in zip(group, bodies, strict=True)]


def torchdata_nodes(case: Case) -> Iterator[Pixels]:
    """Threads that take a whole batch at a time, which costs fewer hand-overs than a sample."""
    found = places(case)
    order = np.random.default_rng(0).permutation(len(found)).tolist()
    groups = nodes.Batcher(nodes.IterableWrapper([found[row] for row in order]), case.batch_size, drop_last=True)
    yield from nodes.Loader(
        nodes.ParallelMapper(groups, lambda group: stacked(read(case.size, group)), num_workers=case.workers)
    )


class Indexed:
    """A map-style data set that gives a batch at once."""

    def __init__(self, case: Case) -> None:
        self._size, self._places = case.size, places(case)

    def __len__(self) -> int:
        return len(self._places)

    def __getitems__(self, rows: list[int]) -> list[np.ndarray]:
        return read(self._size, [self._places[row] for row in rows])


def torchdata_stateful(case: Case) -> Iterator[Pixels]:
    """Processes, as PyTorch's own DataLoader."""
    yield from StatefulDataLoader(
        Indexed(case),
        batch_size=case.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=case.workers,
        collate_fn=stacked,
        worker_init_fn=alone,
    )


def alone(_: int) -> None:
    """A process is one core's."""
    cv2.setNumThreads(1)


TOOLS: dict[str, Callable[[Case], Iterator[Pixels]]] = {
    "gesso": gesso,
    "webdataset": webdataset,
    "torchdata nodes": torchdata_nodes,
    "torchdata StatefulDataLoader": torchdata_stateful,
}


def measure(tool: Callable[[Case], Iterator[Pixels]], case: Case) -> Run:
    """An epoch; what is left over for a last batch is left out by all."""
    begun = perf_counter()
    arrived = [perf_counter() for batch in tool(case) if len(batch) == case.batch_size]
    rates = (len(arrived) / (arrived[-1] - begun), (len(arrived) - 1) / (arrived[-1] - arrived[0]))
    return Run(arrived[0] - begun, *(case.batch_size * rate for rate in rates))


def show(case: Case, runs: dict[str, list[Run]]) -> None:
    """A line for each tool, and ours over the faster of theirs."""
    medians = {name: Run(*map(median, zip(*each, strict=True))) for name, each in runs.items()}
    for name, run in medians.items():
        print(f"{case.size:>4} {name:30} {run.first:12.2f} {run.whole:14,.0f} {run.steady:14,.0f}")
    ours = medians.pop("gesso")
    whole, steady = (max(run[column] for run in medians.values()) for column in (1, 2))
    print(f"{case.size:>4} gesso / fastest: {ours.whole / whole:.2f} whole, {ours.steady / steady:.2f} after it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--shard_size", type=int, default=250)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads or processes of each tool")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    bodies = photographs(given.data)
    with tempfile.TemporaryDirectory() as name:
        take = partial(lambda bodies, number: bodies[number % len(bodies)], bodies)
        export = write_export(Path(name) / "clean", (given.samples, 1), given.shard_size, take)
        size = sum(storage.sizes(join(export, "train")).values())
        print(f"{given.samples:,} of {len(bodies)} photographs, {size / 1e6:,.0f} MB; {given.workers} workers")
        print(f"size {'tool':30} {'first, s':>12} {'whole, img/s':>14} {'after it':>14}")
        for case in (Case(export, size, given.batch_size, given.workers) for size in given.sizes):
            runs: dict[str, list[Run]] = {tool: [] for tool in TOOLS}
            for turn in range(given.rounds):
                for tool in list(TOOLS)[:: 1 if turn % 2 == 0 else -1]:
                    runs[tool].append(measure(TOOLS[tool], case))
            show(case, runs)


if __name__ == "__main__":
    main()
