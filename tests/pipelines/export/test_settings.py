"""The settings of an export: the default validation split of sets of any size."""

import pytest

from gesso.pipelines.export.settings import ExportSettings, fitted


@pytest.mark.parametrize(
    ("given", "samples", "expected"),
    [
        (606_000, 250_000_000, 606_000),
        (606_000, 6_060_000, 606_000),
        (606_000, 6_059_999, 605_999),
        (606_000, 257, 25),
        (606_000, 9, 0),
        (20, 257, 20),
        (300, 257, 300),
        (0, 257, 0),
    ],
)
def test_the_default_is_a_tenth_of_a_small_set(given: int, samples: int, expected: int) -> None:
    assert fitted(ExportSettings(validation_size=given), samples).validation_size == expected
