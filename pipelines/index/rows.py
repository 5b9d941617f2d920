"""A sample of a tar → its row: the picture's header, caption, fields of its JSON, members that are carried. No Beam."""

import hashlib
import json
from collections import Counter
from typing import Any

import pyarrow as pa

from gesso import images
from gesso.dataset.records import SUCCESS, status_of
from gesso.dataset.schemas import INDEX_FIELDS, PLAN_FIELDS, RANGE_FIELDS, ROW_FIELDS
from gesso.errors import Rejected, UserError
from gesso.pipelines.index.samples import Picture, Sample, readable
from gesso.pipelines.index.settings import BY_SHARD, JSON, Carried, IndexSettings, Origin

Row = dict[str, Any]

TYPES = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "binary": pa.binary(),
}
# What a sample's JSON may tell of it that the tar does not.
TOLD = (
    "url",
    "original_caption",
    "original_width",
    "original_height",
    "original_format",
    "original_bytes",
    "reencoded",
)
TOLD_FIELDS = tuple(field for field in ROW_FIELDS if field.name in TOLD)
RESERVED = frozenset(field.name for field in (*INDEX_FIELDS, *PLAN_FIELDS, *RANGE_FIELDS))
EMPTY_ROW: Row = {field.name: None for field in INDEX_FIELDS} | {"url": "", "caption": ""}


class RowMaker:
    """Makes the rows of one tar's samples; `dropped` and `unfitting` count what does not travel."""

    def __init__(self, tar_name: str, settings: IndexSettings) -> None:
        self._tar_name, self._settings = tar_name, settings
        self._prefix = f"{tar_name.removesuffix('.tar')}/" if settings.keys == BY_SHARD else ""
        self._captions, self._carried = settings.captions, settings.carried
        self._columns = [(column_name(each), each) for each in self._carried]
        self._seen = set[str]()
        self.wanted = frozenset([JSON, *(each.suffix for each in self._captions)])
        self.wanted |= {each.origin.suffix for each in self._carried}
        self.dropped = Counter[str]()  # members of taken samples by suffix
        self.unfitting = Counter[str]()  # values by column: of another type than the column's

    def row(self, sample: Sample) -> Row:
        """The row of a sample, taken or not."""
        key = readable(sample.key)
        row = {**EMPTY_ROW, "key": self._prefix + key, "source_tar": self._tar_name, "source_key": key}
        fields = self._json(sample.bodies.get(JSON))
        row |= self._told(fields) | self._carried_values(sample, fields)
        try:
            self._check_key(sample.key, key)
            row |= self._picture(sample)
            row["caption"], origin = self._caption(sample, fields)
            row |= {"status": SUCCESS, **_range(sample.picture)}
            self._count_dropped(sample, origin)
        except Rejected as rejection:
            row |= {"status": status_of(rejection.reason), "reason": rejection.reason}
            row |= {"error_message": rejection.message, "image_format": None}
        return row

    def _check_key(self, stored: str, key: str) -> None:
        if stored != key:
            raise Rejected("name_undecodable", "its name is not UTF-8")
        if key in self._seen:
            raise Rejected("duplicate_key", "the tar holds it twice, or its files are not side by side")
        self._seen.add(key)

    def _picture(self, sample: Sample) -> Row:
        if sample.picture is None:
            raise Rejected("picture_missing", f"holds {', '.join([*sample.bodies, *sample.dropped])}")
        body = sample.picture.body
        header = images.read_header(body)
        if header.width * header.height > self._settings.max_pixels:
            raise Rejected("too_many_pixels", f"{header.width}×{header.height}: over {self._settings.max_pixels:,}")
        found = {"width": header.width, "height": header.height, "image_format": header.format}
        if self._settings.decode:
            pixels = images.upright(images.decode(body, header, min(header.width, header.height)), header.orientation)
            found["phash"] = images.perceptual_hash(pixels)
        return {**found, "sha256": hashlib.sha256(body).hexdigest()}

    def _caption(self, sample: Sample, fields: Row) -> tuple[str, Origin | None]:
        """The first caption that is there and not empty, and where it stands. Raises Rejected."""
        for origin in self._captions:
            text = fields.get(origin.field) if origin.field else decoded(sample.bodies.get(origin.suffix, b""))
            if isinstance(text, str) and text.strip():
                return _encodable(text), origin
        if self._captions:
            raise Rejected("caption_missing", f"none in {', '.join(map(str, self._captions))}")
        return "", None

    def _json(self, body: bytes | None) -> Row:
        """The fields of a sample's JSON; none where it has none or its JSON is no object."""
        if body is None:
            return {}
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            return fields
        self.unfitting[JSON] += 1
        return {}

    def _told(self, fields: Row) -> Row:
        told = {each.name: self._fitting(each.name, fields.get(each.name), each.type) for each in TOLD_FIELDS}
        return {**told, "url": told["url"] or ""}

    def _carried_values(self, sample: Sample, fields: Row) -> Row:
        return {name: self._carried_value(name, each, sample, fields) for name, each in self._columns}

    def _carried_value(self, name: str, carried: Carried, sample: Sample, fields: Row) -> Any:
        suffix, field = carried.origin
        value: Any = fields.get(field) if field else sample.bodies.get(suffix)
        if carried.type == "text" and value is not None:
            value = value.decode("utf-8", "surrogateescape")
        return self._fitting(name, value, TYPES[carried.type])

    def _fitting(self, name: str, value: Any, type: pa.DataType) -> Any:
        """The value as one of the type; None where it is none, which is counted."""
        found = fitting(value, type)
        if found is None and value is not None:
            self.unfitting[name] += 1
        return found

    def _count_dropped(self, sample: Sample, caption: Origin | None) -> None:
        self.dropped.update(sample.dropped)
        kept = {JSON, *(each.origin.suffix for each in self._carried), caption.suffix if caption else JSON}
        self.dropped.update(suffix for suffix in sample.bodies if suffix not in kept)


