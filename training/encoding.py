"""Encodes a shard of an export into captions and grids of codes: decoding, forward passes, files, marker. No Beam.

    rows ─ threads read, decode, crop ─▶ batches, always cut at the same places ─ dVAE ─▶ in the order of the tar

    train/00000.npy           uint16 (n, views, g, g): the likeliest code of each 8×8 pixels, no noise
    train/00000.parquet       key and caption of each, in the same order
    train/00000_stats.json    the commit marker, written last: counts, pictures left out, sizes, checksums

On a CPU a forward pass uses one core, and as many run side by side as there are threads, so that the numbers do not
depend on how many cores there are.
"""

import json
import os
from collections import Counter, deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from time import monotonic, time
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gesso import storage
from gesso.dataset.layout import codes_name, marker_name, rows_name
from gesso.dataset.progress import ProgressFile
from gesso.dataset.records import SUCCESS
from gesso.dataset.shards import HashingWriter
from gesso.errors import Rejected, UserError
from gesso.images import Pixels
from gesso.storage import Range
from gesso.training.data.randomness import random_of
from gesso.training.data.samples import decode
from gesso.training.data.shards import Shard
from gesso.training.data.split import Split
from gesso.training.data.views import prior_view
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import FACTOR
from gesso.training.dvae.weights import open_dvae
from gesso.training.encode_settings import EncodeSettings

Row = dict[str, Any]
Codes = npt.NDArray[np.uint16]

COLUMNS = ("key", "caption", "image_offset", "image_bytes")
CAPTIONS = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("key", "caption")])
MOST_CODES = 1 << 16  # uint16
PREFETCH = 2  # decoded batches that wait for the device
NOTE_EVERY = 1.0  # seconds between two notes on a shard's progress


class Target(NamedTuple):
    """A shard to encode; its split may come without the list of all shards."""

    split: Split
    shard: Shard


class Prepared(NamedTuple):
    """Some samples: rows and views of those that decode, and the others with their reasons."""

    rows: list[Row]  # key, caption
    views: list[Pixels]  # (views, size, size, 3) of each
    rejected: list[Row]  # key, reason, message


class Encoded(NamedTuple):
    """A batch, or all of a shard: rows and codes of the successes, and what was left out."""

    rows: list[Row]
    codes: list[Codes]  # (b, views, g, g)
    rejected: list[Row]

    def add(self, batch: "Encoded") -> None:
        self.rows.extend(batch.rows)
        self.codes.extend(batch.codes)
        self.rejected.extend(batch.rejected)

    def counts(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.rejected) + Counter({SUCCESS: len(self.rows)})


def device_of(name: str) -> torch.device:
    """The device for `--device`; torchrun's processes take one GPU each. Raises UserError."""
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise UserError("--device is cuda: there is no CUDA device here, give cpu")
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda and name != "cpu" else torch.device("cpu")
    )


def check_fits(dvae: DVAE) -> None:
    """Raises UserError where a code needs more than 16 bits."""
    if dvae.config.vocabulary > MOST_CODES:
        has = f"--dvae has {dvae.config.vocabulary:,} codes"
        raise UserError(f"{has}, and grids hold codes of 16 bits: give a dVAE with at most {MOST_CODES:,}")


def open_model(path: str, settings: EncodeSettings) -> DVAE:
    """Raises UserError where there is no dVAE, or one that does not fit."""
    dvae = open_dvae(path, device_of(settings.device))
    check_fits(dvae)
    return dvae


def open_same(path: str, settings: EncodeSettings, identity: Row) -> DVAE:
    """The dVAE of a plan. Raises UserError where the one at `path` on this machine is another."""
    dvae = open_model(path, settings)
    if identity_of(dvae) != identity:
        raise UserError(f"the dVAE in {path} differs between this worker and the launcher: give all the same weights")
    return dvae


def identity_of(dvae: DVAE) -> Row:
    """`DVAE.identity` as it is read back from JSON."""
    return dict(json.loads(json.dumps(dvae.identity())))


def encode_shard(split: Split, shard: Shard, dvae: DVAE, settings: EncodeSettings, output: str) -> Row:
    """Encodes a shard into `output` and commits it; returns its marker.

    `dvae` is on `device_of(settings.device)`. A sample whose picture does not decode, or is smaller than the dVAE's,
    is left out and counted by its reason. Raises UserError where tar or rows are not the manifest's, and where the disk
    is full.
    """
    started, folder, counts, noted = time(), storage.join(output, split.split), Counter[str](), monotonic()
    note, whole = ProgressFile(folder, shard.index, counts), Encoded([], [], [])
    with closing(encoded(split, shard, dvae, settings)) as batches:
        for batch in batches:
            whole.add(batch)
            counts.update(batch.counts())
            if monotonic() - noted > NOTE_EVERY:
                note.write()
                noted = monotonic()
    grid = dvae.config.image_size // FACTOR
    codes = np.concatenate([np.empty((0, settings.views, grid, grid), np.uint16), *whole.codes])
    try:
        marker = marker_of(whole, write(folder, shard.index, whole.rows, codes), started, settings)
        storage.write_json(storage.join(folder, marker_name(shard.index)), marker)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): run the command again to continue") from error
    note.remove()
    return marker


