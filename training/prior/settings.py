"""Settings of a prior and of its training, and presets. Light: no torch."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from gesso.errors import UserError
from gesso.flags import at_least, finite, flag, one_of, positive
from gesso.training.settings import PARALLEL, PRECISIONS, LoopSettings, check_seed_and_average

MOST_TEXT = 256  # positions of the tokenizer
MASKS = ("sparse", "causal")
MOMENTS = (16, 32)  # bits
BUFFERS = ("1-6-9", "fp16", "fp32")
WIRES = ("fp16", "fp32")
FORMS = ("auto", "dense", "structured", "sdpa", "joined", "flex")


class Tokens(NamedTuple):
    """What the tokens are: given by the data and the tokenizer, not by flags. The defaults are the paper's."""

    grid: int = 32  # codes along a side
    codes: int = 8192  # of the dVAE
    texts: int = 16_384  # tokens of the tokenizer, without those for padding


@dataclass(frozen=True)
class PriorConfig:
    """The shape of a prior; the defaults are the DALL-E paper's (arXiv 2102.12092, sections 2.2, 2.3 and B.1)."""

    layers: int = flag(64, "transformer layers, each of two residual blocks, attention and MLP")
    heads: int = flag(62, "attention heads; the width of the model is heads times head_size")
    head_size: int = flag(64, "width of an attention head")
    text_positions: int = flag(256, "positions of the caption, start-of-text in the first; later tokens are cut")
    masks: str = flag("sparse", "image attention: sparse (row, column or convolution by layer) or causal (dense)")
    kernel: int = flag(11, "side of the convolutional mask of the last layer, positions")
    text_position_embedding: bool = flag(False, "add a learned embedding of its position to each caption token, too")
    padding_loss: bool = flag(False, "count padded positions in the caption's loss, too")
    tokens: Tokens = field(default_factory=Tokens)

    def __post_init__(self) -> None:
        at_least(1, layers=self.layers, heads=self.heads, head_size=self.head_size, kernel=self.kernel)
        one_of(MASKS, masks=self.masks)
        if not 2 <= self.text_positions <= MOST_TEXT:
            raise UserError(f"--text_positions is {self.text_positions}: give 2 to {MOST_TEXT}")
        if self.kernel % 2 == 0:
            raise UserError(f"--kernel is {self.kernel}: give an odd number")

    @property
    def width(self) -> int:
        """Width of the identity stream."""
        return self.heads * self.head_size

    @property
    def positions(self) -> int:
        """Positions of the stream: the caption's, then the image's."""
        return self.text_positions + self.tokens.grid**2

    @property
    def text_ids(self) -> int:
        """Ids of the caption: the tokenizer's tokens, then one for the padding of each position."""
        return self.tokens.texts + self.text_positions


@dataclass(frozen=True)
class TrainSettings:
    """What decides the weights besides model and data; the defaults are the DALL-E paper's (B.2, D and E)."""

    batch_size: int = flag(1024, "pairs of an update, over all processes")
    learning_rate: float = flag(4.5e-4, "learning rate after the ramp")
    warmup: int = flag(5000, "updates of the linear ramp of the learning rate from 0")
    patience: int = flag(5, "evaluations in a row without a better validation loss after which the rate is halved")
    threshold: float = flag(1e-3, "by how much a validation loss must be lower to count as better, nats")
    halvings: int = flag(5, "times that the learning rate is halved, at most")
    weight_decay: float = flag(4.5e-2, "weight decay of AdamW; none on gains and biases")
    clip: float = flag(4.0, "largest norm of the gradient; a larger one is scaled down to it")
    ema: float = flag(0.99, "decay of the exponential moving average of the weights")
    ema_every: int = flag(25, "updates between two steps of that average, which is kept in the CPU's memory")
    precision: str = flag("fp16", "fp16 (with a gradient scale for each residual block), bf16, or fp32")
    moments: int = flag(16, "bits of the matrices' moments in AdamW: 16 or 32")
    compression_rank: int = flag(0, "rank of PowerSGD over the shards of a machine together; 0: plain all-reduce")
    error_buffers: str = flag("1-6-9", "format of PowerSGD's error buffers: 1-6-9, fp16 or fp32")
    wire: str = flag("fp16", "dtype in which PowerSGD's factors are sent: fp16 or fp32")
    seed: int = flag(0, "seed of initial weights, data order, views and BPE dropout")

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, warmup=self.warmup, patience=self.patience, ema_every=self.ema_every)
        at_least(0, halvings=self.halvings, threshold=self.threshold, compression_rank=self.compression_rank)
        at_least(0, weight_decay=self.weight_decay)
        one_of(PRECISIONS, precision=self.precision)
        one_of(BUFFERS, error_buffers=self.error_buffers)
        one_of(WIRES, wire=self.wire)
        positive(learning_rate=self.learning_rate, clip=self.clip)
        finite(weight_decay=self.weight_decay, threshold=self.threshold)
        check_seed_and_average(self.seed, self.ema)
        if self.moments not in MOMENTS:
            raise UserError(f"--moments is {self.moments}: give 16 or 32")


