"""The folder of a review: page, data and thumbnails. Data are scripts, so that the page works from file://. No Beam.

    index.html review.css review.js    the page, from this package
    data/pairs.js                      numbers of every pair, base64 of little-endian arrays; the views of a reference
    data/texts.js data/uids.js         captions and reference keys for the search; the samples' keys
    data/details/00000.js              metadata of the pictures of CHUNK references each
    session.js                         the current decision or draft, and the suggested threshold
    thumbs/references/ thumbs/samples/ thumbnails by number, in the order of the page
    plan.json manifest.json            the matches' checksum, written first; missing thumbnails, written last

A script calls `gesso(name, value)`. But for session.js its bytes depend on the matches and the pictures alone.
"""

import base64
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gesso import storage
from gesso.dataset.embeddings import open_embeddings
from gesso.dataset.layout import MANIFEST, PLAN
from gesso.dedup import decision, views
from gesso.dedup.decision import Decision
from gesso.dedup.overlap import Overlap
from gesso.dedup.review import thumbnails
from gesso.dedup.review.listing import Listing, read_metadata, sort_matches
from gesso.dedup.review.suggestion import Suggestion, suggest
from gesso.dedup.review.thumbnails import Task, ThumbnailRequest
from gesso.errors import UserError

Json = dict[str, Any]

FOLDER = "review"
PAGE = ("index.html", "review.css", "review.js")
SESSION = "session.js"
REFERENCES, SAMPLES = "references", "samples"
# Long sides in pixels; the nearest sample is shown larger. 40,504 references and as many nearest samples of COCO's size
# take 2.7 GB, their 283,528 further neighbours 4.9 GB.
NEAREST_SIDE, FURTHER_SIDE = 480, 320
CHUNK = 128  # references whose details are in one file
DETAILS = ("caption", "url", "width", "height", "original_width", "original_height")
FORMAT = 1


def prepare(overlap: Overlap, decided: Decision | None) -> str:
    """Writes the missing parts of the folder and returns its path. Raises UserError where it holds other files."""
    target = storage.join(overlap.path, FOLDER)
    write_plan(target, overlap)
    write_page(target)
    write_session(target, decided, suggest(overlap))
    if not is_finished(target):
        write_contents(target, overlap)
    return target


def write_plan(target: str, overlap: Overlap) -> None:
    """Writes plan.json. A folder of other matches is cleared first: all of it can be made again."""
    plan = {"format": FORMAT, "kind": "review", "matches_sha256": overlap.sha256}
    if storage.exists(storage.join(target, PLAN)):
        if storage.read_json(storage.join(target, PLAN)) == plan:
            return
        shutil.rmtree(target)
    elif os.path.isdir(target) and os.listdir(target):
        raise UserError(f"{target} holds files that `gesso review` did not write: move them away")
    storage.write_json(storage.join(target, PLAN), plan)


def write_page(target: str) -> None:
    for name in PAGE:
        write(storage.join(target, name), resources("gesso.dedup.review").joinpath(name).read_bytes())


def write_session(target: str, decided: Decision | None, suggested: Suggestion) -> None:
    value = {"decision": decision.to_json(decided) if decided else None, "suggestion": suggested._asdict()}
    write(storage.join(target, SESSION), script("session", value))


def is_finished(target: str) -> bool:
    """Whether nothing is missing. Failed thumbnails are tried again: their source may be back."""
    return storage.exists(storage.join(target, MANIFEST)) and not any(not_shown(target).values())


def not_shown(target: str) -> dict[str, dict[str, int]]:
    """The number of missing thumbnails of each series, by reason."""
    return dict(storage.read_json(storage.join(target, MANIFEST))["not_shown"])


def write_contents(target: str, overlap: Overlap) -> None:
    listing = sort_matches(overlap.matches)
    sides = overlap.manifest["reference"], overlap.manifest["training"]
    references = read_metadata(open_embeddings(sides[0]["embeddings"]), listing.references, [None])
    samples = read_metadata(open_embeddings(sides[1]["embeddings"]), listing.keys, listing.shards.to_pylist())
    long_sides = np.full(len(listing.keys), FURTHER_SIDE)
    long_sides[listing.samples[listing.starts]] = NEAREST_SIDE
    requests = {
        REFERENCES: thumbnail_requests(references, np.full(len(references), NEAREST_SIDE)),
        SAMPLES: thumbnail_requests(samples, long_sides),
    }
    sources = {REFERENCES: sides[0]["source"]["path"], SAMPLES: sides[1]["source"]["path"]}
    failed = {series: make_thumbnails(target, series, sources[series], requests[series]) for series in requests}
    write_data(target, overlap, listing, (references, samples), failed)
    counts = {series: dict(sorted(Counter(found.values()).items())) for series, found in failed.items()}
    shown = {series: len(requests[series]) - len(failed[series]) for series in requests}
    record = {"format": FORMAT, "kind": "review", "matches_sha256": overlap.sha256}
    storage.write_json(storage.join(target, MANIFEST), {**record, "shown": shown, "not_shown": counts})


