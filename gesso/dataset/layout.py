"""The names of a dataset's files, relative to its directory. Imports nothing."""

PLAN = "plan.json"
MANIFEST = "manifest.json"
SPLITS = ("train", "validation")  # of an export; each is a folder of shards
DROPPED = "dropped.parquet"
CARD = "README.md"
LEFT_OUT = "coco_overlap.json"


def plan_name(index: int) -> str:
    return f"plan/{index:05d}.parquet"


def tar_name(index: int) -> str:
    return f"{index:05d}.tar"


def rows_name(index: int) -> str:
    return f"{index:05d}.parquet"


def rejected_name(index: int) -> str:
    return f"rejected/{index:05d}.tar"


def marker_name(index: int) -> str:
    return f"{index:05d}_stats.json"


def progress_name(index: int) -> str:
    return f".progress/{index:05d}.json"


def embedding_name(index: int) -> str:
    """clip-retrieval's name for a file of embeddings; `metadata_name` is that of its rows."""
    return f"img_emb/img_emb_{index:05d}.npy"


def metadata_name(index: int) -> str:
    return f"metadata/metadata_{index:05d}.parquet"


def part_name(index: int) -> str:
    """An intermediate result of a search."""
    return f".parts/{index:05d}.npy"
