"""Values of Arrow columns as KEY.json has them: plain JSON whose types do not change from sample to sample.

Readers such as Hugging Face `datasets` take the types of KEY.json from the first few samples and fail where a later one
has another. So a key whose value tells no type (null, an empty list, a list of nulls) is left out. NaN and the
infinities, which are no JSON, count as null. Bytes become base64, the form that JSON has for them elsewhere (RFC 4648);
maps become lists of key and value; times become text, from the integers that stand for them: no year is too late, and
pandas has no say.
"""

import base64
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as types

Row = dict[str, Any]

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DAY = 86_400  # seconds


def json_rows(batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch, one object each."""
    columns = integral(batch).to_pydict()
    rows = zip(*columns.values(), strict=True) if columns else [()] * batch.num_rows
    return [
        {field.name: json_value(value, field.type) for field, value in zip(batch.schema, row, strict=True)}
        for row in rows
    ]


def integral(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with integers in the place of times, at any depth: `to_pylist` takes them all."""
    return batch.cast(pa.schema([pa.field(field.name, integral_type(field.type)) for field in batch.schema]))


def integral_type(type: pa.DataType) -> pa.DataType:
    if types.is_date32(type) or types.is_time32(type):
        return pa.int32()
    if types.is_date64(type) or types.is_time64(type) or types.is_timestamp(type) or types.is_duration(type):
        return pa.int64()
    if types.is_struct(type):
        return pa.struct([pa.field(field.name, integral_type(field.type)) for field in type])
    if types.is_map(type):
        return pa.map_(integral_type(type.key_type), integral_type(type.item_type))
    if types.is_fixed_size_list(type):
        return pa.list_(integral_type(type.value_type), type.list_size)
    if types.is_large_list(type):
        return pa.large_list(integral_type(type.value_type))
    return pa.list_(integral_type(type.value_type)) if types.is_list(type) else type


def json_value(value: Any, type: pa.DataType) -> Any:
    """A value of `integral` as JSON; `type` is the column's own."""
    if value is None or isinstance(value, str):
        return value
    if types.is_struct(type):
        return {field.name: json_value(value[field.name], field.type) for field in type}
    if types.is_map(type):
        kinds = {"key": type.key_type, "value": type.item_type}
        return [{name: json_value(part, kinds[name]) for name, part in zip(kinds, pair, strict=True)} for pair in value]
    if isinstance(value, list):
        return [json_value(item, type.value_type) for item in value]
    if types.is_temporal(type):
        return time_text(value, type)
    if types.is_floating(type):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if isinstance(value, int) else str(value)


def time_text(value: int, type: pa.DataType) -> str:
    """As Python's datetime writes it, with nine digits where six do not do; zoned times in UTC."""
    if types.is_date(type):
        return str(np.datetime64(value, "D" if types.is_date32(type) else "ms").astype("datetime64[D]"))
    if types.is_duration(type):
        return duration_text(value, PER_SECOND[type.unit])
    whole, _, fraction = str(np.datetime64(value, type.unit)).partition(".")
    date, _, time = whole.partition("T")
    if types.is_time(type):
        return time + digits(fraction)
    return f"{date} {time}{digits(fraction)}{'+00:00' if type.tz else ''}"


def duration_text(value: int, per_second: int) -> str:
    seconds, fraction = divmod(value, per_second)
    days, seconds = divmod(seconds, DAY)
    text = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    text += digits(f"{fraction:0{len(str(per_second)) - 1}}" if fraction else "")
    return f"{days} day{'' if abs(days) == 1 else 's'}, {text}" if days else text


def digits(fraction: str) -> str:
    """A fraction of a second: nothing, six digits or nine."""
    kept = fraction.rstrip("0")
    return f".{kept:0<{6 if len(kept) <= 6 else 9}}" if kept else ""


def typed(value: Any) -> Any:
    """The value without keys that tell no type, at any depth."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items() if has_type(item)}
    return [typed(item) for item in value] if isinstance(value, list) else value


def has_type(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_type, value.values()))
    return any(map(has_type, value)) if isinstance(value, list) else value is not None
