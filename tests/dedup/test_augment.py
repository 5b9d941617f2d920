"""The transforms of positive pairs: what each keeps, and that a seed decides all of it."""

from typing import Any

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from gesso.dedup import augment
from gesso.dedup.augment import STEPS, Pixels, Step

PICTURE = default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)  # 96×128
NAMES = [step.transform.__name__ for step in STEPS]


@pytest.mark.parametrize("transform", [step.transform for step in STEPS], ids=NAMES)
def test_a_transform_gives_a_picture_and_leaves_the_given_one_alone(transform: augment.Transform) -> None:
    before = PICTURE.copy()
    for seed in range(30):
        altered = transform(PICTURE, default_rng(seed))
        assert (altered.dtype, altered.ndim, altered.shape[2]) == (np.uint8, 3, 3)
        assert min(altered.shape[:2]) > 0
        assert np.array_equal(altered, transform(PICTURE, default_rng(seed)))
    assert np.array_equal(PICTURE, before)


def test_steps_stand_in_the_order_of_what_happens_to_a_picture() -> None:
    assert NAMES.index("crop") < NAMES.index("border") < NAMES.index("screenshot") < NAMES.index("jpeg")
    assert NAMES[-1] == "jpeg"


def test_flip_is_its_own_inverse() -> None:
    random = default_rng(0)
    assert np.array_equal(augment.flip(PICTURE, random)[:, 0], PICTURE[:, -1])
    assert np.array_equal(augment.flip(augment.flip(PICTURE, random), random), PICTURE)


def test_a_crop_is_a_part_of_the_picture_with_30_to_100_percent_of_its_area() -> None:
    numbered = np.arange(96 * 128).reshape(96, 128)[..., None].repeat(3, 2)
    shares = []
    for seed in range(200):
        cut: Any = augment.crop(numbered, default_rng(seed))  # type: ignore[arg-type]
        top, left = divmod(int(cut[0, 0, 0]), 128)
        assert np.array_equal(cut, numbered[top : top + cut.shape[0], left : left + cut.shape[1]])
        shares.append(cut.shape[0] * cut.shape[1] / (96 * 128))
    assert min(shares) >= 0.29
    assert min(shares) < 0.35
    assert max(shares) > 0.95


def test_a_screenshot_holds_the_whole_picture_somewhere() -> None:
    page = augment.screenshot(PICTURE, default_rng(3))
    height, width = PICTURE.shape[:2]
    assert page.shape[0] > height
    assert page.shape[1] > width
    corners = np.argwhere((page[: -height + 1 or None, : -width + 1 or None] == PICTURE[0, 0]).all(2))
    assert any(np.array_equal(page[y : y + height, x : x + width], PICTURE) for y, x in corners)


def test_resizing_draws_its_kernel() -> None:
    results = {augment.resize(PICTURE, 50, 40, default_rng(seed)).tobytes() for seed in range(60)}
    assert len(results) == len(augment.KERNELS)


def test_each_step_is_taken_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def noting(step: Step) -> Step:
        def transform(pixels: Pixels, random: Generator) -> Pixels:
            taken.append(step.transform.__name__)
            return pixels

        return step._replace(transform=transform)

    monkeypatch.setattr(augment, "STEPS", tuple(noting(step) for step in STEPS))
    for seed in range(2000):
        augment.transformed(PICTURE, 32, default_rng(seed))
    for step in STEPS:
        share = taken.count(step.transform.__name__) / 2000
        assert abs(share - step.probability) < 0.05, step.transform.__name__


def test_both_halves_of_a_pair_have_the_models_size() -> None:
    assert augment.plain(PICTURE, 64, default_rng(0)).shape == (64, 64, 3)
    seen = {augment.transformed(PICTURE, 64, default_rng(seed)).tobytes() for seed in range(20)}
    assert len(seen) == 20
    assert all(len(body) == 64 * 64 * 3 for body in seen)
