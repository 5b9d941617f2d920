"""Where a run's metrics go: metrics.jsonl, TensorBoard, and a progress line. Written by the first process alone."""

import sys
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch.utils.tensorboard import SummaryWriter

from gesso import storage
from gesso.images import Pixels
from gesso.processes import Group
from gesso.progress import BAR, PLAIN_LINE, line
from gesso.training import metrics_file
from gesso.training.layout import METRICS


class MetricsLogger:
    """Writes a run's metrics and shows its progress; a context that closes what it opened."""

    def __init__(self, output: str, group: Group, first: int, last: int) -> None:
        """`first`: updates that are done; what an earlier process logged after them is removed. `last`: all updates."""
        self._path, self._group = storage.join(output, METRICS), group
        self._first, self._last, self._start = first, last, monotonic()
        self._shown, self._live = -PLAIN_LINE, sys.stderr.isatty() and group.rank == 0
        columns = (BarColumn(bar_width=BAR), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not self._live)
        self._task = self._bar.add_task("starting", total=last, completed=first)
        if group.rank == 0:
            metrics_file.truncate(self._path, first)
        self._board = SummaryWriter(output, purge_step=first + 1) if group.rank == 0 else None

    def __enter__(self) -> "MetricsLogger":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()
        if self._board:
            self._board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One record, to metrics.jsonl and TensorBoard; nothing where `values` is empty."""
        if self._board and values:
            metrics_file.append(self._path, step, values)
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def write_images(self, step: int, images: dict[str, Pixels]) -> None:
        """Images by title, (h, w, 3) uint8, to TensorBoard."""
        if self._board:
            for title, pixels in images.items():
                self._board.add_image(title, pixels, step, dataformats="HWC")

    def show(self, step: int, values: dict[str, float]) -> None:
        """Progress: a bar on a terminal, else a line every ten seconds and at the end. `values` has `loss`."""
        if self._group.rank or (not self._live and monotonic() - self._shown < PLAIN_LINE and step < self._last):
            return
        self._shown = monotonic()
        rate = (step - self._first) / max(1e-9, monotonic() - self._start)
        text = f"{line(step, self._last, 'updates', rate)} · {summary(values)}"
        self._bar.update(self._task, description=text, completed=step)
        if not self._live:
            print(text, file=sys.stderr, flush=True)


def summary(values: dict[str, float]) -> str:
    """`loss -0.512 · 95 images/s · 812 MiB · MFU 31%`."""
    parts = [f"loss {values['loss']:.3f}"]
    if "images_per_second" in values:
        parts += [f"{values['images_per_second']:,.0f} images/s", f"{values['memory_mib']:,.0f} MiB"]
    if "mfu" in values:
        parts.append(f"MFU {100 * values['mfu']:.0f}%")
    return " · ".join(parts)
