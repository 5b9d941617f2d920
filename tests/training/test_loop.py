"""The loop by itself, around a trainer of one number: what is logged, saved, resumed and refused, and when."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gesso.errors import UserError
from gesso.processes import Group
from gesso.training import checkpoint, metrics_file
from gesso.training.checkpoint import Checkpoints, Tensors
from gesso.training.loop import Evaluated, Loop, disk_errors, remove_temporary_files
from gesso.training.metrics import MetricsLogger
from gesso.training.settings import LoopSettings
from gesso.training.spikes import Diverged
from gesso.training.throughput import Throughput

ALONE = Group(0, 1, torch.device("cpu"))
SETTINGS = {"seed": 3}
EVERY = LoopSettings(log_every=2, evaluate_every=3, save_every=4, keep=2)


class Toy:
    """A weight to which each batch, the next whole number, is added. Its validation is best at a weight of 6."""

    best_metric = "val_distance"

    def __init__(self, diverges_at: int = 10**9) -> None:
        self.step, self.weight, self.since = 0, torch.zeros(()), 0
        self.closed, self._diverges_at = False, diverges_at

    @contextmanager
    def batches(self) -> Iterator[Iterator[int]]:
        yield iter(range(self.step + 1, 10**6))
        self.closed = True

    def update(self, batch: int) -> dict[str, float]:
        if batch == self._diverges_at:
            raise Diverged(f"the loss of update {batch} is nan", "train less")
        assert batch == self.step + 1
        self.weight += batch
        self.step, self.since = batch, self.since + 1
        return {"loss": float(self.weight)}

    def interval_metrics(self, reset: bool) -> dict[str, float]:
        found = {"updates": self.since}
        if reset:
            self.since = 0
        return found

    def evaluate(self) -> Evaluated:
        return Evaluated({self.best_metric: abs(float(self.weight) - 6)}, {"toy": np.zeros((2, 2, 3), np.uint8)})

    def tensors(self) -> Tensors:
        return {"model": {"weight": self.weight}}

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "since": self.since}

    def restore(self, state: dict[str, Any], tensors: Tensors) -> None:
        assert tensors["model"]["weight"] is self.weight
        self.step, self.since = state["step"], state["since"]


def train(
    output: Path,
    steps: int,
    stop: Callable[[], bool] = lambda: False,
    toy: Toy | None = None,
    settings: dict[str, Any] = SETTINGS,
    group: Group = ALONE,
) -> tuple[str, Toy]:
    toy = toy or Toy()
    with Checkpoints(str(output), ALONE, "whole", EVERY.keep) as checkpoints:
        loop = Loop(toy, group, checkpoints, str(output), settings, EVERY, steps)
        loop.resume()
        with MetricsLogger(str(output), ALONE, toy.step, steps) as metrics:
            return loop.run(metrics, Throughput(ALONE, toy.step, 1), stop), toy


def stop_after(updates: int) -> Callable[[], bool]:
    asked = iter([False] * (updates - 1) + [True])
    return lambda: next(asked)


def records(output: Path) -> list[dict[str, float]]:
    """What was logged, but for what a clock decides."""
    clocked = ("images_per_second", "memory_mib")
    lines = metrics_file.read(f"{output}/metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in clocked} for line in lines]


def saved(output: Path) -> list[int]:
    return list(checkpoint.list_checkpoints(str(output)))


UNINTERRUPTED = [
    {"step": 2, "loss": 3.0, "updates": 2},
    {"step": 3, "val_distance": 0.0},
    {"step": 4, "loss": 10.0, "updates": 2},
    {"step": 6, "loss": 21.0, "updates": 2, "val_distance": 15.0},
    {"step": 7, "loss": 28.0, "updates": 1, "val_distance": 22.0},
]


def test_what_is_logged_and_saved_and_when(tmp_path: Path) -> None:
    outcome, toy = train(tmp_path, 7)
    assert outcome == "through update 7"
    assert toy.closed
    assert records(tmp_path) == UNINTERRUPTED
    assert saved(tmp_path) == [3, 4, 7]  # the best, and the last two
    assert json.loads((tmp_path / "checkpoints/best.json").read_text()) == {"step": 3, "val_distance": 0.0}


def test_speed_is_in_every_record_of_updates(tmp_path: Path) -> None:
    train(tmp_path, 4)
    lines = metrics_file.read(f"{tmp_path}/metrics.jsonl")
    assert ["images_per_second" in line for line in lines] == [True, False, True]


def test_a_checkpoint_holds_state_settings_and_the_best(tmp_path: Path) -> None:
    train(tmp_path, 4)
    state = checkpoint.read_whole(checkpoint.list_checkpoints(str(tmp_path))[4])
    best = {"step": 3, "val_distance": 0.0}
    assert state["numbers"] == {"step": 4, "since": 0, "best": best, "settings": SETTINGS}
    assert state["model"]["weight"] == 10


@pytest.mark.parametrize("first", range(1, 7))
def test_stopped_and_resumed_it_logs_the_same(tmp_path: Path, first: int) -> None:
    outcome, toy = train(tmp_path, 7, stop_after(first))
    assert outcome == f"stopped and saved after update {first}, the same command goes on from there"
    assert toy.closed
    assert saved(tmp_path)[-1] == first
    outcome, toy = train(tmp_path, 7)
    assert (outcome, float(toy.weight)) == ("through update 7", 28.0)
    assert records(tmp_path) == UNINTERRUPTED


def test_a_stop_in_the_last_update_is_no_stop(tmp_path: Path) -> None:
    outcome, _ = train(tmp_path, 2, stop_after(2))
    assert outcome == "through update 2"


def test_fewer_steps_and_then_more(tmp_path: Path) -> None:
    """The last record of the shorter run is out of turn: the longer run's next one counts its updates too."""
    train(tmp_path, 5)
    train(tmp_path, 7)
    assert records(tmp_path) == [
        *UNINTERRUPTED[:3],
        {"step": 5, "loss": 15.0, "updates": 1, "val_distance": 9.0},
        *UNINTERRUPTED[3:],
    ]


