"""Small exports for tests: what `gesso export` writes, by its own functions, without Beam's start."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gesso import storage
from gesso.dataset import collection, export, layout, manifest, shards
from gesso.dataset.records import normalize_url, sample_key
from gesso.dataset.schemas import plan_schema
from gesso.images import encode
from gesso.pipelines import packing
from gesso.pipelines.collect.engine import examine
from gesso.pipelines.collect.settings import ImageRules
from gesso.pipelines.export import shard_writer, shuffle
from gesso.pipelines.export.settings import ExportSettings
from gesso.pipelines.export.shuffle import ShufflePlan

RULES = ImageRules(image_size=384, min_side=1)
CELL = 8  # pixels of one colour, so that neighbours are alike as in photographs


def picture(number: int, side: int = 96) -> bytes:
    """A JPEG that no other number has, its short side of `side` pixels: lying, upright or square."""
    width, height = ((side * 4 // 3, side), (side, side * 3 // 2), (side, side))[number % 3]
    cells = np.random.default_rng(number).integers(0, 256, (-(-height // CELL), -(-width // CELL), 3), np.uint8)
    return encode(cells.repeat(CELL, 0).repeat(CELL, 1)[:height, :width], 90)


def caption(number: int) -> str:
    return f"A picture of number {number}, drawn — «ö»"


def write_export(
    folder: Path,
    counts: tuple[int, int] = (24, 8),
    shard_size: int = 10,
    pictures: Callable[[int], bytes] = picture,
    captions: Callable[[int], str] = caption,
    links: Callable[[int], int] = lambda number: number,
) -> str:
    """Writes an export with `counts` samples of train and validation in shards of about `shard_size`; returns its path.

    Number n of `range(sum(counts))` has the picture `pictures(n)`, the caption `captions(n)` and the number `links(n)`
    in its link; which of them are for validation, and the order, follow from links and captions, as always.
    """
    with tempfile.TemporaryDirectory() as raw:
        write_raw(raw, sum(counts), pictures, captions, links)
        export_shards(raw, str(folder), ExportSettings(validation_size=counts[1], shard_size=shard_size))
    return str(folder)


def upload(folder: Path, target: str) -> str:
    """Copies a folder to another filesystem; gives its path there."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with storage.write_whole(storage.join(target, str(path.relative_to(folder)))) as stream:
                stream.write(path.read_bytes())
    return target


def write_raw(
    raw: str,
    count: int,
    pictures: Callable[[int], bytes],
    captions: Callable[[int], str],
    links: Callable[[int], int] = lambda number: number,
) -> None:
    """A finished collection of one shard."""
    pairs_of = (pair(number, captions(number), links(number)) for number in range(count))
    rows = sorted(pairs_of, key=lambda row: str(row["key"]))
    pairs = [pa.RecordBatch.from_pylist(rows, plan_schema())]
    record: Any = {"settings": {"engine": "gesso"}, "input": [], "counted_only": {}}
    storage.write_json(storage.join(raw, layout.PLAN), {**record, "shards": 1, "links": count, "rows_read": count})
    kept = shards.write_shard(
        raw, 0, pairs, lambda at: examine(pictures(rows[at]["n"]), RULES, lambda reason: False), ()
    )
    shards.commit(raw, 0, *kept, 100.0, 102.0)
    manifest.finish(raw)


def pair(number: int, text: str, link: int) -> dict[str, Any]:
    url = f"http://host{link % 3}.example/{link}.jpg"
    return {"key": sample_key(normalize_url(url), text), "url": url, "caption": text, "reason": None, "n": number}


def export_shards(raw: str, output: str, settings: ExportSettings) -> None:
    """What `gesso export` does with a collection of one shard."""
    source = collection.open_collection(raw)
    fields = shuffle.kept_fields(source.schema())
    kept, _ = shuffle.read_shard(raw, source.shards[0], fields, None, settings.seed)
    hashes = kept["split_hash"].to_numpy()
    bucket = shuffle.find_bucket(shuffle.histogram(hashes), settings)
    plan = shuffle.plan_shuffle(bucket, shuffle.ranks_in_bucket(hashes, kept["key"], bucket), settings)
    written = [shuffle.write_rows(output, target, parts, fields, plan) for target, parts in packed(kept, plan)]
    input_info: dict[str, Any] = {
        "listed": {},
        "dropped": None,
        "overlaps": [],
        "source_funnel": None,
        "source_settings": {},
    }
    input_info |= {"source_input": [], "licence_column": None, "licences": None}
    samples = dict(zip(layout.SPLITS, plan.samples, strict=True))
    record = {"settings": vars(settings), "input": []}
    planned = export.plan_record(record, input_info, [each["entry"] for each in written], {}, samples)
    storage.write_json(storage.join(output, layout.PLAN), planned)
    tars = shard_writer.SourceTars(source.shards)
    for target in export.targets(planned):
        shard_writer.write_shard(storage.join(output, target.split), target.number, target.rows, tars)
    export.finish(output)


def packed(kept: pa.RecordBatch, plan: ShufflePlan) -> Iterator[tuple[int, list[bytes]]]:
    """The packed rows of every target, also of one that gets none."""
    found = dict(shuffle.split_by_target(kept, plan))
    empty = packing.pack(kept.slice(0, 0))
    return ((target, [found.get(target, empty)]) for target in range(sum(plan.shards)))
