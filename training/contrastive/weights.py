"""Opens trained contrastive models, and writes them for a bundle: weights in float16, config, tokenizer. torch.

ranker.safetensors    weights; in its header the config, and the checksum of the tokenizer
tokenizer.json        beside it
"""

import json
import os
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from gesso import storage
from gesso.dataset import kinds
from gesso.errors import UserError
from gesso.training import checkpoint, run_record
from gesso.training.contrastive.model import build
from gesso.training.contrastive.settings import ContrastiveConfig
from gesso.training.contrastive.train import KIND
from gesso.training.data.shards import file_sha256
from gesso.training.tokenizer.bpe import Tokenizer
from gesso.training.tokenizer.settings import FILE

WEIGHTS = "ranker.safetensors"
WAY_OUT = "give the --output of a `gesso train contrastive`, or of a `gesso bundle` with one"
DAMAGED = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)


class Contrastive(NamedTuple):
    """A trained model for evaluation, and what reads its captions."""

    model: Any  # open_clip's CLIP
    config: ContrastiveConfig
    tokenizer: Tokenizer
    tokenizer_sha256: str


def is_contrastive(path: str) -> bool:
    """Whether `path` is a run of `gesso train contrastive`, a folder with ranker.safetensors, or such a file."""
    return path.endswith(".safetensors") or storage.exists(storage.join(path, WEIGHTS)) or is_run(path)


def is_run(path: str) -> bool:
    held = kinds.recognise(path)
    return held is not None and held.name == KIND


def open_contrastive(path: str) -> Contrastive:
    """A model from a run (averaged weights of its best checkpoint), a bundle's folder, or its ranker.safetensors.

    Raises UserError where it is damaged or none of these.
    """
    path = storage.plain(path)
    file = path if path.endswith(".safetensors") else storage.join(path, WEIGHTS)
    return read_file(file) if os.path.isfile(file) else read_run(path)


def read_run(path: str) -> Contrastive:
    checkpoints = checkpoint.list_checkpoints(path)
    if not is_run(path) or not checkpoints:
        raise UserError(f"{path} holds no trained contrastive model: {WAY_OUT}")
    settings = run_record.read(path, KIND)["settings"]
    config = ContrastiveConfig(**{item.name: settings[item.name] for item in fields(ContrastiveConfig)})
    model = build(config)
    average = {name: value.detach() for name, value in model.named_parameters()}
    checkpoint.load(checkpoint.best_checkpoint(path) or next(reversed(checkpoints.values())), {"average": average})
    return with_tokenizer(model, config, path, settings["tokenizer_sha256"])


def read_file(path: str) -> Contrastive:
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads((stored.metadata() or {})[KIND])
            config, sha256 = ContrastiveConfig(**about["config"]), about["tokenizer_sha256"]
            tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118 - no mapping
        model = build(config)
        model.load_state_dict(tensors)
    except DAMAGED as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} holds no contrastive model ({reason}): {WAY_OUT}") from error
    return with_tokenizer(model, config, os.path.dirname(path) or ".", sha256)


def with_tokenizer(model: Any, config: ContrastiveConfig, folder: str, sha256: str) -> Contrastive:
    """The model with the tokenizer of its folder. Raises UserError where that is another than it was trained with."""
    tokenizer, file = Tokenizer.open(folder), storage.join(folder, FILE)
    if file_sha256(file) != sha256:
        raise UserError(f"{file} is not the tokenizer that the model beside it was trained with: {WAY_OUT}")
    return Contrastive(model.eval().requires_grad_(False), config, tokenizer, sha256)


def packed(opened: Contrastive) -> bytes:
    """A ranker.safetensors, the same bytes for the same weights. The tokenizer's file must be put beside it.

    Its header has one entry: safetensors writes several in any order.
    """
    tensors = {name: value.cpu().half().contiguous() for name, value in opened.model.state_dict().items()}
    about = {"config": asdict(opened.config), "tokenizer_sha256": opened.tokenizer_sha256}
    return serialise(tensors, {KIND: json.dumps(about)})


def save(opened: Contrastive, path: str) -> None:
    with storage.write_whole(path) as stream:
        stream.write(packed(opened))
