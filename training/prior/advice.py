"""What to change where a prior does not fit into its GPUs' memory, each with the memory it would then take. torch."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeVar

from gesso.errors import UserError
from gesso.training.prior.memory import Setup, estimate, setup
from gesso.training.prior.settings import ComputeSettings, TrainSettings

S = TypeVar("S", TrainSettings, ComputeSettings)
Change = dict[str, Any]  # values of settings by name

# Accumulation and shards come after these, since their number is searched.
CHANGES: tuple[Change, ...] = (
    {"recompute": True},
    {"parallel": "fsdp"},
    {"precision": "fp16"},
    {"precision": "bf16"},
    {"moments": 16},
    {"error_buffers": "1-6-9"},
)


class Way(NamedTuple):
    """Flags to add to the command, and the bytes that a GPU then takes."""

    flags: str
    total: float


def ways(now: Setup, local: int, memory: float) -> list[Way]:
    """Single changes that take less, the least first; where none is enough, then what they give together.

    `local`: processes of a machine; `memory`: bytes of a GPU.
    """
    changes = sorted(helpful(now, local, memory), key=lambda change: total(now, change, local))
    singles = [Way(flags(change), total(now, change, local)) for change in changes]
    if len(singles) < 2 or singles[0].total <= memory:
        return singles
    combined = together(now, local, memory)
    return [*singles, Way(flags(combined), total(now, combined, local))]


def helpful(now: Setup, local: int, memory: float, before: Change | None = None) -> list[Change]:
    """The changes that take less than those made `before`, which they include."""
    made = before or {}
    tried = [{**made, **change} for change in CHANGES]
    tried += [enough(now, made, "accumulate", local, memory), enough(now, made, "shards", local, memory)]
    least = total(now, made, local)
    return [change for change in tried if total(now, change, local) < least]


def together(now: Setup, local: int, memory: float) -> Change:
    """Changes, each the one that helps most after those before it, until they are enough or none helps."""
    made: Change = {}
    while total(now, made, local) > memory and (found := helpful(now, local, memory, made)):
        made = min(found, key=lambda change: total(now, change, local))
    return made


def enough(now: Setup, made: Change, name: str, local: int, memory: float) -> Change:
    """The smallest value of --accumulate or --shards, doubled from its own, that fits, else what takes least."""
    tried = [{**made, name: value} for value in doubled(now, name)]
    fitting = (change for change in tried if total(now, change, local) <= memory)
    return next(fitting, min(tried, key=lambda change: total(now, change, local), default=made))


def doubled(now: Setup, name: str) -> Iterator[int]:
    value, most = now.shards, now.processes
    if name == "accumulate":
        value, most = now.compute.accumulate, now.training.batch_size // now.processes
    while (value := 2 * value) <= most:
        yield value


def total(now: Setup, change: Change, local: int) -> float:
    """Bytes of a GPU after a change; infinite where batch or weights cannot be split so."""
    training, compute = changed(now.training, change), changed(now.compute, change)
    try:
        return estimate(setup(now.config, training, compute, now.processes, local)).total
    except UserError:
        return float("inf")


def changed(settings: S, change: Change) -> S:
    """The settings with those values that are theirs."""
    own = {item.name for item in fields(settings)}
    return replace(settings, **{name: value for name, value in change.items() if name in own})


def flags(change: Change) -> str:
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in change.items())
