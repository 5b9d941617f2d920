"""`gesso embed` against the bare model and clip-retrieval's inference: `python tests/benchmarks/embed.py`.

The same shards (photographs of 512×384 as `gesso collect` keeps them), the same weights, the same batch size, the same
cores, in one run and both orders. The bare model gets one batch again and again, without reading or decoding: all
cores in one pass, as torch does it by itself, and a core a pass. Whole commands count their start-up; "steady" is the
rate between the first and the last picture, as each tool's own statistics tell it.

clip-retrieval wants other versions than ours, so it lives in an environment of its own, outside of the project:

    python3 -m venv ELSEWHERE && ELSEWHERE/bin/pip install clip-retrieval 'setuptools<81'
    python tests/benchmarks/embed.py --clip_retrieval ELSEWHERE/bin/clip-retrieval
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from collect import HERE, photographs

sys.path.insert(0, str(HERE.parents[2]))
from gesso import storage
from gesso.dataset import shards
from gesso.dataset.records import normalize_url, sample_key
from gesso.dataset.schemas import plan_schema
from gesso.dedup.settings import ModelSettings
from gesso.pipelines.collect import engine
from gesso.pipelines.collect.settings import ImageRules
from gesso.pipelines.embed import pictures

OPEN_CLIP = "ViT-B-32"
ORDER = ("bare", "gesso", "clip-retrieval", "clip-retrieval", "gesso", "bare")
BARE_PASSES = 4  # at least, of each kind


class Run(NamedTuple):
    """One command's cost."""

    model: str
    tool: str
    seconds: float  # of the whole command; nan for the bare model
    rate: float  # images/s of the whole command; nan for the bare model
    steady: float  # images/s


def write_shards(folder: Path, count: int, size: int, data: Path) -> None:
    """Finished shards of `size` pictures each, as img2dataset's folder: tar, rows, marker."""
    bodies = photographs(data)
    for index in range(count):
        rows = []
        for number in range(index * size, (index + 1) * size):
            url, caption = f"http://a.example/{number}.jpg", f"a photograph of number {number}"
            rows.append(
                {"key": sample_key(normalize_url(url), caption), "url": url, "caption": caption, "reason": None}
            )
        rows.sort(key=lambda row: str(row["key"]))
        plan = [pa.RecordBatch.from_pylist(rows, plan_schema())]
        first = index * size
        written, counts = shards.write_shard(
            str(folder), index, plan, lambda at, first=first: outcome(bodies, first + at), ()
        )
        shards.commit(str(folder), index, written, counts, 0, 1)
    print(f"{count} shards of {size:,} photographs, {len(bodies)} different ones")


def outcome(bodies: list[bytes], number: int) -> shards.Outcome:
    return engine.examine(bodies[number % len(bodies)], ImageRules(), lambda reason: False)


def write_checkpoint(path: Path) -> None:
    """Random weights that both tools load."""
    import open_clip
    import torch

    torch.manual_seed(0)
    torch.save(open_clip.create_model(OPEN_CLIP).state_dict(), path)


def bare(settings: ModelSettings, raw: Path, batch_size: int) -> None:
    """Prints the images a second of the model alone on one batch of the shards' pictures, for both ways."""
    import torch

    from gesso.dedup.models import open_model
    from gesso.pipelines.embed.blocks import prepare_sample

    model = open_model(settings)
    samples = islice(pictures.open_shards(str(raw)).blocks[0].samples(), batch_size)
    batch = np.concatenate([prepare_sample(sample, model, 1).pixels for sample in samples])  # type: ignore[arg-type]
    cores = os.cpu_count() or 1
    rates = []
    for threads, passes in ((cores, 1), (1, cores)):
        torch.set_num_threads(threads)
        with ThreadPoolExecutor(passes) as pool:
            list(pool.map(model.embed, [batch] * passes))
            begun, count = perf_counter(), max(BARE_PASSES, 2 * passes)
            list(pool.map(model.embed, [batch] * count))
            rates.append(count * len(batch) / (perf_counter() - begun))
    print(*rates)


def measure(name: str, tool: str, folder: Path, given: argparse.Namespace) -> list[Run]:
    """Runs a tool once on all shards."""
    output = Path(tempfile.mkdtemp(dir=folder / name)) / "out"
    log = folder / f"{tool}.log"
    begun = perf_counter()
    with log.open("wb") as stream:
        done = subprocess.run(command(name, tool, folder, output, given), stdout=subprocess.PIPE, stderr=stream)
    seconds = perf_counter() - begun
    if done.returncode:
        sys.exit(f"{tool} failed:\n{log.read_text()[-2000:]}")
    if tool == "bare":
        nan = float("nan")
        ways = ("bare, all cores a pass", "bare, a core a pass")
        return [Run(name, way, nan, nan, float(rate)) for way, rate in zip(ways, done.stdout.split()[-2:], strict=True)]
    count = given.shards * given.shard_size
    return [Run(name, tool, seconds, count / seconds, steady(tool, output, count))]


