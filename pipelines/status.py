"""How far a collection is, from what stands in its directory: the plan, committed markers, notes of shards under way.

The same for a job on this machine and for one elsewhere; `watch` draws it while a job runs.
"""

from argparse import ArgumentParser
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
from gesso.flags import path
from gesso.progress import seconds

SHOWN_REASONS = 5
IN_SPLITS = (export.KIND, "tokens")  # kinds whose shards stand in a folder for each split


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
        self._plan = self._plan or manifest.read_plan(self._output)
        self._markers |= manifest.committed(self._output, frozenset(self._markers))
        if self._plan is None and not self._markers:
            return Snapshot(None, 0, 0, Counter(), None, None)
        plan = self._plan or manifest.plan_of_foreign(self._markers)
        reasons = Counter[str]()
        for marker in self._markers.values():
            reasons.update({reason: count for reason, count in marker["status_dict"].items() if is_fetched(reason)})
        for note in manifest.notes(self._output, frozenset(self._markers)):
            reasons.update(note)
        times = [(marker["start_time"], marker["end_time"]) for marker in self._markers.values()]
        since, until = min((t[0] for t in times), default=None), max((t[1] for t in times), default=None)
        return Snapshot(plan["links"], plan["shards"], len(self._markers), reasons, since, until)


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


def watch(output: str) -> AbstractContextManager[None]:
    """Shows the progress of the collection that the body runs."""
    look = Look(output)

    def state() -> progress.State:
        now = look.snapshot()
        return progress.State(now.done, now.links, lambda rate: line(now, rate))

    return progress.watch(output, state)


def state(output: str) -> str:
    """Whether the collection is through, as far as its directory tells."""
    if manifest.read_plan(output) is None:
        return "without a plan: as img2dataset writes it by itself, or before the plan is whole"
    return "finished" if storage.exists(storage.join(output, layout.MANIFEST)) else "not finished"


def main(argv: Sequence[str]) -> int:
    """`gesso status DIR`."""
    parser = ArgumentParser("gesso status", description="How far a collection is, from what stands in its directory.")
    parser.add_argument("directory", type=path, help="what `gesso collect` was given as --output")
    output = parser.parse_args(argv).directory
    if not storage.files(output):
        raise UserError(f"{output} holds no collection: give the --output of a `gesso collect`")
    if (manifest.read_plan(output) or {}).get("kind") in IN_SPLITS:
        print(export.Look(output)().line(None))
        print(state(output))
        return 0
    if not manifest.is_collection(output, manifest.sizes(output)):
        told = state(output)
        print(told if told == "finished" else f"{told}: {len(manifest.committed(output)):,} parts committed")
        return 0
    now = Look(output).snapshot()
    rate = None
    if now.since is not None and now.done:
        ended = time() if now.shards_done < now.shards else now.until or time()
        rate = now.done / max(ended - now.since, 1e-3)
    print(line(now, rate))
    print(state(output))
    return 0
