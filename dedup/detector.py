"""The near-duplicate detector (arXiv 2102.12092, section 9): picture → unit vector. Its training is trainer.py.

No layer uses batch statistics, since they would leak information between the pairs of a batch: the ResNet has weight
norm instead of batch norm, and the EfficientNet's batch norm is fused into its convolutions before training.
N pictures, S side of the square input, C channels, D dimension of the embedding.

    (N, 3, S, S) in [0, 1] ─ standardise ─ backbone ─▶ (N, C, S/32, S/32) ─ generalised mean ─ linear ─▶ (N, D), norm 1
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from timm.layers import GELU, BlurPool2d
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from gesso import storage
from gesso.dedup.settings import DetectorConfig
from gesso.errors import UserError
from gesso.images import Pixels

WEIGHTS = "detector.safetensors"
RESNET_BLOCKS = (3, 4, 6, 3)  # ResNet-50
RESNET_CHANNELS = (64, 128, 256, 512)
GELU_GAIN = 1.53  # 1 / sqrt(E[gelu(x)²]) of a standard normal x: the variance stays from layer to layer
CLASSIFIERS = ("_fc", "fc", "classifier")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class NoNorm(nn.Identity):
    """The identity, as the normalisation layer that timm's ResNet requires."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


def resnet50(config: DetectorConfig) -> tuple[nn.Module, int]:
    """The paper's ResNet-50: anti-aliased strides, weight norm, GELU. Returns the model and its number of channels."""
    channels = tuple(max(8, round(size * config.width)) for size in RESNET_CHANNELS)
    model = ResNet(
        Bottleneck,
        RESNET_BLOCKS,
        num_classes=0,
        global_pool="",
        stem_width=channels[0],
        channels=channels,
        act_layer=GELU,
        norm_layer=NoNorm,
        aa_layer=BlurPool2d,
        zero_init_last=False,
    )
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            add_weight_norm(module, initial_gain(name))
    return model, model.num_features


def initial_gain(name: str) -> float:
    """The initial norm of a convolution's filters: 0 at the end of a branch, so that blocks start as identities."""
    if name.endswith("conv3"):
        return 0.0
    return 1.0 if "downsample" in name else GELU_GAIN


def add_weight_norm(convolution: nn.Conv2d, gain: float) -> None:
    """Weight norm with filters of norm `gain`: w = g · v / ‖v‖."""
    nn.init.normal_(convolution.weight)
    normalised: Any = weight_norm(convolution)
    nn.init.constant_(normalised.parametrizations.weight.original0, gain)


def efficientnet_lite0(config: DetectorConfig) -> tuple[nn.Module, int]:
    """A small backbone for machines without an accelerator, to be initialised with ImageNet weights (`--init`)."""
    model = lite0_with_batch_norm()
    fuse_batch_norm(model)
    return model, model.num_features


def lite0_with_batch_norm() -> Any:
    return timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="").eval()


def fuse_batch_norm(model: nn.Module) -> None:
    """Fuses each batch norm, with its current statistics, into the convolution before it: the same function."""
    for module in model.modules():
        children = list(module.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(convolution, norm)
                convolution.weight, convolution.bias = nn.Parameter(fused.weight.data), nn.Parameter(fused.bias.data)  # type: ignore[union-attr]
                setattr(module, name, norm.act)


BUILDERS: dict[str, Callable[[DetectorConfig], tuple[nn.Module, int]]] = {
    "resnet50": resnet50,
    "efficientnet_lite0": efficientnet_lite0,
}


class Detector(nn.Module):
    """float32 (N, 3, S, S), RGB in [0, 1] → float32 (N, D) of unit norm."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.backbone, channels = BUILDERS[config.backbone](config)
        self.power = nn.Parameter(torch.tensor(3.0))  # of the generalised mean: 1 is the mean, infinity the maximum
        self.head = nn.Linear(channels, config.dimension)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.backbone((pictures - self.mean) / self.std)
        power = self.power.clamp(1, 10)
        pooled = features.float().clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power)
        return nn.functional.normalize(self.head(pooled), dim=1)


def build(config: DetectorConfig) -> Detector:
    """A detector with random weights, for training."""
    return Detector(config).to(memory_format=torch.channels_last)


def initialise(model: Detector, config: DetectorConfig, path: str) -> None:
    """Loads initial weights: all of a detector, or those of the backbone. Raises UserError where they do not fit."""
    if not (path.endswith(".safetensors") or Path(path).is_dir()):
        load_backbone(model, path)
        return
    given, other = read(path)
    if (other.backbone, other.width, other.dimension) != (config.backbone, config.width, config.dimension):
        raise UserError(f"--init {path} is {other.backbone} with {other.dimension} dimensions: give these flags, too")
    model.load_state_dict(given.state_dict())


def load_backbone(model: Detector, path: str) -> None:
    """Loads EfficientNet-lite0's ImageNet weights from a state dict, matched by order; a classifier's are ignored.

    Raises UserError where they do not fit.
    """
    source = lite0_with_batch_norm()
    try:
        given = torch.load(path, map_location="cpu", weights_only=True)
        kept = [value for name, value in given.items() if not name.startswith(CLASSIFIERS)]
        source.load_state_dict(dict(zip(source.state_dict(), kept, strict=True)))
        fuse_batch_norm(source)
        model.backbone.load_state_dict(source.state_dict())
    except (OSError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--init {path} is not a state dict of the backbone ({reason}): give EfficientNet-lite0's"
        ) from error


def prepare(pixels: Pixels, size: int) -> Pixels:
    """(H, W, 3) uint8 RGB → (size, size, 3): the whole picture, resized by area averaging."""
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def save(model: Detector, config: DetectorConfig, path: str) -> None:
    """One safetensors file, weights in float16, the config in its header; the same bytes for the same weights."""
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    with storage.write_whole(path) as stream:
        stream.write(serialise(tensors, {"detector": json.dumps(asdict(config))}))


def load(path: str | None = None) -> tuple[Detector, DetectorConfig]:
    """A trained detector, ready to embed, from a .safetensors file or a run's directory; by default the shipped one.

    Raises UserError where there is none.
    """
    model, config = read(path)
    return remove_weight_norm(model.eval().requires_grad_(False)), config


def read(path: str | None) -> tuple[Detector, DetectorConfig]:
    """The same as it was trained, with weight norm."""
    source = Path(path) if path else Path(str(resources.files("gesso.dedup"))) / "weights" / WEIGHTS
    source = source / WEIGHTS if source.is_dir() else source
    try:
        with safe_open(source, "pt") as stored:
            config = DetectorConfig(**json.loads((stored.metadata() or {})["detector"]))
            tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118 - no mapping
        model = build(config)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source} holds no detector ({reason}): give what `gesso train detector` wrote") from error
    return model, config


def remove_weight_norm(model: Detector) -> Detector:
    """Replaces weight norm by plain weights: the same function, without computing them in every forward pass."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and hasattr(module, "parametrizations"):
            remove_parametrizations(module, "weight")
    return model
