"""Embeds one block: decoding in parallel with forward passes, files, commit marker. One embedder in a process; no Beam.

    samples ─ threads: decode, prepare ─▶ batches of fixed composition ─ model ─▶ embeddings in the samples' order

    img_emb/img_emb_00000.npy           float16 (n·V, D), as clip-retrieval writes them: V views of each of n samples
    metadata/metadata_00000.parquet     a row for each embedding, in the same order: a sample's views side by side
    00000_stats.json                    the commit marker, written last: counts, rejected pictures, sizes, checksums

On a CPU each forward pass uses one core and as many run in parallel as there are threads: cores do not wait for each
other after every operation, and the results do not depend on the number of cores.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from math import ceil
from time import monotonic, time
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gesso import images, storage
from gesso.dataset.layout import embedding_name, marker_name, metadata_name
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import SUCCESS
from gesso.dataset.schemas import METADATA_FIELDS
from gesso.dataset.shards import HashingWriter, Row
from gesso.dedup.models import NO_SCALING, Model, Vectors, open_model
from gesso.dedup.settings import ModelSettings
from gesso.dedup.views import VIEWS, crop, smallest_share
from gesso.errors import Rejected
from gesso.images import Pixels
from gesso.pipelines.embed.pictures import Block, Sample
from gesso.pipelines.embed.settings import EmbedSettings

PREFETCH_BATCHES = 2  # batches that are decoded while others are on the device
PROGRESS_INTERVAL = 1.0  # seconds between two writes of the progress file
MAX_PIXELS = 50_000_000  # larger pictures are rejected: the default limit of `gesso collect`
PYTHON_TYPES = {pa.int32(): int, pa.string(): str}


class PreparedSample(NamedTuple):
    """A picture's views ready for the model, (V, S, S, 3), or the reason why it was rejected."""

    row: Row
    pixels: Pixels | None = None
    reason: str = SUCCESS
    message: str = ""


class EmbeddedSamples(NamedTuple):
    """The results of a batch or of a block: rows and vectors of the successes, and the rejected samples."""

    rows: list[Row]  # one for each sample
    vectors: list[Vectors]  # of a batch: (n·V, D)
    rejected: list[Row]  # key, reason, message

    def add(self, batch: "EmbeddedSamples") -> None:
        self.rows.extend(batch.rows)
        self.vectors.extend(batch.vectors)
        self.rejected.extend(batch.rejected)

    def counts(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.rejected) + Counter({SUCCESS: len(self.rows)})


class BlockEmbedder:
    """Embeds one block after another, on its own threads."""

    def __init__(self, model: ModelSettings, settings: EmbedSettings) -> None:
        self.model = open_model(model)
        self._batch_size, self._views = settings.batch_size, settings.views
        cv2.setNumThreads(1)  # one thread for each picture
        on_cpu = self.model.device.type == "cpu"
        if on_cpu:
            torch.set_num_threads(1)
        model_threads = settings.threads if on_cpu else 1
        self._in_flight = model_threads + PREFETCH_BATCHES
        self._decode_threads = ThreadPoolExecutor(settings.threads, "decode")
        self._model_threads = ThreadPoolExecutor(model_threads, "model")

    def embed_block(self, output: str, block: Block) -> Row:
        """Embeds a block and commits it; returns its marker. Raises UserError where its tar is damaged."""
        started, counts, last_written = time(), Counter[str](), monotonic()
        progress_file, result = ProgressFile(output, block.index, counts), EmbeddedSamples([], [], [])
        for batch in self._batches(block.samples()):
            result.add(batch)
            counts.update(batch.counts())
            if monotonic() - last_written > PROGRESS_INTERVAL:
                progress_file.write()
                last_written = monotonic()
        written = write_files(output, block.index, result, self.model.dimension, self._views)
        marker = self._marker(result, written, started)
        storage.write_json(storage.join(output, marker_name(block.index)), marker)
        progress_file.remove()
        return marker

    def _batches(self, samples: Iterator[Sample]) -> Iterator[EmbeddedSamples]:
        """The results in the order of the samples; a bounded number of batches is in memory."""
        pending: deque[Future[EmbeddedSamples]] = deque()
        try:
            while batch := list(islice(samples, self._batch_size)):
                pending.append(self._submit(batch))
                if len(pending) == self._in_flight:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _submit(self, batch: list[Sample]) -> "Future[EmbeddedSamples]":
        decoding = [self._decode_threads.submit(prepare_sample, sample, self.model, self._views) for sample in batch]
        return self._model_threads.submit(embed_batch, decoding, self.model)

    def _marker(self, result: EmbeddedSamples, written: Row, started: float) -> Row:
        counts, ended = result.counts(), time()
        return {
            "count": counts.total(),
            "successes": counts[SUCCESS],
            "status_dict": dict(sorted(counts.items())),
            "rejected": result.rejected,
            "device": str(self.model.device),
            "precision": self.model.precision,
            "duration": ended - started,
            "start_time": started,
            "end_time": ended,
            "files": written,
        }


