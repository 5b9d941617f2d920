"""KID against torch-fidelity on the same pictures, its lack of bias, and influences against a jackknife."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from gesso.evaluation import kid
from gesso.evaluation.kid import kernel_distance
from tests.evaluation.gaussians import as_features


def test_torch_fidelitys_value_of_the_same_pictures() -> None:
    first, second = as_features(150, 32, 0), as_features(150, 32, 1) * 1.1
    sides = (torch.from_numpy(first), torch.from_numpy(second))
    theirs = kid_features_to_metric(*sides, kid_subsets=1, kid_subset_size=150, verbose=False)
    assert kernel_distance(first, second).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_the_mean_of_torch_fidelitys_subsets_tends_to_it() -> None:
    first, second = as_features(300, 16, 0), as_features(250, 16, 1) * 1.3
    sides = (torch.from_numpy(first), torch.from_numpy(second))
    theirs = kid_features_to_metric(*sides, kid_subsets=400, kid_subset_size=100, verbose=False)
    mean, spread = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert kernel_distance(first, second).value == pytest.approx(mean, abs=3 * spread / 20)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = as_features(50, 8, 0), as_features(41, 8, 1)
    whole = kernel_distance(first, second)
    monkeypatch.setattr(kid, "BLOCK", 7)
    parts = kernel_distance(first, second)
    assert parts.value == pytest.approx(whole.value, rel=1e-9)
    for one, other in zip(parts.influences, whole.influences, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_it_has_no_bias() -> None:
    found = [kernel_distance(as_features(20, 16, seed), as_features(20, 16, 1000 + seed)).value for seed in range(300)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / np.sqrt(300))
    assert min(found) < 0


def test_influences_are_those_of_a_jackknife() -> None:
    first, second = as_features(80, 8, 0), as_features(60, 8, 1) * 1.5
    estimate = kernel_distance(first, second)
    left_out = [kernel_distance(np.delete(first, row, 0), second).value for row in range(80)]
    np.testing.assert_allclose(79 * (estimate.value - np.array(left_out)), estimate.influences[0], rtol=0.03, atol=1e-3)
