"""What the commands that train have in common: processes, lock, resume, loop. Light: torch is loaded when one runs."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from gesso import progress
from gesso.lock import lock
from gesso.training.settings import LoopSettings

if TYPE_CHECKING:
    from gesso.processes import Group
    from gesso.training.loop import Trainer
    from gesso.training.throughput import Throughput

Stop = Callable[[], bool]  # asked after each update


class Job(Protocol):
    """What is needed of a training's settings."""

    @property
    def output(self) -> str: ...

    @property
    def steps(self) -> int: ...

    @property
    def loop(self) -> LoopSettings: ...


def launch(output: str, train: "Callable[[Group, Stop], str]") -> int:
    """Runs `train` in the processes of torchrun, or alone, until it ends, or SIGTERM or Ctrl-C comes.

    Prints what it returns, how far it came, and returns the exit code.
    """
    from gesso.processes import exit_code, processes, stopping

    progress.announce("loading torch")
    with processes() as group, stopping() as stop, ExitStack() as stack:
        group.first(lambda: stack.enter_context(lock(output)))
        outcome = train(group, lambda: group.agreed(bool(stop)))
        if group.rank == 0:
            print(f"{output}: {outcome}; `gesso report {output}` shows it")
    return exit_code(stop)


def drive(
    job: Job,
    trainer: "Trainer[Any]",
    group: "Group",
    settings: dict[str, Any],
    write_record: Callable[[], None],
    throughput: "Callable[[int], Throughput]",
    stop: Stop,
) -> str:
    """Continues from the last checkpoint and trains on; returns how far it came, in words.

    `settings`: those that decide the weights. `write_record` writes run.json, in the first process; `throughput` is
    called with the update that the training goes on after.
    """
    from gesso.processes import announce_step
    from gesso.training.checkpoint import Checkpoints
    from gesso.training.loop import Loop, remove_temporary_files
    from gesso.training.metrics import MetricsLogger

    with Checkpoints(job.output, group, job.loop.checkpoint, job.loop.keep) as checkpoints:
        loop = Loop(trainer, group, checkpoints, job.output, settings, job.loop, job.steps)
        loop.resume()
        announce_step(job.output, group, trainer.step)
        if trainer.step >= job.steps:
            return f"update {trainer.step:,} is done already, give more --steps to continue"
        if group.rank == 0:
            remove_temporary_files(job.output)
            write_record()
        with MetricsLogger(job.output, group, trainer.step, job.steps) as metrics:
            return loop.run(metrics, throughput(trainer.step), stop)
