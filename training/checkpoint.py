"""Checkpoints: tensors by kind and name, and numbers beside them; written while the training goes on. torch.

    checkpoints/0000500.pt      whole: one file, written by the first process
    checkpoints/0000500/        sharded: a part from each process, in the form of torch.distributed.checkpoint
    checkpoints/best.json       which of them was the best

A checkpoint appears under its name complete or not at all. Either form is read by any number of processes.
"""

import os
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pickle import UnpicklingError
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
from gesso.training.distributed.parallel import fill, whole
from gesso.training.layout import BEST, CHECKPOINTS

# One process alone is what is meant then.
warnings.filterwarnings("ignore", "torch.distributed is disabled", module="torch.distributed.checkpoint")

Json = dict[str, Any]
Best = dict[str, Any]  # step and figures
Tensors = dict[str, dict[str, Tensor]]  # by kind and name

NUMBERS = "numbers.pt"
NAME = re.compile(r"(\d{7,})(\.pt)?")
LEFT_BEHIND = re.compile(r"\.tmp-[0-9a-f]+$|\.tmp$")
# CheckpointException is no Exception: torch raises it where a process could not read or write its share.
FAILED = (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, CheckpointException)


def name_of(step: int, form: str) -> str:
    return f"{step:07d}.pt" if form == "whole" else f"{step:07d}"


def found(output: str) -> dict[int, str]:
    """The checkpoints of a run, by update: paths."""
    folder = storage.join(output, CHECKPOINTS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = {int(match[1]): match[0] for match in map(NAME.fullmatch, names) if match}
    return {step: storage.join(folder, name) for step, name in sorted(steps.items())}


def best(output: str) -> str | None:
    """The best checkpoint's path, if one was marked and is there."""
    path = storage.join(output, CHECKPOINTS, BEST)
    try:
        return found(output).get(storage.read_json(path)["step"]) if storage.exists(path) else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): remove it to have the last checkpoint taken") from error


class Checkpoints:
    """Writes a run's checkpoints, one at a time, and keeps the last `keep` of them and the best."""

    def __init__(self, output: str, group: Group, form: str, keep: int) -> None:
        self._output, self._group, self._form, self._keep = output, group, form, keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._best: Best | None = None
        # Its collectives run beside the training's, so that they need a group of their own.
        self._writers: Any = dist.new_group(backend="gloo") if form == "sharded" and group.size > 1 else None
        if group.rank == 0:
            sweep(output)

    def save(self, step: int, tensors: Tensors, numbers: Json, best: Best | None = None) -> None:
        """Copies the state and goes on; raises UserError where the checkpoint before could not be written.

        `best`: the update whose checkpoint is the best by now, and its figures; noted when this one stands.
        """
        self.wait()
        self._best = best
        path = storage.join(self._output, CHECKPOINTS, name_of(step, self._form))
        copied = copy_whole(tensors, self._group) if self._form == "whole" else copy_shares(tensors)
        if self._form == "whole":
            self._writing = self._thread.submit(self._write_whole, path, {**copied, "numbers": numbers})
        elif self._group.size == 1:
            self._writing = self._thread.submit(self._write_alone, path, copied, numbers)
        else:
            saving = async_save(copied, checkpoint_id=begin_folder(path, self._group), process_group=self._writers)
            self._writing = self._thread.submit(self._finish_shares, path, saving, numbers)

    def note_best(self, best: Best | None) -> None:
        """Notes which checkpoint is the best, where that stands."""
        if best and self._group.rank == 0 and best["step"] in found(self._output):
            storage.write_json(storage.join(self._output, CHECKPOINTS, BEST), best)

    def wait(self) -> None:
        """Until the checkpoint under way stands. Raises UserError where it could not be written."""
        writing, self._writing = self._writing, None
        if writing:
            self._tell(writing)

    def check(self) -> None:
        """Raises UserError as soon as it is known that the checkpoint under way cannot be written."""
        if self._writing and self._writing.done():
            self._tell(self._writing)

    def close(self) -> None:
        self._thread.shutdown()

    def latest(self) -> str | None:
        return next(reversed(found(self._output).values()), None)

    def last_good(self) -> str:
        """What a message says of the checkpoint that stands."""
        path = self.latest()
        return f"the last good checkpoint is {path}" if path else "there is no checkpoint yet"

    def _tell(self, writing: "Future[None]") -> None:
        try:
            writing.result()
        except FAILED as failed:  # torch.save turns a full disk into a RuntimeError
            error = reason(failed)
            chain = (error, error.__cause__, error.__context__)
            if self._group.rank == 0:
                sweep(self._output)
            told = next((each.strerror for each in chain if isinstance(each, OSError) and each.strerror), str(error))
            raise UserError(
                f"a checkpoint in {self._output} cannot be written ({first_line(told)}): {self.last_good()}"
            ) from failed

    def _write_whole(self, path: str, state: Json) -> None:
        if self._group.rank == 0:
            with storage.write_whole(path) as stream:
                torch.save(state, stream)
            self._forget_old()

    def _write_alone(self, path: str, tensors: Tensors, numbers: Json) -> None:
        save_distributed(tensors, checkpoint_id=begin_folder(path, self._group), no_dist=True)
        self._finish(path, numbers)

    def _finish_shares(self, path: str, saving: Any, numbers: Json) -> None:
        saving.result()
        if self._group.rank == 0:
            self._finish(path, numbers)

    def _finish(self, path: str, numbers: Json) -> None:
        with storage.write_whole(storage.join(f"{path}.tmp", NUMBERS)) as stream:
            torch.save(numbers, stream)
        shutil.rmtree(path, ignore_errors=True)
        os.rename(f"{path}.tmp", path)
        self._forget_old()

    def _forget_old(self) -> None:
        self.note_best(self._best)
        kept = {*list(found(self._output).values())[-self._keep :], best(self._output)}
        for path in found(self._output).values():
            if path not in kept:
                forget(path)


