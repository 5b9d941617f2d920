"""Settings of generation. Light: no torch."""

from dataclasses import dataclass

from gesso.errors import UserError
from gesso.flags import at_least, flag, one_of, positive

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MOST_SEED = 1 << 63  # seeds are below it


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn: the logits divided by the temperature, then top-k, then top-p."""

    temperature: float = flag(1.0, "divides the logits; below 1 likelier codes, above 1 more varied ones")
    top_k: int = flag(0, "draw from this many likeliest codes alone; 0: from all")
    top_p: float = flag(1.0, "draw from the fewest likeliest codes that have this much probability together")
    seed: int = flag(0, "seed of the first candidate of each caption; candidate i has the seed + i")

    def __post_init__(self) -> None:
        positive(temperature=self.temperature)
        at_least(0, top_k=self.top_k, seed=self.seed)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p is {self.top_p}: give more than 0, and 1 at most")
        if self.seed >= MOST_SEED:
            raise UserError(f"--seed is {self.seed}: give less than 2^63")


@dataclass(frozen=True)
class ComputeSettings:
    """Where and how it is computed."""

    device: str = flag("auto", "auto (CUDA where there is one), cpu or cuda")
    precision: str = flag("auto", "fp32, fp16 or bf16; auto: fp32 on a CPU, bf16 or fp16 on a GPU")

    def __post_init__(self) -> None:
        one_of(DEVICES, device=self.device)
        one_of(PRECISIONS, precision=self.precision)
