"""Inception Score against torch-fidelity and closed forms, and its influences."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from gesso.evaluation.inception_score import divergence, inception_score


@pytest.mark.parametrize("count", [10, 505, 1000])
def test_torch_fidelitys_value(count: int) -> None:
    logits = 2 * np.random.default_rng(0).normal(size=(count, 50))
    theirs = isc_features_to_metric(torch.from_numpy(logits), 10, True, 2020)
    assert inception_score(logits, 2020).value == pytest.approx(theirs["inception_score_mean"], rel=1e-12)


def test_pictures_of_which_nothing_is_told_score_1() -> None:
    assert inception_score(np.zeros((40, 7)), 0).value == pytest.approx(1, rel=1e-15)


def test_certain_and_even_classes_score_their_number() -> None:
    assert np.exp(divergence(np.tile(1e4 * np.eye(5), (4, 1))).mean()) == pytest.approx(5, rel=1e-12)


def test_a_resample_changes_the_score_by_its_influences() -> None:
    """Pictures are replaced within their split, so that the splits stay."""
    logits = 2 * np.random.default_rng(0).normal(size=(2000, 20))
    estimate = inception_score(logits, 3)
    order = np.random.RandomState(3).permutation(2000)
    changed = logits.copy()
    changed[order[0]] = changed[order[1]]
    told = (estimate.influences[0][order[1]] - estimate.influences[0][order[0]]) / 2000
    assert inception_score(changed, 3).value - estimate.value == pytest.approx(told, rel=0.05)
