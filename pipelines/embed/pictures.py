"""Pictures to embed, with what is known about each: samples of committed shards, or a folder's files. No Beam.

A shard is one block: its samples in the order of the tar (ours or img2dataset's). A folder's pictures are cut into
blocks in the order of their paths; COCO's annotation file gives them captions and links.
"""

import hashlib
import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from gesso import storage
from gesso.dataset import layout, manifest
from gesso.dataset.members import SUFFIXES, suffix_of
from gesso.errors import Rejected, UserError
from gesso.storage import Found

Json = dict[str, Any]

FOLDER_BLOCK = 10_000  # pictures of a folder in a block of embeddings
CAPTIONS_JOINED = " / "  # COCO has five for a picture
OTHER_FILE, FILE_MISSING = "other_file", "file_missing"  # counted only: a folder's files that are none, and the reverse
READERS = 16  # tars looked into at a time
END = bytes(2 * tarfile.BLOCKSIZE)


class Sample(NamedTuple):
    """A picture that may turn out to be none; `fields` holds what is known in advance of `schemas.METADATA_FIELDS`."""

    key: str
    image_path: str
    read: Callable[[], bytes]  # raises Rejected where there is no picture
    fields: Json


@dataclass(frozen=True)
class Entry:
    """A file of a folder: its path below it and what the annotations say."""

    image_path: str
    caption: str | None
    url: str | None


@dataclass(frozen=True)
class Block:
    """What becomes one block of embeddings: a shard, or some files of a folder."""

    index: int
    path: str  # of the tar, or of the folder
    count: int  # samples
    entries: tuple[Entry, ...] | None = None  # None: a tar

    def samples(self) -> Iterator[Sample]:
        """In an order that is always the same. Raises UserError where the tar is damaged."""
        return read_tar(self) if self.entries is None else map(partial(folder_sample, self.path), self.entries)


@dataclass(frozen=True)
class Source:
    """All blocks, and how plan.json and manifest.json name where they came from."""

    kind: str  # "shards" or "images"
    path: str
    input: list[Json]
    blocks: tuple[Block, ...]
    counted_only: dict[str, int]

    @property
    def count(self) -> int:
        return sum(block.count for block in self.blocks)


def open_shards(path: str) -> Source:
    """The committed shards of a finished collection, or img2dataset's.

    Raises UserError: no shards, a collection that is not finished, shards that are damaged as far as their sizes, ends
    and markers show.
    """
    path = storage.absolute(path)
    markers = manifest.committed(path)
    found = {item.path: item for item in storage.files(path) if item.path.endswith(".tar")}
    tars = {index: found.pop(storage.join(path, layout.tar_name(index)), None) for index in markers}
    if not tars and not found:
        raise UserError(f"{path} holds no shards: give the --output of a `gesso collect`, or img2dataset's folder")
    check_complete(path, tars)
    if found:
        raise UserError(f"{next(iter(found))} has no marker that agrees with it: {mend(path)}")
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(check_ends, [tar for tar in tars.values() if tar]))
    blocks = [Block(index, tar.path, markers[index]["successes"]) for index, tar in sorted(tars.items()) if tar]
    listing = [tar for _, tar in sorted(tars.items()) if tar]
    return Source("shards", path, [{"path": path, "shards": len(blocks), **summary(listing, path)}], tuple(blocks), {})


def check_complete(path: str, tars: dict[int, Found | None]) -> None:
    """Raises UserError where the collection goes on, or a shard that it tells of is gone."""
    expected = set(tars)
    if storage.exists(storage.join(path, layout.MANIFEST)):
        manifest = storage.read_json(storage.join(path, layout.MANIFEST))
        expected |= {entry["index"] for entry in manifest.get("shards", [])}
    elif storage.exists(storage.join(path, layout.PLAN)):
        raise UserError(f"{path} is not finished: the same `gesso collect` goes on")
    lost = sorted(index for index in expected if not tars.get(index))
    if lost:
        raise UserError(f"{storage.join(path, layout.tar_name(lost[0]))} is missing or damaged: {mend(path)}")


def mend(path: str) -> str:
    return f"`gesso verify {path}` says what is wrong; collect again, or move the shard's files away"


