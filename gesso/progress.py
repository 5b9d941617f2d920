"""What long work shows while it runs: a live line on a terminal, else a line every ten seconds; and a shard's notes.

Progress is read from the output's directory, the same for a job on this machine and for one elsewhere.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

from gesso import storage

LOOK_LOCAL, LOOK_REMOTE = 0.5, 15.0  # seconds between two looks
PLAIN_LINE = 10.0  # seconds between two lines where there is no terminal


class State(NamedTuple):
    """How far some work is."""

    done: int
    total: int | None  # None: not known yet, so that no rate is told either
    line: Callable[[float | None], str]  # of the rate, done a second, once there is one


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
def watch(output: str, look: Callable[[], State]) -> Iterator[None]:
    """Shows, while the body runs, what `look` sees in `output`."""
    stop, pause = threading.Event(), LOOK_LOCAL if storage.is_local(output) else LOOK_REMOTE
    thread = threading.Thread(target=_show, args=(look, stop, pause))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(look: Callable[[], State], stop: threading.Event, pause: float) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    live = sys.stderr.isatty()
    begun, first, shown = monotonic(), None, -PLAIN_LINE
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), disable=not live, redirect_stdout=False) as bar:
        task = bar.add_task("starting", total=None)
        while not stop.wait(pause):
            now = look()
            if now.total is not None and first is None:
                begun, first = monotonic(), now.done
            passed = monotonic() - begun
            text = now.line((now.done - (first or 0)) / passed if passed else None)
            bar.update(task, description=text, total=now.total, completed=now.done)
            if not live and monotonic() - shown >= PLAIN_LINE:
                shown = monotonic()
                print(text, file=sys.stderr, flush=True)
