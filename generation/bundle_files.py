"""A bundle: a folder with all that generation needs, weights as safetensors in float16. torch.

model.json           {"format": 1, "kind": "bundle", "prior": its config and its training's precision, "dvae": its
                     config, "sampling": what `gesso generate` takes for defaults, "made_of": checksums, "files":
                     {name: {"bytes", "sha256"}}}; written last
prior.safetensors    averaged weights            dvae.safetensors     encoder and decoder
tokenizer.json       of prior and ranker         ranker.safetensors   where there is one
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor, nn

from gesso import storage
from gesso.errors import UserError
from gesso.generation.layout import DVAE_WEIGHTS, MODEL, PRIOR_WEIGHTS
from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig
from gesso.training.prior.model import Prior
from gesso.training.prior.weights import built, config_of
from gesso.training.tokenizer.settings import FILE

Json = dict[str, Any]

FORMAT, KIND = 1, "bundle"
WAY_OUT = "restore it, or write the bundle again by `gesso bundle`"
DAMAGED = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


class Parts(NamedTuple):
    """What is in a bundle, in float32 on the CPU."""

    prior: Prior
    settings: Json  # of the prior: its config, and the precision of its training
    dvae: DVAE
    described: Json  # model.json


def is_bundle(path: str) -> bool:
    return storage.exists(storage.join(path, MODEL))


def read(path: str) -> Parts:
    """Raises UserError where a file is missing or damaged."""
    described = describe(path)
    try:
        settings = described["prior"]
        prior = built(config_of(settings), weights(path, PRIOR_WEIGHTS, described))
        dvae = DVAE(DvaeConfig(**described["dvae"]))
        dvae.load_state_dict(weights(path, DVAE_WEIGHTS, described))
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}): {WAY_OUT}") from error
    return Parts(prior, settings, dvae, described)


def describe(path: str) -> Json:
    """Its model.json. Raises UserError."""
    name = storage.join(path, MODEL)
    try:
        described: Json = storage.read_json(name)
        known = described["format"] == FORMAT and described["kind"] == KIND and bool(described["files"][FILE])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name} is damaged ({error!r}): {WAY_OUT}") from error
    if not known:
        raise UserError(f"{name} is of another format than this gesso reads: {WAY_OUT}")
    return described


def weights(path: str, name: str, described: Json) -> dict[str, Tensor]:
    """The tensors of a file in float32. Raises UserError where it is not the one that model.json lists."""
    return {key: value.float() for key, value in deserialise(listed(path, name, described)).items()}


def listed(path: str, name: str, described: Json) -> bytes:
    """The bytes of a file. Raises UserError where it is not the one that model.json lists."""
    file = storage.join(path, name)
    if not storage.exists(file):
        raise UserError(f"{file} is missing: {WAY_OUT}")
    body = storage.read(file)
    if sha256(body).hexdigest() != described["files"][name]["sha256"]:
        raise UserError(f"{file} differs from {MODEL} in its sha256: {WAY_OUT}")
    return body


def packed(model: nn.Module) -> bytes:
    """The weights as safetensors in float16: the same bytes for the same weights."""
    return serialise({name: value.cpu().half().contiguous() for name, value in model.state_dict().items()})


def write(path: str, files: Mapping[str, bytes], described: Json) -> None:
    """Writes the files, and then what lists them beside `described`."""
    storage.remove(storage.join(path, MODEL))
    for name, body in files.items():
        with storage.write_whole(storage.join(path, name)) as stream:
            stream.write(body)
    entries = {name: {"bytes": len(body), "sha256": sha256(body).hexdigest()} for name, body in files.items()}
    storage.write_json(storage.join(path, MODEL), {"format": FORMAT, "kind": KIND, **described, "files": entries})
