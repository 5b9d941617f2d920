"""The cosine schedules against their closed form, at their ends and in the middle."""

from math import cos, pi

import pytest

from gesso.training.dvae.schedules import cosine, rates
from gesso.training.dvae.settings import TrainSettings


@pytest.mark.parametrize(("step", "expected"), [(0, 8.0), (50, 5.0), (100, 2.0), (101, 2.0), (10**9, 2.0)])
def test_cosine(step: int, expected: float) -> None:
    assert cosine(step, 8.0, 2.0, 100) == pytest.approx(expected)


def test_a_quarter_of_the_way() -> None:
    assert cosine(25, 8.0, 2.0, 100) == pytest.approx(2 + 6 * (1 + cos(pi / 4)) / 2)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, (1e-4, 1.0, 0.0)),
        (5_000, (pytest.approx(9.99958e-05, rel=1e-5), pytest.approx(0.99743, abs=1e-5), 6.6)),
        (150_000, (pytest.approx(9.6241e-05, rel=1e-4), 1 / 16, 6.6)),
        (1_200_000, (1.25e-6, 1 / 16, 6.6)),
        (3_000_000, (1.25e-6, 1 / 16, 6.6)),
    ],
)
def test_the_papers_rates(step: int, expected: tuple[float, float, float]) -> None:
    for found, value in zip(rates(step, TrainSettings()), expected, strict=True):
        assert found == (pytest.approx(value) if isinstance(value, float) else value)
