"""Bytes, seconds and memory of `gesso export`, beside webdataset and cp: `python tests/benchmarks/export.py`.

The samples' pictures are random bytes of a collected picture's size. webdataset shuffles shards and a buffer of samples
and writes shards anew; cp copies the tars as they are, the floor. Bytes are those that the processes' read and write
calls passed (/proc/self/io, children with their parents), the libraries that Python loads among them: the first row,
an export of 100 samples, shows these. Disks' caches are as they are: the shards have just been written. A peak is never
below that of this script, which a command is forked from (cp's is far smaller).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gesso import storage
from gesso.dataset import layout, manifest, shards
from gesso.dataset.records import normalize_url, sample_key
from gesso.dataset.schemas import plan_schema
from gesso.dataset.shards import Outcome

WEBDATASET = """
import sys, webdataset as wds
urls, output, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
samples = wds.WebDataset(urls, shardshuffle=100, seed=0).shuffle(size)
with wds.ShardWriter(output + "/%05d.tar", maxcount=size, verbose=0) as sink:
    for sample in samples:
        sink.write({name: sample[name] for name in ("__key__", "jpg", "txt", "json")})
"""


class Run(NamedTuple):
    """What a command has cost."""

    seconds: float
    read: int  # bytes
    written: int  # bytes
    peak: float  # MiB, of its largest process


def write_source(output: Path, samples: int, body: int, shard_size: int) -> int:
    """Shards of `samples` pictures of about `body` bytes; returns the bytes of the tars."""
    count = -(-samples // shard_size)
    plan = {"settings": {"engine": "gesso"}, "input": [], "shards": count, "links": samples}
    storage.write_json(str(output / layout.PLAN), {**plan, "rows_read": samples, "counted_only": {}})
    for index in range(count):
        rows = sorted(pairs(index, min(shard_size, samples - index * shard_size)), key=lambda row: row["key"])
        random = np.random.default_rng(index)
        sizes = random.integers(body // 2, body * 3 // 2, len(rows)).tolist()
        bodies = [Outcome({"status": "success", "width": 384, "height": 384}, random.bytes(size)) for size in sizes]
        batch = pa.RecordBatch.from_pylist(rows, plan_schema())
        written, counts = shards.write_shard(str(output), index, [batch], bodies.__getitem__, ())
        shards.commit(str(output), index, written, counts, 0.0, 1.0)
    manifest.finish(str(output))
    return sum(path.stat().st_size for path in output.glob("*.tar"))


def pairs(shard: int, count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        url = f"https://host{number % 997}.example/pictures/{shard:05d}/{number:09d}.jpg"
        caption = f"picture {number} of the shard {shard}, with a caption as long as those of the web are"
        key = f"{shard:05x}" + sample_key(normalize_url(url), caption)[5:]
        yield {"key": key, "url": url, "caption": caption}


def counters() -> tuple[int, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    values = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return values["rchar"], values["wchar"]


def measure(command: list[str]) -> Run:
    before, begun = counters(), perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, after = perf_counter() - begun, counters()
    assert process.stderr is not None
    if status:
        sys.exit(f"{command[0]} failed: {process.stderr.read().decode()[-2000:]}")
    return Run(seconds, after[0] - before[0], after[1] - before[1], usage.ru_maxrss / 1024)


def export(source: Path, output: Path, samples: int, shard_size: int, processes: int) -> list[str]:
    command = [sys.executable, "-m", "gesso", "export", "--shards", str(source), "--output", str(output)]
    command += ["--validation_size", str(samples // 100), "--shard_size", str(shard_size)]
    if processes > 1:
        command += ["--direct_running_mode", "multi_processing", "--direct_num_workers", str(processes)]
    return command


def reshuffle(source: Path, output: Path, shard_size: int) -> list[str]:
    output.mkdir()
    last = len(list(source.glob("*.tar"))) - 1
    urls = f"{source}/{{00000..{last:05d}}}.tar"
    return [sys.executable, "-c", WEBDATASET, urls, str(output), str(shard_size)]


def copy(source: Path, output: Path) -> list[str]:
    output.mkdir()
    return ["cp", "--reflink=never", *map(str, source.glob("*.tar")), str(output)]


def show(name: str, run: Run, samples: int, size: int) -> None:
    print(
        f"{name:30} {samples:9,} {size / 1e6:9,.0f} {run.read / 1e6:9,.0f} {run.read / size:6.2f}"
        f" {run.written / 1e6:9,.0f} {run.written / size:6.2f} {run.seconds:8.1f} {samples / run.seconds:8,.0f}"
        f" {run.peak:9,.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--body", type=int, default=40_000, help="bytes of a picture, on average")
    parser.add_argument("--shard_size", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    print(
        f"{'command':30} {'samples':>9} {'MB':>9} {'read MB':>9} {'ratio':>6} {'writ. MB':>9} {'ratio':>6}"
        f" {'seconds':>8} {'images/s':>8} {'peak MiB':>9}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name), Path(name, "out")
        small = write_source(folder / "small", 100, given.body, 100)
        show("gesso export, start-up", measure(export(folder / "small", output, 100, 100, 1)), 100, small)
        shutil.rmtree(output)
        size = write_source(folder / "raw", given.samples, given.body, given.shard_size)
        commands = {
            "gesso export": lambda: export(folder / "raw", output, given.samples, given.shard_size, 1),
            f"gesso export, {given.processes} processes": lambda: export(
                folder / "raw", output, given.samples, given.shard_size, given.processes
            ),
            "webdataset, shuffle buffer": lambda: reshuffle(folder / "raw", output, given.shard_size),
            "cp": lambda: copy(folder / "raw", output),
        }
        for title, command in commands.items():
            show(title, measure(command()), given.samples, size)
            shutil.rmtree(output)


if __name__ == "__main__":
    main()
