"""Settings of a contrastive model and of its training, and presets. Light: no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from gesso.errors import UserError
from gesso.flags import at_least, finite, flag, one_of, positive
from gesso.training.settings import LoopSettings, check_seed_and_average
from gesso.training.tokenizer.settings import POSITIONS

TOWERS = ("vit", "resnet")
STRIDE = 32  # pixels along a side for one position of a resnet's last stage
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class ContrastiveConfig:
    """The shape of open_clip's CLIP; the defaults are those of its ViT-B-16."""

    image_size: int = flag(224, "side of the square pictures, pixels")
    tower: str = flag("vit", "what encodes pictures: vit, or resnet (CLIP's, with group in place of batch norm)")
    vision_width: int = flag(768, "width of a vit; channels of the first stage of a resnet, whose last has 32 times")
    vision_layers: int = flag(12, "layers of a vit; residual blocks in each of the four stages of a resnet")
    patch_size: int = flag(16, "side of a vit's patches, pixels")
    text_positions: int = flag(77, "positions of the caption, those of its start and end included; the rest is cut")
    text_width: int = flag(512, "width of the transformer that encodes captions")
    text_layers: int = flag(12, "layers of the transformer that encodes captions")
    head_size: int = flag(64, "width of an attention head, a divisor of the widths")
    dimension: int = flag(512, "dimension of an embedding")
    texts: int = 16_384  # tokens of the tokenizer, without those for padding: given by it, not by a flag

    def __post_init__(self) -> None:
        one_of(TOWERS, tower=self.tower)
        at_least(1, vision_layers=self.vision_layers, text_layers=self.text_layers, dimension=self.dimension)
        at_least(1, head_size=self.head_size, patch_size=self.patch_size)
        if not 3 <= self.text_positions <= POSITIONS:
            raise UserError(f"--text_positions is {self.text_positions}: give 3 to {POSITIONS}")
        multiple("image_size", self.image_size, self.patch_size if self.tower == "vit" else STRIDE)
        multiple("text_width", self.text_width, self.head_size)
        multiple("vision_width", self.vision_width, self.head_size if self.tower == "vit" else 2)


@dataclass(frozen=True)
class TrainSettings:
    """What decides the weights besides model and data; the defaults are about those of open_clip's recipes."""

    batch_size: int = flag(1024, "pairs of an update, over all processes; each is contrasted with all others")
    learning_rate: float = flag(5e-4, "learning rate after the ramp")
    warmup: int = flag(2000, "updates of the linear ramp of the learning rate from 0")
    learning_rate_steps: int = flag(100_000, "updates after which the learning rate has fallen to 0, by a cosine")
    weight_decay: float = flag(0.2, "weight decay of AdamW; none on gains, biases and the temperature")
    ema: float = flag(0.999, "decay of the exponential moving average of the weights, per update")
    seed: int = flag(0, "seed of data order, crops, BPE dropout and initial weights")

    def __post_init__(self) -> None:
        at_least(2, batch_size=self.batch_size)
        at_least(1, learning_rate_steps=self.learning_rate_steps)
        at_least(0, weight_decay=self.weight_decay, warmup=self.warmup)
        positive(learning_rate=self.learning_rate)
        finite(weight_decay=self.weight_decay)
        check_seed_and_average(self.seed, self.ema)


@dataclass(frozen=True)
class ComputeSettings:
    """How updates are computed: changes the weights by no more than rounding, so a resumed run may change it."""

    precision: str = flag("fp32", "dtype of activations: fp32 or bf16; weights and the loss stay fp32")
    recompute: bool = flag(False, "recompute the transformers' layers in the backward pass, saves memory")

    def __post_init__(self) -> None:
        one_of(PRECISIONS, precision=self.precision)


@dataclass(frozen=True)
class Run:
    """All settings of one training."""

    data: str
    tokenizer: str
    output: str
    preset: str
    steps: int
    model: ContrastiveConfig
    training: TrainSettings
    compute: ComputeSettings
    loop: LoopSettings

    def record(self) -> dict[str, Any]:
        """The settings that decide the weights, but for the data."""
        return {**asdict(self.model), **asdict(self.training)}


def multiple(name: str, value: int, of: int) -> None:
    """Raises UserError where a setting is no positive multiple."""
    if value < of or value % of:
        raise UserError(f"--{name} is {value}: give a multiple of {of}")


# Differences from the defaults above.
PRESETS: dict[str, dict[str, object]] = {
    "base": {"precision": "bf16"},
    "small": {
        "image_size": 128,
        "patch_size": 8,
        "vision_width": 384,
        "text_positions": 64,
        "text_width": 256,
        "text_layers": 6,
        "dimension": 256,
        "batch_size": 512,
        "learning_rate": 1e-3,
        "warmup": 500,
        "learning_rate_steps": 20_000,
        "precision": "bf16",
    },
    # Trains on two cores in minutes.
    "tiny": {
        "image_size": 64,
        "tower": "resnet",
        "vision_width": 16,
        "vision_layers": 1,
        "text_positions": 32,
        "text_width": 128,
        "text_layers": 2,
        "head_size": 32,
        "dimension": 128,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "warmup": 100,
        "learning_rate_steps": 2000,
        "ema": 0.99,
    },
}
STEPS = {"base": 100_000, "small": 20_000, "tiny": 2000}  # defaults of --steps
