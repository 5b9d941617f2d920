"""How much an embedding process does at once. Light: the standard library alone."""

import os
from dataclasses import dataclass

from gesso.flags import at_least, flag


@dataclass(frozen=True)
class EmbedSettings:
    """How much an embedding process does at once."""

    batch_size: int = flag(32, "pictures of one forward pass")
    threads: int = flag(lambda: os.cpu_count() or 1, "decoding threads, and on a CPU forward passes at a time")

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, threads=self.threads)
