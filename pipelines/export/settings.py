"""How an export is split, sharded and shuffled. Standard library alone, so that `--help` is fast."""

from dataclasses import dataclass

from gesso.flags import at_least, flag


@dataclass(frozen=True)
class ExportSettings:
    """How the kept samples are split, sharded and shuffled."""

    validation_size: int = flag(606_000, "samples of the validation split, exactly (arXiv 2102.12092: about 606,000)")
    shard_size: int = flag(10_000, "approximate number of samples in a shard")
    seed: int = flag(0, "decides the order of the samples; the split does not depend on it")

    def __post_init__(self) -> None:
        at_least(0, validation_size=self.validation_size, seed=self.seed)
        at_least(1, shard_size=self.shard_size)
