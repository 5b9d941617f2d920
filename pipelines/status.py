"""`gesso status`: how far a directory is, from its files. Of a collection: plan, markers, progress files of shards.

It is the same for a job on this machine and on a cluster; `watch` shows a collection's while it runs. No pyarrow.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from time import sleep, time
from typing import Any

from gesso import lock, progress, storage
from gesso.dataset import kinds, manifest
from gesso.dataset.kinds import SHARDS, Kind
from gesso.dataset.records import SUCCESS, is_fetched
from gesso.flags import Parser, path
from gesso.pipelines import directory_progress
from gesso.progress import seconds

SHOWN_REASONS = 5


@dataclass(frozen=True)
class Snapshot:
    """The progress at one moment; `links` are those to be fetched."""

    links: int | None  # None: the plan is not complete yet
    shards: int
    shards_done: int
    reasons: Counter[str]
    since: float | None  # start of the first shard, seconds of the epoch
    until: float | None  # end of the last committed shard

    @property
    def done(self) -> int:
        return self.reasons.total()

    @property
    def kept(self) -> int:
        return self.reasons[SUCCESS]

    def failures(self) -> list[tuple[str, int]]:
        causes = [item for item in self.reasons.items() if item[0] != SUCCESS]
        return sorted(causes, key=lambda item: (-item[1], item[0]))


class CollectionProgress:
    """Reads a collection's progress at each call; a marker is read once."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._plan: dict[str, Any] | None = None
        self._markers: dict[int, dict[str, Any]] = {}

    def snapshot(self) -> Snapshot:
        self._plan = self._plan or manifest.read_plan(self._output)
        self._markers |= manifest.committed(self._output, frozenset(self._markers))
        if self._plan is None and not self._markers:
            return Snapshot(None, 0, 0, Counter(), None, None)
        plan = self._plan or manifest.plan_from_markers(self._markers)
        reasons = Counter[str]()
        for marker in self._markers.values():
            reasons.update({reason: count for reason, count in marker["status_dict"].items() if is_fetched(reason)})
        for counts in manifest.progress_counts(self._output, frozenset(self._markers)):
            reasons.update(counts)
        times = [(marker["start_time"], marker["end_time"]) for marker in self._markers.values()]
        since, until = min((t[0] for t in times), default=None), max((t[1] for t in times), default=None)
        return Snapshot(plan["links"], plan["shards"], len(self._markers), reasons, since, until)


def line(now: Snapshot, rate: float | None) -> str:
    """A snapshot as one line: links, kept, rate, time left, failures by cause."""
    if now.links is None:
        return "planning: reading tables, applying the caption rules"
    share = 100 * now.done / now.links if now.links else 100
    parts = [f"{now.done:,} of {now.links:,} links ({share:.1f}%)", f"{now.kept:,} kept"]
    parts.append(f"shard {now.shards_done:,} of {now.shards:,}")
    if rate:
        parts += [f"{rate:,.0f} links/s", f"{seconds((now.links - now.done) / rate)} left"]
    causes = ", ".join(f"{reason} {count:,}" for reason, count in now.failures()[:SHOWN_REASONS])
    return " · ".join([*parts, causes] if causes else parts)


def watch(output: str) -> AbstractContextManager[None]:
    """Shows the progress of the collection that the `with` block runs."""
    collection_progress = CollectionProgress(output)

    def state() -> progress.State:
        now = collection_progress.snapshot()
        return progress.State(now.done, now.links, lambda rate: line(now, rate))

    return progress.watch(output, state)


def reader(path: str, kind: Kind) -> Callable[[], progress.State]:
    """The function that reads how far a directory is."""
    if kind.name not in SHARDS or kind.name == "index":
        return directory_progress.reader(path, kind)
    collection_progress = CollectionProgress(path)

    def read() -> progress.State:
        now = collection_progress.snapshot()
        rate = mean_rate(now)
        return progress.State(now.done, now.links, lambda measured: line(now, measured or rate))

    return read


def mean_rate(now: Snapshot) -> float | None:
    """Links a second from the start of the first shard on; None before."""
    if now.since is None or not now.done:
        return None
    ended = time() if now.shards_done < now.shards else now.until or time()
    return now.done / max(ended - now.since, 1e-3)


def is_finished(path: str, kind: Kind) -> bool:
    """img2dataset's own shards say of none that it is the last: they count as finished."""
    return kind.name == "img2dataset" or directory_progress.is_finished(path, kind)


def state(path: str, kind: Kind) -> str:
    """Whether a job writes to the directory now, or it is finished, or stopped since when."""
    about = lock.holder(path)
    if about is not None:
        return f"running: {lock.name(about)}"
    if kind.name == "img2dataset":
        return "img2dataset's own shards: it keeps no plan, so that what is missing is not known"
    if is_finished(path, kind):
        return "finished"
    changed = newest(path)
    if changed is None:
        return "not finished: the same command goes on"
    since = datetime.fromtimestamp(changed).astimezone().isoformat(" ", timespec="seconds")
    return f"stopped since {since} ({seconds(max(0, time() - changed))}): the same command goes on"


def newest(path: str) -> float | None:
    """When the newest local file below the directory was written, seconds of the epoch; None on an object store."""
    folders = os.walk(storage.local(path)) if storage.is_local(path) else iter(())
    names = (os.path.join(folder, name) for folder, _, names in folders for name in names)
    return max((os.lstat(name).st_mtime for name in names if os.path.lexists(name)), default=None)


def build_parser() -> Parser:
    parser = Parser(
        "gesso status", "Shows the progress of a job or a training, from the files in its output directory."
    )
    parser.add_argument("directory", type=path, help="the --output of a gesso command, or img2dataset's folder")
    parser.add_argument("--watch", action="store_true", help="refresh until it is finished; Ctrl-C ends")
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso status DIR`."""
    given = build_parser().parse_args(argv)
    path, kind = kinds.find(given.directory)
    read = reader(path, kind)
    if given.watch:
        watch_until_finished(path, kind, read)
    else:
        print(read().line(None))
    print(state(path, kind))
    return 0


def watch_until_finished(path: str, kind: Kind, read: Callable[[], progress.State]) -> None:
    """Shows the progress as a running job does; a job may be started meanwhile."""
    pause = progress.POLL_LOCAL if storage.is_local(path) else progress.POLL_REMOTE
    with progress.Display() as display:
        while not is_finished(path, kind):
            display.show(read())
            sleep(pause)
        display.show(read(), last=True)
