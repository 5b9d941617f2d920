"""Opens trained dVAEs: a run, one of its checkpoints, or OpenAI's `encoder.pkl` and `decoder.pkl`. torch.

No code in a file is executed: of the released modules, which are pickled classes, only tensors are taken. Sharded
checkpoints are an exception: torch unpickles their metadata, so open only those that you trust.
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
# Classes in the released files, besides those of tensors.
RELEASED = (
    *(f"dall_e.{half}.{half.capitalize()}{part}" for half in HALVES for part in ("", "Block")),
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
)
UNREADABLE = (*checkpoint.FAILED, AttributeError, TypeError)


class Placeholder:
    """Replaces every class of a released file: holds its attributes and does nothing."""


def open_dvae(path: str, device: str | torch.device = "cpu") -> DVAE:
    """A dVAE with its averaged weights, for evaluation. `path`: a run (its best checkpoint, else its last), a
    checkpoint, or a folder with the released files. Raises UserError where it is damaged or none of these.
    """
    path = storage.plain(path)
    chosen = (
        checkpoint.best_checkpoint(path) or next(reversed(checkpoint.list_checkpoints(path).values()), None) or path
    )
    try:
        config, state = read(chosen)
    except UserError:
        raise
    except UnpicklingError as error:
        reason = "it is truncated, contains code, or was saved by a torch before 1.6"
        raise UserError(f"{chosen} is not a readable dVAE: {reason}") from error
    except UNREADABLE as error:
        reason = checkpoint.first_line(str(checkpoint.cause_of(error)))
        raise UserError(f"{chosen} is not a readable dVAE ({type(error).__name__}: {reason})") from error
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
        raise UserError(f"{path} does not exist: give the --output of a `gesso train dvae`, or one of its checkpoints")
    if path.endswith(".pt"):
        state = checkpoint.read_whole(path)
        return config_of(state["numbers"]["settings"]), state["average"]
    return read_sharded(path)


def read_sharded(path: str) -> tuple[DvaeConfig, State]:
    config = config_of(checkpoint.read_numbers(path)["settings"])
    average = {name: torch.empty_like(value) for name, value in DVAE(config).state_dict().items()}
    checkpoint.load_sharded(path, {"average": average})
    return config, average


def config_of(settings: dict[str, Any]) -> DvaeConfig:
    return DvaeConfig(**{item.name: settings[item.name] for item in fields(DvaeConfig)})


def read_released(folder: str) -> tuple[DvaeConfig, State]:
    """Config and weights of the released modules; the config follows from the shapes; image_size was 256."""
    state = {f"{half}.{name}": value for half in HALVES for name, value in released_half(folder, half)}
    blocks = {name.split(".")[3] for name in state if name.startswith("encoder.blocks.group_1.block_")}
    first, last = state["decoder.blocks.input.w"], state["encoder.blocks.output.conv.w"]
    width = len(state["encoder.blocks.input.w"])
    return DvaeConfig(256, len(last), width, len(first), len(blocks)), state


def released_half(folder: str, half: str) -> Iterator[tuple[str, Tensor]]:
    with (
        storage.open_input(storage.join(folder, f"{half}.pkl")) as stream,
        torch.serialization.safe_globals([(Placeholder, name) for name in RELEASED]),
    ):
        return parameters(torch.load(stream, map_location="cpu", weights_only=True), "")


def parameters(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a module and its submodules, by its full name."""
    for name, value in module._parameters.items():
        yield f"{prefix}{name}", value.detach().float()
    for name, inner in module._modules.items():
        yield from parameters(inner, f"{prefix}{name}.")
