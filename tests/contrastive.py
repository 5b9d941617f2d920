"""A small export of coloured squares, whose captions name the colour, and the flags of a model that learns them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gesso import cli
from gesso.images import Pixels, encode
from tests.exports import write_export

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 60, 220),
    "yellow": (230, 220, 40),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
}
SIDE = 40  # pixels
CAPTIONS = [f"a {colour} square" for colour in COLOURS]
TINY = ("--preset", "tiny", "--image_size", "32", "--vision_width", "8", "--text_positions", "12")
NARROW = ("--text_width", "32", "--text_layers", "1", "--dimension", "32", "--batch_size", "16", "--warmup", "5")


class Inputs(NamedTuple):
    """What a contrastive model is trained on."""

    clean: str
    tokenizer: str


def write_inputs(folder: Path, counts: tuple[int, int] = (60, 12)) -> Inputs:
    clean = write_export(folder / "clean", counts, 20, lambda number: encode(square(number), 90), caption)
    made = Inputs(clean, str(folder / "tokenizer"))
    assert cli.main(["train", "tokenizer", "--data", clean, "--output", made.tokenizer, "--vocabulary", "280"]) == 0
    return made


def caption(number: int) -> str:
    return CAPTIONS[number % len(CAPTIONS)]


def square(number: int) -> Pixels:
    """A square of the colour of its caption somewhere on grey, (SIDE, SIDE, 3)."""
    random = np.random.default_rng(number)
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    side = int(random.integers(16, 24))
    top, left = random.integers(4, SIDE - 4 - side, 2)
    pixels[top : top + side, left : left + side] = list(COLOURS.values())[number % len(COLOURS)]
    return pixels


def flags(inputs: Inputs, output: Path, *more: str) -> list[str]:
    what = ["--data", inputs.clean, "--tokenizer", inputs.tokenizer, "--output", str(output)]
    return [*what, *TINY, *NARROW, "--log_every", "1", *more]


def train(inputs: Inputs, output: Path, *more: str) -> int:
    return cli.main(["train", "contrastive", *flags(inputs, output, *more)])