def check_ends(tar: Found) -> None:
    """Raises UserError unless the file begins and ends as a tar does."""
    with storage.open_input(tar.path) as stream:
        first = stream.read(tarfile.BLOCKSIZE)
        stream.seek(max(0, tar.size - len(END)))
        last = stream.read()
    try:
        if any(first):
            tarfile.TarInfo.frombuf(first, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise UserError(f"{tar.path} is no tar ({error}): {mend(os.path.dirname(tar.path))}") from error
    if last != END:
        raise UserError(f"{tar.path} is cut off: {mend(os.path.dirname(tar.path))}")


def read_tar(block: Block) -> Iterator[Sample]:
    """The samples of a shard: the members side by side that share a key. Raises UserError where some are missing."""
    number = 0
    for key, members in grouped(block.path):
        number += 1
        yield tar_sample(block.index, key, members)
    if number != block.count:
        raise UserError(damaged(block, f"{number:,} samples can be read, its marker counts {block.count:,}"))


def grouped(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members by suffix of each sample of a tar, up to its end or to where it breaks."""
    key, sample = "", dict[str, bytes]()
    with storage.open_input(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    folder, slash, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    if sample and folder + slash + stem != key:
                        yield key, sample
                        sample = {}
                    body = tar.extractfile(member)
                    key, sample[suffix.lower()] = folder + slash + stem, body.read() if body else b""
        except tarfile.ReadError:
            return  # the sample that breaks off is missing in the count
    if sample:
        yield key, sample


def damaged(block: Block, what: str) -> str:
    return f"{block.path} is damaged ({what}): {mend(os.path.dirname(block.path))}"


def tar_sample(shard: int, key: str, members: dict[str, bytes]) -> Sample:
    suffix = next((suffix for suffix in SUFFIXES if suffix in members), None)
    fields = {**json_of(members), "shard": shard}
    if suffix is None:
        return Sample(key, f"{key}.jpg", no_picture, fields)
    return Sample(key, f"{key}.{suffix}", lambda: members[suffix], fields)


def json_of(members: dict[str, bytes]) -> Json:
    """What the sample says of itself. Its text stands in for a caption."""
    caption = members["txt"].decode("utf-8", "replace") if "txt" in members else None
    try:
        told = json.loads(members.get("json", b"{}"))
    except ValueError:
        told = None
    known = told if isinstance(told, dict) else {}
    return {**known, "caption": known.get("caption") or caption}


def no_picture() -> bytes:
    raise Rejected("picture_missing", f"none of {', '.join(SUFFIXES)}")


def open_folder(path: str, annotations: str | None) -> Source:
    """Every picture below a folder, with COCO's captions where its annotation file is given.

    Raises UserError: no picture, two with the same key, an annotation file that is none or of other pictures.
    """
    path = storage.absolute(path)
    found = storage.walk(path)
    pictures = [item for item in found if suffix_of(item.path) in SUFFIXES]
    if not pictures:
        raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)}): give --images their folder")
    check_keys(pictures)
    notes = read_annotations(annotations) if annotations else {}
    named = {os.path.basename(item.path) for item in pictures}
    if annotations and not named & notes.keys():
        raise UserError(f"--annotations {annotations} names no picture of {path}: give the file that belongs to them")
    entries = [entry_of(item.path[len(path.rstrip("/")) + 1 :], notes) for item in pictures]
    cut = range(0, len(entries), FOLDER_BLOCK)
    blocks = (tuple(entries[begin : begin + FOLDER_BLOCK]) for begin in cut)
    counted = {OTHER_FILE: len(found) - len(pictures), FILE_MISSING: len(notes.keys() - named)}
    given = [{"path": path, "pictures": len(pictures), **summary(pictures, path)}]
    if annotations:
        given.append(annotation_summary(annotations))
    return Source("images", path, given, tuple(Block(i, path, len(b), b) for i, b in enumerate(blocks)), counted)


def folder_sample(folder: str, entry: Entry) -> Sample:
    path = storage.join(folder, entry.image_path)
    return Sample(key_of(path), entry.image_path, partial(read, path), {"caption": entry.caption, "url": entry.url})


def read(path: str) -> bytes:
    """A picture's bytes. Raises UserError: to leave out one that may be there would hide it from the search."""
    try:
        with storage.open_input(path) as stream:
            return stream.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def entry_of(image_path: str, notes: dict[str, tuple[str | None, str | None]]) -> Entry:
    return Entry(image_path, *notes.get(os.path.basename(image_path), (None, None)))


def check_keys(pictures: Iterable[Found]) -> None:
    """Raises UserError where two pictures have the same name but for the ending."""
    by_key = dict[str, str]()
    for item in pictures:
        other = by_key.setdefault(key_of(item.path), item.path)
        if other != item.path:
            raise UserError(f"{other} and {item.path} would have the same key: rename one of them")


def read_annotations(path: str) -> dict[str, tuple[str | None, str | None]]:
    """Caption and link by file name, of COCO's form: captions in the order of their ids, joined.

    Raises UserError where the file is none.
    """
    try:
        told = json.loads(read(path))
        captions = defaultdict[int, list[str]](list)
        for note in sorted(told.get("annotations", []), key=lambda note: note["id"]):
            if "caption" in note:
                captions[note["image_id"]].append(note["caption"].strip())
        return {
            image["file_name"]: (CAPTIONS_JOINED.join(captions[image["id"]]) or None, image.get("coco_url"))
            for image in told["images"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--annotations {path} has not COCO's form ({type(error).__name__}: {error}): give captions_val2014.json"
        ) from error


def annotation_summary(path: str) -> Json:
    body = read(path)
    return {"path": storage.absolute(path), "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def summary(listing: list[Found], path: str) -> Json:
    """Bytes of all files and the checksum of their names and sizes: tells another set of files."""
    lines = "".join(f"{item.path[len(path.rstrip('/')) + 1 :]}\t{item.size}\n" for item in listing)
    return {"bytes": sum(item.size for item in listing), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def key_of(path: str) -> str:
    """The file's name without the ending."""
    return os.path.splitext(os.path.basename(path))[0]