def begin_folder(path: str, group: Group) -> str:
    """An empty folder under a temporary name."""
    if group.rank == 0:
        shutil.rmtree(f"{path}.tmp", ignore_errors=True)
        os.makedirs(f"{path}.tmp")
    if group.size > 1:
        dist.barrier()
    return f"{path}.tmp"


def forget(path: str) -> None:
    if path.endswith(".pt"):
        storage.remove(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def sweep(output: str) -> None:
    """Removes what killed runs have left."""
    folder = storage.join(output, CHECKPOINTS)
    if os.path.isdir(folder):
        for name in filter(LEFT_BEHIND.search, os.listdir(folder)):
            path = storage.join(folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def copy_whole(tensors: Tensors, group: Group) -> Json:
    """Whole tensors on the CPU, in the first process; the others help to gather them."""
    copied: Json = {}
    for kind, named in tensors.items():
        gathered = ((name, whole(tensor.detach())) for name, tensor in named.items())
        copied[kind] = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in gathered if group.rank == 0}
    return copied


def copy_shares(tensors: Tensors) -> Tensors:
    return {kind: {name: tensor.detach().clone() for name, tensor in named.items()} for kind, named in tensors.items()}


def load(path: str, tensors: Tensors) -> Json:
    """Fills the tensors, shares or whole, from a checkpoint of either form; returns its numbers.

    Raises UserError where it is damaged or holds others.
    """
    try:
        return load_whole(path, tensors) if path.endswith(".pt") else load_shares(path, tensors)
    except FAILED as error:
        raise UserError(
            f"{path} cannot be read ({first_line(str(reason(error)))}): remove it to go on from the one before"
        ) from error


def read_whole(path: str) -> Json:
    with storage.open_input(path) as stream:
        state: Json = torch.load(stream, map_location="cpu", weights_only=True)
    return state


def load_whole(path: str, tensors: Tensors) -> Json:
    state = read_whole(path)
    check_names(path, tensors, state)
    each(tensors, lambda kind, name, tensor: fill(tensor, state[kind][name]))
    numbers: Json = state["numbers"]
    return numbers


def load_shares(path: str, tensors: Tensors) -> Json:
    load_distributed(tensors, checkpoint_id=path, no_dist=not dist.is_initialized())
    return read_numbers(path)


def read_numbers(path: str) -> Json:
    """Of a sharded checkpoint."""
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

    each(tensors, check)


def each(tensors: Tensors, do: Callable[[str, str, Tensor], None]) -> None:
    for kind, named in tensors.items():
        for name, tensor in named.items():
            do(kind, name, tensor)


def reason(error: BaseException) -> BaseException:
    """What a process has met, for what torch says of all of them."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def first_line(text: str) -> str:
    return text.split("\n")[0]
