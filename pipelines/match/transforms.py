"""The wiring of `gesso match` and `gesso repeats` in Beam: searches in committed parts, and hashes that are grouped.

Embeddings never cross a shuffle: what is combined or grouped is slots of fixed size, hashes and uids.
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
from gesso.dataset.embeddings import Embeddings, Pictures, Portion, portions
from gesso.dataset.layout import rows_name
from gesso.dataset.progress import Note
from gesso.dataset.records import SUCCESS
from gesso.dedup import matches, nearest, repeats
from gesso.errors import UserError
from gesso.pipelines.match import parts

PORTIONS = 4  # of a part of a match at least: 65,536 rows
MOST_PARTS = 1000  # of a match: each holds the slots of every reference
HASH_COLUMNS = ["key", "status", "sha256"]

Drop = tuple[str, str]  # a uid to drop, the uid that stays


def match_parts(training: Embeddings) -> list[list[Portion]]:
    """The training embeddings cut into the parts that are committed one by one."""
    every = list(portions(training.blocks))
    size = max(PORTIONS, -(-len(every) // MOST_PARTS))
    return [every[start : start + size] for start in range(0, len(every), size)]


def commit_part(output: str, index: int, find: Callable[[Callable[[int], None]], parts.Array]) -> parts.Array:
    """What `find` finds, committed; it is handed a function to tell how many items it has done."""
    counts, started = Counter[str](), time()
    note = Note(output, index, counts)

    def done(items: int) -> None:
        counts["done"] += items
        note.write()

    found = find(done)
    parts.write(output, index, found, counts.total(), started, time())
    note.remove()
    return found


class SearchParts(beam.DoFn):
    """Numbered parts of the training embeddings → the references' nearest neighbours in each.

    A part that is committed already is read. The references are read once a process.
    """

    def __init__(self, output: str, training: Embeddings, reference: Embeddings, top_k: int, done: set[int]) -> None:
        self._output, self._training, self._top_k, self._done = output, training, top_k, done
        self._read: Callable[[], Pictures] = partial(matches.read_references, reference)
        self._shared = Shared()

    def setup(self) -> None:
        self._queries = self._shared.acquire(lambda: Held(self._read())).value

    def process(self, element: tuple[int, list[Portion]]) -> Iterator[nearest.Slots]:
        index, part = element
        if index in self._done:
            yield parts.read(self._output, index)
            return
        search = partial(matches.search_part, self._queries, self._training, part, self._top_k)
        yield commit_part(self._output, index, search)


class Held:
    """A value that can be shared: Beam keeps a weak reference to it, which a tuple cannot have."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Nearest(beam.CombineFn):
    """Merges slots (Q, k): one accumulator of fixed size, exact, in any order."""

    def __init__(self, references: int, top_k: int) -> None:
        self._shape = (references, top_k)

    def create_accumulator(self) -> nearest.Slots:
        return nearest.empty(self._shape)

    def add_input(self, found: nearest.Slots, more: nearest.Slots) -> nearest.Slots:
        return nearest.merge(found, more, self._shape[1])

    def merge_accumulators(self, accumulators: Iterable[nearest.Slots]) -> nearest.Slots:
        result = self.create_accumulator()
        for found in accumulators:
            result = self.add_input(result, found)
        return result

    def extract_output(self, found: nearest.Slots) -> nearest.Slots:
        return found


def missing_tiles(output: str, embeddings: Embeddings) -> list[int]:
    done = manifest.committed(output)
    return [index for index, _ in enumerate(portions(embeddings.blocks)) if index not in done]


class FindPairs(beam.DoFn):
    """Numbers of tiles → the numbers of those whose similar pairs are committed."""

    def __init__(self, output: str, embeddings: Embeddings, near: float) -> None:
        self._output, self._embeddings, self._near = output, embeddings, near

    def process(self, index: int) -> Iterator[int]:
        tiles = list(portions(self._embeddings.blocks))
        commit_part(self._output, index, partial(repeats.pairs_of_tile, self._embeddings, tiles, index, self._near))
        yield index


def read_hashes(shards: str, index: int) -> Iterator[tuple[bytes, str]]:
    """The content hash and the uid of each kept sample of a shard. Raises UserError where one has no hash."""
    path = storage.join(shards, rows_name(index))
    with storage.open_input(path) as stream:
        table = pq.read_table(stream, columns=HASH_COLUMNS)
    if table.column_names != HASH_COLUMNS:
        raise UserError(f"{path} lacks one of the columns {', '.join(HASH_COLUMNS)}: repeats cannot be told")
    for key, status, sha256 in zip(*(table[name].to_pylist() for name in HASH_COLUMNS), strict=True):
        if status != SUCCESS:
            continue
        if not sha256:
            raise UserError(f"{path} has no sha256 for the sample {key}: collect it anew with hashes")
        yield bytes.fromhex(sha256), key


class DropRepeats(beam.DoFn):
    """Samples of one content each → the drops among them, a list for a bundle: the smallest uid stays."""

    def start_bundle(self) -> None:
        self._drops: list[Drop] = []

    def process(self, group: tuple[bytes, Iterable[str]]) -> None:
        first, *others = sorted(group[1])
        self._drops += [(uid, first) for uid in others]

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        yield WindowedValue(self._drops, window.max_timestamp(), [window])


def write_exact(path: str, lists: Iterable[list[Drop]]) -> None:
    every = [drop for drops in lists for drop in drops]
    table = repeats.drop_table([uid for uid, _ in every], [of for _, of in every], repeats.EXACT, None)
    parts.write_table(path, table)
