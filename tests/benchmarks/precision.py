"""Does fp16 with a scale for each residual block keep the gradients and the loss curve of a deep, narrow stack in fp32?

`python tests/benchmarks/precision.py [--updates 150] [--layers 24] [--curves curves.json]`

The prior of the product, its reduction and its AdamW on captions that decide a pattern of image tokens. Two tables:

Gradients. The error of each block's gradient in fp16 at the initial weights, relative to that in fp32: with the scales
that the blocks start with, with one scale of 2^16 for all, and unscaled.

Training. Four runs from the same weights on the same batches. The one scale is that of torch's GradScaler: from 2^16,
halved by an overflow, doubled after 2,000 updates.

Where there is no GPU fp16 is emulated: products are computed in float32 from values rounded to fp16 and rounded again,
as matrix units do, so that ranges and rounding are those of fp16 and the speed is not.
"""

import argparse
import json
from collections.abc import Iterator
from math import inf
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from gesso.processes import Group
from gesso.training.adamw import AdamW
from gesso.training.distributed.reduction import PlainReduction
from gesso.training.distributed.sharding import Spread, blocks_of
from gesso.training.precision import resblock_scale
from gesso.training.precision.resblock_scale import INITIAL, ResblockScales
from gesso.training.prior.model import Prior, loss
from gesso.training.prior.settings import PriorConfig, Tokens

TOKENS = Tokens(grid=8, codes=64, texts=64)
BATCH, REPLICAS = 16, 1024  # the loss is divided as if by the paper's overall batch
LAST = 50  # updates over which the loss at the end is averaged
RATE, WARMUP, CLIP = 2e-3, 50, 4.0
PATIENCE = 2000  # finite updates after which the one scale is doubled
CPU = torch.device("cpu")


class OneScale(ResblockScales):
    """The same value for every block, by the rule of a global loss scale; `fixed` keeps it."""

    def __init__(self, blocks: int, device: torch.device, value: float, fixed: bool) -> None:
        super().__init__(blocks, 1, device)
        self.values.fill_(value)
        self._fixed, self._finite = fixed, 0

    def step(self, finite: Tensor) -> bool:
        whole = bool(finite.all())
        self._finite = self._finite + 1 if whole else 0
        if not self._fixed and (not whole or self._finite % PATIENCE == 0):
            self.values.mul_(2.0 if whole else 0.5)
        return whole


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A caption of two words, and a grid in which they alternate with one token in ten random."""
    random = torch.Generator().manual_seed(seed)
    place = torch.arange(64)
    pattern = (place // 8 // 2 + place % 8 // 2) % 2
    while True:
        words = torch.randint(0, 64, (BATCH, 2), generator=random)
        text = (TOKENS.texts + torch.arange(8)).repeat(BATCH, 1)
        text[:, 1:3] = words
        codes = words[:, pattern]
        noise = torch.rand(codes.shape, generator=random) < 0.1
        yield text, torch.where(noise, torch.randint(0, 64, codes.shape, generator=random), codes)


def build(layers: int, width: int, dtype: torch.dtype, device: torch.device) -> Prior:
    config = PriorConfig(layers, width // 32, 32, text_positions=8, kernel=5, tokens=TOKENS)
    model = Prior(config).to(device)
    model.initialize(0)
    model.set_precision(dtype, dtype)
    return model.train()


# ── gradients ──


def gradients(model: Prior, scales: Tensor | None) -> list[Tensor]:
    """The gradient of each block's matrices as one vector, unscaled."""
    for number, block in enumerate(model.residuals()):
        block.gradient_scale = None if scales is None else scales[number]
    model.zero_grad()
    text, codes = next(batches(1))
    (loss(model(text, codes), 2 * BATCH, codes.numel()) / REPLICAS).backward()  # type: ignore[no-untyped-call]
    found = [torch.cat([value.grad.flatten() for value in block.matrices()]) for block in model.residuals()]  # type: ignore[union-attr]
    return found if scales is None else [each.float() / scale for each, scale in zip(found, scales, strict=True)]