@dataclass(frozen=True)
class ComputeSettings:
    """How updates are computed: changes the weights by no more than rounding, so a resumed run may change it."""

    parallel: str = flag("fsdp", "with several processes: fsdp (sharded weights) or ddp (replicated weights)")
    shards: int = flag(0, "processes that share the weights under fsdp, a divisor of all; 0: those of a machine")
    accumulate: int = flag(1, "parts of a process's batch whose gradients are accumulated; more parts save memory")
    recompute: bool = flag(False, "recompute residual blocks in the backward pass (activation checkpointing)")
    compile: bool = flag(False, "compile the residual blocks with torch.compile")
    attention: str = flag(
        "auto", "form in which masked attention is computed: auto, dense, structured, sdpa, joined or flex"
    )

    def __post_init__(self) -> None:
        one_of(PARALLEL, parallel=self.parallel)
        one_of(FORMS, attention=self.attention)
        at_least(1, accumulate=self.accumulate)
        at_least(0, shards=self.shards)


@dataclass(frozen=True)
class SampleSettings:
    """The pictures that a training draws. A resumed run may change it."""

    samples: int = flag(8, "captions of the validation split that are drawn at each evaluation; 0: none")

    def __post_init__(self) -> None:
        at_least(0, samples=self.samples)


@dataclass(frozen=True)
class Run:
    """All settings of one training."""

    data: str
    tokenizer: str
    dvae: str  # empty where none was given
    output: str
    preset: str
    steps: int
    prior: PriorConfig
    training: TrainSettings
    compute: ComputeSettings
    loop: LoopSettings
    sampling: SampleSettings

    def record(self) -> dict[str, Any]:
        """The settings that decide the weights, but for the data."""
        prior = {**asdict(self.prior), "tokens": self.prior.tokens._asdict()}
        return {**prior, **asdict(self.training)}


# Differences from the defaults above, which are those of the DALL-E paper. The compression ranks are its table's (E.2).
PRESETS: dict[str, dict[str, object]] = {
    "12b": {"compression_rank": 896, "recompute": True, "samples": 0},
    "5.6b": {"heads": 42, "compression_rank": 640, "recompute": True, "samples": 0},
    "2.8b": {"heads": 30, "compression_rank": 512, "recompute": True, "samples": 0},
    "1b": {"layers": 36, "heads": 24, "batch_size": 512, "precision": "bf16", "recompute": True},
    "base": {
        "layers": 12,
        "heads": 12,
        "batch_size": 256,
        "learning_rate": 6e-4,
        "warmup": 2000,
        "precision": "bf16",
    },
    # For a dVAE of 128 pixels: a grid of 16.
    "small": {
        "layers": 8,
        "heads": 6,
        "text_positions": 128,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "warmup": 1000,
        "precision": "fp32",
    },
    # For a dVAE of 64 pixels, a grid of 8: trains on two cores in minutes; what else was tried is in docs/prior.md.
    "tiny": {
        "layers": 6,
        "heads": 4,
        "head_size": 32,
        "text_positions": 32,
        "kernel": 5,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "warmup": 100,
        "ema": 0.9,
        "precision": "fp32",
        "evaluate_every": 250,
        "validation_samples": 256,
    },
}
STEPS = {  # defaults of --steps
    "12b": 430_000,
    "5.6b": 430_000,
    "2.8b": 430_000,
    "1b": 200_000,
    "base": 100_000,
    "small": 50_000,
    "tiny": 2000,
}
