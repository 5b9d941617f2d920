"""How far a collection is, from what stands in its directory: the plan, committed markers, notes of shards under way.

The same for a job on this machine and for one elsewhere; `watch` draws it while a job runs.
"""

import sys
import threading
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

from pipelines import dataset, files, layout
from pipelines.errors import UserError
from pipelines.records import SUCCESS, is_fetched

LOOK_LOCAL, LOOK_REMOTE = 0.5, 15.0  # seconds between two looks
PLAIN_LINE = 10.0  # seconds between two lines where there is no terminal
SHOWN_REASONS = 5


@dataclass(frozen=True)
class Snapshot:
    """What a directory shows at one moment; links are those to be fetched."""

    links: int | None  # None: the plan is not whole yet
    shards: int
    shards_done: int
    reasons: Counter[str]
    since: float | None  # when the first shard began, seconds of the epoch
    until: float | None  # when the last committed shard ended

    @property
    def done(self) -> int:
        return self.reasons.total()

    @property
    def kept(self) -> int:
        return self.reasons[SUCCESS]

    def failures(self) -> list[tuple[str, int]]:
        causes = [item for item in self.reasons.items() if item[0] != SUCCESS]
        return sorted(causes, key=lambda item: (-item[1], item[0]))


class Look:
    """Reads a directory again and again; a marker is read once."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._plan: dict[str, Any] | None = None
        self._markers: dict[int, dict[str, Any]] = {}

    def snapshot(self) -> Snapshot:
        self._plan = self._plan or dataset.read_plan(self._output)
        self._markers |= dataset.committed(self._output, frozenset(self._markers))
        if self._plan is None and not self._markers:
            return Snapshot(None, 0, 0, Counter(), None, None)
        plan = self._plan or dataset.plan_of_foreign(self._markers)
        reasons = Counter[str]()
        for marker in self._markers.values():
            reasons.update({reason: count for reason, count in marker["status_dict"].items() if is_fetched(reason)})
        for note in dataset.notes(self._output, frozenset(self._markers)):
            reasons.update(note)
        times = [(marker["start_time"], marker["end_time"]) for marker in self._markers.values()]
        since, until = min((t[0] for t in times), default=None), max((t[1] for t in times), default=None)
        return Snapshot(plan["links"], plan["shards"], len(self._markers), reasons, since, until)


def seconds(value: float) -> str:
    """A duration as people write it: 42 s, 3 min 05 s, 2 h 10 min, 4 d 3 h."""
    whole = round(value)
    for unit, part, size, per in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // per:02d} {part}"
    return f"{whole} s"


def line(now: Snapshot, rate: float | None) -> str:
    """A snapshot as one line: links, kept, rate, time left, failures by cause."""
    if now.links is None:
        return "planning: reading tables, judging captions"
    share = 100 * now.done / now.links if now.links else 100
    parts = [f"{now.done:,} of {now.links:,} links ({share:.1f}%)", f"{now.kept:,} kept"]
    parts.append(f"shard {now.shards_done:,} of {now.shards:,}")
    if rate:
        parts += [f"{rate:,.0f} links/s", f"{seconds((now.links - now.done) / rate)} left"]
    causes = ", ".join(f"{reason} {count:,}" for reason, count in now.failures()[:SHOWN_REASONS])
    return " · ".join([*parts, causes] if causes else parts)


@contextmanager
def watch(output: str) -> Iterator[None]:
    """Shows the progress of the job that the body runs: a live line on a terminal, else one every ten seconds."""
    stop, look = threading.Event(), Look(output)
    thread = threading.Thread(target=_show, args=(look, stop, LOOK_LOCAL if files.is_local(output) else LOOK_REMOTE))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(look: Look, stop: threading.Event, pause: float) -> None:
    from rich.progress import BarColumn, Progress, TextColumn

    live = sys.stderr.isatty()
    begun, first, shown = monotonic(), None, -PLAIN_LINE
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"))
    with Progress(*columns, disable=not live, redirect_stdout=False) as bar:
        task = bar.add_task("starting", total=None)
        while not stop.wait(pause):
            now = look.snapshot()
            if now.links is not None and first is None:
                begun, first = monotonic(), now.done
            passed = monotonic() - begun
            text = line(now, (now.done - (first or 0)) / passed if passed else None)
            bar.update(task, description=text, total=now.links, completed=now.done)
            if not live and monotonic() - shown >= PLAIN_LINE:
                shown = monotonic()
                print(text, file=sys.stderr, flush=True)


def state(output: str) -> str:
    """Whether the collection is through, as far as its directory tells."""
    if dataset.read_plan(output) is None:
        return "without a plan: as img2dataset writes it by itself, or before the plan is whole"
    return "finished" if files.exists(files.join(output, layout.MANIFEST)) else "not finished"


def main(argv: Sequence[str]) -> int:
    """`gesso status DIR`."""
    parser = ArgumentParser("gesso status", description="How far a collection is, from what stands in its directory.")
    parser.add_argument("directory", help="what `gesso collect` was given as --output")
    output = parser.parse_args(argv).directory
    if not files.find(files.join(output, "*")):
        raise UserError(f"{output} holds no collection: give the --output of a `gesso collect`")
    now = Look(output).snapshot()
    rate = None
    if now.since is not None and now.done:
        ended = time() if now.shards_done < now.shards else now.until or time()
        rate = now.done / max(ended - now.since, 1e-3)
    print(line(now, rate))
    print(state(output))
    return 0
