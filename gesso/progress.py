"""The progress of a running job: a bar on a terminal, else a line every ten seconds.

It is read from the output's directory, the same for a job on this machine and on a cluster.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from gesso import storage

if TYPE_CHECKING:
    from rich.progress import Progress

POLL_LOCAL, POLL_REMOTE = 0.5, 15.0  # seconds between two reads
BAR = 20  # cells of a bar, what a terminal of 80 columns has room for
PLAIN_LINE = 10.0  # seconds between two lines where there is no terminal


class State(NamedTuple):
    """How much of the work is done."""

    done: int
    total: int | None  # None: not known yet, so there is no rate either
    line: Callable[
        [float | None], str
    ]  # from the rate (items per second; None: not known yet) to the line that is shown


def line(done: int, total: int, unit: str, rate: float | None) -> str:
    """`500 of 1,000 images (50.0%) · 10 images/s · 50 s left`."""
    parts = [f"{done:,} of {total:,} {unit} ({100 * done / total if total else 100:.1f}%)"]
    if rate:
        parts += [f"{rate:,.{0 if rate >= 10 else 1}f} {unit}/s", f"{seconds((total - done) / rate)} left"]
    return " · ".join(parts)


def seconds(value: float) -> str:
    """A duration as people write it: 42 s, 3 min 05 s, 2 h 10 min, 4 d 3 h."""
    whole = round(value)
    for unit, part, size, per in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // per:02d} {part}"
    return f"{whole} s"


@contextmanager
def watch(output: str, read_state: Callable[[], State]) -> Iterator[None]:
    """Shows the progress of a job while the body runs, and once more when that has ended without an error."""
    stop, pause = threading.Event(), POLL_LOCAL if storage.is_local(output) else POLL_REMOTE
    with Display() as display:

        def show() -> None:
            while not stop.wait(pause):
                display.show(read_state())

        thread = threading.Thread(target=show)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        display.show(read_state(), last=True)


def announce(text: str) -> None:
    """Says on a terminal what takes a moment before there is progress to show."""
    if sys.stderr.isatty():
        print(f"{text} …", file=sys.stderr, flush=True)


class Display:
    """A bar on a terminal, else a line every ten seconds and at the end; on stderr."""

    def __init__(self) -> None:
        self._bar = _terminal_bar() if sys.stderr.isatty() else None
        self._begun, self._shown = monotonic(), -PLAIN_LINE
        self._first: int | None = None  # done when the total was known

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, now: State, last: bool = False) -> None:
        """How far it is, with the rate since the total was known first."""
        if now.total is not None and self._first is None:
            self._begun, self._first = monotonic(), now.done
        passed = monotonic() - self._begun
        text = now.line((now.done - (self._first or 0)) / passed if passed else None)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=text, total=now.total, completed=now.done)
        elif last or monotonic() - self._shown >= PLAIN_LINE:
            self._shown = monotonic()
            print(text, file=sys.stderr, flush=True)


def _terminal_bar() -> "Progress | None":
    """A bar with a line beside it; None where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column
    except ModuleNotFoundError:
        return None
    text = TextColumn("{task.description}", table_column=Column(no_wrap=False, overflow="fold"))
    bar = BarColumn(bar_width=BAR, table_column=Column(min_width=BAR, no_wrap=True))
    shown = Progress(bar, text, console=Console(stderr=True), redirect_stdout=False)
    shown.add_task("starting", total=None)
    return shown