def carried_fields(settings: IndexSettings) -> tuple[pa.Field, ...]:
    """The columns of what is carried. Raises UserError where two have one name."""
    fields = tuple(pa.field(column_name(each), TYPES[each.type]) for each in settings.carried)
    names = [field.name for field in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"--extra_columns and --carry both make a column {twice!r}: leave one out")
    return fields


def column_name(carried: Carried) -> str:
    """The name of its column; one that gesso writes itself gets the origin before it."""
    suffix, field = carried.origin
    name = field or suffix
    return name if name not in RESERVED else f"json_{name}" if field else f"member_{name}"


def fitting(value: Any, type: pa.DataType) -> Any:
    """The value where it is one of the type, else None: no text becomes a number, and no number a text."""
    if isinstance(value, bool) or value is None:
        return value if type == pa.bool_() else None
    if pa.types.is_integer(type):
        bits = type.bit_width - 1
        return value if isinstance(value, int) and -(1 << bits) <= value < 1 << bits else None
    if pa.types.is_floating(type):
        return _as_float(value)
    if pa.types.is_string(type):
        return value if isinstance(value, str) and _is_encodable(value) else None
    return value if isinstance(value, bytes) and pa.types.is_binary(type) else None


def decoded(body: bytes) -> str:
    """A member's text. Raises Rejected where it is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Rejected("caption_undecodable", f"not UTF-8 at byte {error.start:,}") from error


def _range(picture: Picture | None) -> Row:
    assert picture is not None
    return {"image_offset": picture.offset, "image_bytes": len(picture.body)}


def _encodable(text: str) -> str:
    if not _is_encodable(text):
        raise Rejected("caption_undecodable", "half of a UTF-16 pair stands alone in it")
    return text


def _is_encodable(text: str) -> bool:
    """Whether UTF-8 can have it: JSON may hold halves of UTF-16 pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_float(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None
