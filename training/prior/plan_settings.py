"""What `gesso plan` was asked. Light: no torch."""

from typing import NamedTuple

from gesso.training.prior.settings import ComputeSettings, PriorConfig, TrainSettings
from gesso.training.prior.sizes import Size


class Plan(NamedTuple):
    """What was asked: a training, and the machines for it. `device` names the GPU; empty where --peak was given."""

    preset: str
    steps: int
    config: PriorConfig
    training: TrainSettings
    compute: ComputeSettings
    machines: int
    gpus: int
    memory: Size
    bandwidth: Size
    link: Size
    peak: float  # FLOP/s; 0 for that of the device
    device: str
    mfu: float

    @property
    def processes(self) -> int:
        return self.machines * self.gpus
