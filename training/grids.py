"""Grids of pictures as PNG. torch."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.images import Pixels

COLUMNS, GAP = 8, 2  # of a grid: pictures in a row, pixels between them


def to_bytes(pictures: Tensor) -> Tensor:
    """(b, 3, h, w) in 0…1 → uint8 (b, h, w, 3)."""
    return (pictures * 255).round().to(torch.uint8).movedim(1, 3)


def pair_grid(above: Tensor, below: Tensor) -> Pixels:
    """Rows of pictures (n, h, w, 3), each with the row that belongs to it under it: (h, w, 3) uint8."""
    starts = range(0, len(above), COLUMNS)
    rows = [half[start : start + COLUMNS] for start in starts for half in (above, below)]
    return tiles(rows, GAP)


def tiles(rows: list[Tensor], gap: int) -> Pixels:
    """Rows of pictures of one size, (n, h, w, 3) each, on a white canvas."""
    height, width = rows[0].shape[1:3]
    columns = max(map(len, rows))
    canvas = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            canvas[top : top + height, left : left + width] = picture.numpy()
    return canvas


def png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
