"""Folders that the studio shows: what `gesso generate` has drawn, and what `gesso evaluate` made of it. No torch.

Only files that a folder's own generated.json lists are ever opened.
"""

import os
from typing import Any

from gesso import storage
from gesso.errors import UserError
from gesso.evaluation.report import CHART, RECORD, names_of
from gesso.generation.layout import GENERATED

Json = dict[str, Any]

WAY_OUT = "give the --output of `gesso generate` or of `gesso evaluate`"


class Folder:
    """What is in a folder: captions with their pictures, the best first, and an evaluation. Raises UserError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.generated = read_listing(path)
        inner = storage.join(path, "evaluation")  # where `gesso evaluate` writes
        self.evaluated = inner if storage.exists(storage.join(inner, RECORD)) else path
        if not self.generated and not storage.exists(storage.join(self.evaluated, RECORD)):
            raise UserError(f"--generated {path} has no {GENERATED} and no {RECORD}: {WAY_OUT}")
        self.captions = by_caption(self.generated)
        self.files = {picture["file"]: picture for caption in self.captions for picture in caption["pictures"]}

    def about(self) -> Json:
        """What the page shows in its list."""
        name = os.path.basename(storage.absolute(self.path)) or self.path
        has_evaluation = storage.exists(storage.join(self.evaluated, RECORD))
        return {"name": name, "path": self.path, "captions": len(self.captions), "evaluation": has_evaluation}

    def find(self, words: str, start: int, count: int) -> Json:
        """Some of the captions that have all of the words, in their order, and how many there are."""
        wanted = words.lower().split()
        found = [each for each in self.captions if all(word in each["caption"].lower() for word in wanted)]
        return {"total": len(found), "captions": found[start : start + count]}

    def read_picture(self, name: str) -> bytes | None:
        """A picture that generated.json lists; None for any other name."""
        path = storage.join(self.path, name)
        return storage.read(path) if name in self.files and storage.exists(path) else None

    def read_evaluation(self) -> Json | None:
        """Sides, notes and rows of evaluation.json, and its distance by name. Raises UserError where it is damaged."""
        path = storage.join(self.evaluated, RECORD)
        if not storage.exists(path):
            return None
        value = read_object(path)
        told = {name: value.get(name) for name in ("generated", "reference", "notes", "rows")}
        return {**told, "distance": names_of(value)["fid"]}

    def read_chart(self) -> bytes | None:
        path = storage.join(self.evaluated, CHART)
        return storage.read(path) if storage.exists(path) else None


def read_listing(path: str) -> list[Json]:
    """The pictures of generated.json; none where there is no such file. Raises UserError."""
    name = storage.join(path, GENERATED)
    if not storage.exists(name):
        return []
    try:
        pictures = [
            {key: picture[key] for key in ("file", "caption", "caption_index", "rank", "seed", "score")}
            for picture in read_object(name)["pictures"]
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{name} is damaged ({error!r}): write it again by `gesso generate`") from error
    return [{**each, "seed": str(each["seed"])} for each in pictures if is_inside(each["file"])]


def read_object(path: str) -> Json:
    """Raises UserError."""
    try:
        value = storage.read_json(path)
        if isinstance(value, dict):
            return value
        reason = "no object"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path} is damaged ({reason}): write it again")


def is_inside(name: str) -> bool:
    """Whether a listed name leads to a file below its folder."""
    return not os.path.isabs(name) and ".." not in name.split("/") and "://" not in name


def by_caption(pictures: list[Json]) -> list[Json]:
    """The captions in their order, each with its pictures by rank."""
    found: dict[int, Json] = {}
    for each in sorted(pictures, key=lambda picture: (picture["caption_index"], picture["rank"])):
        kept = found.setdefault(
            each["caption_index"], {"index": each["caption_index"], "caption": each["caption"], "pictures": []}
        )
        kept["pictures"].append({key: each[key] for key in ("file", "rank", "seed", "score")})
    return list(found.values())
