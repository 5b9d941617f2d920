"""One interface to all embedding models, the detector and those of open_clip: pictures → unit vectors. No Beam.

    pixels (H, W, 3) uint8 ─ prepare ─▶ (S, S, 3) uint8 ─ a batch, embed ─▶ (N, D) float16, rows of norm 1
                              on any thread                 on the device: float, standardise, forward, normalise

N pictures, S side of the model's input, D dimension of the embedding.
"""

import hashlib
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from gesso import images, storage
from gesso.dedup import detector
from gesso.dedup.model_names import SHIPPED, check_name, is_detector
from gesso.dedup.settings import ModelSettings
from gesso.errors import UserError
from gesso.images import Pixels

Vectors = npt.NDArray[np.float16]
Identity = dict[str, Any]

RANDOM = "random"
SEED = 0  # of random weights
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NO_SCALING = 1 << 16  # a `min_side` above any JPEG's side: decoding does not scale
# What open_clip and torch raise for a file that is not a checkpoint, or does not fit.
LOAD_ERRORS = (OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, EOFError, pickle.UnpicklingError)


class Backend(NamedTuple):
    """A kind of model, for `Model`."""

    module: nn.Module
    encode: Callable[[Tensor], Tensor]  # float32 (N, 3, S, S) in [0, 1] → (N, D)
    prepare: Callable[[Pixels], Pixels]
    min_side: int  # pixels of the short side that `prepare` needs; decoding may scale larger pictures down to it
    identity: Identity


class Model:
    """Pictures → embeddings. Embeddings of two models are comparable iff their `identity` is equal.

    `prepare` and, on a CPU, `embed` may run on many threads.
    """

    def __init__(self, backend: Backend, device: torch.device, precision: str) -> None:
        self.identity = backend.identity
        self.prepare = backend.prepare
        self.min_side = backend.min_side
        self.device = device
        self.precision = precision
        backend.module.to(device)
        self._encode = backend.encode

    @property
    def dimension(self) -> int:
        return int(self.identity["dimension"])

    def embed(self, batch: Pixels) -> Vectors:
        """(N, S, S, 3) uint8 as `prepare` makes them → (N, D) float16, normalised in float32 and then rounded.

        Raises UserError where the precision is too narrow for the model.
        """
        half = self.precision != "fp32"
        writable = torch.from_numpy(np.require(batch, requirements=["C", "W"]))  # torch.from_numpy needs it
        pictures = writable.to(self.device).permute(0, 3, 1, 2)  # a view: the memory stays channels last
        with torch.inference_mode(), torch.autocast(self.device.type, DTYPES[self.precision], enabled=half):
            features = self._encode(pictures.float().div(255)).float()
        vectors: Vectors = nn.functional.normalize(features, dim=1).half().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise UserError(
                f"{self.identity['name']} gives numbers that are not finite in {self.precision}: give --precision fp32"
            )
        return vectors


_open_models: WeakValueDictionary[ModelSettings, Model] = WeakValueDictionary()
_lock = threading.Lock()


def open_model(settings: ModelSettings) -> Model:
    """The model of these settings, opened once in a process.

    Raises UserError: no such model, weights that cannot be downloaded or do not fit, no such device.
    """
    with _lock:
        model = _open_models.get(settings)
        if model is None:
            device = choose_device(settings.device)
            model = Model(open_backend(settings), device, choose_precision(settings.precision, device))
            _open_models[settings] = model
        return model


