"""Per-resblock gradient scaling: where gradients are multiplied, divided and filtered; how the scales move."""

from math import inf, nan, sqrt

import pytest
import torch
from torch import Tensor, nn

from gesso.training.precision.resblock_scale import Enter, Leave, ResblockScales

CPU = torch.device("cpu")


class Block(nn.Module):
    """x + w·x with the branch under a scale; `seen` is the gradient inside the branch."""

    gradient_scale: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(3.0))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.w * Enter.apply(x, self.gradient_scale)
        out.register_hook(self.seen.append)
        return x + Leave.apply(out, self.gradient_scale)


def scaled(blocks: int = 2, replicas: int = 1) -> tuple[ResblockScales, list[Block]]:
    scales, modules = ResblockScales(blocks, replicas, CPU), [Block() for _ in range(blocks)]
    scales.scale(modules)
    return scales, modules


def test_a_branch_sees_scaled_gradients_and_the_identity_true_ones() -> None:
    scales, (first, second) = scaled()
    scales.values.copy_(torch.tensor([8.0, 2.0]))
    x = torch.tensor(1.0, requires_grad=True)
    second(first(x)).backward()
    assert [float(block.seen[0]) for block in (first, second)] == [4 * 8, 2]
    assert x.grad == 16
    assert first.w.grad == 8 * 4 * 1
    assert second.w.grad == 2 * 4


@pytest.mark.parametrize("broken", [inf, -inf, nan])
def test_what_is_not_finite_neither_enters_nor_leaves_a_branch(broken: float) -> None:
    for boundary, kept in ((Leave, 2.0), (Enter, 0.5)):
        x = torch.ones(2, requires_grad=True)
        boundary.apply(x, torch.tensor(2.0)).backward(torch.tensor([broken, 1.0]))
        assert x.grad is not None
        assert x.grad.tolist() == [0, kept]


def test_an_overflow_in_fp16_shows_in_the_parameters_of_its_block_alone() -> None:
    scale, x = torch.tensor(2.0**15), torch.tensor(1.0, requires_grad=True)
    w = torch.tensor(1.0, dtype=torch.float16, requires_grad=True)
    branch = (w * Enter.apply(x, scale).half()).float()
    (x + Leave.apply(branch, scale)).backward(torch.tensor(4.0))
    assert w.grad == inf
    assert x.grad == 4


def test_scales_start_at_2_13_for_each_replica() -> None:
    assert ResblockScales(2, 4, CPU).values.tolist() == [2.0**15, 2.0**15]


def test_a_scale_grows_by_a_thousandth_of_an_octave_or_falls_by_half_of_one() -> None:
    scales = ResblockScales(2, 1, CPU)
    scales.step(torch.tensor([True, False]))
    assert scales.values.tolist() == pytest.approx([2 ** (13 + 1 / 1000), 2**13 / sqrt(2)])
    scales.step(torch.tensor([True, True]))
    assert scales.values.tolist() == pytest.approx([2 ** (13 + 2 / 1000), 2 ** (12.5 + 1 / 1000)])


def test_a_scale_is_not_divided_again_within_125_updates() -> None:
    scales, broken = ResblockScales(1, 1, CPU), torch.tensor([False])
    levels = []
    for _ in range(127):
        scales.step(broken)
        levels.append(float(scales.values))
    assert levels[:126] == pytest.approx([2**12.5] * 126)
    assert levels[126] == pytest.approx(2**12)


def test_scales_stay_within_their_limits() -> None:
    scales = ResblockScales(2, 2, CPU)
    scales.values.copy_(torch.tensor([2.0**25, 2.0**8]))
    scales.step(torch.tensor([True, False]))
    assert scales.values.tolist() == [2.0**25, 2.0**8]


def test_scales_go_on_with_another_number_of_replicas() -> None:
    scales, again = ResblockScales(1, 4, CPU), ResblockScales(1, 2, CPU)
    scales.step(torch.tensor([False]))
    again.restore(scales.state())
    assert float(again.values) == pytest.approx(2 * 2**12.5)
    again.step(torch.tensor([False]))
    assert float(again.values) == pytest.approx(2 * 2**12.5)
    assert again.metrics() == {"scale/000": pytest.approx(12.5)}


def test_without_scales_gradients_stay_as_they_are() -> None:
    scales, block = ResblockScales(1, 4, CPU, dynamic=False), Block()
    scales.scale([block])
    assert block.gradient_scale is None
    scales.step(torch.tensor([False]))
    assert scales.values.tolist() == [1.0]
    assert scales.metrics() == scales.state() == {}
