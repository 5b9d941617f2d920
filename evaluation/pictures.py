"""The pictures of a side: files of a folder, samples of shards, or what `gesso generate` wrote. No torch.

A side's pictures stand in the order of their paths, generated ones in that of captions and ranks. A picture's key is
the one by which `gesso embed` and `gesso match` know it: its sample's, or its file's name without the extension.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gesso import storage
from gesso.dataset import collection, index, kinds, members
from gesso.dataset.kinds import EVALUATION
from gesso.dataset.members import CAPTION, IMAGE, KINDS, PICTURES, suffix_of
from gesso.errors import UserError
from gesso.generation.layout import GENERATED
from gesso.storage import Found, Range, join

Json = dict[str, Any]

REJECTED = "rejected"  # a collection's folder, of tars in early ones


class Picture(NamedTuple):
    """Where a picture's bytes are, and what describes it."""

    key: str
    name: str  # for people
    place: Range
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """The generated or the real pictures. `kind`: "generated", "shards" or "pictures"."""

    path: str
    kind: str
    pictures: tuple[Picture, ...]

    @property
    def captioned(self) -> bool:
        return all(picture.captions for picture in self.pictures)


def open_side(flag: str, path: str, ranks: int, output: str) -> Side:
    """The pictures of --generated or --reference. Raises UserError where there are none.

    `ranks`: how many generated pictures of a caption count, 0 for all; nothing below `output` is taken for a picture.
    """
    if storage.exists(join(path, GENERATED)):
        side = Side(path, "generated", tuple(read_generated(path, ranks)))
    elif (held := kinds.recognise(path)) and held.name == "generated":
        raise UserError(f"--{flag} {path} is not finished: run its `gesso generate` again, it continues")
    elif held and held.name == index.KIND:
        side = Side(path, "shards", tuple(read_index(path)))
    else:
        kinds.expect(path, "gesso evaluate", *kinds.SHARDS, "generated")
        shards = [item for item in storage.files(path) if suffix_of(item.path) == "tar"]
        found = [picture for shard in shards for picture in read_shard(shard)] if shards else files(path, output)
        side = Side(path, "shards" if shards else "pictures", tuple(found))
    if not side.pictures:
        raise UserError(
            f"--{flag} {path} holds no pictures: give a folder of {', '.join(sorted(PICTURES))} files, a split of an "
            "export, or the --output of `gesso generate`"
        )
    return side


def read(picture: Picture) -> bytes:
    """Raises UserError where the file is gone or shorter than it was listed."""
    try:
        body = storage.Ranges(picture.place.path).read(picture.place.offset, picture.place.size)
    except OSError as error:
        raise UserError(f"{picture.name} cannot be read ({error.strerror or error}): restore it") from error
    if len(body) != picture.place.size:
        raise UserError(f"{picture.name} is cut off at {len(body):,} of {picture.place.size:,} bytes: restore it")
    return body


def read_generated(path: str, ranks: int) -> Iterator[Picture]:
    """What generated.json lists. Raises UserError where it is no such file, or a picture is missing."""
    listing = join(path, GENERATED)
    try:
        value = storage.read_json(listing)
        entries = [(entry["file"], entry["caption"], entry["rank"]) for entry in value["pictures"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{listing} is damaged ({error!r}): run its `gesso generate` again") from error
    sizes = {item.path: item.size for item in storage.walk(path)}
    for file, caption, rank in entries:
        place = join(path, file)
        if ranks and rank >= ranks:
            continue
        if place not in sizes:
            raise UserError(f"{place} is missing, {GENERATED} lists it: run its `gesso generate` again")
        yield Picture(key_of(file), place, Range(place, 0, sizes[place]), (caption,))


def files(path: str, output: str) -> list[Picture]:
    """The pictures below a folder, less those of evaluations."""
    found = storage.walk(path)
    charts = [folder_of(item.path) for item in found if item.path.endswith(f"/{EVALUATION}")]
    ours = tuple(f"{storage.absolute(folder)}/" for folder in (*charts, output))
    pictures = [item for item in found if suffix_of(item.path) in PICTURES]
    others = [item for item in pictures if not storage.absolute(item.path).startswith(ours)]
    return [Picture(key_of(item.path), item.path, Range(item.path, 0, item.size), ()) for item in others]


def read_shard(shard: Found) -> Iterator[Picture]:
    """The pictures of a tar with their captions, from its headers. Raises UserError where it is damaged."""
    content = storage.Ranges(shard.path)
    try:
        listed = list(members.iter_members(content.read, shard.size))
    except members.DamagedTar as damage:
        raise UserError(f"{shard.path} {damage}: `gesso verify` shows what else is damaged") from damage
    captions = {each.key: each for each in listed if KINDS.get(each.suffix) == CAPTION}
    for each in listed:
        if KINDS.get(each.suffix) == IMAGE:
            text = captions.get(each.key)
            told = content.read(text.offset, text.bytes).decode("utf-8", "replace") if text else ""
            name = f"{each.name} of {shard.path}"
            yield Picture(each.key, name, Range(shard.path, each.offset, each.bytes), (told,) if told else ())


def read_index(path: str) -> Iterator[Picture]:
    """The taken pictures of an index with their captions. Raises UserError where a tar is gone or has another size."""
    columns = ("key", "caption", *index.PLACES)
    for shard in collection.open_collection(path).shards:
        rows = index.read_taken(path, shard.number, columns)
        for key, caption, *place in zip(*(rows[name].to_pylist() for name in columns), strict=True):
            yield Picture(key, f"{key} of {shard.tar}", Range(shard.tar, *place), (caption,) if caption else ())


def annotated(side: Side, annotations: str) -> Side:
    """The side with the captions of COCO's annotation file. Raises UserError where the file is of other pictures."""
    if not annotations:
        return side
    captions = read_annotations(annotations)
    named = {picture.key for picture in side.pictures}
    if not named & captions.keys():
        raise UserError(f"--annotations {annotations} names no picture of {side.path}: give the file of these pictures")
    described = (picture._replace(captions=tuple(captions.get(picture.key, ()))) for picture in side.pictures)
    return replace(side, pictures=tuple(described))


def read_annotations(path: str) -> dict[str, list[str]]:
    """The captions of each picture by its key. Raises UserError where the file is not in COCO's format."""
    try:
        value = storage.read_json(path)
        found: dict[int, list[str]] = {image["id"]: [] for image in value["images"]}
        for annotation in sorted(value["annotations"], key=lambda each: each["id"]):
            found[annotation["image_id"]].append(annotation["caption"])
        return {key_of(image["file_name"]): found[image["id"]] for image in value["images"]}
    except OSError as error:
        raise UserError(f"--annotations {path} cannot be read ({error.strerror or error}): give a file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--annotations {path} is not in COCO's format ({error!r}): give captions_val….json") from error


def normal(caption: str) -> str:
    """A caption by which two are compared: blanks are one blank, none at the ends."""
    return " ".join(caption.split())


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def key_of(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]
