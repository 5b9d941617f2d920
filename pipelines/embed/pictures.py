"""The pictures to embed, with their metadata: samples of committed shards, or files of a folder. No Beam.

A shard (of gesso or img2dataset, or a tar of an index) is one block, its samples in the order of the tar. A folder's
pictures are split into blocks in the order of their paths; COCO's annotation file adds captions and links.
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
from gesso.dataset.members import SUFFIXES, split_name, suffix_of
from gesso.errors import Rejected, UserError
from gesso.storage import Found

Json = dict[str, Any]

FOLDER_BLOCK = 10_000  # pictures in a block of a folder
CAPTIONS_JOINED = " / "  # COCO has five captions for each picture
OTHER_FILE, FILE_MISSING = (
    "other_file",
    "file_missing",
)  # counted only: files that are not pictures; annotated pictures without a file
READERS = 16  # tars checked at a time
END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)


class Sample(NamedTuple):
    """A picture to embed, not yet read; `fields`: those of schemas.METADATA_FIELDS that are known already."""

    key: str
    image_path: str
    read: Callable[[], bytes]  # raises Rejected where the picture is missing
    fields: Json


@dataclass(frozen=True)
class FolderPicture:
    """A file of a folder with its annotations."""

    image_path: str  # below the folder
    caption: str | None
    url: str | None


@dataclass(frozen=True)
class Block:
    """The input of one block of embeddings: a shard, or some files of a folder."""

    index: int
    path: str  # of the tar, or of the folder
    count: int  # samples
    entries: tuple[FolderPicture, ...] | None = None  # None: the block is a tar
    indexed_by: str | None = None  # the index whose rows tell of the tar

    def samples(self) -> Iterator[Sample]:
        """The samples in a fixed order. Raises UserError where the tar is damaged."""
        if self.indexed_by is not None:
            return read_indexed(self, self.indexed_by)
        return read_tar(self) if self.entries is None else map(partial(folder_sample, self.path), self.entries)


@dataclass(frozen=True)
class Source:
    """All blocks, and their source as plan.json and manifest.json record it."""

    kind: str  # "shards" or "images"
    path: str
    sha256: str  # tells its content from another
    input: list[Json]
    blocks: tuple[Block, ...]
    counted_only: dict[str, int]

    @property
    def count(self) -> int:
        return sum(block.count for block in self.blocks)


def open_shards(path: str) -> Source:
    """The committed shards of a finished collection, or of img2dataset.

    Raises UserError: no shards, an unfinished collection, shards of a wrong size, damaged at begin or end, or without
    a marker.
    """
    from gesso.dataset import collection, index

    path = storage.absolute(path)
    if index.is_index(path):
        return open_index(path)
    markers = manifest.committed(path)
    found = {item.path: item for item in storage.files(path) if item.path.endswith(".tar")}
    tars = {number: found.pop(storage.join(path, layout.tar_name(number)), None) for number in markers}
    check_complete(path, tars)
    if not tars:
        raise collection.no_shards_error(path, storage.sizes(path))
    if found:
        raise UserError(f"{next(iter(found))} has no marker with its size: {advice(path)}")
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(check_ends, [tar for tar in tars.values() if tar]))
    blocks = [Block(number, tar.path, markers[number]["successes"]) for number, tar in sorted(tars.items()) if tar]
    listing = [tar for _, tar in sorted(tars.items()) if tar]
    name, sha256 = collection.checksum(path, storage.sizes(path))
    record = {"path": path, "shards": len(blocks), **summary(listing, path), name: sha256}
    return Source(collection.KIND, path, sha256, [record], tuple(blocks), {})


def open_index(path: str) -> Source:
    """The tars of a finished index. Raises UserError where it is unfinished, or a tar is gone or has another size."""
    from gesso.dataset import collection

    opened = collection.open_collection(path)
    blocks = [Block(shard.number, shard.tar, shard.samples, indexed_by=path) for shard in opened.shards]
    record = {name: value for name, value in opened.input_record().items() if name not in ("kind", "samples")}
    return Source(collection.KIND, path, opened.sha256, [record], tuple(blocks), {})


def check_complete(path: str, tars: dict[int, Found | None]) -> None:
    """Raises UserError where the collection is unfinished or one of its shards is missing."""
    expected = set(tars)
    if storage.exists(storage.join(path, layout.MANIFEST)):
        manifest = storage.read_json(storage.join(path, layout.MANIFEST))
        expected |= {entry["index"] for entry in manifest.get("shards", [])}
    elif storage.exists(storage.join(path, layout.PLAN)):
        raise UserError(f"{path} is not finished: run the same `gesso collect` again to resume it")
    missing = sorted(index for index in expected if not tars.get(index))
    if missing:
        raise UserError(f"{storage.join(path, layout.tar_name(missing[0]))} is missing or damaged: {advice(path)}")


def advice(path: str) -> str:
    return f"`gesso verify {path}` shows what is wrong; collect again, or move the shard's files away"


def check_ends(tar: Found) -> None:
    """Raises UserError unless the file begins and ends as a tar does."""
    with storage.open_input(tar.path) as stream:
        first = stream.read(tarfile.BLOCKSIZE)
        stream.seek(max(0, tar.size - len(END_OF_TAR)))
        last = stream.read()
    try:
        if any(first):
            tarfile.TarInfo.frombuf(first, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise UserError(f"{tar.path} is not a tar ({error}): {advice(os.path.dirname(tar.path))}") from error
    if last != END_OF_TAR:
        raise UserError(f"{tar.path} is cut off: {advice(os.path.dirname(tar.path))}")


def read_tar(block: Block) -> Iterator[Sample]:
    """The samples of a shard. Raises UserError where some are missing."""
    number = 0
    for key, members in read_samples(block.path):
        number += 1
        yield tar_sample(block.index, key, members)
    if number != block.count:
        raise UserError(damage_message(block, f"{number:,} samples can be read, its marker counts {block.count:,}"))


def read_samples(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members by suffix of each sample of a tar, up to its end or to a damaged part."""
    key, sample = "", dict[str, bytes]()
    with storage.open_input(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    own_key, suffix = split_name(member.name)
                    if sample and own_key != key:
                        yield key, sample
                        sample = {}
                    body = tar.extractfile(member)
                    key, sample[suffix.lower()] = own_key, body.read() if body else b""
        except tarfile.ReadError:
            return  # the caller finds the missing samples by their count
    if sample:
        yield key, sample


def read_indexed(block: Block, path: str) -> Iterator[Sample]:
    """The samples of a tar by the rows of the index in `path`. Raises UserError where either is damaged."""
    from gesso.dataset import index

    table = index.read_taken(path, block.index, index.METADATA_COLUMNS)
    if len(table) != block.count:
        name = storage.join(path, layout.rows_name(block.index))
        raise UserError(f"{name} has {len(table):,} samples, its marker counts {block.count:,}: `gesso verify {path}`")
    places = zip(*(table[name].to_pylist() for name in index.PLACES), strict=True)
    rows = (row for batch in table.to_batches() for row in batch.to_pylist())
    for row, body in zip(rows, index.read_bodies(block.path, places), strict=True):
        name = index.image_name(row["key"], row["image_format"])
        yield Sample(row["key"], name, partial(bytes, body), {**row, "shard": block.index})


def damage_message(block: Block, what: str) -> str:
    return f"{block.path} is damaged ({what}): {advice(os.path.dirname(block.path))}"


def tar_sample(shard: int, key: str, members: dict[str, bytes]) -> Sample:
    suffix = next((suffix for suffix in SUFFIXES if suffix in members), None)
    fields = {**sample_fields(members), "shard": shard}
    if suffix is None:
        return Sample(key, f"{key}.jpg", raise_picture_missing, fields)
    return Sample(key, f"{key}.{suffix}", lambda: members[suffix], fields)


def sample_fields(members: dict[str, bytes]) -> Json:
    """The sample's json; where it has no caption, that of its txt."""
    caption = members["txt"].decode("utf-8", "replace") if "txt" in members else None
    try:
        value = json.loads(members.get("json", b"{}"))
    except ValueError:
        value = None
    fields = value if isinstance(value, dict) else {}
    return {**fields, "caption": fields.get("caption") or caption}


def raise_picture_missing() -> bytes:
    raise Rejected("picture_missing", f"none of {', '.join(SUFFIXES)}")


def open_folder(path: str, annotation_file: str | None) -> Source:
    """Every picture below a folder, with COCO's captions where an annotation file is given.

    Raises UserError: no picture, two with the same key, an annotation file that is invalid or of other pictures.
    """
    path = storage.absolute(path)
    found = storage.walk(path)
    pictures = [item for item in found if suffix_of(item.path) in SUFFIXES]
    if not pictures:
        raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)}): give --images their folder")
    check_keys(pictures)
    annotations = read_annotations(annotation_file) if annotation_file else {}
    named = {os.path.basename(item.path) for item in pictures}
    if annotation_file and not named & annotations.keys():
        raise UserError(
            f"--annotations {annotation_file} has no picture of {path}: give the annotation file of these pictures"
        )
    entries = [folder_picture(item.path[len(path.rstrip("/")) + 1 :], annotations) for item in pictures]
    starts = range(0, len(entries), FOLDER_BLOCK)
    blocks = (tuple(entries[begin : begin + FOLDER_BLOCK]) for begin in starts)
    counted = {OTHER_FILE: len(found) - len(pictures), FILE_MISSING: len(annotations.keys() - named)}
    inputs = [{"path": path, "pictures": len(pictures), **summary(pictures, path)}]
    if annotation_file:
        inputs.append(annotation_summary(annotation_file))
    tasks = tuple(Block(index, path, len(block), block) for index, block in enumerate(blocks))
    return Source("images", path, inputs[0]["sha256"], inputs, tasks, counted)


