"""Flags made of settings: frozen dataclasses that check themselves, defined beside their owners. And those of paths.

A field that has a text is a flag of the same name. Standard library only, so that `--help` answers at once.
"""

from argparse import (
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar

from gesso import storage
from gesso.errors import UserError

T = TypeVar("T")


class Formatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Defaults behind each flag, the description's lines as they are."""


def path(text: str) -> str:
    """argparse's `type` of every file and folder, so that one path has one name from here on: `storage.plain`."""
    if not text:
        raise ArgumentTypeError("it is empty: give a path")
    return storage.plain(text)


def flag(default: Any, text: str) -> Any:
    """A field that is a flag: its default (a function is called for it) and its text, the unit in it."""
    if callable(default):
        return field(default_factory=default, metadata={"text": text})
    return field(default=default, metadata={"text": text})


def default_of(item: "Field[Any]") -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def add_flags(parser: ArgumentParser, title: str, settings: type) -> None:
    """A group of flags, one for each field of the dataclass that has a text."""
    group = parser.add_argument_group(title)
    for item in fields(settings):
        if "text" not in item.metadata:
            continue
        default = default_of(item)
        kind: dict[str, Any] = {"type": type(default), "metavar": type(default).__name__.upper()}
        if isinstance(default, bool):
            kind = {"action": BooleanOptionalAction}
        group.add_argument(f"--{item.name}", default=default, help=item.metadata["text"], **kind)


def read_flags(given: Namespace, settings: Callable[..., T], **others: Any) -> T:
    """The dataclass of the parsed flags; raises UserError where a value is out of its range."""
    names = [item.name for item in fields(settings) if "text" in item.metadata]  # type: ignore[arg-type]
    return settings(**{name: getattr(given, name) for name in names}, **others)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`name was 1, is 2` for each setting that is not what it was."""
    return [f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in new if old.get(name) != new[name]]


def one_of(allowed: Sequence[str], **values: str) -> None:
    """Raises UserError for the first value that is not allowed."""
    for name, value in values.items():
        if value not in allowed:
            raise UserError(f"--{name} is {value!r}: give one of {', '.join(allowed)}")


def at_least(least: float, **values: float) -> None:
    """Raises UserError for the first value below `least`."""
    for name, value in values.items():
        if value < least:
            raise UserError(f"--{name} is {value}: give {least:g} or more")
