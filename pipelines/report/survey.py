"""Statistics of all rows of a dataset: counts, histograms, examples, in bounded memory. No Beam, no pictures.

00000.parquet … ─ batches of COLUMNS ─▶ Survey.add ─▶ Survey
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.img2dataset import reason_of_message
from gesso.dataset.records import FAILED_TO_DOWNLOAD, SUCCESS
from gesso.errors import UserError

Numbers = npt.NDArray[np.float64]
Row = dict[str, Any]

BATCH = 65_536  # rows
HOSTS, WORDS, CAPTIONS = 500_000, 500_000, 250_000  # distinct keys that are counted at a time
EXAMPLES = 6  # examples of each reason, and of cleaned captions
HOST = r"^\s*[A-Za-z]+://(?:[^/?#]*@)?(?P<host>\[[^\]]*\]|[^/:?#\s]+)"
NO_WORD = r"[^\p{L}\p{M}\p{N}'’]+"
TEXT = ("key", "url", "caption", "original_caption", "status", "reason", "error_message", "original_format")
NUMBERS = ("width", "height", "original_width", "original_height", "original_bytes")
COLUMNS = {
    **dict.fromkeys(TEXT, pa.string()),
    **dict.fromkeys(NUMBERS, pa.float64()),
    "reencoded": pa.bool_(),
}


@dataclass
class Tally:
    """Counts at most `limit` distinct keys: beyond that the rarer half is dropped.

    Every count is then too low by at most `error`: the sum of the largest counts that were dropped.
    """

    limit: int
    counts: Counter[Any] = field(default_factory=Counter)
    error: int = 0

    def add(self, items: Iterable[tuple[Any, int]]) -> None:
        for key, number in items:
            self.counts[key] += number
        if len(self.counts) > self.limit:
            ordered = self.counts.most_common()
            self.error += ordered[self.limit // 2][1]
            self.counts = Counter(dict(ordered[: self.limit // 2]))


@dataclass
class Histogram:
    """Counts of the values of kept and of other rows in bins of equal width, on a logarithmic scale where `log`."""

    edges: Numbers
    log: bool = False
    kept: npt.NDArray[np.int64] = field(init=False)
    other: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.kept, self.other = (np.zeros(len(self.edges) - 1, np.int64) for _ in range(2))

    def add(self, values: Numbers, kept: npt.NDArray[np.bool_]) -> None:
        """Counts values; those beyond the ends fall into the first or last bin, NaN into none."""
        inside = np.clip(values, self.edges[0], self.edges[-1])
        self.kept += np.histogram(inside[kept & ~np.isnan(values)], self.edges)[0]
        self.other += np.histogram(inside[~kept & ~np.isnan(values)], self.edges)[0]

    @property
    def total(self) -> int:
        return int(self.kept.sum() + self.other.sum())

    def median(self) -> float:
        """The kept values' median, rounded down to the edge of its bin."""
        return float(self.edges[int(np.searchsorted(np.cumsum(self.kept), self.kept.sum() / 2))])


def log_edges(low: int, high: int, steps: int) -> Numbers:
    """Edges from 2^low to 2^high, `steps` in each octave."""
    return np.asarray(2.0 ** (np.arange(low * steps, high * steps + 1) / steps))


