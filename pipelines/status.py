"""The progress of a collection, from its directory: the plan, commit markers, progress files of shards being written.

It is the same for a job on this machine and on a cluster; `watch` shows it while a job runs.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import time
from typing import Any

from gesso import progress, storage
from gesso.dataset import export, layout, manifest
from gesso.dataset.records import SUCCESS, is_fetched
from gesso.errors import UserError
from gesso.flags import Parser, path
from gesso.progress import seconds

SHOWN_REASONS = 5
IN_SPLITS = (export.KIND, "tokens")  # kinds that have a folder of shards for each split


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


def state(output: str) -> str:
    """Whether the directory is finished."""
    if manifest.read_plan(output) is None:
        return "without a plan: img2dataset's own, or the plan is not complete yet"
    return "finished" if storage.exists(storage.join(output, layout.MANIFEST)) else "not finished"


def build_parser() -> Parser:
    parser = Parser("gesso status", "Shows the progress of a job, from the files in its output directory.")
    parser.add_argument("directory", type=path, help="the --output of a gesso command, or img2dataset's folder")
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso status DIR`."""
    output = build_parser().parse_args(argv).directory
    if not storage.files(output):
        raise UserError(f"{output} holds no collection: give the --output of a `gesso collect`")
    if (manifest.read_plan(output) or {}).get("kind") in IN_SPLITS:
        print(export.ExportProgress(output)().line(None))
        print(state(output))
        return 0
    if not manifest.is_collection(output, manifest.sizes(output)):
        text = state(output)
        print(text if text == "finished" else f"{text}: {len(manifest.committed(output)):,} parts committed")
        return 0
    now = CollectionProgress(output).snapshot()
    rate = None
    if now.since is not None and now.done:
        ended = time() if now.shards_done < now.shards else now.until or time()
        rate = now.done / max(ended - now.since, 1e-3)
    print(line(now, rate))
    print(state(output))
    return 0
