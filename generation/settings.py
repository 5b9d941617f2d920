"""Settings of generation. Light: no torch."""

from dataclasses import dataclass

from gesso.errors import UserError
from gesso.flags import at_least, flag, one_of, positive

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MOST_SEED = 1 << 63  # seeds are below it
KEPT = 8  # candidates of a caption where --keep does not say


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
class Candidates:
    """How many pictures are drawn of each caption, and how many are kept."""

    n: int = flag(16, "candidates to draw of each caption")
    keep: int = flag(0, "best candidates to keep of each caption; 0: 8, or all where fewer are drawn")

    def __post_init__(self) -> None:
        at_least(1, n=self.n)
        at_least(0, keep=self.keep)
        if self.keep > self.n:
            raise UserError(f"--keep is {self.keep} and --n is {self.n}: keep no more than are drawn")

    @property
    def kept(self) -> int:
        return self.keep or min(KEPT, self.n)


@dataclass(frozen=True)
class ComputeSettings:
    """Where and how it is computed."""

    device: str = flag("auto", "auto (CUDA where there is one), cpu or cuda")
    precision: str = flag("auto", "fp32, fp16 or bf16; auto: fp32 on a CPU, 16 bits on a GPU")

    def __post_init__(self) -> None:
        one_of(DEVICES, device=self.device)
        one_of(PRECISIONS, precision=self.precision)
