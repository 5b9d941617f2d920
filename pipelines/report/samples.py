"""Thumbnails of a few pictures of a dataset with their rows, from the first samples of its tars. No Beam."""

import base64
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gesso import images, storage
from gesso.dataset import index, layout
from gesso.dataset.members import SUFFIXES, split_name
from gesso.errors import Rejected

Row = dict[str, Any]

SHARDS = 24  # tars that are opened
FEW = 16  # pictures of an index that are read at once
LONG_SIDE = 192  # pixels
PER_REASON = 8
REJECTED_NAMES = (layout.rejected_name, layout.former_rejected_name)
SIZES = ("width", "height", "original_width", "original_height")
BUDGET = 4_500_000  # bytes of all kept pictures as data URIs, so that the page stays under 6 MB


class Picture(NamedTuple):
    """A sample as the page shows it."""

    uri: str
    width: int
    height: int
    row: Row


def spread(indexes: Sequence[int], most: int) -> list[int]:
    """At most `most` of the indexes, evenly spread."""
    step = max(1.0, len(indexes) / most)
    return [indexes[int(place * step)] for place in range(min(most, len(indexes)))]


def kept_pictures(output: str, indexes: Sequence[int], count: int) -> list[Picture]:
    """The first few samples of some shards."""
    chosen = spread(indexes, min(SHARDS, max(1, count)))
    each = -(-count // max(1, len(chosen)))
    of_shard = indexed_pictures if index.is_index(output) else collected_pictures
    found = (picture for number in chosen for picture in islice(of_shard(output, number), each))
    return list(within_budget(islice(found, count)))


def collected_pictures(output: str, number: int) -> Iterator[Picture]:
    return pictures(storage.join(output, layout.tar_name(number)))


def indexed_pictures(output: str, number: int) -> Iterator[Picture]:
    """The taken samples of an index's tar. Raises UserError where the tar is gone."""
    columns, tar = ["caption", "url", *SIZES, *index.PLACES], index.tar_of(output, number).path
    for batch in index.read_taken(output, number, columns).to_batches(FEW):
        rows = batch.to_pylist()
        bodies = index.read_bodies(tar, [(row["image_offset"], row["image_bytes"]) for row in rows])
        yield from (picture for row, body in zip(rows, bodies, strict=True) for picture in shown(body, row))


def rejected_pictures(output: str, indexes: Sequence[int]) -> dict[str, list[Picture]]:
    """Rejected pictures, by reason."""
    found: dict[str, list[Picture]] = {}
    for number in spread(indexes, SHARDS):
        for picture in chain(*(pictures(storage.join(output, name(number))) for name in REJECTED_NAMES)):
            of_reason = found.setdefault(picture.row["reason"], [])
            if len(of_reason) < PER_REASON:
                of_reason.append(picture)
    return found


def within_budget(found: Iterable[Picture]) -> Iterator[Picture]:
    spent = 0
    for picture in found:
        spent += len(picture.uri)
        if spent > BUDGET:
            return
        yield picture


def pictures(path: str) -> Iterator[Picture]:
    """The samples of a tar in their order; none where there is no tar."""
    if not storage.exists(path):
        return
    for sample in read_tar(path):
        body = next((sample[suffix] for suffix in SUFFIXES if suffix in sample), b"")
        yield from shown(body, row_of(sample))


def shown(body: bytes, row: Row) -> Iterator[Picture]:
    """The picture as the page shows it; none where it does not decode."""
    try:
        small = images.thumbnail(body, images.read_header(body), LONG_SIDE)
    except Rejected:
        return
    header = images.read_header(small)
    uri = "data:image/jpeg;base64," + base64.b64encode(small).decode()
    yield Picture(uri, header.width, header.height, row)


def row_of(sample: dict[str, bytes]) -> Row:
    """What the page shows of a sample; its KEY.json lacks what is null."""
    row: Row = {"caption": sample.get("txt", b"").decode("utf-8", "replace"), "url": "", **dict.fromkeys(SIZES)}
    return {**row, **json.loads(sample.get("json", b"{}"))}


def read_tar(path: str) -> Iterator[dict[str, bytes]]:
    """A tar's samples: the contents of their members by suffix.

    A truncated tar ends at its last complete sample; img2dataset leaves such tars when it is killed.
    """
    key, sample = "", dict[str, bytes]()
    with storage.open_input(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    own_key, suffix = split_name(member.name)
                    if sample and own_key != key:
                        yield sample
                        sample = {}
                    body = tar.extractfile(member)
                    key, sample[suffix.lower()] = own_key, body.read() if body else b""
        except tarfile.ReadError:
            return
    if sample:
        yield sample


def host_of(url: str | None) -> str:
    """The link's host; an empty string where there is none."""
    try:
        return urlsplit(url or "").hostname or ""
    except ValueError:
        return ""
