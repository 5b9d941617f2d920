"""Evaluates a dVAE on the validation split: ELBO, reconstruction errors, codes in use, and image grids. torch.

Relaxed: codes sampled at the temperature of the training; hard: the likeliest codes, as `gesso encode` writes them.
"""

from collections.abc import Iterator
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gesso.images import Pixels
from gesso.processes import Group
from gesso.training.data.loader import sequential_batches
from gesso.training.data.split import Split
from gesso.training.dvae import metrics, objective
from gesso.training.dvae.model import DVAE, channels_first
from gesso.training.dvae.noise import exponential
from gesso.training.dvae.objective import SUBPIXELS
from gesso.training.dvae.settings import FACTOR
from gesso.training.grids import tiles, to_bytes

SHOWN = 16  # pictures of a grid
REPEATS = 3  # a code is shown by decoding 3×3 of it and taking the middle


class Evaluation(NamedTuple):
    """Results of an evaluation: metrics and counts are of all processes, pictures of this one's samples."""

    values: dict[str, float]
    counts: Tensor  # int64 (K,): how often each code was the likeliest
    originals: Tensor  # uint8 (n, S, S, 3)
    reconstructions: Tensor  # the same shape


class Sums:
    """Sums over pictures, in float64."""

    NAMES = ("relaxed_nll", "hard_nll", "kl", "mse", "psnr", "ssim", "pictures")

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self.values = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self.counts = torch.zeros(vocabulary, dtype=torch.int64, device=device)

    def add(self, each: dict[str, Tensor], codes: Tensor) -> None:
        """`each`: metrics of each picture, (b,), by name; `codes`: (b, g, g)."""
        ones = torch.ones_like(each["mse"])
        self.values += torch.stack([{**each, "pictures": ones}[name].double().sum() for name in self.NAMES])
        self.counts += metrics.count_codes(codes, len(self.counts))

    def means(self, group: Group) -> dict[str, float]:
        """Means over the pictures of all processes. Collective: it also sums `counts` over processes."""
        total = dict(zip(self.NAMES, group.total(self.values).tolist(), strict=True))
        group.total(self.counts)
        return {name: total[name] / total["pictures"] for name in self.NAMES[:-1]}


@torch.no_grad()
def evaluate(
    model: DVAE, split: Split, samples: int, batch_size: int, temperature: float, group: Group, threads: int
) -> Evaluation:
    """Evaluates the model on the first `samples` pictures of a split, divided among the processes.

    All processes make the same number of forward passes: with sharded weights each pass is collective.
    """
    samples = min(samples, split.samples)
    sums, shown = Sums(model.config.vocabulary, group.device), list[tuple[Tensor, Tensor]]()
    share = sequential_batches(split, model.config.image_size, samples, group.rank, group.size, threads, batch_size)
    for keys, pixels in padded(share, ceil(ceil(samples / group.size) / batch_size), model.config.image_size):
        taken = len(keys)
        pixels = pixels.to(group.device)
        each, codes, picture = measure(model, pixels, keys or [""], temperature)
        sums.add({name: value[:taken] for name, value in each.items()}, codes[:taken])
        if sum(len(pair[0]) for pair in shown) < SHOWN:
            shown.append((pixels[:taken].cpu(), to_bytes(picture[:taken]).cpu()))
    originals, reconstructions = (torch.cat(side)[:SHOWN] for side in zip(*shown, strict=True))
    return Evaluation(val_metrics(sums.means(group), sums.counts), sums.counts, originals, reconstructions)


def padded(batches: Iterator[tuple[list[str], Pixels]], count: int, size: int) -> Iterator[tuple[list[str], Tensor]]:
    """`count` batches; those after the last have no keys and one black picture."""
    for _ in range(count):
        keys, pixels = next(batches, ([], np.zeros((1, size, size, 3), np.uint8)))
        yield keys, torch.from_numpy(pixels)


def measure(
    model: DVAE, pixels: Tensor, keys: list[str], temperature: float
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Metrics of each picture (b,), its codes (b, g, g), and its reconstruction (b, 3, S, S) in 0…1."""
    x, grid = objective.map_pixels(channels_first(pixels)), model.config.grid
    logits = model.encoder(x)
    shape = (grid, grid, model.config.vocabulary)
    noise = objective.gumbel(exponential("evaluate", 0, [0] * len(keys), keys, shape, pixels.device)).movedim(3, 1)
    relaxed = objective.logit_laplace(x, model.decoder(objective.relax(logits, noise, temperature)))
    hard = model.decoder(objective.harden(logits))
    picture, true = objective.reconstruct(hard), channels_first(pixels).float() / 255
    squared = metrics.squared_error(picture, true)
    each = {
        "relaxed_nll": relaxed.mean((1, 2, 3)),
        "hard_nll": objective.logit_laplace(x, hard).mean((1, 2, 3)),
        "kl": objective.kl_uniform(logits).mean((1, 2)),
        "mse": squared,
        "psnr": metrics.psnr(squared),
        "ssim": metrics.ssim(picture, true),
    }
    return each, logits.argmax(1), picture


def val_metrics(means: dict[str, float], counts: Tensor) -> dict[str, float]:
    """Metrics under the names by which they are logged. ELBO is −(nll + kl/192), nats per subpixel on (0, 1).

    `val_nats_per_dim` is the negative hard ELBO for 8-bit values, probably that of the
    3.6 to 3.7 that the authors recall; a uniform density over 0…255 has 5.54.
    """
    relaxed, hard = (-(means[name] + means["kl"] / SUBPIXELS) for name in ("relaxed_nll", "hard_nll"))
    return {
        "val_relaxed_elbo": relaxed,
        "val_hard_elbo": hard,
        "val_nats_per_dim": -hard + objective.TO_BYTES,
        "val_kl": means["kl"],
        "val_mse": means["mse"],
        "val_psnr": means["psnr"],
        "val_ssim": means["ssim"],
        "val_codes_used": metrics.in_use(counts),
        "val_perplexity": metrics.perplexity(counts),
    }


def code_pictures(model: DVAE, device: torch.device, batch_size: int = 256) -> Tensor:
    """What each code decodes to when its neighbours are the same code: uint8 (K, 8, 8, 3)."""
    middle = slice(REPEATS // 2 * FACTOR, REPEATS // 2 * FACTOR + FACTOR)
    parts = []
    for codes in torch.split(torch.arange(model.config.vocabulary, device=device), batch_size):
        pictures = model.decode(codes[:, None, None].expand(-1, REPEATS, REPEATS))
        parts.append(to_bytes(pictures[:, :, middle, middle]))
    return torch.cat(parts).cpu()


def code_grid(pictures: Tensor) -> Pixels:
    """The pictures of codes in ceil(sqrt(K)) columns, row by row, without gaps: (h, w, 3) uint8."""
    columns = ceil(sqrt(len(pictures)))
    return tiles(list(torch.split(pictures, columns)), 0)
