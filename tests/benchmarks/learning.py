"""Does `gesso train dvae --preset tiny` learn? `python tests/benchmarks/learning.py [--minutes 10] [flags of the run]`.

Real pictures (those beside the checkout, else the bundled ones) become an export, 256 of them for validation; the
command trains on it as a user would, until the minutes are over, counted from its start. The table sets the validation
MSE of the averaged weights against what else fits in as many bits, one code of the vocabulary for 8×8 pixels:

    patch mean   the mean colour of each 8×8 pixels, quantised to a palette of as many colours
    k-means      the nearest of as many whole 8×8 patches

Both are learned by FAISS's k-means on crops of the training pictures. A JPEG cannot be had at 9 bits a patch: its
headers alone take more.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from collect import HERE

sys.path.insert(0, str(HERE.parents[2]))
from gesso import images
from gesso.errors import Rejected
from gesso.pipelines.collect import prepare
from gesso.pipelines.collect.settings import ImageRules
from gesso.training.data.loader import Loader, sequential_batches
from gesso.training.data.split import open_split
from tests.exports import write_export

Floats = npt.NDArray[np.float32]

ROOT = HERE.parents[2]
SHARED = ("flickr8k_224", "imagenet_sample", "coco_val2017", "based_cooking/static")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VALIDATION = 256
RULES = ImageRules(min_side=96)
PATCH = 8


def pictures() -> list[bytes]:
    """Every picture that the rules keep."""
    folders = [ROOT / "../shared/data" / name for name in SHARED]
    if not any(folder.is_dir() for folder in folders):
        folders = [ROOT / "examples/pictures/files"]
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    return [body for body in (path.read_bytes() for path in paths) if fits(body)]


def fits(body: bytes) -> bool:
    try:
        prepare.check(images.read_header(body), RULES)
    except Rejected:
        return False
    return True


def patches(pixels: npt.NDArray[np.uint8]) -> Floats:
    """(n, S, S, 3) uint8 → (n · S²/64, 64, 3) in 0…1."""
    count, across = len(pixels), pixels.shape[1] // PATCH
    cut = pixels.reshape(count, across, PATCH, across, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(cut.reshape(-1, PATCH * PATCH, 3), np.float32) / 255


def baselines(export: str, size: int, codes: int) -> dict[str, float]:
    """MSE of the validation pictures."""
    loader = Loader(open_split(export, "train"), size, 0, 256)
    with closing(loader):
        learned = patches(np.concatenate([batch.pixels.numpy() for batch in islice(loader, 10)]))
    true = patches(np.concatenate([pixels for _, pixels in sequential_batches(open_split(export, "validation"), size)]))
    means, flat = true.mean(1, keepdims=True), learned.mean(1)
    palette = nearest(flat, means[:, 0], codes)[:, None]
    whole = nearest(learned.reshape(len(learned), -1), true.reshape(len(true), -1), codes).reshape(true.shape)
    return {
        "the mean of all pixels": float(true.var()),
        f"patch mean, a palette of {codes}": float(np.square(true - palette).mean()),
        "patch mean, not quantised": float(np.square(true - means).mean()),
        f"k-means, {codes} patches": float(np.square(true - whole).mean()),
    }


def nearest(learned: Floats, wanted: Floats, codes: int) -> Floats:
    """The nearest of the means of k-means."""
    means = faiss.Kmeans(learned.shape[1], codes, niter=20, seed=0, max_points_per_centroid=200)
    means.train(np.ascontiguousarray(learned))
    _, found = means.index.search(np.ascontiguousarray(wanted), 1)
    centroids: Floats = means.centroids[found[:, 0]]
    return centroids


def train(export: str, output: Path, minutes: float, flags: list[str]) -> float:
    """Runs the command until the time is over; seconds that it took."""
    command = [sys.executable, "-m", "gesso", "train", "dvae", "--data", export, "--output", str(output)]
    begun = monotonic()
    with subprocess.Popen([*command, "--preset", "tiny", *flags], cwd=ROOT, env=os.environ) as going:
        try:
            going.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            going.send_signal(signal.SIGTERM)
    if going.returncode:
        sys.exit(going.returncode)
    return monotonic() - begun


def last_figures(output: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for line in (output / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        figures |= record
        if "val_mse" in record:
            figures["evaluated"] = record["step"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--output", type=Path, help="keep the run there")
    given, flags = parser.parse_known_args()
    bodies = pictures()
    with tempfile.TemporaryDirectory() as folder:
        export = write_export(
            Path(folder) / "clean", (len(bodies) - VALIDATION, VALIDATION), 200, lambda number: bodies[number]
        )
        output = given.output or Path(folder) / "run"
        seconds = train(export, output, given.minutes, flags)
        record, found = json.loads((output / "run.json").read_text()), last_figures(output)
        size, codes = record["settings"]["image_size"], record["settings"]["vocabulary"]
        told = baselines(export, size, codes)
    print(f"{len(bodies) - VALIDATION:,} pictures, {found['step']:,} updates in {seconds:.0f} s, {size} px")
    print("| at as many bits | validation MSE | PSNR, dB |\n|---|---|---|")
    for name, mse in {**told, f"dVAE, {codes} codes, update {found['evaluated']:,}": found["val_mse"]}.items():
        print(f"| {name} | {mse:.4f} | {-10 * np.log10(mse):.2f} |")
    print(
        f"codes in use {found['val_codes_used']} of {codes} ({found['val_codes_used'] / codes:.0%}), perplexity "
        f"{found['val_perplexity']:.0f}, SSIM {found['val_ssim']:.3f}, {found['val_nats_per_dim']:.3f} nats/dim"
    )


if __name__ == "__main__":
    main()
