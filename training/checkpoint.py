"""Checkpoints: tensors by kind and name, and numbers beside them; written in the background of a training. torch.

    checkpoints/0000500.pt      whole: one file, written by the first process
    checkpoints/0000500/        sharded: a part from each process, in the format of torch.distributed.checkpoint
    checkpoints/best.json       which of them is the best

A checkpoint appears under its name complete or not at all. Either form is read by any number of processes.
"""

import os
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pickle import UnpicklingError
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from gesso import storage
from gesso.errors import UserError
from gesso.processes import Group
from gesso.training.distributed.parallel import fill, full
from gesso.training.layout import BEST, CHECKPOINTS

# torch warns so where one process writes alone, which is intended.
warnings.filterwarnings("ignore", "torch.distributed is disabled", module="torch.distributed.checkpoint")

Json = dict[str, Any]
Best = dict[str, Any]  # step and metric
Tensors = dict[str, dict[str, Tensor]]  # by kind and name

NUMBERS = "numbers.pt"
NAME = re.compile(r"(\d{7,})(\.pt)?")
TEMPORARY = re.compile(r"\.tmp-[0-9a-f]+$|\.tmp$")
# CheckpointException is no Exception: torch raises it where a process could not read or write its share.
FAILED = (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, CheckpointException)


def checkpoint_name(step: int, form: str) -> str:
    return f"{step:07d}.pt" if form == "whole" else f"{step:07d}"


def list_checkpoints(output: str) -> dict[int, str]:
    """The paths of a run's complete checkpoints, by update, in order."""
    folder = storage.join(output, CHECKPOINTS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = {int(match[1]): match[0] for match in map(NAME.fullmatch, names) if match}
    return {step: storage.join(folder, name) for step, name in sorted(steps.items())}


def best_checkpoint(output: str) -> str | None:
    """The path of the best checkpoint, None where none is marked. Raises UserError where best.json is damaged."""
    path = storage.join(output, CHECKPOINTS, BEST)
    try:
        return list_checkpoints(output).get(storage.read_json(path)["step"]) if storage.exists(path) else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): remove it to use the last checkpoint") from error


class Checkpoints:
    """Writes a run's checkpoints, one at a time, and keeps the last `keep` of them and the best."""

    def __init__(self, output: str, group: Group, form: str, keep: int) -> None:
        self._output, self._group, self._form, self._keep = output, group, form, keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._best: Best | None = None
        # Its collectives run at the same time as the training's, so they need a process group of their own.
        self._writers: Any = dist.new_group(backend="gloo") if form == "sharded" and group.size > 1 else None
        if group.rank == 0:
            remove_temporary(output)

    def save(self, step: int, tensors: Tensors, numbers: Json, best: Best | None = None) -> None:
        """Copies the state, and writes it in the background.

        `best`: the update of the best checkpoint so far, and its metric; marked when this one is written. Raises
        UserError where the previous checkpoint could not be written.
        """
        self.wait()
        self._best = best
        path = storage.join(self._output, CHECKPOINTS, checkpoint_name(step, self._form))
        copied = copy_whole(tensors, self._group) if self._form == "whole" else copy_shards(tensors)
        if self._form == "whole":
            self._writing = self._thread.submit(self._write_whole, path, {**copied, "numbers": numbers})
        elif self._group.size == 1:
            self._writing = self._thread.submit(self._write_alone, path, copied, numbers)
        else:
            folder = make_temporary_folder(path, self._group)
            saving = async_save(copied, checkpoint_id=folder, process_group=self._writers)
            self._writing = self._thread.submit(self._finish_sharded, path, saving, numbers)

    def mark_best(self, best: Best | None) -> None:
        """Writes best.json, if that checkpoint exists."""
        if best and self._group.rank == 0 and best["step"] in list_checkpoints(self._output):
            storage.write_json(storage.join(self._output, CHECKPOINTS, BEST), best)

    def wait(self) -> None:
        """Waits for the checkpoint that is being written. Raises UserError where it could not be written."""
        writing, self._writing = self._writing, None
        if writing:
            self._raise_failure(writing)

    def check(self) -> None:
        """Raises UserError if writing a checkpoint has failed by now; does not wait."""
        if self._writing and self._writing.done():
            self._raise_failure(self._writing)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Waits as `wait` does, then ends the thread."""
        try:
            self.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Ends the thread; does not raise."""
        self._thread.shutdown()

    def latest(self) -> str | None:
        return next(reversed(list_checkpoints(self._output).values()), None)

    def last_good(self) -> str:
        """Which checkpoint is the last, as words for a message."""
        path = self.latest()
        return f"the last good checkpoint is {path}" if path else "there is no checkpoint yet"

    def _raise_failure(self, writing: "Future[None]") -> None:
        try:
            writing.result()
        except FAILED as failed:  # torch.save turns a full disk into a RuntimeError
            error = cause_of(failed)
            chain = (error, error.__cause__, error.__context__)
            if self._group.rank == 0:
                remove_temporary(self._output)
            text = next((each.strerror for each in chain if isinstance(each, OSError) and each.strerror), str(error))
            raise UserError(
                f"a checkpoint in {self._output} cannot be written ({first_line(text)}): {self.last_good()}"
            ) from failed

    def _write_whole(self, path: str, state: Json) -> None:
        if self._group.rank == 0:
            with storage.write_whole(path) as stream:
                torch.save(state, stream)
            self._delete_old()

    def _write_alone(self, path: str, tensors: Tensors, numbers: Json) -> None:
        save_distributed(tensors, checkpoint_id=make_temporary_folder(path, self._group), no_dist=True)
        self._finish(path, numbers)

    def _finish_sharded(self, path: str, saving: Any, numbers: Json) -> None:
        saving.result()
        if self._group.rank == 0:
            self._finish(path, numbers)

    def _finish(self, path: str, numbers: Json) -> None:
        with storage.write_whole(storage.join(f"{path}.tmp", NUMBERS)) as stream:
            torch.save(numbers, stream)
        shutil.rmtree(path, ignore_errors=True)
        os.rename(f"{path}.tmp", path)
        self._delete_old()

    def _delete_old(self) -> None:
        self.mark_best(self._best)
        kept = {*list(list_checkpoints(self._output).values())[-self._keep :], best_checkpoint(self._output)}
        for path in list_checkpoints(self._output).values():
            if path not in kept:
                delete(path)


