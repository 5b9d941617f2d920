"""Where a run's figures go: metrics.jsonl, TensorBoard, and a line or bar for people. Written by the first process."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch.utils.tensorboard import SummaryWriter

from gesso import storage
from gesso.processes import Group
from gesso.progress import PLAIN_LINE, line
from gesso.training import metrics_log
from gesso.training.dvae.evaluation import Evaluation, pairs
from gesso.training.layout import METRICS

# Dense peak of a GPU's matrix units in fp16 and bf16, floating-point operations a second (vendors' data sheets).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "V100": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12}
# In fp32 torch has convolutions done in TF32 where a GPU can.
PEAKS_FP32 = {
    "H200": 494e12,
    "H100": 494e12,
    "A100": 156e12,
    "V100": 15.7e12,
    "L40S": 183e12,
    "L40": 90e12,
    "L4": 60e12,
}


class Figures:
    """Keeps a run's figures and shows how far it is."""

    def __init__(self, output: str, group: Group, first: int, last: int, pictures: int, operations: float) -> None:
        """`pictures`: of an update; `operations`: of a picture on one GPU at its peak rate 1, 0 where it is unknown."""
        self._path, self._group, self._last = storage.join(output, METRICS), group, last
        self._pictures, self._operations = pictures, operations
        self._begun = self._since = monotonic()
        self._first = self._noted = first
        self._shown, self._live = -PLAIN_LINE, sys.stderr.isatty() and group.rank == 0
        columns = (BarColumn(bar_width=30), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not self._live)
        self._task = self._bar.add_task("starting", total=last, completed=first)
        if group.rank == 0:
            metrics_log.cut(self._path, first)
        self._board = SummaryWriter(output, purge_step=first + 1) if group.rank == 0 else None

    def __enter__(self) -> "Figures":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()
        if self._board:
            self._board.close()

    def speed(self, step: int) -> dict[str, float]:
        """Pictures a second since this was asked last, memory, and the share of the GPUs' peak that was used."""
        now = monotonic()
        rate = (step - self._noted) * self._pictures / max(1e-9, now - self._since)
        self._since, self._noted = now, step
        used = {"mfu": rate * self._operations / self._group.size} if self._operations else {}
        return {"images_per_second": rate, "memory_mib": memory(self._group.device), **used}

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out of the speed what the body takes."""
        begun = monotonic()
        yield
        self._since += monotonic() - begun

    def write(self, step: int, values: dict[str, float]) -> None:
        """One record, to metrics.jsonl and TensorBoard; none where there is nothing to record."""
        if self._board and values:
            metrics_log.append(self._path, step, values)
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def write_pictures(self, step: int, found: Evaluation) -> None:
        if self._board:
            grid = pairs(found.originals, found.reconstructions)
            self._board.add_image("originals above, reconstructions under them", grid, step, dataformats="HWC")

    def show(self, step: int, values: dict[str, float]) -> None:
        """A bar on a terminal, else a line every ten seconds and at the end."""
        if self._group.rank or (not self._live and monotonic() - self._shown < PLAIN_LINE and step < self._last):
            return
        self._shown = monotonic()
        rate = (step - self._first) / max(1e-9, monotonic() - self._begun)
        text = f"{line(step, self._last, 'updates', rate)} · {told(values)}"
        self._bar.update(self._task, description=text, completed=step)
        if not self._live:
            print(text, file=sys.stderr, flush=True)


def told(values: dict[str, float]) -> str:
    """`loss -0.512 · 95 images/s · 812 MiB · MFU 31%`."""
    parts = [f"loss {values['loss']:.3f}"]
    if "images_per_second" in values:
        parts += [f"{values['images_per_second']:,.0f} images/s", f"{values['memory_mib']:,.0f} MiB"]
    if "mfu" in values:
        parts.append(f"MFU {100 * values['mfu']:.0f}%")
    return " · ".join(parts)


def memory(device: torch.device) -> float:
    """The most that was in use, MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def peak(device: torch.device, precision: str) -> float:
    """Operations a second of a GPU at its best; 0 where they are not known, as on a CPU."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    table = PEAKS_FP32 if precision == "fp32" else PEAKS
    return next((value for part, value in table.items() if part in name), 0.0)
