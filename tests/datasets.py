"""Small collected datasets for tests, written by the code that writes real ones, without a network."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gesso import storage
from gesso.dataset import layout, manifest, shards
from gesso.dataset.records import normalize_url, sample_key
from gesso.dataset.schemas import plan_schema
from gesso.dataset.shards import Outcome
from gesso.images import encode
from gesso.pipelines.collect.engine import examine
from gesso.pipelines.collect.settings import ImageRules

RULES = ImageRules(image_size=32, min_side=16)
FAULTS = {3: "http_404", 7: "timeout"}  # by the last digit of a link's number
EXTRA = (pa.field("licence", pa.string()),)


def picture(number: int, width: int = 40, height: int = 30) -> bytes:
    """A JPEG that no other number has."""
    noise = np.random.default_rng(number).integers(0, 256, (height // 5, width // 5, 3), np.uint8)
    return encode(noise.repeat(5, 0).repeat(5, 1), 90)


def pairs(shard: int, links: int) -> list[dict[str, Any]]:
    """The planned pairs of a shard in the order of their keys; every tenth caption is rejected."""
    rows = []
    for number in range(shard * links, (shard + 1) * links):
        url, caption = f"http://host{number % 3}.example/{number}.jpg", f"a picture of the number {number}, drawn — «ö»"
        key = f"{shard:x}" + sample_key(normalize_url(url), caption)[1:]
        reason = "caption_too_short" if number % 10 == 9 else None
        rows.append({"key": key, "url": url, "caption": caption, "reason": reason, "licence": "CC0-1.0", "n": number})
    return sorted(rows, key=lambda row: str(row["key"]))


def outcome(number: int) -> Outcome:
    if number % 10 in FAULTS:
        reason = FAULTS[number % 10]
        return Outcome({"status": "failed_to_download", "reason": reason, "error_message": f"told {reason}"})
    panorama = number % 10 == 5
    return examine(picture(number, 400 if panorama else 40), RULES, lambda reason: True)


def write_shard(output: str, index: int, links: int) -> dict[str, Any]:
    rows = pairs(index, links)
    plan = [
        pa.RecordBatch.from_pylist([{k: v for k, v in row.items() if k != "n"} for row in rows], plan_schema(EXTRA))
    ]
    written, counts = shards.write_shard(output, index, plan, lambda at: outcome(rows[at]["n"]), EXTRA)
    return shards.commit(output, index, written, counts, 100.0 + index, 102.0 + index)


def write_dataset(folder: Path, count: int = 2, links: int = 20, *, finished: bool = True) -> str:
    """A dataset of `count` shards: of ten links six are kept, two fail, one is a panorama, one caption is too short."""
    output = str(folder)
    record = {"settings": {"engine": "gesso"}, "input": [{"path": "links.parquet", "bytes": 1}]}
    rows = count * links + 2
    plan = {**record, "shards": count, "links": count * links * 9 // 10, "rows_read": rows}
    storage.write_json(
        storage.join(output, layout.PLAN), {**plan, "counted_only": {"malformed_row": 0, "repeat_pair": 2}}
    )
    for index in range(count):
        write_shard(output, index, links)
    if finished:
        manifest.finish(output)
    return output


def rename_as_before(folder: Path) -> None:
    """Gives a dataset the names that gesso used before December 2026."""
    for name in ("rejected", "plan"):
        for path in (folder / name).glob("*.*"):
            path.rename(path.with_suffix(".tar" if name == "rejected" else ".parquet"))
    for path in folder.glob("*.json"):
        path.write_text(re.sub(r"(rejected/\d+)\.thumbnails", r"\1.tar", path.read_text()))