def folder_sample(folder: str, entry: FolderPicture) -> Sample:
    path = storage.join(folder, entry.image_path)
    return Sample(key_of(path), entry.image_path, partial(read, path), {"caption": entry.caption, "url": entry.url})


def read(path: str) -> bytes:
    """A picture's bytes. Raises UserError: a picture that is skipped would be missing from the search."""
    try:
        with storage.open_input(path) as stream:
            return stream.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def folder_picture(image_path: str, annotations: dict[str, tuple[str | None, str | None]]) -> FolderPicture:
    return FolderPicture(image_path, *annotations.get(os.path.basename(image_path), (None, None)))


def check_keys(pictures: Iterable[Found]) -> None:
    """Raises UserError where two pictures have the same name but for the extension."""
    by_key = dict[str, str]()
    for item in pictures:
        other = by_key.setdefault(key_of(item.path), item.path)
        if other != item.path:
            raise UserError(f"{other} and {item.path} would have the same key: rename one of them")


def read_annotations(path: str) -> dict[str, tuple[str | None, str | None]]:
    """Caption and link by file name, from COCO's annotation format; captions are joined in the order of their ids.

    Raises UserError where the file has another format.
    """
    try:
        value = json.loads(read(path))
        captions = defaultdict[int, list[str]](list)
        for annotation in sorted(value.get("annotations", []), key=lambda annotation: annotation["id"]):
            if "caption" in annotation:
                captions[annotation["image_id"]].append(annotation["caption"].strip())
        return {
            image["file_name"]: (CAPTIONS_JOINED.join(captions[image["id"]]) or None, image.get("coco_url"))
            for image in value["images"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"--annotations {path} is not in COCO's format ({reason}): give captions_val2014.json"
        ) from error


def annotation_summary(path: str) -> Json:
    body = read(path)
    return {"path": storage.absolute(path), "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def summary(listing: list[Found], path: str) -> Json:
    """Total bytes, and a checksum of names and sizes, which identifies the set of files."""
    lines = "".join(f"{item.path[len(path.rstrip('/')) + 1 :]}\t{item.size}\n" for item in listing)
    return {"bytes": sum(item.size for item in listing), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def key_of(path: str) -> str:
    """The file's name without the extension."""
    return os.path.splitext(os.path.basename(path))[0]
