"""The loop of a training: batches → updates → metrics, evaluations, checkpoints; to the last step or a stop. torch.

    ┌─▶ batch ─▶ update ─▶ metrics of the interval ─▶ evaluation ─▶ metrics.jsonl ─▶ checkpoint ─┐
    └──────────────────────────── (each where it is due) ◀───────────────────────────────────────┘

Model, objective and data are the trainer's. Metrics are written before the checkpoint: what a killed run logged after
its last checkpoint is removed on resuming, and logged again.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf, nan
from typing import Any, NamedTuple, Protocol, TypeVar

from gesso import storage
from gesso.dataset.manifest import LEFT_BEHIND
from gesso.errors import UserError
from gesso.images import Pixels
from gesso.processes import Group
from gesso.training import checkpoint, run_record
from gesso.training.checkpoint import Best, Checkpoints, Tensors
from gesso.training.metrics import MetricsLogger
from gesso.training.settings import LoopSettings
from gesso.training.spikes import Diverged
from gesso.training.throughput import Throughput

Json = dict[str, Any]
Values = dict[str, float]  # metrics by name
B = TypeVar("B")


class Evaluated(NamedTuple):
    """The metrics of an evaluation, the same in every process, and images for TensorBoard by title."""

    values: Values
    images: dict[str, Pixels]


class Trainer(Protocol[B]):
    """One process's part of a training, as the loop needs it. `B` is its batch.

    All processes call each method together, since any may communicate.
    """

    step: int  # updates done so far
    best_metric: str  # of an evaluation: the lower it is, the better the checkpoint

    def batches(self) -> AbstractContextManager[Iterator[B]]:
        """The batches that follow, without end."""

    def update(self, batch: B) -> Values:
        """Makes one update, adds 1 to `step`, and returns metrics, `loss` among them. Raises Diverged."""

    def interval_metrics(self, reset: bool) -> Values:
        """Metrics of all updates since the last reset, and the trainer's place in the data."""

    def evaluate(self) -> Evaluated:
        """Looks at the validation split."""

    def tensors(self) -> Tensors:
        """The tensors of the state, by kind and name: what a checkpoint saves, and what it is loaded into."""

    def state(self) -> Json:
        """The rest of the state, `step` among it: numbers, texts, small tensors."""

    def restore(self, state: Json, tensors: Tensors) -> None:
        """Continues from a checkpoint: what `state` returned, and `tensors()` with the loaded values."""


class Loop:
    """Drives a trainer: `resume`, then `run`.

    `settings` are those that decide the weights: they are saved in each checkpoint and checked by `resume`.
    """

    def __init__(
        self,
        trainer: Trainer[Any],
        group: Group,
        checkpoints: Checkpoints,
        output: str,
        settings: Json,
        loop: LoopSettings,
        steps: int,
    ) -> None:
        self._trainer, self._group, self._checkpoints, self._output = trainer, group, checkpoints, output
        self._settings, self._loop, self._steps = settings, loop, steps
        self._best: Best = {"step": 0, trainer.best_metric: inf}

    def resume(self) -> None:
        """Continues from the last checkpoint, if there is one. Raises UserError where it has other settings.

        Marks the best checkpoint again: a run may have been killed after writing it and before marking it.
        """
        path = self._checkpoints.latest()
        if path is None:
            return
        tensors = self._trainer.tensors()
        state = checkpoint.load(path, tensors)
        run_record.check_settings(self._output, state["settings"], self._settings)
        self._trainer.restore(state, tensors)
        self._best = state["best"]
        self._checkpoints.mark_best(self._best)

    def run(self, metrics: MetricsLogger, throughput: Throughput, stop: Callable[[], bool]) -> str:
        """Trains to the last step, or until `stop()` is true after an update; the last update is always saved.

        Returns how far it came, in words. Raises UserError where the training diverges or a checkpoint cannot be
        written.
        """
        with self._trainer.batches() as batches:
            while not self._last:
                update = self._update(next(batches))
                stopped = stop()
                values = {**self._measure(update, throughput), **self._evaluate(metrics, throughput)}
                metrics.write(self._trainer.step, values)
                if self._improved(values) or self._due(self._loop.save_every) or stopped:
                    self._save()
                self._checkpoints.check()
                metrics.show(self._trainer.step, {**update, **values})
                if stopped and not self._last:
                    return f"stopped and saved after update {self._trainer.step:,}, the same command goes on from there"
        return f"through update {self._steps:,}"

    @property
    def _last(self) -> bool:
        return self._trainer.step >= self._steps

    def _due(self, every: int) -> bool:
        return self._trainer.step % every == 0 or self._last

    def _update(self, batch: Any) -> Values:
        try:
            return self._trainer.update(batch)
        except Diverged as error:
            raise self._refusal(error) from error

    def _measure(self, update: Values, throughput: Throughput) -> Values:
        """The record of an update, empty where none is due. The last one, out of turn, leaves the interval open."""
        step = self._trainer.step
        if not self._due(self._loop.log_every):
            return {}
        interval = self._trainer.interval_metrics(reset=step % self._loop.log_every == 0)
        return {**update, **interval, **throughput.measure(step)}

    def _evaluate(self, metrics: MetricsLogger, throughput: Throughput) -> Values:
        """The values of an evaluation, empty where none is due."""
        if not self._due(self._loop.evaluate_every):
            return {}
        with throughput.pause():
            found = self._trainer.evaluate()
            metrics.write_images(self._trainer.step, found.images)
        return found.values

    def _improved(self, values: Values) -> bool:
        """Whether these are values of the best evaluation so far, whose checkpoint is then the best."""
        name = self._trainer.best_metric
        if not values.get(name, nan) < self._best[name]:
            return False
        self._best = {"step": self._trainer.step, name: values[name]}
        return True

    def _save(self) -> None:
        state = {**self._trainer.state(), "best": self._best, "settings": self._settings}
        self._checkpoints.save(self._trainer.step, self._trainer.tensors(), state, self._best)

    def _refusal(self, error: Diverged) -> BaseException:
        """What ends the run in every process; the first one names the last checkpoint and the ways to continue."""
        self._checkpoints.wait()
        if self._group.rank:
            return SystemExit(2)
        ways = " or ".join(filter(None, (error.remedy, "begin another --output with a lower --learning_rate")))
        return UserError(f"{error.reason}: {self._checkpoints.last_good()}; {ways}")


def remove_temporary_files(output: str) -> None:
    """Removes what killed runs left half-written."""
    for item in storage.walk(output):
        if LEFT_BEHIND.search(item.path):
            storage.remove(item.path)


@contextmanager
def disk_errors(output: str) -> Iterator[None]:
    """Raises UserError in the place of an OSError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{output} cannot be written ({reason}): fix that and run the same command again") from error
