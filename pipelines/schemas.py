"""The columns of a plan and of a shard's rows. pyarrow and nothing of ours."""

import pyarrow as pa

PLAN_FIELDS = (
    pa.field("key", pa.string(), nullable=False),
    pa.field("url", pa.string(), nullable=False),
    pa.field("caption", pa.string(), nullable=False),
    pa.field("original_caption", pa.string()),  # where a rule has cut something off
    pa.field("reason", pa.string()),  # null: to be fetched
)
ROW_FIELDS = (
    pa.field("key", pa.string(), nullable=False),
    pa.field("url", pa.string(), nullable=False),
    pa.field("caption", pa.string(), nullable=False),
    pa.field("original_caption", pa.string()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
    pa.field("original_format", pa.string()),
    pa.field("original_bytes", pa.int64()),
    pa.field("reencoded", pa.bool_()),
    pa.field("sha256", pa.string()),
    pa.field("phash", pa.string()),
)
RESERVED = frozenset(field.name for field in (*PLAN_FIELDS, *ROW_FIELDS))


def plan_schema(extra: tuple[pa.Field, ...] = ()) -> pa.Schema:
    """Columns of `plan/00000.parquet`: one planned pair a row, and the input's extra columns behind."""
    return pa.schema([*PLAN_FIELDS, *extra])


def row_schema(extra: tuple[pa.Field, ...] = ()) -> pa.Schema:
    """Columns of `00000.parquet`: one link a row, kept or not, and the input's extra columns behind."""
    return pa.schema([*ROW_FIELDS, *extra])