def embed_batch(decoding: "list[Future[PreparedSample]]", model: Model) -> EmbeddedSamples:
    """Waits for a batch's pictures and embeds those that were not rejected, each view in a pass of its own."""
    prepared = [future.result() for future in decoding]
    pixels = [item.pixels for item in prepared if item.pixels is not None]
    rejected = [
        {"key": item.row["key"], "reason": item.reason, "message": item.message}
        for item in prepared
        if item.pixels is None
    ]
    vectors = [interleaved([model.embed(view) for view in np.stack(pixels, axis=1)])] if pixels else []
    return EmbeddedSamples([item.row for item in prepared if item.pixels is not None], vectors, rejected)


def interleaved(views: list[Vectors]) -> Vectors:
    """V arrays (n, D), one for each view of n samples → (n·V, D): the views of a sample side by side."""
    return np.stack(views, axis=1).reshape(-1, views[0].shape[1])


def prepare_sample(sample: Sample, model: Model, views: int) -> PreparedSample:
    """Decodes a sample, turns it upright, prepares its views for the model and completes its row."""
    row = {"key": sample.key, "image_path": sample.image_path}
    try:
        body = sample.read()
        header = images.read_header(body)
        if header.width * header.height > MAX_PIXELS:
            raise Rejected("too_many_pixels", f"{header.width}×{header.height}: over {MAX_PIXELS:,} pixels")
        fields = metadata_fields(sample.fields)
        # A perceptual hash that is computed here must not depend on the model's image size.
        min_side = ceil(model.min_side / smallest_share(views)) if fields["phash"] else NO_SCALING
        decoded = images.decode(body, header, min_side)
        pixels = images.upright(decoded, header.orientation)
    except Rejected as rejection:
        return PreparedSample(row, None, rejection.reason, rejection.message)
    fields |= {"width": header.width, "height": header.height}
    fields["sha256"] = fields["sha256"] or hashlib.sha256(body).hexdigest()
    fields["phash"] = fields["phash"] or images.perceptual_hash(pixels)
    prepared = np.stack([model.prepare(crop(pixels, box)) for box in VIEWS[views]])
    return PreparedSample({**fields, **row}, prepared)


def metadata_fields(fields: Row) -> Row:
    """The metadata columns among the fields; null where a value has another type."""
    return {
        field.name: fields.get(field.name) if type(fields.get(field.name)) is PYTHON_TYPES[field.type] else None
        for field in METADATA_FIELDS
    }


def write_files(output: str, index: int, result: EmbeddedSamples, dimension: int, views: int) -> Row:
    """Writes vectors and rows, each under a temporary name until complete; returns sizes and checksums by name."""
    names = (embedding_name(index), metadata_name(index))
    vectors = np.concatenate([np.empty((0, dimension), np.float16), *result.vectors])
    with ExitStack() as stack:
        streams = [
            HashingWriter(stack.enter_context(storage.write_whole(storage.join(output, name)))) for name in names
        ]
        np.lib.format.write_array(streams[0], vectors, allow_pickle=False)
        schema = pa.schema(METADATA_FIELDS)
        with pq.ParquetWriter(streams[1], schema, compression="zstd") as writer:
            rows = [{**row, "view": view} for row in result.rows for view in range(views)]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return {name: stream.summary() for name, stream in zip(names, streams, strict=True)}
