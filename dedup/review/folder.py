"""The folder of a review: the page, its data as scripts (so that it also works from file://), its pictures. No Beam.

    index.html review.css review.js    the page, beside this module
    data/pairs.js                      numbers of every pair, base64 of little-endian arrays
    data/texts.js data/uids.js         captions and keys that are searched; the samples' uids
    data/details/00000.js              what is known of the pictures of CHUNK references each
    session.js                         the decision so far
    thumbs/references/ thumbs/samples/ thumbnails by number, in the order of the page
    plan.json manifest.json            for which matches, written first; what could not be shown, written last

A script calls `gesso(name, value)`. Its bytes follow from the matches and the pictures alone, but for session.js.
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
from gesso.dedup import decision
from gesso.dedup.decision import Decision
from gesso.dedup.overlap import Overlap
from gesso.dedup.review import thumbnails
from gesso.dedup.review.listing import Listing, arrange, describe
from gesso.dedup.review.thumbnails import Task, Wanted
from gesso.errors import UserError

Json = dict[str, Any]

FOLDER = "review"
PAGE = ("index.html", "review.css", "review.js")
SESSION = "session.js"
REFERENCES, SAMPLES = "references", "samples"
# Long sides in pixels. The nearest pair is what a person looks at; 40,504 references and as many nearest samples of
# COCO's size come to 2.7 GB, their 283,528 further neighbours to 4.9 GB.
NEAREST_SIDE, FURTHER_SIDE = 480, 320
CHUNK = 128  # references whose details come together
DETAILS = ("caption", "url", "width", "height", "original_width", "original_height")
FORMAT = 1


def prepare(overlap: Overlap, decided: Decision | None) -> str:
    """Writes what is missing of the folder and returns its path. Raises UserError where it holds something else."""
    target = storage.join(overlap.path, FOLDER)
    begin(target, overlap)
    write_page(target)
    write_session(target, decided)
    if not is_finished(target):
        fill(target, overlap)
    return target


def begin(target: str, overlap: Overlap) -> None:
    """Makes room: a folder of other matches is ours to clear, since all that it holds can be made again."""
    plan = {"format": FORMAT, "kind": "review", "matches_sha256": overlap.sha256}
    if storage.exists(storage.join(target, PLAN)):
        if storage.read_json(storage.join(target, PLAN)) == plan:
            return
        shutil.rmtree(target)
    elif os.path.isdir(target) and os.listdir(target):
        raise UserError(f"{target} holds something that `gesso review` has not written: move it away")
    storage.write_json(storage.join(target, PLAN), plan)


def write_page(target: str) -> None:
    for name in PAGE:
        write(storage.join(target, name), resources("gesso.dedup.review").joinpath(name).read_bytes())


def write_session(target: str, decided: Decision | None) -> None:
    value = {"decision": decision.to_json(decided) if decided else None}
    write(storage.join(target, SESSION), script("session", value))


def is_finished(target: str) -> bool:
    """Whether all is there. Pictures that could not be shown are tried again: their source may be back."""
    return storage.exists(storage.join(target, MANIFEST)) and not any(not_shown(target).values())


def not_shown(target: str) -> dict[str, dict[str, int]]:
    """How many pictures of each series are placeholders, by reason."""
    return dict(storage.read_json(storage.join(target, MANIFEST))["not_shown"])


def fill(target: str, overlap: Overlap) -> None:
    listing = arrange(overlap.matches)
    sides = overlap.manifest["reference"], overlap.manifest["training"]
    references = describe(open_embeddings(sides[0]["embeddings"]), listing.references, [None])
    samples = describe(open_embeddings(sides[1]["embeddings"]), listing.uids, listing.shards.to_pylist())
    side_of = np.full(len(listing.uids), FURTHER_SIDE)
    side_of[listing.samples[listing.starts]] = NEAREST_SIDE
    wanted = {
        REFERENCES: wanted_of(references, np.full(len(references), NEAREST_SIDE)),
        SAMPLES: wanted_of(samples, side_of),
    }
    sources = {REFERENCES: sides[0]["source"]["path"], SAMPLES: sides[1]["source"]["path"]}
    lost = {series: make(target, series, sources[series], wanted[series]) for series in wanted}
    write_data(target, overlap, listing, (references, samples), lost)
    counts = {series: dict(sorted(Counter(found.values()).items())) for series, found in lost.items()}
    shown = {series: len(wanted[series]) - len(lost[series]) for series in wanted}
    record = {"format": FORMAT, "kind": "review", "matches_sha256": overlap.sha256}
    storage.write_json(storage.join(target, MANIFEST), {**record, "shown": shown, "not_shown": counts})


def wanted_of(metadata: pa.Table, sides: npt.NDArray[Any]) -> list[Wanted]:
    shards, paths = metadata["shard"].to_pylist(), metadata["image_path"].to_pylist()
    return [
        Wanted(number, shard, path, int(sides[number]))
        for number, (shard, path) in enumerate(zip(shards, paths, strict=True))
    ]


def make(target: str, series: str, source: str, wanted: list[Wanted]) -> dict[int, str]:
    """The thumbnails that are not there yet, with a bar on a terminal; what could not be shown: number → reason."""
    from rich.console import Console
    from rich.progress import track

    folder = storage.join(target, "thumbs", series)
    there = thumbnails.present(folder)
    work: list[Task] = thumbnails.tasks(source, [item for item in wanted if item.number not in there])
    console, lost = Console(stderr=True), dict[int, str]()
    done = thumbnails.make(folder, work)
    for found in track(
        done, f"pictures of {series}", len(work), console=console, transient=True, disable=not sys.stderr.isatty()
    ):
        lost |= found
    return lost


def write_data(
    target: str,
    overlap: Overlap,
    listing: Listing,
    metadata: tuple[pa.Table, pa.Table],
    lost: Mapping[str, dict[int, str]],
) -> None:
    """Everything under data/."""
    references, samples = metadata
    nearest = samples["caption"].take(pa.array(listing.samples[listing.starts]))
    texts = {
        "keys": listing.references.to_pylist(),
        "captions": references["caption"].to_pylist(),
        "nearest": nearest.to_pylist(),
    }
    uids = {"uids": listing.uids.to_pylist(), "shards": listing.shards.to_pylist()}
    for name, value in (("pairs", numbers(overlap, listing, lost)), ("texts", texts), ("uids", uids)):
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


def numbers(overlap: Overlap, listing: Listing, lost: Mapping[str, dict[int, str]]) -> Json:
    manifest = overlap.manifest
    return {
        "format": FORMAT,
        "name": os.path.basename(os.path.abspath(overlap.path)),
        "model": overlap.model,
        "matches_sha256": overlap.sha256,
        "samples_searched": manifest["samples"],
        "top_k": manifest["top_k"],
        "chunk": CHUNK,
        "distinct": len(listing.uids),
        "counts": packed(listing.counts, "<i4"),
        "samples": packed(listing.samples, "<i4"),
        "similarity": packed(listing.similarity, "<f4"),
        "hashes": packed(listing.hashes, "<i4"),
        "lost": {series: {str(number): lost[series][number] for number in sorted(lost[series])} for series in lost},
    }


def packed(values: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def columns(table: pa.Table) -> Json:
    return {name: table[name].to_pylist() for name in DETAILS}


def script(name: str, value: Any) -> bytes:
    """A call of the page's own function; nothing in it can end a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return f'gesso("{name}",{text});\n'.encode()


def write(path: str, body: bytes) -> None:
    """A small file, unless it is there already with these bytes."""
    if os.path.exists(path):
        with storage.open_input(path) as stream:
            if stream.read() == body:
                return
    with storage.write_whole(path) as stream:
        stream.write(body)
