"""metrics.jsonl: a run's metrics, a line of JSON per record. Light: no torch.

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
    """Appends a record in one write. When a run is resumed, `truncate` first: its last line may be incomplete."""
    line = {"step": step} | {name: value if isfinite(value) else None for name, value in values.items()}
    with open(path, "ab") as stream:
        stream.write((json.dumps(line, allow_nan=False) + "\n").encode())


def read(path: str) -> list[Record]:
    """The records in order, `step` among the values; none where there is no such file.

    A damaged last line, which a killed process may leave, is skipped. Raises UserError where another line is damaged.
    """
    return [{name: nan if value is None else value for name, value in record.items()} for _, record in _lines(path)]


def truncate(path: str, step: int) -> None:
    """Removes the records after a step, and a damaged last line. Raises UserError as `read` does.

    The file is replaced at once; the other lines keep their bytes.
    """
    if not storage.exists(path):
        return
    kept = [line + b"\n" for line, record in _lines(path) if record["step"] <= step]
    with storage.write_whole(path) as stream:
        stream.writelines(kept)


def _lines(path: str) -> list[tuple[bytes, dict[str, Any]]]:
    """The undamaged lines, each with its record."""
    lines = storage.read(path).split(b"\n") if storage.exists(path) else []
    if lines and not lines[-1]:
        lines.pop()
    parsed = [_parsed(line) for line in lines]
    for number, record in enumerate(parsed[:-1], 1):
        if record is None:
            raise UserError(f"{path}: line {number} is damaged: remove that line, or restore a copy")
    return [(line, record) for line, record in zip(lines, parsed, strict=True) if record is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The line's record, None where it is damaged."""
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
