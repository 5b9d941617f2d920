"""The folder of generated pictures: what is there already, and what is written. No torch.

plan.json               written first: everything that decides the pictures
00000/00.png …          a caption's pictures, best first; each tells in its text chunk `gesso` what it is
00000/pictures.json     written when they are all there: {"pictures": …, "scores": …} of this caption
generated.json          written last, of all captions; contact_sheet.png and gain.png are written just before it
"""

import io
import json
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin

from gesso import storage
from gesso.dataset import identity
from gesso.dataset.layout import PLAN
from gesso.dataset.manifest import read_plan
from gesso.errors import UserError
from gesso.flags import differences
from gesso.generation.layout import CHUNK, GENERATED, picture_name, record_name
from gesso.images import Pixels

Json = dict[str, Any]

FORMAT, KIND = 1, "generated"


class Kept(NamedTuple):
    """A picture that is kept."""

    pixels: Pixels
    seed: int
    score: float | None


class Output:
    """One folder. `settings` decide the pictures; their paths only hint where something was."""

    def __init__(self, path: str, captions: Sequence[str], settings: Json) -> None:
        self.path, self._captions = path, captions
        self._settings: Json = identity.with_paths(settings, partial(identity.published, output=path))
        digest = sha256("\n".join(captions).encode()).hexdigest()
        self._decisive = {**self._settings, "captions_sha256": digest}

    def begin(self) -> None:
        """Writes the plan. Raises UserError where the folder was begun with another."""
        old = read_plan(self.path)
        changed = differences(old["settings"], self._decisive) if old else []
        if changed:
            told = f"{self.path} was begun with other settings: {'; '.join(changed)}"
            raise UserError(f"{told}; give those to go on, or another --output")
        if not old:
            plan = {"format": FORMAT, "kind": KIND, "settings": self._decisive, "captions": len(self._captions)}
            storage.write_json(storage.join(self.path, PLAN), plan)

    @property
    def is_free(self) -> bool:
        """Whether nothing is there, or what these settings have begun."""
        old = read_plan(self.path)
        return not differences(old["settings"], self._decisive) if old else not storage.exists(self.path)

    def missing(self) -> list[int]:
        """The numbers of the captions whose pictures are not all there."""
        return [index for index in range(len(self._captions)) if not self._exists(record_name(index))]

    def write(self, index: int, kept: Sequence[Kept], scores: Sequence[float] | None) -> None:
        """A caption's pictures, best first, and the scores of all its candidates."""
        entries = [self._write_picture(index, rank, picture) for rank, picture in enumerate(kept)]
        record = {"pictures": entries, "scores": scores}
        storage.write_json(storage.join(self.path, record_name(index)), record)

    def records(self) -> Iterator[Json]:
        """What `write` has written of each caption."""
        for index in range(len(self._captions)):
            yield storage.read_json(storage.join(self.path, record_name(index)))

    def finish(self) -> None:
        """Writes generated.json, of all captions."""
        records = list(self.records())
        pictures = [entry for record in records for entry in record["pictures"]]
        scores = [record["scores"] for record in records] if self._settings["ranker"] else None
        found = {"format": FORMAT, "kind": KIND, **self._settings, "pictures": pictures, "scores": scores}
        storage.write_json(storage.join(self.path, GENERATED), found)

    @property
    def is_finished(self) -> bool:
        return self._exists(GENERATED)

    def _exists(self, name: str) -> bool:
        return storage.exists(storage.join(self.path, name))

    def _write_picture(self, index: int, rank: int, kept: Kept) -> Json:
        name = picture_name(index, rank)
        entry = {
            "file": name,
            "caption": self._captions[index],
            "caption_index": index,
            "rank": rank,
            "seed": kept.seed,
            "score": kept.score,
        }
        body = png(kept.pixels, {**entry, **self._settings})
        with storage.write_whole(storage.join(self.path, name)) as stream:
            stream.write(body)
        return {**entry, "bytes": len(body), "sha256": sha256(body).hexdigest()}


def png(pixels: Pixels, about: Json) -> bytes:
    """A PNG with a text chunk of JSON: the same bytes for the same pixels and text."""
    text = PngImagePlugin.PngInfo()
    text.add_text(CHUNK, json.dumps(about))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=text)
    return stream.getvalue()
