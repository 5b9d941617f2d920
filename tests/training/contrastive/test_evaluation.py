"""Recall and loss of the validation split, by hand."""

import pytest
import torch
from torch import Tensor

from gesso.training.contrastive.evaluation import Embedded, distinct, measure, recall
from gesso.training.contrastive.model import build_loss

SCALE = torch.tensor(2.0)


def embedded(pictures: Tensor, captions: Tensor, same: list[tuple[int, int]]) -> Embedded:
    return Embedded(pictures.float(), captions.float(), torch.tensor(same))


def test_pairs_that_point_the_same_way_find_each_other() -> None:
    found = embedded(torch.eye(6), torch.eye(6), [(i, 10 + i) for i in range(6)])
    assert set(recall(found).values()) == {100.0}


def test_the_nearest_and_the_five_nearest() -> None:
    """Caption k is nearest to picture k + 1, then to its own: found among five, not as the first."""
    captions = torch.eye(8) + 2 * torch.eye(8).roll(1, 1)
    found = recall(embedded(torch.eye(8), captions, [(i, 10 + i) for i in range(8)]))
    assert found == {("picture", 1): 0, ("picture", 5): 100, ("caption", 1): 0, ("caption", 5): 100}


def test_a_model_that_maps_all_to_one_point_finds_nothing() -> None:
    found = recall(embedded(torch.ones(9, 2), torch.ones(9, 2), [(i, 10 + i) for i in range(9)]))
    assert set(found.values()) == {0.0}


def test_each_caption_of_a_picture_counts_and_finds_it() -> None:
    """Of two pictures the first has two captions, one of which points to the second picture."""
    pictures = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    captions = torch.tensor([[1.0, 0], [0, 1], [0, 2]])
    found = recall(embedded(pictures, captions, [(0, 10), (0, 11), (1, 12)]))
    assert found["picture", 1] == pytest.approx(100 * 2 / 3)
    assert found["caption", 1] == 100.0


def test_pictures_with_the_same_caption_are_all_right() -> None:
    """The caption of the first two is nearest to the second, so the first is nearest to none of its own."""
    captions = torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 0, 1]])
    found = recall(embedded(torch.eye(3), captions, [(0, 9), (1, 9), (2, 8)]))
    assert (found["picture", 1], found["picture", 5]) == (100, 100)
    assert (found["caption", 1], found["caption", 5]) == (pytest.approx(200 / 3), 100)


def test_distinct() -> None:
    firsts, which = distinct(torch.tensor([7, 5, 7, 9, 5]))
    assert firsts.tolist() == [1, 0, 3]
    assert which.tolist() == [1, 0, 1, 2, 0]


def test_the_loss_is_the_mean_over_batches_of_the_trainings_size() -> None:
    random = torch.Generator().manual_seed(0)
    pictures, captions = (torch.nn.functional.normalize(torch.randn(5, 4, generator=random), dim=1) for _ in range(2))
    found = embedded(pictures, captions, [(i, i) for i in range(5)])
    first, last = (
        float(build_loss(0, 1)(pictures[part], captions[part], SCALE, found.same[part]))
        for part in (slice(0, 3), slice(3, 5))
    )
    values = measure(found, SCALE, 3)
    assert values["val_loss"] == pytest.approx((3 * first + 2 * last) / 5)
    assert list(values) == [
        "val_loss",
        *(f"val_{of}_recall@{depth}" for of in ("picture", "caption") for depth in (1, 5)),
    ]
