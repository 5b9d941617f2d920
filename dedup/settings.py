"""Settings of embedding models, of the detector and its training: frozen dataclasses, presets. No torch."""

from dataclasses import asdict, dataclass
from typing import Any

from gesso.errors import UserError
from gesso.flags import at_least, flag, one_of

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
BACKBONES = ("resnet50", "efficientnet_lite0")


@dataclass(frozen=True)
class ModelSettings:
    """The model that embeds pictures, its device and precision."""

    model: str = flag(
        "detector", "`detector` (shipped), the file or run of a `gesso train detector`, or a model of open_clip"
    )
    pretrained: str = flag("", "weights of an open_clip model: a tag, the path of a checkpoint, or `random`")
    device: str = flag("auto", "auto (CUDA where there is one), cpu or cuda")
    precision: str = flag("auto", "auto (fp32 on a CPU, fp16 on CUDA), fp32, fp16 or bf16")

    def __post_init__(self) -> None:
        one_of(DEVICES, device=self.device)
        one_of(PRECISIONS, precision=self.precision)


@dataclass(frozen=True)
class DetectorConfig:
    """The architecture of a detector. The paper (arXiv 2102.12092, section 9) states the backbone alone."""

    backbone: str = flag("resnet50", f"{' or '.join(BACKBONES)}")
    width: float = flag(1.0, "channels of resnet50, as a multiple of the paper's")
    image_size: int = flag(224, "side of the square that pictures are resized to, pixels")
    dimension: int = flag(512, "dimension of an embedding")

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise UserError(f"--backbone is {self.backbone!r}: give {' or '.join(BACKBONES)}")
        if self.image_size < 32 or self.image_size % 32:
            raise UserError(f"--image_size is {self.image_size}: give a multiple of 32 pixels")
        at_least(0.05, width=self.width)
        at_least(1, dimension=self.dimension)


@dataclass(frozen=True)
class TrainSettings:
    """A detector's training. Batch size and number of pictures are the paper's, optimiser and learning rate our own."""

    # 30 million pictures, each once, in batches of 1,712 (arXiv 2102.12092, section 9).
    steps: int = flag(17_524, "number of updates, over which the learning rate falls to 0")
    batch_size: int = flag(1712, "pairs in an update, over all processes")
    learning_rate: float = flag(1e-3, "peak learning rate of AdamW, reached after --warmup updates")
    warmup: int = flag(1000, "updates over which the learning rate rises")
    weight_decay: float = flag(0.01, "of AdamW")
    seed: int = flag(0, "decides the order, transforms and initial weights")

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        at_least(2, batch_size=self.batch_size)
        at_least(0, warmup=self.warmup, weight_decay=self.weight_decay, seed=self.seed)
        if self.learning_rate <= 0:
            raise UserError(f"--learning_rate is {self.learning_rate}: give more than 0")


@dataclass(frozen=True)
class Run:
    """The parameters of one training."""

    data: tuple[str, ...]
    output: str
    init: str | None
    detector: DetectorConfig
    training: TrainSettings
    save_every: int
    workers: int

    def record(self) -> dict[str, Any]:
        """The settings that decide the weights."""
        return {"data": list(self.data), "init": self.init, **asdict(self.detector), **asdict(self.training)}


# By name: differences from the defaults, which are the paper's.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # The shipped detector: an hour on two cores, from ImageNet weights (--init).
    "small": {
        "backbone": "efficientnet_lite0",
        "image_size": 160,
        "dimension": 256,
        "steps": 540,
        "batch_size": 64,
        "learning_rate": 3e-4,
        "warmup": 50,
    },
    "tiny": {
        "width": 0.25,
        "image_size": 64,
        "dimension": 64,
        "steps": 200,
        "batch_size": 32,
        "warmup": 20,
    },
}