def make_temporary_folder(path: str, group: Group) -> str:
    """Makes an empty folder beside `path` and returns its path. Collective."""
    if group.rank == 0:
        shutil.rmtree(f"{path}.tmp", ignore_errors=True)
        os.makedirs(f"{path}.tmp")
    if group.size > 1:
        dist.barrier()
    return f"{path}.tmp"


def delete(path: str) -> None:
    if path.endswith(".pt"):
        storage.remove(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove_temporary(output: str) -> None:
    """Removes checkpoints that killed runs left incomplete."""
    folder = storage.join(output, CHECKPOINTS)
    if os.path.isdir(folder):
        for name in filter(TEMPORARY.search, os.listdir(folder)):
            path = storage.join(folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def copy_whole(tensors: Tensors, group: Group) -> Json:
    """Full tensors on the CPU, in the first process; none in the others. Collective."""
    copied: Json = {}
    for kind, named in tensors.items():
        gathered = ((name, full(tensor.detach())) for name, tensor in named.items())
        copied[kind] = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in gathered if group.rank == 0}
    return copied


def copy_shards(tensors: Tensors) -> Tensors:
    """Copies of the shards that this process holds."""
    return {kind: {name: tensor.detach().clone() for name, tensor in named.items()} for kind, named in tensors.items()}


def load(path: str, tensors: Tensors) -> Json:
    """Fills the tensors, sharded or not, from a checkpoint of either form; returns its numbers.

    Raises UserError where it is damaged, or holds other tensors.
    """
    try:
        return load_whole(path, tensors) if path.endswith(".pt") else load_sharded(path, tensors)
    except FAILED as error:
        raise UserError(
            f"{path} cannot be read ({first_line(str(cause_of(error)))}): remove it to continue from the one before"
        ) from error


def read_whole(path: str) -> Json:
    with storage.open_input(path) as stream:
        state: Json = torch.load(stream, map_location="cpu", weights_only=True)
    return state


def load_whole(path: str, tensors: Tensors) -> Json:
    state = read_whole(path)
    check_names(path, tensors, state)
    for_each(tensors, lambda kind, name, tensor: fill(tensor, state[kind][name]))
    numbers: Json = state["numbers"]
    return numbers


def load_sharded(path: str, tensors: Tensors) -> Json:
    load_distributed(tensors, checkpoint_id=path, no_dist=not dist.is_initialized())
    return read_numbers(path)


def read_numbers(path: str) -> Json:
    """The numbers of a sharded checkpoint."""
    with storage.open_input(storage.join(path, NUMBERS)) as stream:
        numbers: Json = torch.load(stream, map_location="cpu", weights_only=True)
    return numbers


def check_names(path: str, tensors: Tensors, state: Json) -> None:
    """Raises UserError where a checkpoint holds other tensors, or of other shapes."""

    def check(kind: str, name: str, tensor: Tensor) -> None:
        there = state.get(kind, {}).get(name)
        if there is None or there.shape != tensor.shape:
            held = "nothing" if there is None else f"the shape {tuple(there.shape)}"
            raise UserError(f"{path} does not fit: it holds {held} for {kind} {name}, expected {tuple(tensor.shape)}")

    for_each(tensors, check)


def for_each(tensors: Tensors, do: Callable[[str, str, Tensor], None]) -> None:
    for kind, named in tensors.items():
        for name, tensor in named.items():
            do(kind, name, tensor)


def cause_of(error: BaseException) -> BaseException:
    """The error of one process, where torch has collected those of all."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def first_line(text: str) -> str:
    return text.split("\n")[0]
