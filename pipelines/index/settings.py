"""What an index takes from a sample, and how its keys are made. Standard library alone, so that `--help` is fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gesso.errors import UserError
from gesso.flags import at_least, flag, one_of

JSON = "json"
FIELD_TYPES = ("string", "int", "float", "bool")  # the first is the default
MEMBER_TYPES = ("text", "binary")
BY_SAMPLE, BY_SHARD = "sample", "shard"


class Origin(NamedTuple):
    """Where a value stands in a sample: a member, or a field of its JSON."""

    suffix: str
    field: str = ""

    def __str__(self) -> str:
        return f"{self.suffix}.{self.field}" if self.field else self.suffix


class Carried(NamedTuple):
    """A value that travels as a column of its own."""

    origin: Origin
    type: str  # one of FIELD_TYPES or MEMBER_TYPES


@dataclass(frozen=True)
class IndexSettings:
    """What is taken from each sample, and which samples."""

    caption: str = flag(
        "txt,caption,json.caption,json.text,json.TEXT",
        "where captions stand: endings of files, or fields of .json; the first that is there and not empty is taken; "
        "'' where there are none",
    )
    extra_columns: str = flag(
        "", "further fields of .json as columns: NAME or NAME:TYPE, of the types string, int, float, bool"
    )
    carry: str = flag("", "further files of a sample as columns: ENDING, or ENDING:binary for what is no text")
    keys: str = flag(
        BY_SAMPLE, "what tells samples apart: their keys as they are (sample), or behind the name of their tar (shard)"
    )
    decode: bool = flag(False, "decode every picture, not its header alone, and keep its perceptual hash")
    max_pixels: int = flag(50_000_000, "width times height above which a picture is refused, pixels")

    def __post_init__(self) -> None:
        one_of((BY_SAMPLE, BY_SHARD), keys=self.keys)
        at_least(1, max_pixels=self.max_pixels)
        _once("caption", self.captions)
        _once("extra_columns", [each.origin for each in self.carried if each.origin.field])
        _once("carry", [each.origin for each in self.carried if not each.origin.field])

    @property
    def captions(self) -> tuple[Origin, ...]:
        return tuple(map(_origin, _items(self.caption)))

    @property
    def carried(self) -> tuple[Carried, ...]:
        """Fields, then members, as they were given."""
        fields = (_typed(item, "extra_columns", FIELD_TYPES) for item in _items(self.extra_columns))
        members = (_typed(item, "carry", MEMBER_TYPES) for item in _items(self.carry))
        return (
            *(Carried(Origin(JSON, name), type) for name, type in fields),
            *(Carried(Origin(_suffix(name)), type) for name, type in members),
        )


def _once(flag_name: str, origins: Sequence[Origin]) -> None:
    """Raises UserError where one is named twice."""
    twice = next((each for each in origins if origins.count(each) > 1), None)
    if twice:
        raise UserError(f"--{flag_name} names '{twice}' twice: name it once")


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _origin(item: str) -> Origin:
    """`json.FIELD` is a field; everything else is the ending of a file."""
    head, dot, field = item.partition(".")
    return Origin(JSON, field) if head.lower() == JSON and dot else Origin(_suffix(item))


def _suffix(item: str) -> str:
    return item.lower().removeprefix(".")


def _typed(item: str, flag_name: str, types: tuple[str, ...]) -> tuple[str, str]:
    """`NAME:TYPE` or `NAME` → name and type."""
    name, colon, type = item.rpartition(":")
    if not colon:
        return item, types[0]
    if type not in types or not name:
        raise UserError(f"--{flag_name} has {item!r}: give NAME or NAME:TYPE, of the types {', '.join(types)}")
    return name, type
