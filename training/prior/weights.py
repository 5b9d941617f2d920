"""Opens trained priors: a run of `gesso train prior`, or one of its checkpoints, with its averaged weights. torch."""

import os
from dataclasses import fields
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from gesso import storage
from gesso.errors import UserError
from gesso.training import checkpoint
from gesso.training.prior.model import Prior
from gesso.training.prior.settings import PriorConfig, Tokens

Json = dict[str, Any]
State = dict[str, Tensor]

WANTED = "give the --output of a `gesso train prior`, or one of its checkpoints"
UNREADABLE = (*checkpoint.FAILED, AttributeError, TypeError)


def open_prior(path: str) -> tuple[Prior, Json]:
    """A prior on the CPU in float32, for evaluation, and the settings that it was trained with.

    `path`: a run (its best checkpoint, else its last) or a checkpoint. Raises UserError where it is damaged or neither.
    """
    path = storage.plain(path)
    best = checkpoint.best_checkpoint(path)
    chosen = best or next(reversed(checkpoint.list_checkpoints(path).values()), None) or path
    try:
        settings, state = read(chosen)
        return built(config_of(settings), state), settings
    except UserError:
        raise
    except UNREADABLE as error:
        reason = checkpoint.first_line(str(checkpoint.cause_of(error)))
        raise UserError(f"{chosen} is not a readable prior ({type(error).__name__}: {reason}): {WANTED}") from error


def read(path: str) -> tuple[Json, State]:
    """Settings and averaged weights of a checkpoint."""
    if not storage.exists(path):
        raise UserError(f"{path} does not exist: {WANTED}")
    if path.endswith(".pt"):
        state = checkpoint.read_whole(path)
        return state["numbers"]["settings"], state["average"]
    if os.path.isdir(path) and not storage.exists(storage.join(path, checkpoint.NUMBERS)):
        raise UserError(f"{path} holds no prior: {WANTED}")
    settings = checkpoint.read_numbers(path)["settings"]
    average = {name: torch.empty(value.shape) for name, value in on_meta(config_of(settings)).state_dict().items()}
    checkpoint.load_sharded(path, {"average": average})
    return settings, average


def config_of(settings: Json) -> PriorConfig:
    """The shape of a prior, from the settings of its training."""
    kept = {item.name: settings[item.name] for item in fields(PriorConfig)}
    return PriorConfig(**{**kept, "tokens": Tokens(**settings["tokens"])})


def built(config: PriorConfig, state: State) -> Prior:
    """The model with these weights, which it holds itself. Raises RuntimeError where they do not fit."""
    prior = on_meta(config)
    prior.load_state_dict(state, assign=True)
    return prior.eval().requires_grad_(False)


def on_meta(config: PriorConfig) -> Prior:
    """The model without memory."""
    with torch.device("meta"):
        return Prior(config)


def weights_sha256(model: torch.nn.Module) -> str:
    """The sha256 of all weights in the order of their names."""
    digest = sha256()
    for _, value in sorted(model.state_dict().items()):
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