def thumbnail_requests(metadata: pa.Table, sides: npt.NDArray[Any]) -> list[ThumbnailRequest]:
    shards, paths = metadata["shard"].to_pylist(), metadata["image_path"].to_pylist()
    return [
        ThumbnailRequest(number, shard, path, int(sides[number]))
        for number, (shard, path) in enumerate(zip(shards, paths, strict=True))
    ]


def make_thumbnails(target: str, series: str, source: str, requests: list[ThumbnailRequest]) -> dict[int, str]:
    """Makes the missing thumbnails, with a bar on a terminal; returns the failures: number → reason."""
    from rich.console import Console
    from rich.progress import track

    folder = storage.join(target, "thumbs", series)
    existing = thumbnails.existing(folder)
    work: list[Task] = thumbnails.split_tasks(source, [item for item in requests if item.number not in existing])
    console, failed = Console(stderr=True), dict[int, str]()
    done = thumbnails.make_thumbnails(folder, work)
    for found in track(
        done, f"pictures of {series}", len(work), console=console, transient=True, disable=not sys.stderr.isatty()
    ):
        failed |= found
    return failed


def write_data(
    target: str,
    overlap: Overlap,
    listing: Listing,
    metadata: tuple[pa.Table, pa.Table],
    failed: Mapping[str, dict[int, str]],
) -> None:
    """Everything under data/."""
    references, samples = metadata
    nearest = samples["caption"].take(pa.array(listing.samples[listing.starts]))
    texts = {
        "keys": listing.references.to_pylist(),
        "captions": references["caption"].to_pylist(),
        "nearest": nearest.to_pylist(),
    }
    keys = {"uids": listing.keys.to_pylist(), "shards": listing.shards.to_pylist()}
    for name, value in (("pairs", pair_data(overlap, listing, failed)), ("texts", texts), ("uids", keys)):
        write(storage.join(target, "data", f"{name}.js"), script(name, value))
    starts = listing.starts
    for chunk, first in enumerate(range(0, len(references), CHUNK)):
        last = min(first + CHUNK, len(references))
        pairs = listing.samples[starts[first] : starts[last - 1] + listing.counts[last - 1]]
        value = {
            "chunk": chunk,
            REFERENCES: columns(references.slice(first, last - first)),
            "pairs": columns(samples.take(pa.array(pairs))),
        }
        write(storage.join(target, "data", "details", f"{chunk:05d}.js"), script("details", value))


def pair_data(overlap: Overlap, listing: Listing, failed: Mapping[str, dict[int, str]]) -> Json:
    manifest = overlap.manifest
    return {
        "format": FORMAT,
        "name": os.path.basename(os.path.abspath(overlap.path)),
        "model": overlap.model,
        "matches_sha256": overlap.sha256,
        "samples_searched": manifest["samples"],
        "top_k": manifest["top_k"],
        "chunk": CHUNK,
        "distinct": len(listing.keys),
        "counts": base64_array(listing.counts, "<i4"),
        "samples": base64_array(listing.samples, "<i4"),
        "similarity": base64_array(listing.similarity, "<f4"),
        "hashes": base64_array(listing.hashes, "<i4"),
        "views": [{"name": views.name(view), **box._asdict()} for view, box in enumerate(views.VIEWS[overlap.views])],
        "matched": base64_array(listing.views, "<i4"),
        "lost": {
            series: {str(number): failed[series][number] for number in sorted(failed[series])} for series in failed
        },
    }


def base64_array(values: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def columns(table: pa.Table) -> Json:
    return {name: table[name].to_pylist() for name in DETAILS}


def script(name: str, value: Any) -> bytes:
    """A call of the page's own function; no value can close the script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return f'gesso("{name}",{text});\n'.encode()


def write(path: str, body: bytes) -> None:
    """Writes a small file, unless it exists with these bytes."""
    if os.path.exists(path):
        with storage.open_input(path) as stream:
            if stream.read() == body:
                return
    with storage.write_whole(path) as stream:
        stream.write(body)
