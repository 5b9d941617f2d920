"""Settings of a dVAE and of its training, and presets. Light: no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from gesso.errors import UserError
from gesso.flags import at_least, finite, flag, positive
from gesso.training.settings import ComputeSettings, LoopSettings, check_seed_and_average

FACTOR = 8  # pixels along a side for one code: resolution is halved three times
GROUPS = 4


@dataclass(frozen=True)
class DvaeConfig:
    """The shape of a dVAE; the defaults are the DALL-E paper's (arXiv 2102.12092, appendix A.1)."""

    image_size: int = flag(256, "side of the square pictures, pixels; each code stands for 8×8 of them")
    vocabulary: int = flag(8192, "number of codes")
    width: int = flag(256, "channels at full resolution; 2, 4 and 8 times as many at 1/2, 1/4 and 1/8")
    input_width: int = flag(128, "channels of the decoder's first layer")
    blocks: int = flag(2, "residual blocks in each of the four groups of encoder and decoder")

    def __post_init__(self) -> None:
        at_least(1, blocks=self.blocks, input_width=self.input_width)
        at_least(2, vocabulary=self.vocabulary)
        if self.width < 4 or self.width % 4:
            raise UserError(f"--width is {self.width}: give a multiple of 4, the hidden width is a quarter of it")
        if self.image_size < 2 * FACTOR or self.image_size % FACTOR:
            raise UserError(
                f"--image_size is {self.image_size}: give a multiple of {FACTOR} pixels, {2 * FACTOR} or more"
            )

    @property
    def grid(self) -> int:
        """Codes along a side."""
        return self.image_size // FACTOR


@dataclass(frozen=True)
class TrainSettings:
    """What decides the weights besides model and data; the defaults are the DALL-E paper's (A.2)."""

    batch_size: int = flag(512, "pictures of an update, over all processes")
    learning_rate: float = flag(1e-4, "learning rate at the start")
    final_learning_rate: float = flag(1.25e-6, "learning rate at the end of its schedule, and after it")
    learning_rate_steps: int = flag(1_200_000, "updates of the cosine schedule of the learning rate")
    temperature: float = flag(1.0, "temperature of the Gumbel-softmax at the start")
    final_temperature: float = flag(1 / 16, "temperature at the end of its schedule, and after it")
    temperature_steps: int = flag(150_000, "updates of the cosine schedule of the temperature")
    beta: float = flag(6.6, "weight of the KL divergence at the end of its schedule, which starts at 0")
    beta_steps: int = flag(5000, "updates of the cosine schedule of the KL weight")
    weight_decay: float = flag(1e-4, "weight decay of AdamW")
    ema: float = flag(0.999, "decay of the exponential moving average of the weights, per update")
    seed: int = flag(0, "seed of data order, crops, noise and initial weights")

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, learning_rate_steps=self.learning_rate_steps)
        at_least(1, temperature_steps=self.temperature_steps, beta_steps=self.beta_steps)
        at_least(0, weight_decay=self.weight_decay, beta=self.beta)
        positive(learning_rate=self.learning_rate, final_learning_rate=self.final_learning_rate)
        positive(temperature=self.temperature, final_temperature=self.final_temperature)
        finite(beta=self.beta, weight_decay=self.weight_decay)
        check_seed_and_average(self.seed, self.ema)


@dataclass(frozen=True)
class Run:
    """All settings of one training."""

    data: str
    output: str
    preset: str
    steps: int
    dvae: DvaeConfig
    training: TrainSettings
    compute: ComputeSettings
    loop: LoopSettings

    def record(self) -> dict[str, Any]:
        """The settings that decide the weights, but for the data."""
        return {**asdict(self.dvae), **asdict(self.training)}


# Differences from the defaults above, which are those of the DALL-E paper.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # Between the two; not trained to the end yet.
    "small": {
        "image_size": 128,
        "vocabulary": 2048,
        "width": 128,
        "batch_size": 128,
        "learning_rate": 3e-4,
        "learning_rate_steps": 100_000,
        "temperature_steps": 15_000,
    },
    # Trains on two cores in ten minutes; what else was tried is in docs/dvae.md.
    "tiny": {
        "image_size": 64,
        "vocabulary": 512,
        "width": 32,
        "input_width": 64,
        "blocks": 1,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "final_learning_rate": 1e-5,
        "learning_rate_steps": 8000,
        "temperature_steps": 6000,
        "beta": 4.0,
        "beta_steps": 300,
        "ema": 0.99,
        "validation_samples": 256,
    },
}
STEPS = {"paper": 3_000_000, "small": 100_000, "tiny": 8000}  # defaults of --steps
