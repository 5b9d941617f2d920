"""Any model behind one face: pictures → unit vectors. Our detector and every picture model of open_clip's. No Beam.

    pixels (H, W, 3) uint8 ─ prepare ─▶ (S, S, 3) uint8 ─ a batch, embed ─▶ (N, D) float16, rows of norm 1
                              on any thread                 on the device: to float, standardised, forward, normalised

N pictures, S side of the model's input, D dimension of the embedding.
"""

import hashlib
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
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
from gesso.dedup.settings import ModelSettings
from gesso.errors import UserError
from gesso.images import Pixels

Vectors = npt.NDArray[np.float16]
Identity = dict[str, Any]

SHIPPED = "detector"
RANDOM = "random"
SEED = 0  # of random weights
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WHOLE = 1 << 16  # more pixels than a JPEG's side has: nothing is scaled while decoding
# What open_clip and torch are seen to raise on a checkpoint that is none or does not fit.
UNFIT = (OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, EOFError, pickle.UnpicklingError)


class Parts(NamedTuple):
    """What differs between the kinds of models."""

    module: nn.Module
    encode: Callable[[Tensor], Tensor]  # float32 (N, 3, S, S) in [0, 1] → (N, D)
    prepare: Callable[[Pixels], Pixels]
    least: int  # pixels that `prepare` wants a picture's short side to have, where it has them
    identity: Identity


class Model:
    """Pictures → embeddings. `identity` is equal for two models iff their embeddings may be compared.

    `prepare` and, on a CPU, `embed` may run on many threads.
    """

    def __init__(self, parts: Parts, device: torch.device, precision: str) -> None:
        self.identity = parts.identity
        self.prepare = parts.prepare
        self.least = parts.least
        self.device = device
        self.precision = precision
        parts.module.to(device)
        self._encode = parts.encode

    @property
    def dimension(self) -> int:
        return int(self.identity["dimension"])

    def embed(self, batch: Pixels) -> Vectors:
        """(N, S, S, 3) uint8 as `prepare` makes them → (N, D) float16, normalised in float32 and then rounded.

        Raises UserError where the precision is too narrow for the model.
        """
        half = self.precision != "fp32"
        writable = torch.from_numpy(np.require(batch, requirements=["C", "W"]))  # torch wants it so
        pictures = writable.to(self.device).permute(0, 3, 1, 2)  # channels last, as they lie in memory
        with torch.inference_mode(), torch.autocast(self.device.type, DTYPES[self.precision], enabled=half):
            features = self._encode(pictures.float().div(255)).float()
        vectors: Vectors = nn.functional.normalize(features, dim=1).half().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise UserError(f"{self.identity['name']} gives no finite numbers in {self.precision}: --precision fp32")
        return vectors


_opened: WeakValueDictionary[ModelSettings, Model] = WeakValueDictionary()
_opening = threading.Lock()


def open_model(settings: ModelSettings) -> Model:
    """The model of these settings; the one that is open already where a process asks again.

    Raises UserError: no such model, weights that cannot be had or do not fit, no such device.
    """
    with _opening:
        model = _opened.get(settings)
        if model is None:
            device = choose_device(settings.device)
            model = Model(parts_of(settings), device, choose_precision(settings.precision, device))
            _opened[settings] = model
        return model


def choose_device(name: str) -> torch.device:
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise UserError("--device is cuda and torch finds no CUDA device here: give --device cpu")
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """On a CPU fp32: where it has no instructions for bf16, that is slower."""
    automatic = "fp16" if device.type == "cuda" else "fp32"
    return automatic if name == "auto" else name


def parts_of(settings: ModelSettings) -> Parts:
    name = storage.plain(settings.model)
    if name != SHIPPED and not name.endswith(".safetensors") and not Path(name).exists():
        return open_clip_parts(name, storage.plain(settings.pretrained))
    if settings.pretrained:
        raise UserError(
            f"--pretrained {settings.pretrained} is for open_clip's models: leave it out with --model {name}"
        )
    return detector_parts(None if name == SHIPPED else name)


def detector_parts(path: str | None) -> Parts:
    """The detector, which gets the whole picture squeezed into a square."""
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
    least = round(size * images.DCT_MARGIN)
    return Parts(module, module, lambda pixels: detector.prepare(pixels, size), least, identity)


def open_clip_parts(name: str, pretrained: str) -> Parts:
    """A model of open_clip's with the tag's own preprocessing, on pixels that are RGB and upright already."""
    import open_clip

    check_open_clip(name, pretrained)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            given = None if pretrained == RANDOM else pretrained
            module = open_clip.create_model(name, given, pretrained_text=False).eval().requires_grad_(False)
    except UNFIT as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--pretrained {pretrained} does not fit {name} ({reason}): give its own weights") from error
    config = module.visual.preprocess_cfg
    encode = encoder(module, config["mean"], config["std"])
    height, width = config["size"] if isinstance(config["size"], tuple) else (config["size"],) * 2
    with torch.inference_mode():
        dimension = encode(torch.zeros(1, 3, height, width)).shape[1]
    identity = {
        "name": name,
        "pretrained": pretrained if pretrained in (RANDOM, *open_clip.list_pretrained_tags_by_model(name)) else None,
        "sha256": sha256_of(module.visual),
        "image_size": max(height, width),
        "dimension": dimension,
    }
    return Parts(module, encode, preparer(config), WHOLE, identity)


def check_open_clip(name: str, pretrained: str) -> None:
    """Raises UserError unless open_clip knows the model and its weights are there or can be fetched."""
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        close = ", ".join(get_close_matches(name, known, 3, 0))
        raise UserError(f"--model {name} is no file, no run and no model of open_clip's: the nearest are {close}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        fetch(name, pretrained)
    elif pretrained != RANDOM and not Path(pretrained).is_file():
        given = f"--pretrained {pretrained} is no file and no tag of {name}" if pretrained else f"{name} needs weights"
        raise UserError(f"{given}: give --pretrained and {', '.join([*tags, 'the path of a checkpoint, or random'])}")


def fetch(name: str, tag: str) -> None:
    """Brings a tag's weights into open_clip's cache."""
    import open_clip

    try:
        open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the weights {tag} of {name} cannot be fetched ({reason}): give --pretrained the path of a checkpoint"
        ) from error


def encoder(module: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """Standardises as open_clip's transform does, and encodes."""
    centre, spread = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))

    def encode(pictures: Tensor) -> Tensor:
        return module.encode_image((pictures - centre.to(pictures.device)) / spread.to(pictures.device))

    return encode


def preparer(config: dict[str, Any]) -> Callable[[Pixels], Pixels]:
    """open_clip's own resize and crop; what it does to floats is left to the device."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms[:-2]  # without ToTensor, Normalize

    def prepare(pixels: Pixels) -> Pixels:
        image = Image.fromarray(pixels)
        for step in steps:
            image = step(image)
        return np.asarray(image)

    return prepare


def sha256_of(module: nn.Module) -> str:
    """Of names, types, shapes and values of all weights: the same from whatever file they came."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip logs what it raises, and that random weights are random."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