@dataclass
class Survey:
    """Statistics of the rows. A row's outcome is `success` or its reason."""

    by_img2dataset: bool
    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    hosts: Tally = field(default_factory=lambda: Tally(HOSTS))  # (host, outcome)
    words: Tally = field(default_factory=lambda: Tally(WORDS))
    captions: Tally = field(default_factory=lambda: Tally(CAPTIONS))
    formats: Counter[str] = field(default_factory=Counter)
    reencoded: Counter[bool] = field(default_factory=Counter)
    downloaded: int = 0  # bytes
    cut: int = 0  # captions that were cleaned
    cut_examples: dict[str, str] = field(default_factory=dict)  # before cleaning: after
    examples: dict[str, list[Row]] = field(default_factory=dict)
    short_side: Histogram = field(default_factory=lambda: Histogram(log_edges(4, 14, 4), log=True))
    kept_side: Histogram = field(default_factory=lambda: Histogram(np.arange(0, 1025, 8.0)))
    bytes: Histogram = field(default_factory=lambda: Histogram(log_edges(8, 26, 2), log=True))
    aspect: Histogram = field(default_factory=lambda: Histogram(log_edges(-3, 3, 8), log=True))
    caption_words: Histogram = field(default_factory=lambda: Histogram(np.arange(0, 62, 1.0)))
    caption_chars: Histogram = field(default_factory=lambda: Histogram(np.arange(0, 411, 10.0)))
    size_edges: Numbers = field(default_factory=lambda: log_edges(4, 14, 4))
    size_map: Numbers = field(default_factory=lambda: np.zeros((40, 40)))  # original width × height

    def add(self, batch: pa.Table) -> None:
        """Counts a batch that has every column of COLUMNS."""
        outcome = self.row_outcomes(batch)
        batch = batch.append_column("outcome", outcome)
        kept = np.asarray(pc.equal(outcome, SUCCESS))
        self.rows += len(batch)
        self.outcomes.update(counts_of(outcome))
        self.add_hosts(batch)
        self.add_sizes(batch, kept)
        self.add_examples(batch)
        self.add_captions(batch.filter(pa.array(kept)))

    def row_outcomes(self, batch: pa.Table) -> pa.ChunkedArray:
        if not self.by_img2dataset:
            return pc.fill_null(batch["reason"], SUCCESS)
        messages = pa.table({"status": batch["status"], "message": batch["error_message"]})
        kinds = messages.group_by(["status", "message"]).aggregate([]).to_pylist()
        outcomes = {(kind["status"], kind["message"]): outcome_of(kind["status"], kind["message"]) for kind in kinds}
        rows = zip(messages["status"].to_pylist(), messages["message"].to_pylist(), strict=True)
        return pa.chunked_array([pa.array([outcomes[row] for row in rows], pa.string())])

    def add_hosts(self, batch: pa.Table) -> None:
        host = pc.utf8_lower(pc.struct_field(pc.extract_regex(batch["url"], HOST), "host"))
        table = pa.table({"host": pc.fill_null(host, ""), "outcome": batch["outcome"]})
        groups = table.group_by(["host", "outcome"]).aggregate([([], "count_all")])
        keys = zip(groups["host"].to_pylist(), groups["outcome"].to_pylist(), strict=True)
        self.hosts.add((key, count) for key, count in zip(keys, groups["count_all"].to_pylist(), strict=True) if key[0])

    def add_sizes(self, batch: pa.Table, kept: npt.NDArray[np.bool_]) -> None:
        number = {name: batch[name].to_numpy() for name in NUMBERS}
        width, height = (
            np.where(np.isnan(number[f"original_{side}"]), number[side], number[f"original_{side}"])
            for side in ("width", "height")
        )
        self.short_side.add(np.minimum(width, height), kept)
        self.aspect.add(width / np.maximum(height, 1), kept)
        self.kept_side.add(np.minimum(number["width"], number["height"]), kept)
        self.bytes.add(number["original_bytes"], kept)
        self.downloaded += int(np.nansum(number["original_bytes"]))
        low, high = self.size_edges[[0, -1]]
        known = ~np.isnan(width)
        across, up = (np.clip(side[known], low, high) for side in (width, height))
        self.size_map += np.histogram2d(across, up, [self.size_edges, self.size_edges])[0]
        self.formats.update(counts_of(batch["original_format"].drop_null()))
        self.reencoded.update(counts_of(batch["reencoded"].drop_null()))

    def add_examples(self, batch: pa.Table) -> None:
        for outcome in counts_of(batch["outcome"]):
            shown = self.examples.setdefault(outcome, [])
            if outcome != SUCCESS and len(shown) < EXAMPLES:
                rows = batch.filter(pc.equal(batch["outcome"], outcome)).slice(0, EXAMPLES - len(shown))
                shown += rows.to_pylist()

    def add_captions(self, kept: pa.Table) -> None:
        was_cut = kept.filter(pc.is_valid(kept["original_caption"]))
        self.cut += len(was_cut)
        for row in was_cut.slice(0, 10 * EXAMPLES).to_pylist():
            before, after = row["original_caption"], row["caption"]
            if len(self.cut_examples) < EXAMPLES and before.split() != after.split():
                self.cut_examples.setdefault(before, after)
        captions = kept["caption"].drop_null()
        plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(captions), NO_WORD, " "))
        words = pc.utf8_split_whitespace(plain.filter(pc.not_equal(plain, "")))
        every = np.ones(len(captions), np.bool_)
        self.caption_chars.add(pc.utf8_length(captions).to_numpy().astype(np.float64), every)
        self.caption_words.add(pc.list_value_length(words).to_numpy().astype(np.float64), every[: len(words)])
        self.words.add(counts_of(pc.list_flatten(words)).items())
        self.captions.add(counts_of(captions).items())


def counts_of(column: pa.ChunkedArray) -> dict[Any, int]:
    """The column's values, each with its count."""
    counted = pc.value_counts(column)
    values, numbers = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return dict(zip(values, numbers, strict=True))


def batches(path: str) -> Iterator[pa.Table]:
    """A shard's rows in batches of bounded size; a column that the file lacks is null."""
    with storage.open_input(path) as stream:
        try:
            rows = pq.ParquetFile(stream)
            present = [name for name in COLUMNS if name in rows.schema_arrow.names]
            for batch in rows.iter_batches(BATCH, columns=present):
                yield with_all_columns(pa.Table.from_batches([batch]))
        except (pa.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} cannot be read ({reason}): `gesso verify` shows what is damaged") from error


def with_all_columns(table: pa.Table) -> pa.Table:
    columns = [
        table[name].cast(kind) if name in table.column_names else pa.chunked_array([pa.nulls(len(table), kind)])
        for name, kind in COLUMNS.items()
    ]
    return pa.table(columns, names=list(COLUMNS))


def outcome_of(status: str | None, message: str | None) -> str:
    """The outcome of a row of img2dataset; its status where no reason is known for the message."""
    return SUCCESS if status == SUCCESS else reason_of_message(message) or status or FAILED_TO_DOWNLOAD