def encoded(split: Split, shard: Shard, dvae: DVAE, settings: EncodeSettings) -> Generator[Encoded, None, None]:
    """The batches of a shard in their order; a bounded number of them is in memory."""
    cv2.setNumThreads(1)  # a picture a thread
    forwards = 1
    if device_of(settings.device).type == "cpu":
        torch.set_num_threads(1)
        forwards = settings.threads
    rows = split.rows(shard, COLUMNS).to_pylist()
    pending: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(settings.threads, "decode") as decoders, ThreadPoolExecutor(forwards, "forward") as device:
        try:
            for start in range(0, len(rows), settings.batch_size):
                batch = rows[start : start + settings.batch_size]
                preparing = decoders.submit(prepare, batch, split, shard, dvae.config.image_size, settings)
                pending.append(device.submit(forward, preparing, dvae, settings))
                if len(pending) == settings.threads + forwards + PREFETCH:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def prepare(rows: list[Row], split: Split, shard: Shard, size: int, settings: EncodeSettings) -> Prepared:
    """Reads and decodes some samples. Raises UserError where the tar ends before one of them does."""
    result = Prepared([], [], [])
    for row, body in zip(rows, read(rows, split, shard), strict=True):
        try:
            views = views_of(decode(body, size), size, row["key"], settings)
        except Rejected as rejection:
            result.rejected.append({"key": row["key"], "reason": rejection.reason, "message": rejection.message})
        else:
            result.rows.append({"key": row["key"], "caption": row["caption"] or ""})
            result.views.append(views)
    return result


def read(rows: list[Row], split: Split, shard: Shard) -> list[bytes]:
    """The encoded pictures of some samples."""
    tar, name = split.tar(shard), split.name(shard)
    try:
        bodies = storage.read_ranges([Range(tar, row["image_offset"], row["image_bytes"]) for row in rows])
    except OSError as error:
        raise split.refusal(f"{name} cannot be read ({error})") from error
    for row, body in zip(rows, bodies, strict=True):
        if len(body) != row["image_bytes"]:
            raise split.refusal(f"{name} ends within sample {row['key']}")
    return bodies


def views_of(pixels: Pixels, size: int, key: str, settings: EncodeSettings) -> Pixels:
    """Listing 2's crops of a picture, (views, size, size, 3). Raises Rejected(too_small)."""
    drawn = (random_of("encode", settings.seed, view, key) for view in range(settings.views))
    return np.stack([prior_view(pixels, size, random) for random in drawn])


def forward(preparing: "Future[Prepared]", dvae: DVAE, settings: EncodeSettings) -> Encoded:
    """Waits for a batch's views and encodes those that there are."""
    prepared = preparing.result()
    if not prepared.views:
        return Encoded([], [], prepared.rejected)
    pixels = torch.from_numpy(np.concatenate(prepared.views)).to(device_of(settings.device))
    codes = dvae.encode(pixels).cpu().numpy().astype(np.uint16)
    return Encoded(prepared.rows, [codes.reshape(-1, settings.views, *codes.shape[1:])], prepared.rejected)


def write(folder: str, index: int, rows: list[Row], codes: Codes) -> Row:
    """Writes codes and rows, each under a temporary name until whole; returns sizes and checksums by name."""
    names = (codes_name(index), rows_name(index))
    with ExitStack() as stack:
        streams = [
            HashingWriter(stack.enter_context(storage.write_whole(storage.join(folder, name)))) for name in names
        ]
        np.lib.format.write_array(streams[0], codes, allow_pickle=False)
        with pq.ParquetWriter(streams[1], CAPTIONS, compression="zstd") as writer:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, CAPTIONS))
    return {name: stream.summary() for name, stream in zip(names, streams, strict=True)}


def marker_of(whole: Encoded, written: Row, started: float, settings: EncodeSettings) -> Row:
    counts, ended = whole.counts(), time()
    return {
        "count": counts.total(),
        "successes": counts[SUCCESS],
        "status_dict": dict(sorted(counts.items())),
        "rejected": whole.rejected,
        "device": str(device_of(settings.device)),
        "duration": ended - started,
        "start_time": started,
        "end_time": ended,
        "files": written,
    }
