"""Views: their number and order, crops of any size, names."""

import numpy as np
import pytest

from gesso.dedup import views


def test_more_views_begin_with_the_same_ones() -> None:
    assert {count: len(boxes) for count, boxes in views.VIEWS.items()} == {1: 1, 6: 6, 15: 15}
    assert views.VIEWS[1] == views.VIEWS[6][:1] == (views.Box(0, 0, 1, 1),)
    assert views.VIEWS[6] == views.VIEWS[15][:6]
    assert len(set(views.ALL)) == 15


def test_crop_takes_the_named_part() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(40), np.arange(20)[:, None]
    corners = [views.crop(pixels, box) for box in views.VIEWS[6]]
    assert [(part.shape, *part[0, 0, :2].tolist()) for part in corners] == [
        ((20, 40, 3), 0, 0),
        ((14, 28, 3), 0, 0),
        ((14, 28, 3), 12, 0),
        ((14, 28, 3), 0, 6),
        ((14, 28, 3), 12, 6),
        ((14, 28, 3), 6, 3),
    ]
    assert [views.crop(pixels, box)[0, 0, :2].tolist() for box in views.SMALL[3:6]] == [[0, 5], [10, 5], [20, 5]]
    assert views.crop(pixels, views.SMALL[8]).base is pixels


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 500)])
def test_crop_of_a_tiny_picture_is_not_empty(shape: tuple[int, int]) -> None:
    assert all(views.crop(np.zeros((*shape, 3), np.uint8), box).size for box in views.ALL)


def test_smallest_share() -> None:
    assert [round(views.smallest_share(count), 9) for count in views.VIEWS] == [1, 0.7, 0.5]


def test_names() -> None:
    assert [views.name(view) for view in range(15)] == [
        "whole",
        *("top left 70%", "top right 70%", "bottom left 70%", "bottom right 70%", "centre 70%"),
        *("top left 50%", "top 50%", "top right 50%", "left 50%", "centre 50%", "right 50%"),
        *("bottom left 50%", "bottom 50%", "bottom right 50%"),
    ]
