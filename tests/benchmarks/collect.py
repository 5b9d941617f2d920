"""The whole `gesso collect` command against the whole `img2dataset` command: `python tests/benchmarks/collect.py`.

The same links, the same nginx on loopback, the same cores, the same output size and quality, both orders in one run,
each command with its own start-up. The pictures are real photographs, cropped and scaled to 640×480.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve()
WIDTH, HEIGHT, QUALITY, SIDE = 640, 480, 92, 384
SHARD = 1000
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; types {{ image/jpeg jpg; }}
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""


class Run(NamedTuple):
    """One command's cost."""

    tool: str
    seconds: float
    cpu: float  # seconds, of all its processes
    peak: float  # MiB, of its largest process
    samples: int
    size: int  # bytes of the tars


def photographs(data: Path) -> list[bytes]:
    """640×480 JPEGs of every photograph that is large enough, from the shared data or the bundled pictures."""
    folders = [data / name / "images" for name in ("coco_val2017", "imagenet_sample")]
    bundled = HERE.parents[2] / "examples/pictures/files"
    paths = [path for folder in folders for path in sorted(folder.glob("*.jpg"))] or sorted(bundled.glob("*.jpg"))
    decoded = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in paths]
    fitting = [pixels for pixels in decoded if pixels is not None and pixels.shape[1] >= pixels.shape[0] >= 300]
    return [cv2.imencode(".jpg", fit(pixels), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes() for pixels in fitting]


def fit(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = max(WIDTH / width, HEIGHT / height)
    size = (max(WIDTH, round(width * scale)), max(HEIGHT, round(height * scale)))
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, size, interpolation=kernel)[:HEIGHT, :WIDTH]  # type: ignore[return-value]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def prepare(folder: Path, port: int, links: int, data: Path) -> None:
    (folder / "www").mkdir()
    pictures = photographs(data)
    for number in range(links):
        (folder / f"www/{number:06d}.jpg").write_bytes(pictures[number % len(pictures)])
    table = {
        "url": [f"http://127.0.0.1:{port}/{number:06d}.jpg" for number in range(links)],
        "caption": [f"a photograph of number {number} on the long road through the hills" for number in range(links)],
    }
    pq.write_table(pa.table(table), folder / "links.parquet")
    size = np.mean([len(picture) for picture in pictures]) / 1000
    print(f"{links:,} links to {len(pictures)} photographs of {WIDTH}×{HEIGHT}, {size:.0f} kB")


@contextmanager
def nginx(folder: Path, port: int) -> Iterator[None]:
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    server = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def command(tool: str, folder: Path, output: Path, shard: int) -> list[str]:
    binary, cores = str(Path(sys.executable).parent / tool), str(os.cpu_count())
    table = str(folder / "links.parquet")
    if tool == "gesso":
        return [binary, "collect", "--input", table, "--output", str(output), "--shard_size", str(shard)]
    flags = {
        "url_list": table,
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_folder": str(output),
        "output_format": "webdataset",
        "processes_count": cores,
        "thread_count": "64",
        "image_size": str(SIDE),
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": "True",
        "encode_quality": "95",
        "number_sample_per_shard": str(shard),
        "enable_wandb": "False",
    }
    return [binary, *(f"--{name}={value}" for name, value in flags.items())]


def measure(tool: str, folder: Path, shard: int = SHARD) -> Run:
    output = folder / "out"
    begun = perf_counter()
    with (folder / f"{tool}.log").open("wb") as log:
        process = subprocess.Popen(command(tool, folder, output, shard), stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - begun
    if status:
        sys.exit(f"{tool} failed:\n{(folder / f'{tool}.log').read_text()[-2000:]}")
    tars = sorted(output.glob("*.tar"))
    rows = [pq.read_table(path, columns=["status"])["status"].to_pylist() for path in output.glob("*.parquet")]
    samples = sum(status == "success" for shard in rows for status in shard)
    size = sum(path.stat().st_size for path in tars)
    shutil.rmtree(output)
    return Run(tool, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, samples, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=1, help="each is gesso, img2dataset, img2dataset, gesso")
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data")
    given = parser.parse_args()
    if not shutil.which("nginx"):
        sys.exit("nginx is not installed: `make system` installs it")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a second start finds compiled modules, and so do both here
    for tool in set(ORDER):
        subprocess.run([str(Path(sys.executable).parent / tool), "--help"], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        prepare(folder, port, given.links, given.data)
        with nginx(folder, port):
            runs = [measure(tool, folder) for _ in range(given.rounds) for tool in ORDER]
    show(runs)


ORDER = ("gesso", "img2dataset", "img2dataset", "gesso")


def show(runs: list[Run]) -> None:
    print(f"{'command':12} {'seconds':>8} {'CPU s':>6} {'images/s':>9} {'peak MiB':>9} {'samples':>8} {'MB':>5}")
    for run in runs:
        cost = f"{run.seconds:8.1f} {run.cpu:6.1f} {run.samples / run.seconds:9.0f} {run.peak:9.0f}"
        print(f"{run.tool:12} {cost} {run.samples:8,} {run.size / 1e6:5.0f}")
    rates = {tool: np.mean([run.samples / run.seconds for run in runs if run.tool == tool]) for tool in set(ORDER)}
    print(f"gesso / img2dataset: {rates['gesso'] / rates['img2dataset']:.2f}")


if __name__ == "__main__":
    main()
