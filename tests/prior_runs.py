"""Small believable directories of `gesso train prior`, without training: curves, gradient scales, samples."""

import json
from math import cos, exp, nan, pi
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gesso.training import metrics_file
from gesso.training.report.samples import COLUMNS, GAP
from tests.runs import PICTURES, SIDE, write_png

STEPS, EVERY, EVALUATED = 20_000, 100, 2_000  # updates, updates between records and between evaluations
LAYERS, BATCH, POSITIONS = 6, 32, 96
CAPTIONS = (
    "a fox in the snow",
    "an owl on a branch at night, with its eyes wide open and a full moon behind the trees",
    "two horses",
    "a cat asleep on a chair",
    "a red boat",
    "a plate of pancakes with syrup and blueberries on a wooden table",
    "a mountain lake",
    "portrait of a dog",
)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def write_prior_run(
    folder: Path, layers: int = LAYERS, until: int = STEPS, every: int = EVERY, captions: tuple[str, ...] = CAPTIONS
) -> str:
    """A run in fp16 that has come to step `until`; `layers` of 0 is one in bf16. Returns its directory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(about()))
    random = np.random.default_rng(0)
    scales = np.full(2 * layers, 13.0)
    skipped = 0
    for step in range(every, until + 1, every):
        overflowed = adjust(scales, step, every, random)
        skipped += overflowed
        record = training(step, random) | {"skipped": skipped}
        record |= {"gradient_norm": nan} if random.random() < overflowed / every else {}
        record |= {f"scale/{block:03d}": float(value) for block, value in enumerate(scales)}
        evaluated = evaluation(step) if step % EVALUATED == 0 else {}
        metrics_file.append(str(folder / "metrics.jsonl"), step, record | evaluated)
        if evaluated and captions:
            write_samples(folder / f"evaluations/{step:07d}", step, captions)
    if until >= EVALUATED:
        (folder / "checkpoints").mkdir(exist_ok=True)
        best = {"step": until, "val_loss": evaluation(until)["val_loss"]}
        (folder / "checkpoints/best.json").write_text(json.dumps(best))
    return str(folder)


def about() -> dict[str, Any]:
    settings = {"layers": LAYERS, "batch_size": BATCH, "precision": "fp16", "steps": STEPS, "seed": 0}
    data = {"path": "data/tokens", "manifest_sha256": "cd" * 32, "samples": 1234}
    versions = {"gesso": "0.2.0", "torch": "2.13.0", "python": "3.11.2"}
    parameters = {"matrices": 1_179_648, "gains_and_biases": 10_240, "embeddings": 2_345_678}
    described = {"settings": settings, "data": data, "parameters": parameters, "versions": versions}
    loop = {"accumulate": 1, "tokens_per_update": BATCH * POSITIONS}
    return {"format": 1, "kind": "prior", "preset": "tiny", "loop": loop, **described}


def adjust(scales: np.ndarray[Any, np.dtype[np.float64]], step: int, every: int, random: np.random.Generator) -> int:
    """Scales grow by 1/1000 an update up to a limit that falls with depth, where they are halved now and then.

    Returns how many updates overflowed, about 4% at most.
    """
    depth = np.linspace(0, 1, len(scales))
    limits = 19 - 7 * depth + 1.5 * np.sin(step / 3000 + 6 * depth) - (np.arange(len(scales)) % 2)
    scales += every / 1000
    over = scales > limits + random.normal(0, 0.4, len(scales))
    scales[over] -= 0.5 * np.ceil((scales - limits)[over].clip(0.1) / 0.5)
    np.clip(scales, 7, 24, out=scales)
    return int(random.binomial(every, min(0.04, over.sum() / 20)))


def training(step: int, random: np.random.Generator) -> dict[str, float]:
    """A record of training: falls fast, then slowly, with noise."""
    text, image = losses(step, random.normal(0, 0.04))
    return {
        "loss": text / 8 + 7 * image / 8,
        "text_loss": text,
        "image_loss": image,
        "learning_rate": 4.5e-4 * min(1, step / 1000) * (0.5 if step > STEPS * 0.8 else 1),
        "gradient_norm": exp(0.5 - step / STEPS + random.normal(0, 0.2)),
        "sent_mib": 3.25,
        "saved_mib": 18.5,
        "captions_cut": step * BATCH // 50,
        "tokens_per_second": 15_000 + random.normal(0, 300),
        "memory_mib": 2_100 + step / 2000,
        "mfu": 0.31 + random.normal(0, 0.005),
        "epoch": step * BATCH // 1234,
        "index": step * BATCH % 1234,
    }


def losses(step: int, noise: float = 0.0) -> tuple[float, float]:
    """Of captions and of images, nats a token."""
    done = step / STEPS
    return 2.6 + 5 * exp(-9 * done) + 2 * noise, 4.1 + 2.5 * exp(-5 * done) + 0.2 * cos(pi * done) + noise


def evaluation(step: int) -> dict[str, float]:
    text, image = losses(step)
    text, image = text + 0.12, image + 0.05
    return {"val_loss": text / 8 + 7 * image / 8, "val_text_loss": text, "val_image_loss": image}


def write_samples(folder: Path, step: int, captions: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    (folder / "samples.json").write_text(json.dumps({"captions": list(captions)}))
    write_png(folder / "samples.png", grid(step, len(captions)))


def grid(step: int, count: int) -> Pixels:
    """Rows of up to eight pictures on white, each with a row under it that comes closer to it with the steps."""
    random = np.random.default_rng(step)
    read = [cv2.resize(cv2.imread(str(path)), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for path in PICTURES]
    high, wide = 2 * -(-count // COLUMNS) * (SIDE + GAP) - GAP, min(COLUMNS, count) * (SIDE + GAP) - GAP
    canvas = np.full((high, wide, 3), 255, np.uint8)
    for place in range(count):
        left, top = place % COLUMNS * (SIDE + GAP), 2 * (place // COLUMNS) * (SIDE + GAP)
        above = read[place % len(read)]
        for y, pixels in ((top, above), (top + SIDE + GAP, drawn(above, step, random))):
            canvas[y : y + SIDE, left : left + SIDE] = pixels
    return canvas


def drawn(above: Pixels, step: int, random: np.random.Generator) -> Pixels:
    """The picture mixed with coarse noise, of which little is left at the end."""
    noise = cv2.resize(random.integers(0, 256, (8, 8, 3), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    share = 0.15 + 0.85 * exp(-3 * step / STEPS)
    return cv2.addWeighted(cv2.GaussianBlur(above, (0, 0), 1 + 4 * share), 1 - share, noise, share, 0).astype(np.uint8)
