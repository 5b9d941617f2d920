"""Training a dVAE against a plain loop over the released modules: `python tests/benchmarks/dvae.py`.

The plain loop takes batches that lie in memory through the `DALL-E` package's encoder and decoder, the same loss and
torch's AdamW, and nothing else: no reading, no averaged weights, no figures. gesso runs the loop of `gesso train dvae`
on an export of photographs: reading, decoding and crops, averaged weights, finite checks, metrics and TensorBoard. The
same sizes, batch and precision, the same cores, alternating; the table has medians. On a GPU also fp16 and bf16 (the
released modules' own fp16, and autocast), with the share of the GPU's peak by counted operations.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import dall_e
import torch
from collect import HERE, photographs
from torch import Tensor, nn

sys.path.insert(0, str(HERE.parents[2]))
from gesso.processes import Group, keep_memory, processes
from gesso.training.data.loader import Loader
from gesso.training.data.split import open_split
from gesso.training.dvae import objective, train
from gesso.training.dvae.counting import count
from gesso.training.dvae.settings import DvaeConfig
from gesso.training.dvae.trainer import Trainer
from gesso.training.metrics import MetricsLogger
from gesso.training.throughput import peak_flops
from tests.exports import write_export

WARM = 3  # updates before the clock


class Case(NamedTuple):
    """What is trained."""

    config: DvaeConfig
    batch_size: int
    precision: str


class Plain:
    """The released modules in a plain loop."""

    def __init__(self, case: Case, batches: list[Tensor], device: torch.device) -> None:
        sizes = {"n_hid": case.config.width, "vocab_size": case.config.vocabulary, "device": device}
        own = case.precision == "fp16"
        self._encoder: nn.Module = dall_e.Encoder(use_mixed_precision=own, **sizes)
        self._decoder: nn.Module = dall_e.Decoder(n_init=case.config.input_width, use_mixed_precision=own, **sizes)
        for layer in (*self._encoder.modules(), *self._decoder.modules()):
            if isinstance(layer, dall_e.utils.Conv2d) and not own:
                layer.use_float16 = False
        parameters = [*self._encoder.parameters(), *self._decoder.parameters()]
        for value in parameters:
            value.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4)
        self._batches = [batch.movedim(3, 1).contiguous() for batch in batches]
        self._cast = torch.autocast(device.type, torch.bfloat16) if case.precision == "bf16" else nullcontext()
        self._device, self._case = device, case

    def run(self, updates: int) -> None:
        for number in range(updates):
            x = objective.map_pixels(self._batches[number % len(self._batches)].to(self._device))
            with self._cast:
                logits = self._encoder(x).float()
                noise = objective.gumbel(torch.empty_like(logits).exponential_())
                told = self._decoder(objective.relax(logits, noise, 0.9))
            nll = objective.logit_laplace(x, told).mean()
            loss = nll + 6.6 / objective.SUBPIXELS * objective.kl_uniform(logits).mean()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()


class Ours:
    """The loop of `gesso train dvae`."""

    def __init__(self, case: Case, export: str, folder: Path, group: Group, *more: str) -> None:
        config = case.config
        shape = {"image_size": config.image_size, "vocabulary": config.vocabulary, "width": config.width}
        shape |= {"input_width": config.input_width, "batch_size": case.batch_size, "precision": case.precision}
        shape |= {"blocks": config.blocks}
        flags = [part for name, value in shape.items() for part in (f"--{name}", str(value))]
        rest = ("--preset", "tiny", "--evaluate_every", "1000000", "--save_every", "1000000", *more)
        self._run, _ = train.parse(["--data", export, "--output", str(folder), *flags, *rest])
        splits = (open_split(export, split) for split in ("train", "validation"))
        self._trainer = Trainer(self._run, group, *splits)
        self._metrics = MetricsLogger(str(folder), group, 0, 10**6)

    def run(self, updates: int) -> None:
        with self._trainer.batches() as batches:
            for batch in islice(batches, updates):
                values = self._trainer.update(batch)
                if self._trainer.step % self._run.loop.log_every == 0:
                    self._metrics.write(self._trainer.step, {**values, **self._trainer.interval_metrics(reset=True)})


def rate(run: Callable[[int], None], case: Case, updates: int, device: torch.device) -> float:
    """Images a second of some updates."""
    begun = perf_counter()
    run(updates)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return updates * case.batch_size / (perf_counter() - begun)


def compare(case: Case, export: str, updates: int, rounds: int, group: Group) -> dict[str, float]:
    """Median images a second of each loop."""
    loader = Loader(open_split(export, "train"), case.config.image_size, 0, case.batch_size)
    batches = [batch.pixels for batch in islice(loader, 4)]
    loader.close()
    with tempfile.TemporaryDirectory() as folder:
        loops = {"plain loop": Plain(case, batches, group.device), "gesso": Ours(case, export, Path(folder), group)}
        if group.device.type == "cuda":
            loops["gesso, compiled"] = Ours(case, export, Path(folder) / "compiled", group, "--compile")
        for loop in loops.values():
            loop.run(WARM)
        found: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(rounds):
            for name, loop in list(loops.items())[:: -1 if number % 2 else 1]:
                found[name].append(rate(loop.run, case, updates, group.device))
    return {name: median(rates) for name, rates in found.items()}


def loader_rate(export: str, case: Case) -> float:
    """Images a second that the loader gives when nobody trains."""
    loader = Loader(open_split(export, "train"), case.config.image_size, 0, case.batch_size)
    batches = iter(loader)
    next(batches)
    begun, taken = perf_counter(), 60
    for _ in islice(batches, taken):
        pass
    passed = perf_counter() - begun
    loader.close()
    return taken * case.batch_size / passed


def cases(device: torch.device) -> list[Case]:
    if device.type == "cpu":
        small = DvaeConfig(image_size=64, vocabulary=512, width=64, input_width=64)
        larger = DvaeConfig(image_size=128, vocabulary=2048, width=64, input_width=128)
        return [Case(small, 16, "fp32"), Case(larger, 8, "fp32")]
    return [Case(DvaeConfig(), 16, precision) for precision in ("fp32", "fp16", "bf16")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=12, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--default_malloc", action="store_true", help="leave glibc's memory as it is, for both loops")
    given = parser.parse_args()
    if not given.default_malloc:
        keep_memory()
    bodies = photographs(HERE.parents[2] / "../shared/data")
    with tempfile.TemporaryDirectory() as folder, processes() as group:
        export = write_export(Path(folder) / "clean", (480, 16), 250, lambda number: bodies[number % len(bodies)])
        print(f"{torch.get_num_threads()} threads, {group.device}, torch {torch.__version__}")
        print(
            "| model | batch | precision | loop | images/s | of plain | MFU | loader alone, images/s |\n"
            + "|---" * 8
            + "|"
        )
        for case in cases(group.device):
            cost, peak = count(case.config), peak_flops(group.device, case.precision)
            rates, alone = compare(case, export, given.updates, given.rounds, group), loader_rate(export, case)
            for name, value in rates.items():
                used = f"{100 * value * cost.flops / peak:.0f}%" if peak else ""
                fed = f"{alone:,.0f} ({alone / value:.0f} times)" if name.startswith("gesso") else ""
                shape = f"{case.config.image_size} px, {cost.parameters / 1e6:.1f}M"
                part = f"{value:,.1f} | {value / rates['plain loop']:.2f} | {used} | {fed}"
                print(f"| {shape} | {case.batch_size} | {case.precision} | {name} | {part} |", flush=True)


if __name__ == "__main__":
    main()
