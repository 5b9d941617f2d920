"""Thumbnails of a few pictures of a dataset with their rows, from the first samples of its tars. No Beam."""

import base64
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gesso import images, storage
from gesso.dataset import layout
from gesso.errors import Rejected

Row = dict[str, Any]

SHARDS = 24  # tars that are opened
LONG_SIDE = 192  # pixels
PER_REASON = 8
REJECTED_NAMES = (layout.rejected_name, layout.former_rejected_name)
SIZES = ("width", "height", "original_width", "original_height")
BUDGET = 4_500_000  # bytes of all kept pictures as data URIs, so that the page stays under 6 MB
SUFFIXES = ("jpg", "jpeg", "png", "webp")


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
    found = (
        picture for index in chosen for picture in islice(pictures(storage.join(output, layout.tar_name(index))), each)
    )
    return list(within_budget(islice(found, count)))


def rejected_pictures(output: str, indexes: Sequence[int]) -> dict[str, list[Picture]]:
    """Rejected pictures, by reason."""
    found: dict[str, list[Picture]] = {}
    for index in spread(indexes, SHARDS):
        for picture in chain(*(pictures(storage.join(output, name(index))) for name in REJECTED_NAMES)):
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
        try:
            header = images.read_header(body)
            small = images.thumbnail(body, header, LONG_SIDE)
        except Rejected:
            continue
        shown = images.read_header(small)
        uri = "data:image/jpeg;base64," + base64.b64encode(small).decode()
        yield Picture(uri, shown.width, shown.height, row_of(sample))


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
                    name, _, suffix = member.name.rpartition("/")[2].partition(".")
                    if sample and name != key:
                        yield sample
                        sample = {}
                    body = tar.extractfile(member)
                    key, sample[suffix] = name, body.read() if body else b""
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
