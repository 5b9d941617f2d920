"""Our loader of tokens against PyTorch's own DataLoader on the same files: `python tests/benchmarks/token_loader.py`.

Tokens as `gesso encode` writes them, with real captions in eleven languages. PyTorch's data set maps the arrays into
memory, holds all captions, takes a random view, and tokenises by Hugging Face's `tokenizers`: with its own dropout,
which cannot be seeded and drops less, and without. As many threads or processes each, batches of the same size, the
same cores; ours without dropout, too. Tools take turns; the table has medians: seconds to the first batch, index and
processes included; samples a second behind it; and the processor's microseconds a sample, of all processes.
"""

import argparse
import os
import resource
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

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pyarrow.parquet as pq
import tokenizers
import torch
from torch.utils.data import DataLoader

from gesso.training.data.token_loader import TokenLoader, sequential_tokens
from gesso.training.data.token_split import open_token_split
from gesso.training.tokenizer import bpe
from gesso.training.tokenizer.settings import DROPOUT, FILE
from tests.captions import real
from tests.tokens import write_tokens


class Case(NamedTuple):
    """What a tool is asked for."""

    tokens: str
    tokenizer: str  # folder
    text: int  # positions
    batch_size: int
    workers: int


class Run(NamedTuple):
    """One epoch of one tool."""

    first: float  # seconds to the first batch
    rate: float  # samples/s behind it
    processor: float  # µs a sample


def shuffled(case: Case) -> Iterator[int]:
    split, tokenizer = open_token_split(case.tokens, "train"), bpe.Tokenizer.open(case.tokenizer)
    with closing(TokenLoader(split, tokenizer, case.text, 0, case.batch_size, threads=case.workers)) as loader:
        for batch in islice(loader, split.samples // case.batch_size):
            yield len(batch.text)


def in_order(case: Case) -> Iterator[int]:
    split, tokenizer = open_token_split(case.tokens, "train"), bpe.Tokenizer.open(case.tokenizer)
    how: dict[str, Any] = {"threads": case.workers, "batch_size": case.batch_size}
    for batch in sequential_tokens(split, tokenizer, case.text, **how):
        yield len(batch.text)


class Mapped:
    """A map-style data set of the same files."""

    def __init__(self, case: Case, dropout: float | None) -> None:
        rows = {path: pq.read_table(path) for path in sorted(Path(case.tokens, "train").glob("*.parquet"))}
        self._arrays = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path, table in rows.items() if len(table)]
        self._captions = [text for table in rows.values() for text in table["caption"].to_pylist()]
        self._starts = np.cumsum([0, *map(len, self._arrays)])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(Path(case.tokenizer, FILE)))
        self._tokenizer.model.dropout = dropout
        self._first, self._text = self._tokenizer.get_vocab_size() - 256, case.text

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = np.arange(self._first, self._first + self._text)
        found = self._tokenizer.encode(self._captions[number]).ids[: self._text - 1]
        ids[1 : 1 + len(found)] = found
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        views = self._arrays[shard][number - self._starts[shard]]
        codes = views[torch.randint(len(views), ()).item()].astype(np.int64).ravel()
        return torch.from_numpy(ids), torch.from_numpy(codes)


def pytorch(dropout: float | None, case: Case) -> Iterator[int]:
    how: dict[str, Any] = {"shuffle": True, "drop_last": True, "num_workers": case.workers}
    for text, _ in DataLoader(Mapped(case, dropout), case.batch_size, **how):
        yield len(text)


TOOLS: dict[str, Callable[[Case], Iterator[int]]] = {
    "gesso, dropout": shuffled,
    "gesso, in order, no dropout": in_order,
    "DataLoader, dropout": partial(pytorch, DROPOUT),
    "DataLoader, no dropout": partial(pytorch, None),
}


def processor_seconds() -> float:
    """Of this process and of those that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(tool: Callable[[Case], Iterator[int]], case: Case) -> Run:
    """An epoch of whole batches."""
    begun, used = perf_counter(), processor_seconds()
    arrived = [perf_counter() for count in tool(case) if count == case.batch_size]
    samples = len(arrived) * case.batch_size
    rate = (samples - case.batch_size) / (arrived[-1] - arrived[0])
    return Run(arrived[0] - begun, rate, 1e6 * (processor_seconds() - used) / samples)


def runs_of(case: Case, rounds: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {tool: [] for tool in TOOLS}
    for turn in range(rounds):
        for tool in list(TOOLS)[:: 1 if turn % 2 == 0 else -1]:
            runs[tool].append(measure(TOOLS[tool], case))
    return runs


def show(runs: dict[str, list[Run]]) -> None:
    print(f"{'':28} {'first, s':>10} {'samples/s':>12} {'µs each':>10}")
    for tool, each in runs.items():
        first, rate, processor = map(median, zip(*each, strict=True))
        print(f"{tool:28} {first:10.2f} {rate:12,.0f} {processor:10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--shard_size", type=int, default=5000)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--text", type=int, default=256, help="text positions")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each tool")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    captions = real()
    if not captions:
        parser.error("there are no shared captions beside this checkout")

    def caption(number: int) -> str:
        return captions[number % len(captions)]

    with tempfile.TemporaryDirectory() as name:
        Path(name, FILE).write_text(bpe.train(captions, 16_384))
        counts, codes = (given.samples, 1), (given.views, 32, 8192)
        tokens = write_tokens(Path(name) / "tokens", counts, given.shard_size, *codes, caption)
        runs = runs_of(Case(tokens, name, given.text, given.batch_size, given.workers), given.rounds)
    print(f"{given.samples:,} samples, {given.text} text positions, 32×32 codes; {given.workers} workers")
    show(runs)


if __name__ == "__main__":
    main()
