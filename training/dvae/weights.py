"""Trained dVAEs, opened for use: a run, one of its checkpoints, or the released `encoder.pkl` and `decoder.pkl`. torch.

Nothing that a file holds is executed: the released modules are pickled classes, of which only tensors are taken. Of a
sharded checkpoint that is not true: torch unpickles its metadata, so open none that you do not trust.
"""

import os
from collections.abc import Iterator
from dataclasses import fields
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from gesso import storage
from gesso.errors import UserError
from gesso.training import checkpoint
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig

State = dict[str, Tensor]

HALVES = ("encoder", "decoder")
# The classes that the released files name besides those of tensors.
RELEASED = (
    *(f"dall_e.{half}.{half.capitalize()}{part}" for half in HALVES for part in ("", "Block")),
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
)
BROKEN = (*checkpoint.FAILED, AttributeError, TypeError)


class Shell:
    """Stands for every module of a released file: holds what it is given and does nothing."""


def open_dvae(path: str, device: str | torch.device = "cpu") -> DVAE:
    """A dVAE with its averaged weights, for evaluation. `path`: a run (its best checkpoint, else its last), a
    checkpoint, or a folder with the released files. Raises UserError where it is none of them or damaged.
    """
    path = storage.plain(path)
    chosen = checkpoint.best(path) or next(reversed(checkpoint.found(path).values()), None) or path
    try:
        config, state = read(chosen)
    except UserError:
        raise
    except UnpicklingError as error:
        told = "it is cut off, holds code, or was saved in the format of torch before 1.6"
        raise UserError(f"{chosen} is no dVAE that can be read: {told}") from error
    except BROKEN as error:
        told = checkpoint.first_line(str(checkpoint.reason(error)))
        raise UserError(f"{chosen} is no dVAE that can be read ({type(error).__name__}: {told})") from error
    model = DVAE(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{chosen} does not fit its own settings: {str(error).splitlines()[-1].strip()}") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last).to(device)


def read(path: str) -> tuple[DvaeConfig, State]:
    """Settings and weights of a checkpoint or of the released files."""
    if storage.exists(storage.join(path, "encoder.pkl")):
        return read_released(path)
    if os.path.isdir(path) and not storage.exists(storage.join(path, checkpoint.NUMBERS)):
        raise UserError(f"{path} holds no dVAE: give the --output of a `gesso train dvae`, or one of its checkpoints")
    if not storage.exists(path):
        raise UserError(f"{path} is not there: give the --output of a `gesso train dvae`, or one of its checkpoints")
    if path.endswith(".pt"):
        state = checkpoint.read_whole(path)
        return config_of(state["numbers"]["settings"]), state["average"]
    return read_shares(path)


def read_shares(path: str) -> tuple[DvaeConfig, State]:
    config = config_of(checkpoint.read_numbers(path)["settings"])
    average = {name: torch.empty_like(value) for name, value in DVAE(config).state_dict().items()}
    checkpoint.load_shares(path, {"average": average})
    return config, average


def config_of(settings: dict[str, Any]) -> DvaeConfig:
    return DvaeConfig(**{item.name: settings[item.name] for item in fields(DvaeConfig)})


def read_released(folder: str) -> tuple[DvaeConfig, State]:
    """The released modules' weights; their sizes tell the rest, but for the picture's side, which was 256."""
    state = {f"{half}.{name}": value for half in HALVES for name, value in released_half(folder, half)}
    blocks = {name.split(".")[3] for name in state if name.startswith("encoder.blocks.group_1.block_")}
    first, last = state["decoder.blocks.input.w"], state["encoder.blocks.output.conv.w"]
    width = len(state["encoder.blocks.input.w"])
    return DvaeConfig(256, len(last), width, len(first), len(blocks)), state


def released_half(folder: str, half: str) -> Iterator[tuple[str, Tensor]]:
    with (
        storage.open_input(storage.join(folder, f"{half}.pkl")) as stream,
        torch.serialization.safe_globals([(Shell, name) for name in RELEASED]),
    ):
        return parameters(torch.load(stream, map_location="cpu", weights_only=True), "")


def parameters(shell: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a module and of those in it, by its full name."""
    for name, value in shell._parameters.items():
        yield f"{prefix}{name}", value.detach().float()
    for name, inner in shell._modules.items():
        yield from parameters(inner, f"{prefix}{name}.")