def errors(found: list[Tensor], true: list[Tensor]) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, true, strict=True)]


def print_gradients(layers: int, width: int) -> None:
    true = gradients(build(layers, width, torch.float32, CPU), None)
    model = build(layers, width, torch.float16, CPU)
    ways = {
        "per block": torch.full((2 * layers,), INITIAL * REPLICAS),
        "one, 2^16": torch.full((2 * layers,), 2.0**16),
        "unscaled": torch.ones(2 * layers),
    }
    found = {name: errors(gradients(model, scales), true) for name, scales in ways.items()}
    places = [round(at * (2 * layers - 1) / 7) for at in range(8)]
    print(f"Relative error of a block's gradient in fp16; {2 * layers} residual blocks, width {width}")
    print(f"{'block':14}" + "".join(f"{place:>10}" for place in places) + f"{'worst':>10}")
    for name, values in found.items():
        print(f"{name:14}" + "".join(f"{values[place]:>10.1e}" for place in places) + f"{max(values):>10.1e}")


# ── training ──


def train(model: Prior, scales: ResblockScales, updates: int, device: torch.device) -> tuple[list[float], int]:
    """The loss of each update, nats, and how many were skipped."""
    blocks = blocks_of(model, model.residuals())
    scales.scale(model.residuals())
    reduction = PlainReduction(blocks, Spread(model, 1, 1), Group(0, 1, device), scales.values)
    optimizer = AdamW({name: value.detach() for name, value in model.named_parameters()}, blocks.matrices, (), 0.0)
    curve, skipped, data = list[float](), 0, batches(1)
    for update in range(1, updates + 1):
        text, codes = (part.to(device) for part in next(data))
        value = loss(model(text, codes), 2 * BATCH, codes.numel())
        (value / REPLICAS).backward()  # type: ignore[no-untyped-call]
        reduced = reduction.reduce()
        norm = float(reduced.norm)
        scales.step(reduced.finite)
        made = norm < inf
        if made:
            factor = REPLICAS * min(1.0, CLIP / max(1e-8, REPLICAS * norm))
            optimizer.step(reduction.gradients(), RATE * min(1.0, update / WARMUP), factor)
        reduction.finish(made)
        skipped += not made
        curve.append(float(value.detach()))
    return curve, skipped


def modes(layers: int, device: torch.device) -> Iterator[tuple[str, torch.dtype, ResblockScales]]:
    count = 2 * layers
    yield "fp32", torch.float32, ResblockScales(count, REPLICAS, device, dynamic=False)
    yield "fp16, per block", torch.float16, ResblockScales(count, REPLICAS, device)
    yield "fp16, one scale", torch.float16, OneScale(count, device, 2.0**16, fixed=False)
    yield "fp16, unscaled", torch.float16, OneScale(count, device, 1.0, fixed=True)


def print_training(given: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    print(f"\n{given.updates} updates of {BATCH}, width {given.width}, {device.type}")
    print(f"{'':18}{'loss, first':>12}{f'last {LAST}':>12}{'skipped':>10}{'scales, log2':>16}", flush=True)
    curves = {}
    for name, dtype, scales in modes(given.layers, device):
        keep = resblock_scale.filtered
        if isinstance(scales, OneScale):
            resblock_scale.filtered = lambda gradient: gradient
        model = build(given.layers, given.width, dtype, device)
        curves[name], skipped = train(model, scales, given.updates, device)
        resblock_scale.filtered = keep
        low, high = (float(value.log2()) for value in scales.values.aminmax())
        ends = f"{curves[name][0]:>12.3f}{fmean(curves[name][-LAST:]):>12.4f}"
        print(f"{name:18}{ends}{skipped:>10}{f'{low:.1f} … {high:.1f}':>16}", flush=True)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--curves", type=Path, help="write the curves there, JSON")
    given = parser.parse_args()
    print_gradients(given.layers, given.width)
    curves = print_training(given, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if given.curves:
        given.curves.write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
