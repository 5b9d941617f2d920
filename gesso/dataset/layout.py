"""The names of a dataset's files relative to its directory. Imports nothing.

What is no sample and no row of a dataset is not called .tar or .parquet, so that whoever reads `**/*.tar` below a
directory gets samples alone.
"""

PLAN = "plan.json"
MANIFEST = "manifest.json"
SPLITS = ("train", "validation")  # of an export; each is a folder of shards
DROPPED = "dropped.parquet"
CARD = "README.md"
NOTES = ".progress"  # the folder of how far shards under way are
LEFT_OUT = "coco_overlap.json"


def plan_name(index: int) -> str:
    """A parquet file."""
    return f"plan/{index:05d}.plan"


def former_plan_name(index: int) -> str:
    """As it was called before December 2026."""
    return f"plan/{index:05d}.parquet"


def tar_name(index: int) -> str:
    return f"{index:05d}.tar"


def rows_name(index: int) -> str:
    return f"{index:05d}.parquet"


def codes_name(index: int) -> str:
    """The array of a shard's codes, beside its rows (`gesso encode`)."""
    return f"{index:05d}.npy"


def rejected_name(index: int) -> str:
    """A tar."""
    return f"rejected/{index:05d}.thumbnails"


def former_rejected_name(index: int) -> str:
    """As it was called before December 2026."""
    return f"rejected/{index:05d}.tar"


def marker_name(index: int) -> str:
    return f"{index:05d}_stats.json"


def progress_name(index: int) -> str:
    return f"{NOTES}/{index:05d}.json"


def embedding_name(index: int) -> str:
    """clip-retrieval's name for a file of embeddings; `metadata_name` is that of its rows."""
    return f"img_emb/img_emb_{index:05d}.npy"


def metadata_name(index: int) -> str:
    return f"metadata/metadata_{index:05d}.parquet"


def part_name(index: int) -> str:
    """An intermediate result of a search."""
    return f".parts/{index:05d}.npy"
