"""The types of a sample in the form of Hugging Face's cards, from the columns of its rows. pyarrow alone.

A card declares them, because KEY.json lacks what is null, so that no sample tells all of them.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as types

Json = dict[str, Any]

JPEG = ("jpg",)
FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def yaml_line(schema: pa.Schema, pictures: Sequence[str] = JPEG) -> str:
    """`dataset_info` of a card's front matter, written as JSON, which YAML reads alike."""
    return f"dataset_info: {json.dumps({'features': features(schema, pictures)}, ensure_ascii=False)}"


def features(schema: pa.Schema, pictures: Sequence[str] = JPEG) -> list[Json]:
    """The features of a sample in the form of Hugging Face's cards; `pictures`: the suffixes, of which each has one."""
    texts = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    sample = [*({"name": suffix, "dtype": "image"} for suffix in pictures), {"name": "txt", "dtype": "string"}]
    return [*sample, {"name": "json", "struct": fields_of(schema)}, *texts]


def fields_of(fields: pa.Schema | pa.StructType) -> list[Json]:
    """The fields that KEY.json may have: all but those that are null everywhere."""
    return [{"name": field.name, **feature(field.type)} for field in fields if not types.is_null(field.type)]


def feature(type: pa.DataType) -> Json:
    """The type that json_values.py gives a value of an Arrow type."""
    if types.is_struct(type):
        return {"struct": fields_of(type)}
    if types.is_map(type):
        return {"list": fields_of(pa.schema([("key", type.key_type), ("value", type.item_type)]))}
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        item = feature(type.value_type)
        return {"list": item.get("dtype") or item.get("struct") or item}
    plain = types.is_boolean(type) or types.is_integer(type)
    return {"dtype": str(type) if plain else FLOATS.get(str(type), "string")}
