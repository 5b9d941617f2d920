"""Seconds and memory of planning on the local runner against the number of rows: `python tests/benchmarks/planning.py`.

Rows are real captions (LAION's sample where --data has it) under links of their own, one in twenty a repeat. Each size
is planned in a process of its own, whose peak resident memory is what the table shows.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve()
REPEAT_EVERY = 20


def captions(data: Path) -> list[str]:
    laion = data / "links/laion_10000.parquet"
    if laion.exists():
        return [str(text) for text in pq.read_table(laion)["TEXT"].to_pylist()]
    pictures = HERE.parents[2] / "examples/pictures/pictures.tsv"
    return [line.split("\t")[1] for line in pictures.read_text().splitlines()[1:]]


def write_table(path: Path, rows: int, texts: list[str]) -> None:
    numbers = [number - 1 if number % REPEAT_EVERY == 0 and number else number for number in range(rows)]
    table = {
        "url": [f"https://host{number % 9973}.example/pictures/{number:09d}.jpg" for number in numbers],
        "caption": [texts[number % len(texts)] for number in numbers],
    }
    pq.write_table(pa.table(table), path, row_group_size=50_000)


def plan(table: str, output: str) -> None:
    """Plans and prints what it took; runs in a process of its own."""
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from gesso.pipelines.collect import sources, transforms
    from gesso.pipelines.collect.job import parse

    job, _ = parse(["--input", table, "--output", output])
    begun = perf_counter()
    config = transforms.PlanConfig(job.output, job.columns, job.extra, job.captions, job.plan, job.record())
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        units = pipeline | beam.Create(job.tables) | beam.FlatMap(sources.units)
        _ = units | transforms.WritePlan(config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": perf_counter() - begun, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data")
    parser.add_argument("--plan", nargs=2, metavar=("TABLE", "OUTPUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plan:
        plan(*given.plan)
        return
    print(f"{'rows':>10} {'seconds':>8} {'rows/s':>8} {'peak MiB':>9} {'plan bytes/row':>15}")
    texts = captions(given.data)
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_table(Path(folder, "links.parquet"), rows, texts)
            command = [sys.executable, str(HERE), "--plan", f"{folder}/links.parquet", f"{folder}/out"]
            took = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            size = sum(path.stat().st_size for path in Path(folder, "out/plan").iterdir())
        seconds, peak = took["seconds"], took["peak"] / 2**20
        print(f"{rows:10,} {seconds:8.1f} {rows / seconds:8,.0f} {peak:9,.0f} {size / rows:15.1f}")


if __name__ == "__main__":
    main()
