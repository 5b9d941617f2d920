"""Seconds, processor time and memory of `gesso index`, beside webdataset and tar: `python tests/benchmarks/index.py`.

The tars hold photographs of 640×480, a caption and a JSON each, in PAX as webdataset's TarWriter and GNU tar may write
them, and in ustar. `tar -tf` reads headers alone and leaves the data out; webdataset reads every member; "and headers"
reads each picture's header too, by the same function as gesso. gesso also hashes the tar and each picture, parses the
JSON and writes rows. The first row of gesso is an index of 100 samples: its start-up. Disks' caches are warm: the tars
have just been written. Where other work runs on the machine, MB a second of processor time is what compares.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from collect import HERE, photographs

WEBDATASET = """
import glob, sys, webdataset as wds
paths = sorted(glob.glob(sys.argv[1] + "/*.tar"))
if len(sys.argv) > 2:
    from gesso.images import read_header
else:
    read_header = len
print(sum(1 for sample in wds.WebDataset(paths, shardshuffle=False) if read_header(sample["jpg"])))
"""
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "PAX": tarfile.PAX_FORMAT}


class Run(NamedTuple):
    """What a command has cost."""

    seconds: float
    processor: float  # seconds of all its processes
    peak: float  # MiB, of its largest process


def write_tars(folder: Path, samples: int, shard_size: int, form: str, bodies: list[bytes]) -> int:
    """Tars of `samples` samples; returns their bytes."""
    folder.mkdir()
    for start in range(0, samples, shard_size):
        with tarfile.open(folder / f"{start // shard_size:05d}.tar", "w", format=FORMATS[form]) as tar:
            for number in range(start, min(start + shard_size, samples)):
                for suffix, body in members(number, bodies[number % len(bodies)]).items():
                    info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    info.size, info.mtime = len(body), 1_700_000_000.5  # a fraction, as webdataset has: PAX tells it
                    tar.addfile(info, io.BytesIO(body))
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def members(number: int, body: bytes) -> dict[str, bytes]:
    caption = f"a photograph of number {number} on the long road through the hills"
    told = {
        "url": f"https://host.example/{number:09d}.jpg",
        "caption": caption,
        "original_width": 1280,
        "status": "success",
    }
    return {"jpg": body, "txt": caption.encode(), "json": json.dumps(told).encode()}


def measure(command: list[str]) -> Run:
    begun = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - begun
    assert process.stderr is not None
    if status:
        sys.exit(f"{command[0]} failed: {process.stderr.read().decode()[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def index(folder: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "gesso", "index", str(folder), "--output", str(output), *more]


def webdataset(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", WEBDATASET, str(folder), *more]


def show(name: str, run: Run, samples: int, size: int) -> None:
    print(
        f"{name:38} {samples:8,} {size / 1e6:8,.0f} {run.seconds:8.1f} {size / 1e6 / run.seconds:8,.0f}"
        f" {samples / run.seconds:9,.0f} {run.processor:9.1f} {size / 1e6 / run.processor:8,.0f} {run.peak:8,.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--shard_size", type=int, default=5_000)
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data")
    given = parser.parse_args()
    bodies = photographs(given.data)
    head = ("samples", "MB", "seconds", "MB/s", "samples/s", "processor", "MB/s", "peak MiB")
    print(f"{'command':38}", *(f"{name:>{width}}" for name, width in zip(head, (8, 8, 8, 8, 9, 9, 8, 8), strict=True)))
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name), Path(name, "out")
        small = write_tars(folder / "small", 100, 100, "ustar", bodies)
        show("gesso index, start-up", measure(index(folder / "small", output)), 100, small)
        for form in FORMATS:
            tars = folder / form
            size = write_tars(tars, given.samples, given.shard_size, form, bodies)
            paths = " ".join(map(str, sorted(tars.glob("*.tar"))))
            for title, command in {
                "tar -tf": ["sh", "-c", f"for path in {paths}; do tar -tf $path; done"],
                "webdataset": webdataset(tars),
                "webdataset and headers": webdataset(tars, "headers"),
                "gesso index": index(tars, output),
                "gesso index --decode": index(tars, output, "--decode"),
            }.items():
                shutil.rmtree(output, ignore_errors=True)
                show(f"{title}, {form}", measure(command), given.samples, size)
            shutil.rmtree(tars)


if __name__ == "__main__":
    main()
