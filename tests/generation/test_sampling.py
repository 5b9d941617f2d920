"""Codes come with their probabilities, top-k and top-p keep what they should, a number is of seed and position."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from gesso.errors import UserError
from gesso.generation.sampling import draw_codes, probabilities, uniforms
from gesso.generation.settings import Sampling

LOGITS = torch.tensor([[0.3, -1.2, 2.0, 0.3, -4.0, 1.1, -0.5, 0.0]])


def reference(logits: list[float], sampling: Sampling) -> list[float]:
    """Top-k, then top-p over what is left, one code after the other, in Python's floats."""
    scaled = [value / sampling.temperature for value in logits]
    order = sorted(range(len(scaled)), key=lambda code: (-scaled[code], code))
    if sampling.top_k:
        least = scaled[order[min(sampling.top_k, len(order)) - 1]]
        order = [code for code in order if scaled[code] >= least]
    weights = [np.exp(scaled[code] - scaled[order[0]]) for code in order]
    total, taken, found = sum(weights), 0.0, [0.0] * len(logits)
    for code, weight in zip(order, weights, strict=True):
        if taken < sampling.top_p:
            found[code] = weight / total
        taken += weight / total
    return [value / sum(found) for value in found]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 4, 8, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 0.01])
def test_filters_against_the_reference(temperature: float, top_k: int, top_p: float) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    found = probabilities(LOGITS.double(), sampling)[0]
    torch.testing.assert_close(found / found.sum(), torch.tensor(reference(LOGITS[0].tolist(), sampling)).double())


def test_equal_codes_at_the_edge_of_top_k_stay_together() -> None:
    """0.3 is the third and the fourth."""
    assert (probabilities(LOGITS, Sampling(top_k=3))[0] > 0).tolist() == [1, 0, 1, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 5, 0.9)])
def test_chi_squared_of_many_codes(sampling: Sampling) -> None:
    count = 40_000
    numbers = uniforms([7], count)[0]
    drawn = draw_codes(LOGITS.expand(count, -1), numbers, sampling)
    expected = np.array(reference(LOGITS[0].tolist(), sampling)) * count
    counts = np.bincount(drawn.numpy(), minlength=8)
    assert counts[expected == 0].sum() == 0
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 0.01


def test_the_first_code_whose_sum_exceeds_the_number() -> None:
    logits = torch.tensor([[0.25, 0.0, 0.5, 0.25]]).log()
    numbers = torch.tensor([0.0, 0.2, 0.25, 0.7, 0.76, 1 - 2**-32], dtype=torch.float64)
    assert draw_codes(logits.double().expand(6, -1), numbers, Sampling()).tolist() == [0, 0, 2, 2, 3, 3]


def test_the_largest_number_draws_a_code_that_has_probability() -> None:
    logits = torch.full((1, 8192), -torch.inf)
    logits[0, :5000] = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    assert int(draw_codes(logits, torch.tensor([1 - 2**-32], dtype=torch.float64), Sampling())) == 4999


class TestUniforms:
    def test_a_row_is_of_its_seed_alone(self) -> None:
        together = uniforms([3, 5, 9], 20)
        for row, seed in enumerate([3, 5, 9]):
            assert torch.equal(uniforms([seed], 20)[0], together[row])

    def test_a_number_is_of_its_position_alone(self) -> None:
        assert torch.equal(uniforms([3], 8)[0], uniforms([3], 1024)[0, :8])

    def test_golden_numbers(self) -> None:
        """The same on every machine and by later versions, or pictures of published seeds change."""
        found: Tensor = uniforms([0, 2**62], 2) * 2**32
        assert found.tolist() == GOLDEN


GOLDEN = [[49592932.0, 1037445899.0], [3257572852.0, 2700166765.0]]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"temperature": 0.0}, "--temperature is 0.0: give more than 0"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"top_k": -1}, "--top_k is -1"),
        ({"top_p": 0.0}, "--top_p is 0.0: give more than 0"),
        ({"top_p": 1.5}, "--top_p is 1.5"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 2**63}, "--seed is 9223372036854775808: give less than"),
    ],
)
def test_mistakes(flags: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Sampling(**flags)  # type: ignore[arg-type]
