"""One block of embeddings: decoding beside the forward passes, files, commit marker. One embedder a process; no Beam.

    samples ─ threads decode, prepare ─▶ batches, always cut at the same places ─ forward ─▶ in the order they came

    img_emb/img_emb_00000.npy           float16 (n, D), as clip-retrieval writes them
    metadata/metadata_00000.parquet     a row for each, in the same order
    00000_stats.json                    the commit marker, written last: counts, rejected pictures, sizes, checksums

On a CPU a forward pass uses one core, and as many run side by side as there are threads: no core waits for another at
the end of each operation, and the numbers do not depend on how many cores there are.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from time import monotonic, time
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gesso import images, storage
from gesso.dataset.layout import embedding_name, marker_name, metadata_name
from gesso.dataset.progress import Note
from gesso.dataset.records import SUCCESS
from gesso.dataset.schemas import METADATA_FIELDS
from gesso.dataset.shards import Hashing, Row
from gesso.dedup.models import WHOLE, Model, Vectors, open_model
from gesso.dedup.settings import ModelSettings
from gesso.errors import Rejected
from gesso.images import Pixels
from gesso.pipelines.embed.pictures import Block, Sample
from gesso.pipelines.embed.settings import EmbedSettings

AHEAD = 2  # batches decoded or in decoding beside those that are on the device
BEAT = 1.0  # seconds between two notes on a block's progress
MAX_PIXELS = 50_000_000  # of a picture that is decoded: what `gesso collect` keeps at most by default
TYPES = {pa.int32(): int, pa.string(): str}


class Prepared(NamedTuple):
    """A picture ready for the model, or the reason why there is none."""

    row: Row
    pixels: Pixels | None = None
    reason: str = SUCCESS
    message: str = ""


class Embedded(NamedTuple):
    """A batch, or all of a block: rows and vectors of the successes, and what was rejected."""

    rows: list[Row]
    vectors: list[Vectors]
    rejected: list[Row]  # key, reason, message

    def add(self, batch: "Embedded") -> None:
        self.rows.extend(batch.rows)
        self.vectors.extend(batch.vectors)
        self.rejected.extend(batch.rejected)

    def counts(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.rejected) + Counter({SUCCESS: len(self.rows)})


class Embedder:
    """Embeds one block after the other, on threads of its own."""

    def __init__(self, model: ModelSettings, settings: EmbedSettings) -> None:
        self.model = open_model(model)
        self._batch_size = settings.batch_size
        cv2.setNumThreads(1)  # a picture a thread
        on_cpu = self.model.device.type == "cpu"
        if on_cpu:
            torch.set_num_threads(1)
        forwards = settings.threads if on_cpu else 1
        self._in_flight = forwards + AHEAD
        self._decoders = ThreadPoolExecutor(settings.threads, "decode")
        self._forwards = ThreadPoolExecutor(forwards, "forward")

    def embed(self, output: str, block: Block) -> Row:
        """Embeds a block and commits it; returns its marker. Raises UserError where its tar is damaged."""
        started, counts, beat = time(), Counter[str](), monotonic()
        note, whole = Note(output, block.index, counts), Embedded([], [], [])
        for batch in self._batches(block.samples()):
            whole.add(batch)
            counts.update(batch.counts())
            if monotonic() - beat > BEAT:
                note.write()
                beat = monotonic()
        written = write(output, block.index, whole, self.model.dimension)
        marker = self._marker(whole, written, started)
        storage.write_json(storage.join(output, marker_name(block.index)), marker)
        note.remove()
        return marker

    def _batches(self, samples: Iterator[Sample]) -> Iterator[Embedded]:
        """The batches in their order; a bounded number of them is in memory."""
        pending: deque[Future[Embedded]] = deque()
        try:
            while batch := list(islice(samples, self._batch_size)):
                pending.append(self._begin(batch))
                if len(pending) == self._in_flight:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _begin(self, batch: list[Sample]) -> "Future[Embedded]":
        decoding = [self._decoders.submit(prepare, sample, self.model) for sample in batch]
        return self._forwards.submit(forward, decoding, self.model)

    def _marker(self, whole: Embedded, written: Row, started: float) -> Row:
        counts, ended = whole.counts(), time()
        return {
            "count": counts.total(),
            "successes": counts[SUCCESS],
            "status_dict": dict(sorted(counts.items())),
            "rejected": whole.rejected,
            "device": str(self.model.device),
            "precision": self.model.precision,
            "duration": ended - started,
            "start_time": started,
            "end_time": ended,
            "files": written,
        }


def forward(decoding: "list[Future[Prepared]]", model: Model) -> Embedded:
    """Waits for a batch's pictures and embeds those that there are."""
    prepared = [future.result() for future in decoding]
    pixels = [item.pixels for item in prepared if item.pixels is not None]
    rejected = [
        {"key": item.row["key"], "reason": item.reason, "message": item.message}
        for item in prepared
        if item.pixels is None
    ]
    vectors = [model.embed(np.stack(pixels))] if pixels else []
    return Embedded([item.row for item in prepared if item.pixels is not None], vectors, rejected)


def prepare(sample: Sample, model: Model) -> Prepared:
    """Decodes a sample, upright, and prepares it; completes its row."""
    row = {"key": sample.key, "image_path": sample.image_path}
    try:
        body = sample.read()
        header = images.read_header(body)
        if header.width * header.height > MAX_PIXELS:
            raise Rejected("too_many_pixels", f"{header.width}×{header.height}: over {MAX_PIXELS:,} pixels")
        known = typed(sample.fields)
        # A hash that is made here must not depend on the model's size.
        decoded = images.decode(body, header, model.least if known["phash"] else WHOLE)
        pixels = images.upright(decoded, header.orientation)
    except Rejected as rejection:
        return Prepared(row, None, rejection.reason, rejection.message)
    known |= {"width": header.width, "height": header.height}
    known["sha256"] = known["sha256"] or hashlib.sha256(body).hexdigest()
    known["phash"] = known["phash"] or images.perceptual_hash(pixels)
    return Prepared({**known, **row}, model.prepare(pixels))


def typed(fields: Row) -> Row:
    """The metadata columns among the fields; null where a foreign sample says something of another type."""
    return {
        field.name: fields.get(field.name) if type(fields.get(field.name)) is TYPES[field.type] else None
        for field in METADATA_FIELDS
    }


def write(output: str, index: int, whole: Embedded, dimension: int) -> Row:
    """Writes vectors and rows, each under a temporary name until whole; returns sizes and checksums by name."""
    names = (embedding_name(index), metadata_name(index))
    vectors = np.concatenate([np.empty((0, dimension), np.float16), *whole.vectors])
    with ExitStack() as stack:
        streams = [Hashing(stack.enter_context(storage.write_whole(storage.join(output, name)))) for name in names]
        np.lib.format.write_array(streams[0], vectors, allow_pickle=False)
        schema = pa.schema(METADATA_FIELDS)
        with pq.ParquetWriter(streams[1], schema, compression="zstd") as writer:
            writer.write_batch(pa.RecordBatch.from_pylist(whole.rows, schema))
    return {name: stream.summary() for name, stream in zip(names, streams, strict=True)}
