"""Views, batch size and threads of an embedding process. Standard library alone, so that `--help` is fast."""

import os
from dataclasses import dataclass

from gesso.dedup.views import VIEWS
from gesso.errors import UserError
from gesso.flags import at_least, flag


@dataclass(frozen=True)
class EmbedSettings:
    """Views of a picture, batch size and threads of an embedding process."""

    batch_size: int = flag(32, "pictures in a forward pass")
    threads: int = flag(
        lambda: os.cpu_count() or 1, "threads that decode; on a CPU also the number of parallel forward passes"
    )
    views: int = 1  # of each picture; a row for each

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, threads=self.threads)
        if self.views not in VIEWS:
            raise UserError(f"--views is {self.views}: give 1, 6 or 15")