def command(name: str, tool: str, folder: Path, output: Path, given: argparse.Namespace) -> list[str]:
    raw, batch = folder / "raw", str(given.batch_size)
    model = [given.detector] if name == "detector" else [OPEN_CLIP, "--pretrained", str(folder / "weights.pt")]
    if tool == "bare":
        return [sys.executable, __file__, "--bare", str(raw), "--batch_size", batch, "--model", *model]
    if tool == "gesso":
        binary = str(Path(sys.executable).parent / "gesso")
        flags = ["--shards", str(raw), "--output", str(output), "--batch_size", batch]
        return [binary, "embed", *flags, "--model", *model]
    flags = [
        f"--input_dataset={raw}/{{00000..{given.shards - 1:05d}}}.tar",
        f"--output_folder={output}",
        "--input_format=webdataset",
        f"--clip_model=open_clip:{OPEN_CLIP}/{folder / 'weights.pt'}",
        f"--batch_size={batch}",
        f"--num_prepro_workers={os.cpu_count()}",
        "--enable_text=False",
        "--enable_metadata=True",
        "--output_partition_count=1",
    ]
    return [given.clip_retrieval, "inference", *flags]


def steady(tool: str, output: Path, count: int) -> float:
    if tool == "gesso":
        markers = [storage.read_json(str(path)) for path in output.glob("*_stats.json")]
        return count / (max(m["end_time"] for m in markers) - min(m["start_time"] for m in markers))
    stats: dict[str, Any] = json.loads((output / "stats/0.json").read_text())
    return float(stats["sample_count"] / stats["total_duration"])


def agreement(folder: Path) -> float:
    """The smallest cosine between the two tools' vectors of one picture."""
    ours, theirs = (next(folder.glob(f"*/out/{name}")).parent for name in ("manifest.json", "stats"))
    mine = np.concatenate([np.load(path) for path in sorted((ours / "img_emb").glob("*.npy"))]).astype(np.float32)
    other = np.concatenate([np.load(path) for path in sorted((theirs / "img_emb").glob("*.npy"))]).astype(np.float32)
    keys = [table.column("image_path").to_pylist() for table in map(read_rows, (ours, theirs))]
    place = {key: row for row, key in enumerate(keys[1])}
    return float((mine * other[[place[key.removesuffix(".jpg")] for key in keys[0]]]).sum(1).min())


def read_rows(output: Path) -> pa.Table:
    import pyarrow.parquet as pq

    paths = sorted((output / "metadata").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path, columns=["image_path"]) for path in paths])


def show(run: Run) -> None:
    print(f"{run.model:10} {run.tool:22} {run.seconds:8.1f} {run.rate:9.1f} {run.steady:16.1f}", flush=True)


def compare(runs: list[Run]) -> None:
    """The mean steady rate of gesso over that of every other."""
    for name in dict.fromkeys(run.model for run in runs):
        means = {
            tool: float(np.mean([run.steady for run in runs if (run.model, run.tool) == (name, tool)]))
            for tool in {run.tool for run in runs if run.model == name}
        }
        ours = means.pop("gesso")
        print(f"{name}, steady: " + ", ".join(f"gesso / {tool}: {ours / means[tool]:.2f}" for tool in sorted(means)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--shard_size", type=int, default=400, help="pictures")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--detector", default="detector", help="as --model of `gesso embed`")
    parser.add_argument("--clip_retrieval", help="the command of an environment of its own; left out without")
    parser.add_argument("--models", nargs="+", default=["detector", OPEN_CLIP])
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--pretrained", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare(ModelSettings(given.model, given.pretrained), given.bare, given.batch_size)
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a second start finds compiled modules, and so do both here
    tools = [tool for tool in ORDER if tool != "clip-retrieval"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "raw", given.shards, given.shard_size, given.data)
        write_checkpoint(folder / "weights.pt")
        print(f"{'model':10} {'tool':22} {'seconds':>8} {'images/s':>9} {'steady images/s':>16}")
        runs = list[Run]()
        for model in given.models:
            order = ORDER if given.clip_retrieval and model != "detector" else tools
            (folder / model).mkdir()
            for tool in order:
                more = measure(model, tool, folder, given)
                for run in more:
                    show(run)
                runs += more
        compare(runs)
        if given.clip_retrieval and OPEN_CLIP in given.models:
            print(f"smallest cosine between gesso's and clip-retrieval's vectors: {agreement(folder / OPEN_CLIP):.4f}")


if __name__ == "__main__":
    main()