def test_metrics_after_the_last_checkpoint_are_logged_again(tmp_path: Path) -> None:
    train(tmp_path, 7)
    for step in (4, 7):
        (tmp_path / f"checkpoints/{step:07d}.pt").unlink()
    _, toy = train(tmp_path, 7)
    assert float(toy.weight) == 28
    assert records(tmp_path) == UNINTERRUPTED


def test_the_best_is_marked_on_resuming(tmp_path: Path) -> None:
    train(tmp_path, 3)
    (tmp_path / "checkpoints/best.json").unlink()
    train(tmp_path, 7)
    assert json.loads((tmp_path / "checkpoints/best.json").read_text()) == {"step": 3, "val_distance": 0.0}


def test_other_settings_are_refused(tmp_path: Path) -> None:
    train(tmp_path, 3)
    with pytest.raises(UserError, match="begun with other settings: seed was 3, is 4; give those"):
        train(tmp_path, 7, settings={"seed": 4})


def test_divergence_names_the_last_checkpoint_and_the_ways_to_continue(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        train(tmp_path, 7, toy=Toy(diverges_at=6))
    good = checkpoint.list_checkpoints(str(tmp_path))[4]
    assert str(raised.value) == (
        f"the loss of update 6 is nan: the last good checkpoint is {good}; "
        "train less or begin another --output with a lower --learning_rate"
    )
    assert saved(tmp_path) == [3, 4]


def test_divergence_before_any_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the loss of update 1 is nan: there is no checkpoint yet; train less or"):
        train(tmp_path, 7, toy=Toy(diverges_at=1))


def test_divergence_ends_the_other_processes_in_silence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        train(tmp_path, 7, toy=Toy(diverges_at=2), group=Group(1, 2, torch.device("cpu")))
    assert raised.value.code == 2


def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): there is no checkpoint yet"):
        train(tmp_path, 7)


def test_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    left, kept = tmp_path / "evaluations/grid.png.tmp-0123456789ab", tmp_path / "evaluations/grid.png"
    for path in (left, kept):
        path.write_bytes(b"x")
    remove_temporary_files(str(tmp_path))
    assert (left.exists(), kept.exists()) == (False, True)


def test_a_disk_error_is_the_users() -> None:
    with pytest.raises(UserError) as raised, disk_errors("out"):
        raise OSError(28, "No space left on device")
    assert str(raised.value) == (
        "out cannot be written (No space left on device): fix that and run the same command again"
    )
