"""Small tokens for tests: what `gesso encode` writes, by its own functions, without Beam; with a dVAE or without."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from gesso import storage
from gesso.dataset.layout import PLAN, SPLITS, marker_name
from gesso.dataset.records import normalize_url, sample_key
from gesso.pipelines.encode.job import Job, finish
from gesso.training import encoding
from gesso.training.data.shards import Shard
from gesso.training.data.split import Split, open_split
from gesso.training.dvae.settings import FACTOR
from gesso.training.encode_settings import EncodeSettings
from gesso.training.encoding import Encoded
from tests.exports import caption

MakeCodes = Callable[[np.random.Generator, tuple[int, ...], int], Any]  # (random, (n, views, g, g), vocabulary)


def uniform(random: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> Any:
    return random.integers(0, vocabulary, shape)


def write_tokens(
    folder: Path,
    counts: tuple[int, int] = (24, 8),
    shard_size: int = 10,
    views: int = 3,
    grid: int = 4,
    vocabulary: int = 64,
    captions: Callable[[int], str] = caption,
    codes: MakeCodes = uniform,
) -> str:
    """Writes tokens with `counts` samples of train and validation, none in the second shard; returns their path.

    Sample n of `range(sum(counts))`, numbered over all shards, has the caption `captions(n)`; a shard's codes are
    those of `codes`, without any picture.
    """
    settings, numbers = EncodeSettings(views=views, device="cpu"), count()
    splits = tuple(planned(split, samples, shard_size) for split, samples in zip(SPLITS, counts, strict=True))
    described = {"vocabulary": vocabulary, "views": views, "grid": grid}
    job = Job(str(folder), splits, "dvae", {"kind": "uniform"}, described, settings)
    storage.write_json(storage.join(job.output, PLAN), job.plan())
    for target in job.targets():
        rows = [row(captions, next(numbers)) for _ in range(target.shard.count)]
        made = codes(np.random.default_rng([target.shard.index, len(rows)]), (len(rows), views, grid, grid), vocabulary)
        write_shard(storage.join(job.output, target.split.split), target.shard.index, rows, made, settings)
    finish(job)
    return job.output


def planned(split: str, samples: int, shard_size: int) -> Split:
    """The shards of an export that is not there; the second of train has no samples."""
    sizes = [min(shard_size, samples - start) for start in range(0, samples, shard_size)]
    if split == SPLITS[0]:
        sizes.insert(1, 0)
    return Split("clean", split, tuple(Shard(index, size, {}) for index, size in enumerate(sizes)), "0" * 64)


def row(captions: Callable[[int], str], number: int) -> dict[str, str]:
    text = captions(number)
    return {"key": sample_key(normalize_url(f"http://host.example/{number}.jpg"), text), "caption": text}


def write_shard(folder: str, index: int, rows: list[dict[str, str]], codes: Any, settings: EncodeSettings) -> None:
    """A committed shard."""
    written = encoding.write(folder, index, rows, codes.astype(np.uint16))
    marker = encoding.marker_of(Encoded(rows, [], []), written, 100.0, settings)
    storage.write_json(storage.join(folder, marker_name(index)), marker)


def encode_export(data: str, folder: Path, dvae: Any, settings: EncodeSettings) -> str:
    """Encodes both splits of an export with a dVAE; returns the tokens' path."""
    grid = dvae.config.image_size // FACTOR
    described = {"vocabulary": dvae.config.vocabulary, "views": settings.views, "grid": grid}
    splits = tuple(open_split(data, split) for split in SPLITS)
    job = Job(str(folder), splits, "dvae", encoding.identity_of(dvae), described, settings)
    storage.write_json(storage.join(job.output, PLAN), job.plan())
    for target in job.targets():
        encoding.encode_shard(target.split, target.shard, dvae, settings, job.output)
    finish(job)
    return job.output