def choose_device(name: str) -> torch.device:
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise UserError("--device is cuda and torch finds no CUDA device here: give --device cpu")
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` on a CPU is fp32: bf16 is slower where the CPU has no instructions for it."""
    automatic = "fp16" if device.type == "cuda" else "fp32"
    return automatic if name == "auto" else name


def open_backend(settings: ModelSettings) -> Backend:
    name = storage.plain(settings.model)
    if not is_detector(name):
        return open_clip_backend(name, storage.plain(settings.pretrained))
    if settings.pretrained:
        raise UserError(
            f"--pretrained {settings.pretrained} is for open_clip's models: leave it out with --model {name}"
        )
    return detector_backend(None if name == SHIPPED else name)


def detector_backend(path: str | None) -> Backend:
    """The detector; its input is the whole picture, resized to a square."""
    source = Path(path) if path else Path(str(resources.files("gesso.dedup"))) / "weights" / detector.WEIGHTS
    source = source / detector.WEIGHTS if source.is_dir() else source
    module, config = detector.load(str(source))
    size = config.image_size
    identity = {
        "name": "detector",
        "pretrained": None,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "image_size": size,
        "dimension": config.dimension,
    }
    min_side = round(size * images.DCT_MARGIN)
    return Backend(module, module, lambda pixels: detector.prepare(pixels, size), min_side, identity)


def open_clip_backend(name: str, pretrained: str) -> Backend:
    """A model of open_clip with the preprocessing of its weights; pixels are RGB and upright already."""
    import open_clip

    module = open_clip_model(name, pretrained)
    config = module.visual.preprocess_cfg
    encode = make_encode(module, config["mean"], config["std"])
    height, width = config["size"] if isinstance(config["size"], tuple) else (config["size"],) * 2
    with torch.inference_mode():
        dimension = encode(torch.zeros(1, 3, height, width)).shape[1]
    identity = {
        "name": name,
        "pretrained": pretrained if pretrained in (RANDOM, *open_clip.list_pretrained_tags_by_model(name)) else None,
        "sha256": weights_sha256(module.visual),
        "image_size": max(height, width),
        "dimension": dimension,
    }
    return Backend(module, encode, make_prepare(config), NO_SCALING, identity)


def open_clip_model(name: str, pretrained: str) -> Any:
    """A model of open_clip for evaluation; `pretrained`: a tag, the path of a checkpoint, or `random`.

    Raises UserError: no such model, weights that cannot be downloaded or do not fit.
    """
    import open_clip

    check_open_clip(name, pretrained)
    try:
        with logging_disabled(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            tag = None if pretrained == RANDOM else pretrained
            return open_clip.create_model(name, tag, pretrained_text=False).eval().requires_grad_(False)
    except LOAD_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--pretrained {pretrained} does not fit {name} ({reason}): give weights of that model"
        ) from error


def check_open_clip(name: str, pretrained: str) -> None:
    """Raises UserError unless open_clip has the model, and its weights exist or can be downloaded."""
    import open_clip

    check_name(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        download_weights(name, pretrained)
    elif pretrained != RANDOM and not Path(pretrained).is_file():
        tag = (
            f"--pretrained {pretrained} is neither a file nor a tag of {name}"
            if pretrained
            else f"{name} needs weights"
        )
        raise UserError(f"{tag}: give --pretrained and {', '.join([*tags, 'the path of a checkpoint, or random'])}")


def download_weights(name: str, tag: str) -> None:
    """Downloads the weights of a tag into open_clip's cache."""
    import open_clip

    try:
        open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the weights {tag} of {name} cannot be downloaded ({reason}): give --pretrained the path of a checkpoint"
        ) from error


def make_encode(module: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """A function that standardises as open_clip's transform does, and encodes."""
    centre, spread = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))

    def encode(pictures: Tensor) -> Tensor:
        return module.encode_image((pictures - centre.to(pictures.device)) / spread.to(pictures.device))

    return encode


def make_prepare(config: dict[str, Any]) -> Callable[[Pixels], Pixels]:
    """A function with open_clip's own resize and crop; standardising is done on the device."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms[:-2]  # without ToTensor, Normalize

    def prepare(pixels: Pixels) -> Pixels:
        image = Image.fromarray(pixels)
        for step in steps:
            image = step(image)
        return np.asarray(image)

    return prepare


def weights_sha256(module: nn.Module) -> str:
    """The checksum of names, dtypes, shapes and values of all weights, whatever file they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def logging_disabled() -> Iterator[None]:
    """Disables logging: open_clip logs what it raises, and warns of random weights."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
