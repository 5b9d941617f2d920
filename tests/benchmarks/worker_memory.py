"""Peak memory of a collecting process against the size of its shards: `python tests/benchmarks/worker_memory.py`.

The same links as in collect.py, one process, and the links cut into fewer and fewer shards.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from collect import HERE, free_port, measure, nginx, prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, default=8000)
    parser.add_argument("--shard_sizes", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data")
    given = parser.parse_args()
    if not shutil.which("nginx"):
        sys.exit("nginx is not installed: `make system` installs it")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        prepare(folder, port, given.links, given.data)
        print(f"{'links a shard':>13} {'peak MiB':>9} {'samples':>8}")
        with nginx(folder, port):
            for size in given.shard_sizes:
                run = measure("gesso", folder, size)
                print(f"{size:13,} {run.peak:9.0f} {run.samples:8,}", flush=True)


if __name__ == "__main__":
    main()
