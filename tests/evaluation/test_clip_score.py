"""CLIP score."""

import numpy as np
import pytest

from gesso.evaluation.clip_score import clip_score


def test_cosines_below_0_count_as_0() -> None:
    found = clip_score(np.array([0.3, -0.2, 0.1, 0.0]))
    assert found.value == pytest.approx(10)
    np.testing.assert_allclose(found.influences[0], [20, -10, 0, -10], atol=1e-12)
