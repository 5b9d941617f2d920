"""Small believable directories of `gesso train dvae`, without training: figures, grids, codes."""

import json
from functools import cache
from math import ceil, cos, exp, log, pi, sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gesso.training import metrics_file

PICTURES = sorted((Path(__file__).parents[1] / "examples/pictures/files").glob("animal-*.jpg"))
STEPS, EVERY, EVALUATED = 2_000, 10, 200  # updates, updates between records and between evaluations
SIDE = 64
TILE = 8
POSITIONS = 64 * (SIDE // TILE) ** 2  # of 64 validation pictures


def write_run(
    folder: Path, vocabulary: int = 512, until: int = STEPS, share: float = 0.8, pictures: bool = True
) -> str:
    """A run that has come to step `until` with about that share of its codes in use; returns its directory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(about(vocabulary)))
    random = np.random.default_rng(0)
    for step in range(EVERY, until + 1, EVERY):
        evaluated = evaluation(step, vocabulary, share) if step % EVALUATED == 0 else {}
        metrics_file.append(str(folder / "metrics.jsonl"), step, training(step, vocabulary, random) | evaluated)
        if pictures and evaluated:
            write_evaluation(folder / f"evaluations/{step:07d}", step, vocabulary, share)
    if until >= EVALUATED:
        (folder / "checkpoints").mkdir(exist_ok=True)
        best = {"step": until, "val_nats_per_dim": evaluation(until, vocabulary, share)["val_nats_per_dim"]}
        (folder / "checkpoints/best.json").write_text(json.dumps(best))
    return str(folder)


def about(vocabulary: int) -> dict[str, Any]:
    settings = {"image_size": SIDE, "vocabulary": vocabulary, "batch_size": 32, "steps": STEPS, "seed": 0}
    data = {"path": "data/clean", "manifest_sha256": "ab" * 32, "samples": 1234}
    versions = {"gesso": "0.2.0", "torch": "2.13.0", "python": "3.11.2"}
    parameters = {"encoder": 1_234_567, "decoder": 987_654}
    described = {"settings": settings, "data": data, "parameters": parameters, "versions": versions}
    return {"format": 1, "kind": "dvae", "preset": "tiny", **described}


def training(step: int, vocabulary: int, random: np.random.Generator) -> dict[str, float | int]:
    """A record of training: falls fast, then slowly, with noise."""
    done = step / STEPS
    beta = 6.6 * (1 - cos(pi * min(1, done * 4))) / 2
    kl = log(vocabulary) * (0.3 + 0.4 * (1 - exp(-5 * done))) + random.normal(0, 0.05)
    nll = 3.55 + 1.4 * exp(-8 * done) + random.normal(0, 0.03)
    used = round(vocabulary * (0.95 - 0.4 * exp(-4 * done)))
    return {
        "loss": nll + beta / 192 * kl,
        "nll": nll,
        "kl": kl,
        "temperature": exp(log(1 / 16) * (1 - cos(pi * done)) / 2),
        "beta": beta,
        "learning_rate": 1.25e-6 + (1e-3 - 1.25e-6) * (1 + cos(pi * done)) / 2,
        "gradient_norm": exp(-2 * done + random.normal(0, 0.3)),
        "codes_used": used,
        "perplexity": used * 0.6,
        "images_per_second": 118 + random.normal(0, 4),
        "memory_mib": 812 + step / 200,
        "epoch": step * 32 // 1234,
        "index": step * 32 % 1234,
    }


def evaluation(step: int, vocabulary: int, share: float) -> dict[str, float | int]:
    """A record of evaluation."""
    mse, nats = 0.012 + 0.06 * exp(-step / 300), 3.6 + 1.2 * exp(-step / 250)
    used = sum(count > 0 for count in usage(vocabulary, share))
    return {
        "val_relaxed_elbo": -nats + 0.05,
        "val_hard_elbo": -nats,
        "val_nats_per_dim": nats,
        "val_mse": mse,
        "val_psnr": -10 * log(mse, 10),
        "val_ssim": 1 - 4 * mse,
        "val_codes_used": used,
        "val_perplexity": used * 0.5,
    }


def write_evaluation(folder: Path, step: int, vocabulary: int, share: float) -> None:
    folder.mkdir(parents=True)
    (folder / "usage.json").write_text(json.dumps({"counts": usage(vocabulary, share)}))
    write_png(folder / "codes.png", tiles(vocabulary))
    write_png(folder / "grid.png", grid(3 + 9 * exp(-step / 400)))


@cache
def usage(vocabulary: int, share: float) -> list[int]:
    """Counts that fall off by rank, the codes in a fixed disorder; exactly round(vocabulary · share) are not 0."""
    used = round(vocabulary * share)
    falling = [max(1, round(4 * POSITIONS / (rank + 20))) if rank < used else 0 for rank in range(vocabulary)]
    return [falling[place] for place in np.random.default_rng(1).permutation(vocabulary)]


def tiles(vocabulary: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pictures of the codes: each a colour with a slope."""
    columns = ceil(sqrt(vocabulary))
    random = np.random.default_rng(2)
    colours = random.integers(30, 226, (vocabulary, 1, 1, 3))
    slopes = random.normal(0, 6, (2, vocabulary, 1, 1, 1))
    offsets = np.arange(TILE) - 3.5
    pictures = colours + slopes[0] * offsets[:, None, None] + slopes[1] * offsets[None, :, None]
    sheet = np.zeros((ceil(vocabulary / columns) * columns, TILE, TILE, 3), np.uint8)
    sheet[:vocabulary] = pictures.clip(0, 255)
    rows = sheet.reshape(-1, columns, TILE, TILE, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, columns * TILE, 3)


def grid(blur: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two double rows of eight: originals, and blurred ones under them."""
    originals = [cv2.resize(cv2.imread(str(path)), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for path in PICTURES]
    shown = [originals[place % len(originals)] for place in range(16)]
    blurred = [cv2.GaussianBlur(picture, (0, 0), blur / 3) for picture in shown]
    rows = [np.hstack(row) for half in (0, 8) for row in (shown[half : half + 8], blurred[half : half + 8])]
    return np.vstack(rows).astype(np.uint8)


def write_png(path: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    path.write_bytes(encoded(pixels))


def encoded(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A PNG of BGR pixels."""
    return cv2.imencode(".png", pixels)[1].tobytes()
