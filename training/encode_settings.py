"""Settings of `gesso encode`. Light: no torch."""

import os
from dataclasses import asdict, dataclass

from gesso.flags import at_least, flag, one_of

DEVICES = ("auto", "cpu", "cuda")


def cores() -> int:
    """This process's share of the machine, torchrun's other processes beside it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True)
class EncodeSettings:
    """What decides the codes besides the dVAE, and how a process computes them."""

    views: int = flag(4, "random crops of each picture to encode")
    seed: int = flag(0, "seed of the crops")
    batch_size: int = flag(8, "pictures of one forward pass, each with all its crops")
    threads: int = flag(cores, "decoding threads, and on a CPU also forward passes at a time")
    device: str = flag("auto", "auto (CUDA where there is one), cpu or cuda")

    def __post_init__(self) -> None:
        at_least(1, views=self.views, batch_size=self.batch_size, threads=self.threads)
        at_least(0, seed=self.seed)
        one_of(DEVICES, device=self.device)

    def record(self) -> dict[str, int]:
        """What decides the codes; device and threads may change."""
        settings = asdict(self)
        return {name: settings[name] for name in ("views", "seed", "batch_size")}
