"""How an export is split, sharded and shuffled. Light: the standard library alone."""

from dataclasses import dataclass

from gesso.flags import at_least, flag


@dataclass(frozen=True)
class ExportSettings:
    """How the kept samples are dealt out."""

    validation_size: int = flag(606_000, "samples of the validation split, exactly (paper section 1: about 606,000)")
    shard_size: int = flag(10_000, "samples in a shard, about")
    seed: int = flag(0, "decides the order within each split, but not which samples are for validation")

    def __post_init__(self) -> None:
        at_least(0, validation_size=self.validation_size, seed=self.seed)
        at_least(1, shard_size=self.shard_size)
