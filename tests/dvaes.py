"""Small dVAEs for tests: a checkpoint of an untrained one, and one whose codes are known."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesso.training.dvae.model import DVAE
from gesso.training.dvae.settings import DvaeConfig

CONFIG = DvaeConfig(image_size=32, vocabulary=64, width=4, input_width=4, blocks=1)
LARGEST = DvaeConfig(image_size=32, vocabulary=1 << 16)  # codes that fit 16 bits


def write_dvae(path: Path, seed: int = 0, config: DvaeConfig = CONFIG) -> str:
    """A whole checkpoint with random weights; gives its path."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = DVAE(config).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"average": state, "numbers": {"settings": asdict(config)}}, path)
    return str(path)


class Plain:
    """Codes are the first red value of each 8×8 pixels, times 256: the part of `DVAE` that encoding needs."""

    def __init__(self, config: DvaeConfig = LARGEST) -> None:
        self.config = config
        self.batches: list[int] = []

    def encode(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        self.batches.append(len(pixels))
        return pixels[:, ::8, ::8, 0].long() * 256

    def identity(self) -> dict[str, Any]:
        return {"kind": "plain"}
