"""Draws pictures of captions: seeds → codes → pixels, in tiles of a fixed number of rows. torch.

A candidate is a caption and a seed: its codes are the same whatever is drawn beside it, and in which order. That holds
for one kind of device, precision and number of rows, which only a lack of memory makes smaller.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gesso.errors import Rejected, UserError
from gesso.generation import captions as texts
from gesso.generation.models import Models
from gesso.generation.settings import Sampling
from gesso.generation.tiles import Tile
from gesso.images import Pixels
from gesso.processes import free_memory
from gesso.training import grids
from gesso.training.data.views import centre_view
from gesso.training.prior.decoding import cache_bytes

Item = TypeVar("Item")
OnRow = Callable[[int, Tensor], None]

ROWS = {"cpu": 16, "cuda": 64}  # of a tile
LEAST = 4  # candidates of a caption in a tile: for fewer rows a BLAS takes other kernels, which round differently
DECODED = {"cpu": 1, "cuda": 16}  # pictures that the dVAE decodes at once
WORKING = 64  # bytes of a row for each code: logits, probabilities and their sums
RESERVE = 0.8  # of the free memory that a tile may take


def draw(
    models: Models,
    caption: str,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    prefix: Tensor | None = None,
    on_row: OnRow | None = None,
) -> Tensor:
    """The codes of one caption's candidates, a seed each: int64 (n, N) on the CPU. One call at a time.

    `prefix`: int64 (r·g,), the codes of the first r rows of all. `on_row(row, codes)` is called after each row of each
    tile with all codes so far, (n, N), 0 where none is drawn yet. Raises UserError where the caption is empty or no
    text, and where not even the smallest tile fits the memory.
    """
    tell = (lambda row, codes: on_row(row, codes[0])) if on_row else None
    return draw_captions(models, [caption], seeds, sampling, prefix, tell)[0]


def draw_captions(
    models: Models,
    captions: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    prefix: Tensor | None = None,
    on_row: OnRow | None = None,
) -> Tensor:
    """The codes of captions with the same seeds: int64 (captions, n, N) on the CPU; `on_row` with all of them."""
    tile, text = tile_for(models, len(seeds)), torch.stack([ids(models, caption) for caption in captions])
    codes = torch.zeros(len(captions), len(seeds), models.grid**2, dtype=torch.int64)
    given = torch.zeros(0, dtype=torch.int64) if prefix is None else prefix
    if len(given) >= models.grid**2:
        raise UserError(f"all {models.grid} rows are given: give {models.grid - 1} at most")
    for first in range(0, len(captions), tile.captions):
        for start in range(0, len(seeds), tile.candidates):
            place = codes[first : first + tile.captions, start : start + tile.candidates]

            def fill(row: int, drawn: Tensor, place: Tensor = place) -> None:
                place.copy_(torch.unflatten(drawn, 0, (tile.captions, -1))[: place.shape[0], : place.shape[1]])
                if on_row:
                    on_row(row, codes)

            some = filled([*text[first : first + tile.captions]], tile.captions)
            row = filled([*seeds[start : start + tile.candidates]], tile.candidates)
            drawn = tile.draw(torch.stack(some), row * tile.captions, sampling, given, fill if on_row else None)
            if not on_row:
                fill(models.grid - 1, drawn)
    return codes


def captions_at_once(models: Models, candidates: int) -> int:
    """How many captions with so many candidates share a tile."""
    return tile_for(models, candidates).captions


def ids(models: Models, caption: str) -> Tensor:
    """What the prior reads of a caption, int64 (T,). Raises UserError where it is empty or no text."""
    found = models.tokenizer.encode(texts.checked(caption))
    return torch.from_numpy(found[: models.prior.config.text_positions].astype(np.int64))


def is_cut(models: Models, caption: str) -> bool:
    """Whether a caption has more tokens than the prior reads."""
    return models.tokenizer.length(caption) >= models.prior.config.text_positions


def tile_for(models: Models, candidates: int) -> Tile:
    """The tile for so many candidates of each caption, made once. Raises UserError where none fits the memory."""
    rows = next((tile.rows for tile in models.tiles.values()), 0) or rows_that_fit(models)
    share = next(size for size in (LEAST << step for step in range(rows)) if size >= min(candidates, rows))
    shape = (rows // share, share)
    if shape not in models.tiles:
        models.tiles.clear()  # of memory for one tile alone is made sure
        models.tiles[shape] = Tile(models.prior, *shape)
    return models.tiles[shape]


def rows_that_fit(models: Models) -> int:
    """The rows of a tile: those of the device, halved until it fits the memory."""
    free, rows = RESERVE * free_memory(models.device), ROWS[models.device.type]
    while rows > LEAST and bytes_of_tile(models, rows) > free:
        rows //= 2
    needed = bytes_of_tile(models, rows)
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        raise UserError(f"to draw {rows} pictures at once takes {sizes}: free some memory, or take a GPU that has more")
    return rows


def bytes_of_tile(models: Models, rows: int) -> float:
    """Keys and values, of as many captions as there can be, and what is computed of logits."""
    config = models.prior.config
    itemsize = 4 if models.device.type == "cpu" else models.prior.residuals()[0].compute.itemsize
    row, caption = cache_bytes(config, itemsize)
    return rows * (row + caption / LEAST + WORKING * config.tokens.codes)


def filled(items: list[Item], size: int) -> list[Item]:
    """The items and, to the size, the last of them again."""
    return items + items[-1:] * (size - len(items))


def encode_picture(models: Models, pixels: Pixels) -> Tensor:
    """uint8 (H, W, 3) → the codes of its middle, int64 (N,) on the CPU. Raises UserError where it is too small."""
    size = models.dvae.config.image_size
    try:
        view = centre_view(pixels, size)
    except Rejected as rejected:
        raise UserError(
            f"the picture is {rejected.message}: give one with {size} pixels or more each way"
        ) from rejected
    return models.dvae.encode(torch.from_numpy(view)[None].to(models.device)).flatten().cpu()


def decode_pictures(models: Models, codes: Tensor) -> Pixels:
    """int64 (n, N) → uint8 (n, S, S, 3), so many at once as it always are on this device."""
    size, grid = DECODED[models.device.type], models.grid
    found = []
    for part in torch.split(codes, size):
        whole = torch.cat([part, part[-1:].expand(size - len(part), -1)]).view(size, grid, grid)
        found.append(grids.to_bytes(models.dvae.decode(whole.to(models.device)))[: len(part)].cpu())
    return np.asarray(torch.cat(found).numpy(), np.uint8)
