"""How an export is split, sharded and shuffled. Standard library alone, so that `--help` is fast."""

from dataclasses import dataclass, replace

from gesso.flags import at_least, flag

VALIDATION_SIZE = 606_000


@dataclass(frozen=True)
class ExportSettings:
    """How the kept samples are split, sharded and shuffled."""

    validation_size: int = flag(
        VALIDATION_SIZE,
        "samples of the validation split, exactly (arXiv 2102.12092: about 606,000); by default a tenth of a small set",
    )
    shard_size: int = flag(10_000, "approximate number of samples in a shard")
    seed: int = flag(0, "decides the order of the samples; the split does not depend on it")

    def __post_init__(self) -> None:
        at_least(0, validation_size=self.validation_size, seed=self.seed)
        at_least(1, shard_size=self.shard_size)


def fitted(settings: ExportSettings, samples: int) -> ExportSettings:
    """The settings for a set of that many samples: the default split is a tenth of one that is too small for it."""
    if settings.validation_size != VALIDATION_SIZE or samples >= 10 * VALIDATION_SIZE:
        return settings
    return replace(settings, validation_size=samples // 10)
