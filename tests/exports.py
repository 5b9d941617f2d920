"""Small exports for tests: what `gesso export` writes, by its own functions, without Beam's start."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import collection, copying, dataset, dealing, exported, files, layout, plan, shards
from pipelines.dealing import Deal
from pipelines.engine import examine
from pipelines.images import encode
from pipelines.records import link_identity, uid
from pipelines.schemas import plan_schema
from pipelines.settings import ExportSettings, ImageRules
from training import storage

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
) -> str:
    """An export with so many samples of train and of validation, in shards of about `shard_size`; gives its path.

    Number n of `range(sum(counts))` has the picture `pictures(n)` and the caption `captions(n)`; which of them are for
    validation, and the order, follow from links and captions, as always.
    """
    with tempfile.TemporaryDirectory() as raw:
        write_raw(raw, sum(counts), pictures, captions)
        deal(raw, str(folder), ExportSettings(validation_size=counts[1], shard_size=shard_size))
    return str(folder)


def upload(folder: Path, target: str) -> str:
    """Copies a folder to another filesystem; gives its path there."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with storage.write_whole(files.join(target, str(path.relative_to(folder)))) as stream:
                stream.write(path.read_bytes())
    return target


def write_raw(raw: str, count: int, pictures: Callable[[int], bytes], captions: Callable[[int], str]) -> None:
    """A finished collection of one shard."""
    rows = sorted((pair(number, captions(number)) for number in range(count)), key=lambda row: str(row["key"]))
    pairs = [pa.RecordBatch.from_pylist(rows, plan_schema())]
    record: Any = {"settings": {"engine": "gesso"}, "input": [], "counted_only": {}}
    files.write_json(files.join(raw, layout.PLAN), {**record, "shards": 1, "links": count, "rows_read": count})
    kept = shards.write_shard(
        raw, 0, pairs, lambda at: examine(pictures(rows[at]["n"]), RULES, lambda reason: False), ()
    )
    shards.commit(raw, 0, *kept, 100.0, 102.0)
    dataset.finish(raw)


def pair(number: int, text: str) -> dict[str, Any]:
    url = f"http://host{number % 3}.example/{number}.jpg"
    return {"key": uid(link_identity(url), text), "url": url, "caption": text, "reason": None, "n": number}


def deal(raw: str, output: str, settings: ExportSettings) -> None:
    """What `gesso export` does with a collection of one shard."""
    source = collection.open_collection(raw)
    fields = dealing.kept_fields(source.schema())
    kept, _ = dealing.read_shard(raw, source.shards[0], fields, None, settings.seed)
    lots = kept["lot"].to_numpy()
    bucket = dealing.find_bucket(dealing.histogram(lots), settings)
    dealt = dealing.deal(bucket, dealing.in_bucket(lots, kept["key"], bucket), settings)
    written = [dealing.write_rows(output, target, parts, fields, dealt) for target, parts in packed(kept, dealt)]
    told: dict[str, Any] = {"listed": {}, "dropped": None, "overlaps": [], "source_funnel": None, "source_settings": {}}
    told |= {"source_input": [], "licence_column": None, "licences": None}
    samples = dict(zip(layout.SPLITS, dealt.samples, strict=True))
    record = {"settings": vars(settings), "input": []}
    planned = exported.plan_record(record, told, [each["entry"] for each in written], {}, samples)
    files.write_json(files.join(output, layout.PLAN), planned)
    tars = copying.Tars(raw, {0: source.shards[0].bytes})
    for target in exported.targets(planned):
        copying.copy_shard(files.join(output, target.split), target.number, target.rows, tars)
    exported.finish(output)


def packed(kept: pa.RecordBatch, dealt: Deal) -> Iterator[tuple[int, list[bytes]]]:
    """The packed rows of every target, also of one that gets none."""
    found = dict(dealing.split(kept, dealt))
    empty = plan.pack(kept.slice(0, 0))
    return ((target, [found.get(target, empty)]) for target in range(sum(dealt.shards)))
