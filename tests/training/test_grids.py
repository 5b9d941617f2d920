"""Grids of pictures, and their PNG."""

import io

import numpy as np
import torch
from PIL import Image

from gesso.training import grids


def test_each_row_stands_above_the_one_that_belongs_to_it() -> None:
    originals = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 4, 4, 3)
    grid = grids.pair_grid(originals, originals + 100)
    assert grid.shape == (4 * 6 - 2, 8 * 6 - 2, 3)
    assert grid[::6, ::6, 0].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [100, 101, 102, 103, 104, 105, 106, 107],
        [8, 9, *[255] * 6],
        [108, 109, *[255] * 6],
    ]
    assert (grid[4:6] == 255).all()


def test_a_png_holds_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(grids.png(pixels)))) == pixels).all()
