"""metrics.jsonl: a run's figures, a line of JSON per record. Standard library and our files only.

    {"step": 100, "loss": 3.71, "kl": 0.42, "loss_scale": null}

JSON has no NaN and no infinity: a value that is not finite is written as null and read as nan.
"""

import json
from math import isfinite, nan
from typing import Any

from gesso import storage
from gesso.errors import UserError

Record = dict[str, float | int]


def append(path: str, step: int, values: Record) -> None:
    """Adds a record in one write. Only `cut` mends what an earlier process left unfinished: call it on resuming."""
    line = {"step": step} | {name: value if isfinite(value) else None for name, value in values.items()}
    with open(path, "ab") as stream:
        stream.write((json.dumps(line, allow_nan=False) + "\n").encode())


def read(path: str) -> list[Record]:
    """The records in their order, `step` among the values; none where there is no such file.

    A damaged last line is what a killed process leaves, and is passed over. Raises UserError where another is damaged.
    """
    return [{name: nan if value is None else value for name, value in record.items()} for _, record in _lines(path)]


def cut(path: str, step: int) -> None:
    """Drops the records behind a step, and a damaged last line; the file is replaced whole. Raises UserError as `read`.

    What stays keeps its bytes.
    """
    if not storage.exists(path):
        return
    kept = [line + b"\n" for line, record in _lines(path) if record["step"] <= step]
    with storage.write_whole(path) as stream:
        stream.writelines(kept)


def _lines(path: str) -> list[tuple[bytes, dict[str, Any]]]:
    """Each undamaged line with what it says."""
    lines = storage.read(path).split(b"\n") if storage.exists(path) else []
    if lines and not lines[-1]:
        lines.pop()
    parsed = [_parsed(line) for line in lines]
    for number, record in enumerate(parsed[:-1], 1):
        if record is None:
            raise UserError(f"{path}: line {number} is damaged: remove that line, or go back to an undamaged copy")
    return [(line, record) for line, record in zip(lines, parsed, strict=True) if record is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The line's record, or None where it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not _whole(record.get("step")):
        return None
    return record if all(value is None or _number(value) for value in record.values()) else None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
