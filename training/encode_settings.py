"""How pictures are encoded. Light: no torch."""

import os
from dataclasses import asdict, dataclass

from gesso.flags import at_least, flag, one_of

DEVICES = ("auto", "cpu", "cuda")


def cores() -> int:
    """This process's share of the machine, torchrun's other processes beside it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True)
class EncodeSettings:
    """What decides the codes besides the dVAE, and how much a process does at once."""

    views: int = flag(4, "crops of each picture that are encoded, each by random numbers of its own")
    seed: int = flag(0, "decides the crops")
    batch_size: int = flag(8, "pictures of one forward pass, each with all its views")
    threads: int = flag(cores, "decoding threads, and on a CPU forward passes at a time")
    device: str = flag("auto", "auto (CUDA where there is one), cpu or cuda")

    def __post_init__(self) -> None:
        at_least(1, views=self.views, batch_size=self.batch_size, threads=self.threads)
        at_least(0, seed=self.seed)
        one_of(DEVICES, device=self.device)

    def record(self) -> dict[str, int]:
        """What decides the codes; device and threads may change."""
        told = asdict(self)
        return {name: told[name] for name in ("views", "seed", "batch_size")}
