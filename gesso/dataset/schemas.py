"""The columns of every parquet file that gesso writes. Imports pyarrow and nothing of gesso."""

import pyarrow as pa

PLAN_FIELDS = (
    pa.field("key", pa.string(), nullable=False),
    pa.field("url", pa.string(), nullable=False),
    pa.field("caption", pa.string(), nullable=False),
    pa.field("original_caption", pa.string()),  # where a rule has removed something
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
INDEX_FIELDS = (  # of an index: a row for every sample of its tar
    *ROW_FIELDS,  # url is empty where no json tells it
    pa.field("source_tar", pa.string(), nullable=False),  # its file name
    pa.field("source_key", pa.string(), nullable=False),  # the sample's key there
    pa.field("image_offset", pa.int64()),  # of the picture's data in the tar; null where not taken, as the two below
    pa.field("image_bytes", pa.int64()),
    pa.field("image_format", pa.string()),  # by its first bytes: jpeg, png, webp or gif
)
METADATA_FIELDS = (  # row-aligned with a block of embeddings
    pa.field("key", pa.string(), nullable=False),  # of a sample, or a reference's file name without the extension
    pa.field("image_path", pa.string(), nullable=False),  # KEY.jpg in its shard, or the file's path below the folder
    pa.field("shard", pa.int32()),  # null for a folder's pictures
    pa.field("caption", pa.string()),
    pa.field("url", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
    pa.field("sha256", pa.string()),
    pa.field("phash", pa.string()),
    pa.field("view", pa.int32()),  # that was embedded, 0: the whole picture, which all other columns tell of
)
# In the tables below a training sample's key is named `uid`: a fixed part of the format.
MATCH_FIELDS = (  # a reference picture and one of its nearest training pictures
    pa.field("reference_key", pa.string(), nullable=False),
    pa.field("rank", pa.int32(), nullable=False),  # from 1
    pa.field("uid", pa.string(), nullable=False),
    pa.field("shard", pa.int32()),
    pa.field("similarity", pa.float32(), nullable=False),  # cosine
    pa.field("phash_distance", pa.int32()),  # differing bits of 64; null where either has no hash
    pa.field("reference_view", pa.int32(), nullable=False),  # the reference's view that is as similar, 0: the whole
)
DROP_FIELDS = (  # a training sample to leave out
    pa.field("uid", pa.string(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field(
        "of", pa.string(), nullable=False
    ),  # what it repeats: a reference's key, or the key of the sample that is kept
    pa.field("similarity", pa.float32()),
)
RANGE_FIELDS = (  # byte ranges of an exported sample
    pa.field("source_shard", pa.int32(), nullable=False),
    # of the sample's first header in the source's tar; of an index, as the one below, of the picture's data alone
    pa.field("source_offset", pa.int64(), nullable=False),
    pa.field("source_bytes", pa.int64(), nullable=False),  # up to the next sample
    pa.field("offset", pa.int64(), nullable=False),  # of the sample's first header in its own tar
    pa.field("bytes", pa.int64(), nullable=False),  # up to the next sample
    pa.field("image_offset", pa.int64(), nullable=False),  # of the member's data, as the two below
    pa.field("image_bytes", pa.int64(), nullable=False),
    pa.field("caption_offset", pa.int64(), nullable=False),
    pa.field("caption_bytes", pa.int64(), nullable=False),
    pa.field("json_offset", pa.int64(), nullable=False),
    pa.field("json_bytes", pa.int64(), nullable=False),
)
RESERVED = frozenset(field.name for field in (*PLAN_FIELDS, *ROW_FIELDS))


def plan_schema(extra: tuple[pa.Field, ...] = ()) -> pa.Schema:
    """Columns of `plan/00000.plan`: one planned pair a row, and the input's extra columns behind."""
    return pa.schema([*PLAN_FIELDS, *extra])


def row_schema(extra: tuple[pa.Field, ...] = ()) -> pa.Schema:
    """Columns of `00000.parquet`: one link a row, kept or not, then the input's extra columns."""
    return pa.schema([*ROW_FIELDS, *extra])


def index_schema(carried: tuple[pa.Field, ...] = ()) -> pa.Schema:
    """Columns of an index's `00000.parquet`: one sample a row, taken or not, then what is carried along."""
    return pa.schema([*INDEX_FIELDS, *carried])
