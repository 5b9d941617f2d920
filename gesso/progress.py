"""The progress of a running job: a bar on a terminal, else a line every ten seconds.

It is read from the output's directory, the same for a job on this machine and on a cluster.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

from gesso import storage

POLL_LOCAL, POLL_REMOTE = 0.5, 15.0  # seconds between two reads
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
    """Shows the progress that `read_state` reads from `output` while the `with` block runs."""
    stop, pause = threading.Event(), POLL_LOCAL if storage.is_local(output) else POLL_REMOTE
    thread = threading.Thread(target=_show, args=(read_state, stop, pause))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(read_state: Callable[[], State], stop: threading.Event, pause: float) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    live = sys.stderr.isatty()
    begun, first, shown = monotonic(), None, -PLAIN_LINE
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), disable=not live, redirect_stdout=False) as bar:
        task = bar.add_task("starting", total=None)
        while not stop.wait(pause):
            now = read_state()
            if now.total is not None and first is None:
                begun, first = monotonic(), now.done
            passed = monotonic() - begun
            text = now.line((now.done - (first or 0)) / passed if passed else None)
            bar.update(task, description=text, total=now.total, completed=now.done)
            if not live and monotonic() - shown >= PLAIN_LINE:
                shown = monotonic()
                print(text, file=sys.stderr, flush=True)
