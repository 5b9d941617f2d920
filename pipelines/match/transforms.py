"""The wiring of `gesso match` and `gesso repeats` in Beam: searches in committed parts, grouping by content hash.

Embeddings never cross a shuffle: only top-k neighbours, hashes and keys are combined or grouped.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import time
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from gesso import storage
from gesso.dataset import manifest
from gesso.dataset.embeddings import Chunk, Embeddings, Pictures, chunks
from gesso.dataset.layout import rows_name
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import SUCCESS
from gesso.dedup import matches, nearest, repeats
from gesso.errors import UserError
from gesso.pipelines.match import parts

CHUNKS_PER_PART = 4  # at least: 65,536 rows
MAX_PARTS = 1000  # of a match: each has top-k neighbours of every reference
HASH_COLUMNS = ["key", "status", "sha256"]

Drop = tuple[str, str]  # the key to drop, the key that is kept


def match_parts(training: Embeddings) -> list[list[Chunk]]:
    """The training embeddings split into the parts that are committed one by one."""
    all_chunks = list(chunks(training.blocks))
    size = max(CHUNKS_PER_PART, -(-len(all_chunks) // MAX_PARTS))
    return [all_chunks[start : start + size] for start in range(0, len(all_chunks), size)]


def commit_part(
    output: str, index: int, find: Callable[[Callable[[int], None]], parts.Array], left_out: Counter[str]
) -> parts.Array:
    """Commits and returns the result of `find`, which is passed a function to call with the number of items done."""
    counts, started = Counter[str](), time()
    progress_file = ProgressFile(output, index, counts)

    def advance(items: int) -> None:
        counts["done"] += items
        progress_file.write()

    found = find(advance)
    parts.write_part(output, index, found, counts.total(), dict(left_out), started, time())
    progress_file.remove()
    return found


class SearchParts(beam.DoFn):
    """Numbered parts of the training embeddings → the nearest neighbours in each of every view of the references.

    A part that is committed already is read from disk. The references are read once in a process.
    """

    def __init__(self, output: str, training: Embeddings, reference: Embeddings, top_k: int, advance: set[int]) -> None:
        self._output, self._training, self._top_k, self._done = output, training, top_k, advance
        self._read: Callable[[], Pictures] = partial(matches.read_references, reference)
        self._shared = Shared()

    def setup(self) -> None:
        self._queries = self._shared.acquire(lambda: Shareable(self._read())).value

    def process(self, element: tuple[int, list[Chunk]]) -> Iterator[nearest.Neighbours]:
        index, part = element
        if index in self._done:
            yield parts.read_part(self._output, index)
            return
        search = partial(matches.search_part, self._queries, self._training, part, self._top_k)
        left_out = sum(map(self._training.left_out, part), Counter[str]())
        yield commit_part(self._output, index, search, left_out)


class Shareable:
    """Wraps a value for Beam's Shared, which keeps a weak reference: a tuple cannot have one."""

    def __init__(self, value: Any) -> None:
        self.value = value


class MergeNearest(beam.CombineFn):
    """Merges neighbours (Q, k): the accumulator has a fixed size, the result is exact in any order."""

    def __init__(self, queries: int, top_k: int) -> None:
        self._shape = (queries, top_k)

    def create_accumulator(self) -> nearest.Neighbours:
        return nearest.empty(self._shape)

    def add_input(self, found: nearest.Neighbours, other: nearest.Neighbours) -> nearest.Neighbours:
        return nearest.merge(found, other, self._shape[1])

    def merge_accumulators(self, accumulators: Iterable[nearest.Neighbours]) -> nearest.Neighbours:
        result = self.create_accumulator()
        for found in accumulators:
            result = self.add_input(result, found)
        return result

    def extract_output(self, found: nearest.Neighbours) -> nearest.Neighbours:
        return found


def missing_tiles(output: str, embeddings: Embeddings) -> list[int]:
    advance = manifest.committed(output)
    return [index for index, _ in enumerate(chunks(embeddings.blocks)) if index not in advance]


class FindPairs(beam.DoFn):
    """Tile numbers → the same numbers, when the tiles' similar pairs are committed."""

    def __init__(self, output: str, embeddings: Embeddings, near: float) -> None:
        self._output, self._embeddings, self._near = output, embeddings, near

    def process(self, index: int) -> Iterator[int]:
        tiles = list(chunks(self._embeddings.blocks))
        find = partial(repeats.pairs_of_tile, self._embeddings, tiles, index, self._near)
        commit_part(self._output, index, find, self._embeddings.left_out(tiles[index]))
        yield index


def read_hashes(shards: str, index: int) -> Iterator[tuple[bytes, str]]:
    """The content hash and the key of each kept sample of a shard. Raises UserError where one has no hash."""
    path = storage.join(shards, rows_name(index))
    with storage.open_input(path) as stream:
        table = pq.read_table(stream, columns=HASH_COLUMNS)
    if table.column_names != HASH_COLUMNS:
        raise UserError(
            f"{path} lacks one of the columns {', '.join(HASH_COLUMNS)}: repeats cannot be found without them"
        )
    for key, status, sha256 in zip(*(table[name].to_pylist() for name in HASH_COLUMNS), strict=True):
        if status != SUCCESS:
            continue
        if not sha256:
            raise UserError(f"{path} has no sha256 for the sample {key}: collect it again with hashes")
        yield bytes.fromhex(sha256), key


class FindDrops(beam.DoFn):
    """Groups of samples with the same content → drops, a list for each bundle; the smallest key is kept."""

    def start_bundle(self) -> None:
        self._drops: list[Drop] = []

    def process(self, group: tuple[bytes, Iterable[str]]) -> None:
        first, *others = sorted(group[1])
        self._drops += [(key, first) for key in others]

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        yield WindowedValue(self._drops, window.max_timestamp(), [window])


def write_exact(path: str, lists: Iterable[list[Drop]]) -> None:
    all_chunks = [drop for drops in lists for drop in drops]
    table = repeats.drop_table([key for key, _ in all_chunks], [of for _, of in all_chunks], repeats.EXACT, None)
    parts.write_table(path, table)
