"""The moving average of the weights on the CPU: a function of the updates alone."""

import threading

import pytest
import torch
from torch import Tensor

from gesso.training import average
from gesso.training.average import Average

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def weights(dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    return {"a": torch.ones(3, dtype=dtype, device=device), "b": torch.zeros(2, 2, dtype=dtype, device=device)}


def train(parameters: dict[str, Tensor], mean: Average, updates: int) -> None:
    for step in range(1, updates + 1):
        mean.before_change()
        for value in parameters.values():
            value.add_(step)
        mean.update(step)


def expected(updates: int, every: int, decay: float) -> dict[str, list[float]]:
    """The averages of `train` by the definition, in float64."""
    means = {"a": 1.0, "b": 0.0}
    for step in range(every, updates + 1, every):
        now = {"a": 1.0 + step * (step + 1) / 2, "b": step * (step + 1) / 2}
        means = {name: decay * value + (1 - decay) * now[name] for name, value in means.items()}
    return {"a": [means["a"]] * 3, "b": [means["b"]] * 4}


def checked(mean: Average, updates: int, every: int, decay: float) -> None:
    mean.wait()
    for name, values in expected(updates, every, decay).items():
        tensor = mean.tensors[name]
        assert (tensor.dtype, tensor.device.type) == (torch.float32, "cpu")
        assert tensor.flatten().tolist() == pytest.approx(values, rel=1e-6)


@DTYPES
def test_weights_are_blended_in_every_few_updates(dtype: torch.dtype) -> None:
    parameters = weights(dtype)
    mean = Average(parameters, 0.75, 4)
    train(parameters, mean, 11)
    checked(mean, 11, 4, 0.75)


def test_it_begins_with_the_weights_themselves_not_their_memory() -> None:
    parameters = weights()
    mean = Average(parameters, 0.5, 2)
    train(parameters, mean, 1)
    assert mean.tensors["a"].tolist() == [1, 1, 1]
    assert parameters["a"].tolist() == [2, 2, 2]


def test_it_follows_parameters_of_a_module() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    mean = Average(dict(layer.named_parameters()), 0.5, 1)
    before = layer.weight.item()
    with torch.no_grad():
        layer.weight.add_(1)
    mean.update(1)
    assert mean.tensors["weight"].item() == pytest.approx(before + 0.5)
    assert not mean.tensors["weight"].requires_grad


def test_it_goes_on_from_tensors_filled_in_place() -> None:
    parameters = weights()
    mean = Average(parameters, 0.5, 1)
    mean.tensors["a"].fill_(9)
    train(parameters, mean, 1)
    assert mean.tensors["a"].tolist() == [5.5] * 3


class LateCopies:
    """Stands for a GPU's copies: they are taken at `start`, and arrive when `arrive` is set."""

    def __init__(self, sources: dict[str, Tensor], device: torch.device) -> None:
        self._sources, self.tensors, self.done = sources, dict[str, Tensor](), self
        self.arrive, self.held = threading.Event(), 0

    def start(self) -> None:
        self.tensors = {name: value.clone() for name, value in self._sources.items()}

    def synchronize(self) -> None:
        assert self.arrive.wait(60)

    def hold(self) -> None:
        self.held += 1


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(average, "Copies", LateCopies)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda self: True))


def late_copies(mean: Average) -> LateCopies:
    copies = mean._copies
    assert isinstance(copies, LateCopies)
    return copies


@pytest.mark.usefixtures("late")
def test_the_training_goes_on_while_copies_are_on_their_way() -> None:
    parameters = weights()
    mean = Average(parameters, 0.75, 4)
    train(parameters, mean, 7)  # changed after the copy of update 4 was taken
    assert late_copies(mean).held == 7
    assert mean.tensors["a"].tolist() == [1, 1, 1]
    late_copies(mean).arrive.set()
    checked(mean, 7, 4, 0.75)


@pytest.mark.usefixtures("late")
def test_late_copies_give_the_same_average() -> None:
    parameters = weights()
    mean = Average(parameters, 0.75, 4)
    late_copies(mean).arrive.set()
    train(parameters, mean, 11)
    checked(mean, 11, 4, 0.75)


@pytest.mark.usefixtures("late")
def test_errors_of_the_thread_are_raised_and_not_forgotten() -> None:
    parameters = weights()
    mean = Average(parameters, 0.75, 1)
    mean.tensors["c"] = torch.zeros(1)
    late_copies(mean).arrive.set()
    mean.update(1)
    for call in (mean.wait, mean.wait, lambda: mean.update(2)):
        with pytest.raises(KeyError, match="c"):
            call()


@NEEDS_GPU
@DTYPES
def test_from_a_gpu_it_is_the_same(dtype: torch.dtype) -> None:
    parameters = weights(dtype, "cuda")
    mean = Average(parameters, 0.75, 4)
    train(parameters, mean, 11)
    checked(mean, 11, 4, 0.75)
