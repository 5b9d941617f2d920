"""Flags made of settings: frozen dataclasses that check themselves, defined beside their owners. And those of paths.

A field that has a text is a flag of the same name. Standard library only, so that `--help` answers at once.
"""

import re
from argparse import (
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from difflib import get_close_matches
from math import inf, isfinite
from typing import Any, NoReturn, TypeVar

from gesso import storage
from gesso.errors import UserError

T = TypeVar("T")


class Formatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Defaults behind each flag, the description's lines as they are."""


class Parser(ArgumentParser):
    """The parser of every command: flags whole, `-` and `_` alike within them, and a mistake is a UserError."""

    def __init__(self, prog: str, description: str = "", **more: Any) -> None:
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=Formatter, **more)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        return super().parse_known_args([self._spelled(arg) for arg in args or ()], namespace)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Raises UserError for what the command does not know."""
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown {unknown[0]}{suggestion(unknown[0], self.known_flags())}")
        return known

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: `{self.prog} --help` lists the flags")

    def known_flags(self) -> list[str]:
        return list(self._option_string_actions)

    def _spelled(self, arg: str) -> str:
        """The flag as it was defined, where `arg` differs from it by `-` and `_` alone."""
        name, equals, value = arg.partition("=")
        if not name.startswith("--") or name in self._option_string_actions:
            return arg
        same = {known.replace("-", "_"): known for known in self._option_string_actions}
        return same.get(name.replace("-", "_"), name) + equals + value


def suggestion(name: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` where a name is near one that is known, else nothing."""
    near = get_close_matches(name, list(known), 1, 0.75)
    return f" (did you mean {near[0]}?)" if near else ""


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


def differences(old: Mapping[str, Any], new: Mapping[str, Any], of: str = "") -> list[str]:
    """`name was 1, is 2` for each setting that is not what it was, `data samples was 1, is 2` within one with fields.

    Where the same checksum stands beside a `path`, the path only hints where the content was, and may differ.
    """
    found = []
    moved = any(name.endswith("sha256") and new[name] and old.get(name) == new[name] for name in new)
    for name, value in new.items():
        was = old.get(name)
        if was == value or (name == "path" and moved):
            continue
        if isinstance(was, Mapping) and isinstance(value, Mapping):
            found += differences(was, value, f"{of}{name} ")
        else:
            found.append(f"{of}{name} was {_short(was)}, is {_short(value)}")
    return found


def _short(value: Any) -> str:
    """A value as a person reads it: of a checksum the beginning."""
    text = repr(value)
    return f"{text[:13]}…'" if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value) else text


def one_of(allowed: Sequence[str], **values: str) -> None:
    """Raises UserError for the first value that is not allowed."""
    for name, value in values.items():
        if value not in allowed:
            raise UserError(f"--{name} is {value!r}: give one of {', '.join(allowed)}")


def positive(**values: float) -> None:
    """Raises UserError for the first value that is not a finite number above 0."""
    for name, value in values.items():
        if not 0 < value < inf:
            raise UserError(f"--{name} is {value}: give more than 0")


def finite(**values: float) -> None:
    """Raises UserError for the first value that is infinite or no number."""
    for name, value in values.items():
        if not isfinite(value):
            raise UserError(f"--{name} is {value}: give a number")


def at_least(least: float, **values: float) -> None:
    """Raises UserError for the first value below `least`."""
    for name, value in values.items():
        if value < least:
            raise UserError(f"--{name} is {value}: give {least:g} or more")
