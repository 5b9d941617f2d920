"""The names of a dataset's files below its directory. Imports nothing."""

PLAN = "plan.json"
MANIFEST = "manifest.json"


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
