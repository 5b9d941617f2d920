"""Settings of `gesso evaluate`. Light: no torch."""

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from gesso.errors import UserError
from gesso.flags import at_least, flag, one_of

RESIZES = ("clean", "legacy")
DEVICES = ("auto", "cpu", "cuda")
BLUR = (0.0, 1.0, 2.0, 4.0, 8.0)  # the paper's radii (arXiv 2102.12092, figure 9)


@dataclass(frozen=True)
class EvaluationSettings:
    """What decides the figures besides the pictures and the models."""

    size: int = flag(0, "side to which both sides are cut and resized, pixels; 0: that of the generated pictures")
    resize: str = flag(
        "clean", "to Inception's input: clean (antialiased bicubic), or legacy (as torch-fidelity and pytorch-fid)"
    )
    ranks: int = flag(1, "generated pictures of a caption that count, the best first; 0: all")
    resamples: int = flag(1000, "bootstrap resamples of an interval")
    # That of torch-fidelity: the Inception Score then has its splits.
    seed: int = flag(2020, "of the Inception Score's splits and the resamples")
    batch_size: int = flag(32, "pictures in a forward pass")
    device: str = flag("auto", "auto (CUDA where there is one), cpu or cuda")

    def __post_init__(self) -> None:
        at_least(0, size=self.size, ranks=self.ranks, seed=self.seed)
        at_least(100, resamples=self.resamples)
        at_least(1, batch_size=self.batch_size)
        one_of(RESIZES, resize=self.resize)
        one_of(DEVICES, device=self.device)

    def record(self) -> dict[str, Any]:
        """What decides the figures; batch size and device may change."""
        settings = asdict(self)
        return {name: settings[name] for name in ("resize", "ranks", "resamples", "seed")}


@dataclass(frozen=True)
class Run:
    """All settings of one evaluation; empty where not given."""

    generated: str
    reference: str
    inception: str
    exclude: str
    annotations: str
    ranker: str
    pretrained: str
    output: str
    radii: tuple[float, ...]  # ascending
    settings: EvaluationSettings


def radii(given: list[float]) -> tuple[float, ...]:
    """The radii of --blur, ascending, each once. Raises UserError for one that is no radius."""
    wrong = next((value for value in given if not 0 <= value < inf), None)
    if wrong is not None:
        raise UserError(f"--blur has {wrong:g}: give radii of 0 pixels or more")
    return tuple(sorted(set(given)))
