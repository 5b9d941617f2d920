"""Where a run's metrics go: metrics.jsonl, TensorBoard, and a progress line. Written by the first process alone."""

from contextlib import ExitStack

from torch.utils.tensorboard import SummaryWriter

from gesso import storage
from gesso.images import Pixels
from gesso.processes import Group
from gesso.progress import Display, State, line
from gesso.training import metrics_file
from gesso.training.layout import METRICS


class MetricsLogger:
    """Writes a run's metrics and shows its progress; a context that closes what it opened."""

    def __init__(self, output: str, group: Group, first: int, last: int) -> None:
        """`first`: updates that are done; what an earlier process logged after them is removed. `last`: all updates."""
        self._path, self._last = storage.join(output, METRICS), last
        self._open, self._board, self._display = ExitStack(), None, None
        if group.rank == 0:
            metrics_file.truncate(self._path, first)
            self._board, self._display = SummaryWriter(output, purge_step=first + 1), Display()

    def __enter__(self) -> "MetricsLogger":
        if self._board and self._display:
            self._open.callback(self._board.close)
            self._open.enter_context(self._display)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

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
        if self._display:
            shown = State(
                step, self._last, lambda rate: f"{line(step, self._last, 'updates', rate)} · {summary(values)}"
            )
            self._display.show(shown, last=step >= self._last)


def summary(values: dict[str, float]) -> str:
    """`loss -0.512 · 95 images/s · 812 MiB · MFU 31%`; a prior's speed is in tokens."""
    parts = [f"loss {values['loss']:.3f}"]
    speeds = {unit: values[f"{unit}_per_second"] for unit in ("images", "tokens") if f"{unit}_per_second" in values}
    for unit, speed in speeds.items():
        parts += [f"{speed:,.0f} {unit}/s", f"{values['memory_mib']:,.0f} MiB"]
    if "mfu" in values:
        parts.append(f"MFU {100 * values['mfu']:.0f}%")
    return " · ".join(parts)
