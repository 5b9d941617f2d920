"""What a dVAE is made of and how it is trained: frozen dataclasses, presets. Light: no torch."""

from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

from gesso.errors import UserError
from gesso.flags import at_least, flag, one_of

FACTOR = 8  # pixels of a picture's side for a code: three halvings
GROUPS = 4
LARGEST_SEED = 2**63 - 1  # of torch's
PRECISIONS = ("fp32", "bf16", "fp16")
PARALLEL = ("ddp", "fsdp")
FORMS = ("whole", "sharded")
DAMAGED = ("refuse", "quarantine")


@dataclass(frozen=True)
class DvaeConfig:
    """The shape of a dVAE; the defaults are the paper's (section 2)."""

    image_size: int = flag(256, "side of a picture, pixels; a code stands for 8×8 of them")
    vocabulary: int = flag(8192, "codes")
    width: int = flag(256, "channels at full resolution; 2, 4 and 8 times as many below")
    input_width: int = flag(128, "channels that the decoder begins with")
    blocks: int = flag(2, "residual blocks in each of the four groups")

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
class LearnSettings:
    """What decides the weights besides the data; the defaults are the paper's (section 2)."""

    batch_size: int = flag(512, "pictures of an update, over all processes")
    learning_rate: float = flag(1e-4, "step size at the beginning")
    final_learning_rate: float = flag(1.25e-6, "step size at the end of its schedule, and behind it")
    learning_rate_steps: int = flag(1_200_000, "updates over which the step size falls, along half a cosine")
    temperature: float = flag(1.0, "of the relaxation at the beginning")
    final_temperature: float = flag(1 / 16, "at the end of its schedule, and behind it")
    temperature_steps: int = flag(150_000, "updates over which the temperature falls, along half a cosine")
    beta: float = flag(6.6, "weight of the KL divergence at the end of its schedule; it begins with 0")
    beta_steps: int = flag(5000, "updates over which the weight rises, along half a cosine")
    weight_decay: float = flag(1e-4, "of AdamW")
    ema: float = flag(0.999, "share of the old average that an update keeps")
    seed: int = flag(0, "decides order, crops, noise and initial weights")

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, learning_rate_steps=self.learning_rate_steps)
        at_least(1, temperature_steps=self.temperature_steps, beta_steps=self.beta_steps)
        at_least(0, weight_decay=self.weight_decay, seed=self.seed, beta=self.beta, ema=self.ema)
        for name in ("learning_rate", "final_learning_rate", "temperature", "final_temperature"):
            if not 0 < getattr(self, name) < inf:
                raise UserError(f"--{name} is {getattr(self, name)}: give more than 0")
        for name in ("beta", "weight_decay", "ema"):
            if not isfinite(getattr(self, name)):
                raise UserError(f"--{name} is {getattr(self, name)}: give a number")
        if self.seed > LARGEST_SEED:
            raise UserError(f"--seed is {self.seed}: give at most {LARGEST_SEED}")
        if self.ema >= 1:
            raise UserError(f"--ema is {self.ema}: give less than 1")


@dataclass(frozen=True)
class LoopSettings:
    """How the work is done: none of it decides more than the rounding of the weights, and a resume may change it."""

    precision: str = flag("fp32", "of activations: fp32, bf16, or fp16 with one loss scale; weights are fp32")
    parallel: str = flag("ddp", "with several processes: ddp (each has all weights) or fsdp (each has a share)")
    accumulate: int = flag(1, "parts that a process cuts its pictures of an update into, to save memory")
    recompute: bool = flag(False, "compute the blocks' activations again in the backward pass, to save memory")
    compile: bool = flag(False, "compile the model with torch.compile")
    workers: int = flag(2, "threads of a process that read and decode pictures")
    damaged: str = flag("refuse", "what becomes of a damaged shard: refuse, or quarantine to go on without it")
    log_every: int = flag(10, "updates between two lines of metrics.jsonl")
    evaluate_every: int = flag(500, "updates between two evaluations")
    validation_samples: int = flag(1024, "pictures of an evaluation, at most")
    save_every: int = flag(500, "updates between two checkpoints")
    keep: int = flag(3, "last checkpoints that are kept, besides the best")
    checkpoint: str = flag("whole", "form of checkpoints: whole (one file) or sharded (a part from each process)")
    spike: float = flag(2.0, "nats per subpixel over its average at which the loss stops the run")

    def __post_init__(self) -> None:
        one_of(PRECISIONS, precision=self.precision)
        one_of(PARALLEL, parallel=self.parallel)
        one_of(FORMS, checkpoint=self.checkpoint)
        one_of(DAMAGED, damaged=self.damaged)
        at_least(1, accumulate=self.accumulate, workers=self.workers, log_every=self.log_every, keep=self.keep)
        at_least(1, evaluate_every=self.evaluate_every, save_every=self.save_every)
        at_least(1, validation_samples=self.validation_samples)
        if self.spike <= 0:
            raise UserError(f"--spike is {self.spike}: give more than 0")


@dataclass(frozen=True)
class Run:
    """All that one training is made of."""

    data: str
    output: str
    preset: str
    steps: int
    dvae: DvaeConfig
    learn: LearnSettings
    loop: LoopSettings

    def record(self) -> dict[str, Any]:
        """What decides the weights, but for the data."""
        return {**asdict(self.dvae), **asdict(self.learn)}


# By name: what differs from the defaults, which are the paper's.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # Between the two; not trained yet.
    "small": {
        "image_size": 128,
        "vocabulary": 2048,
        "width": 128,
        "batch_size": 128,
        "learning_rate": 3e-4,
        "learning_rate_steps": 100_000,
        "temperature_steps": 15_000,
    },
    # Two cores, ten minutes: docs/dvae.md tells what was tried.
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
STEPS = {"paper": 3_000_000, "small": 100_000, "tiny": 8000}  # --steps, unless it is given
