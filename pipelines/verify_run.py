"""Checks of a training's directory for `gesso verify`: can its files be read to their ends? No torch.

A checkpoint is a zip, which has a checksum of every part; a detector's weights state where their last tensor ends.
"""

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from gesso import storage
from gesso.dataset.kinds import RUN, TRAININGS, Kind
from gesso.errors import UserError
from gesso.training import metrics_file
from gesso.training.layout import METRICS

Advance = Callable[[int], None]  # called with a number of bytes
Check = Callable[[str], str]  # from a path to what is wrong; an empty string for nothing

KINDS = (*TRAININGS, "tokenizer", "detector")


def verify(output: str, kind: Kind, start: Advance, advance: Advance) -> list[str]:
    """A line for each problem, which begins with the file's name."""
    found = {item.path.removeprefix(f"{output}/"): item for item in storage.walk(output)}
    checks = {name: check for name in found if (check := check_of(name))}
    start(sum(found[name].size for name in checks))
    problems = [] if RUN in found or kind.name == "detector" else [f"{RUN}: missing"]
    for name, check in sorted(checks.items()):
        problem = check(found[name].path)
        advance(found[name].size)
        problems += [f"{name}: {problem}"] if problem else []
    return problems


def check_of(name: str) -> Check | None:
    """How a file is checked, by its name; None for one that nothing is known of."""
    if name == METRICS:
        return check_metrics
    checks = {".pt": check_zip, ".json": check_json, ".safetensors": check_safetensors}
    return next((check for suffix, check in checks.items() if name.endswith(suffix)), None)


def check_json(path: str) -> str:
    try:
        return "" if isinstance(storage.read_json(path), dict) else "no JSON object"
    except ValueError as error:
        return f"not JSON: {error}".split("\n")[0]


def check_metrics(path: str) -> str:
    try:
        metrics_file.read(path)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def check_zip(path: str) -> str:
    """Every part of a checkpoint against its checksum."""
    try:
        with storage.open_input(path) as stream, zipfile.ZipFile(stream) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f"no whole checkpoint: {error}"
    return f"no whole checkpoint: {broken} is damaged" if broken else ""


def check_safetensors(path: str) -> str:
    """The length against the header's (github.com/huggingface/safetensors, format)."""
    with storage.open_input(path) as stream:
        body = stream.read()
    try:
        (size,) = struct.unpack_from("<Q", body)
        expected = 8 + size + max(ends(json.loads(body[8 : 8 + size])))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        return "its header is damaged"
    return "" if len(body) == expected else f"{len(body):,} bytes, in its header {expected:,}"


def ends(header: dict[str, Any]) -> Iterator[int]:
    """Where each tensor ends behind the header, bytes."""
    yield 0
    yield from (int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__")
