"""Listings 1 and 2: every draw and its bounds, the resize against exact means, the very bytes under a seed."""

from hashlib import sha256
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from numpy.random import Generator
from PIL import Image

from gesso import images
from gesso.errors import Rejected
from gesso.images import Pixels
from gesso.training.data.views import centre_view, dvae_view, prior_view


class Draws:
    """Gives the smallest or the largest number that is asked for, and keeps the bounds."""

    def __init__(self, *, highest: bool) -> None:
        self._highest = highest
        self.asked: list[tuple[int, int]] = []  # inclusive

    def integers(self, low: int, high: int) -> int:
        assert low < high
        self.asked.append((low, high - 1))
        return high - 1 if self._highest else low


def drawn(view: Any, pixels: Pixels, size: int, *, highest: bool = False) -> tuple[Pixels, list[tuple[int, int]]]:
    draws = Draws(highest=highest)
    return view(pixels, size, cast(Generator, draws)), draws.asked


def photograph(height: int, width: int, seed: int = 0) -> Pixels:
    """Waves, edges and noise: smooth and rough places, all 256 values."""
    y, x = np.mgrid[:height, :width]
    waves = [
        128 + 80 * np.sin(x / 17 + c) * np.cos(y / (11 + 5 * c)) + 40 * ((x // 23 + y // 31) % 2) for c in range(3)
    ]
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def places(height: int, width: int) -> Pixels:
    """Each pixel tells its row and column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.zeros_like(x)], -1).astype(np.uint8)


def overlaps(source: int, target: int) -> npt.NDArray[np.float64]:
    """(target, source): the share of each source cell in the mean of a target cell."""
    edges = np.arange(target + 1) * source / target
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(source)[None]
    return np.asarray(np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None) * target / source)


class TestListing1:
    def test_what_is_drawn(self) -> None:
        """Row and column of the square, its new side, row and column of the view, whether to flip."""
        _, low = drawn(dvae_view, photograph(400, 600), 256)
        assert low == [(0, 0), (0, 200), (288, 384), (0, 32), (0, 32), (0, 1)]
        _, high = drawn(dvae_view, photograph(400, 600), 256, highest=True)
        assert high == [(0, 0), (0, 200), (288, 384), (0, 128), (0, 128), (0, 1)]

    @pytest.mark.parametrize(("side", "bounds"), [(256, (256, 256)), (300, (288, 300)), (384, (288, 384))])
    def test_the_new_side_is_never_above_the_old(self, side: int, bounds: tuple[int, int]) -> None:
        assert drawn(dvae_view, photograph(side, side), 256)[1][2] == bounds

    @pytest.mark.parametrize(("size", "bounds"), [(64, (72, 96)), (32, (36, 48)), (36, (40, 54)), (128, (144, 192))])
    def test_other_sizes_in_proportion(self, size: int, bounds: tuple[int, int]) -> None:
        assert drawn(dvae_view, photograph(300, 200), size)[1][2] == bounds

    def test_where_the_ends_of_each_draw_lie(self) -> None:
        """A side of 72 of 72 is not resized, so that pixels tell whence they are."""
        view, _ = drawn(dvae_view, places(72, 100), 64)
        assert view[0, 0].tolist() == [0, 0, 0]
        view, _ = drawn(dvae_view, places(72, 100), 64, highest=True)
        assert view[0, -1].tolist() == [8, 36, 0]  # flipped
        assert view[-1, 0].tolist() == [71, 99, 0]

    def test_all_values_of_each_draw_come(self) -> None:
        corners = {
            tuple(dvae_view(places(66, 65), 64, np.random.default_rng(seed))[0, 0].tolist()) for seed in range(200)
        }
        assert {corner[0] for corner in corners} == {0, 1, 2}
        assert {corner[1] for corner in corners} == {0, 1, 63, 64}  # as it is, and flipped


class TestListing2:
    @pytest.mark.parametrize(
        ("height", "width", "rows", "columns"),
        [
            (256, 256, (0, 0), (0, 0)),
            (256, 257, (0, 0), (0, 0)),
            (256, 264, (0, 0), (3, 4)),
            (512, 256, (96, 159), (0, 0)),
            (300, 433, (0, 0), (49, 82)),
        ],
    )
    def test_the_square_lies_near_the_middle(
        self, height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]
    ) -> None:
        asked = drawn(prior_view, photograph(height, width), 256)[1]
        assert asked[:2] == [rows, columns]

    def test_what_is_drawn(self) -> None:
        """Row and column of the square, its new side, row and column of the view; nothing is flipped."""
        assert drawn(prior_view, photograph(400, 400), 256)[1] == [(0, 0), (0, 0), (256, 288), (0, 0), (0, 0)]
        _, high = drawn(prior_view, photograph(400, 400), 256, highest=True)
        assert high == [(0, 0), (0, 0), (256, 288), (0, 32), (0, 32)]

    def test_the_new_side_is_never_above_the_old(self) -> None:
        assert drawn(prior_view, photograph(270, 900), 256)[1][2] == (256, 270)

    def test_where_the_ends_of_each_draw_lie(self) -> None:
        view, _ = drawn(prior_view, places(64, 100), 64)
        assert view[0, 0].tolist() == [0, 13, 0]  # 3 · 36 // 8
        view, _ = drawn(prior_view, places(72, 112), 64, highest=True)
        assert view[-1, -1].tolist() == [71, 24 + 71, 0]  # 5 · 40 // 8 - 1

    def test_no_view_is_flipped(self) -> None:
        for seed in range(50):
            view = prior_view(places(66, 80), 64, np.random.default_rng(seed))
            assert view[0, 0, 1] < view[0, -1, 1]


@pytest.mark.parametrize(
    ("view", "checksum"),
    [
        (dvae_view, "5bb00bf10da3c7be"),
        (prior_view, "b1d725a3e5db57cd"),
    ],
)
def test_the_very_bytes_under_a_seed(view: Any, checksum: str) -> None:
    y, x = np.mgrid[:384, :512]
    picture = np.stack([(y * y + 3 * x * c) // 7 % 256 for c in (1, 2, 3)], -1).astype(np.uint8)
    views = [view(picture, size, np.random.default_rng(seed)) for size in (64, 256) for seed in range(3)]
    assert [(found.dtype, found.shape) for found in views[2:4]] == [(np.uint8, (64, 64, 3)), (np.uint8, (256, 256, 3))]
    assert all(found.flags.c_contiguous for found in views)
    assert sha256(b"".join(found.tobytes() for found in views)).hexdigest()[:16] == checksum


@pytest.mark.parametrize(
    ("source", "target"),
    [(384, 288), (384, 383), (384, 256), (288, 257), (100, 99), (96, 72), (512, 256), (300, 100), (640, 300), (97, 64)],
)
def test_the_resize_is_the_mean_of_the_area(source: int, target: int) -> None:
    """Against float64, with each pixel weighted by its overlap; what is allowed is the rounding to a whole number."""
    pixels = photograph(source, source, seed=source)
    shares = overlaps(source, target)
    exact = np.einsum("ty,sx,yxc->tsc", shares, shares, pixels.astype(np.float64), optimize=True)
    assert np.abs(images.resize(pixels, target, target) - exact).max() <= 0.5 + 1e-3


def test_a_view_is_a_part_of_its_square_resized() -> None:
    pixels = photograph(100, 130)
    expected = images.resize(pixels[:, 30:], 96, 96)[32:, 32:][:, ::-1]
    assert np.array_equal(drawn(dvae_view, pixels, 64, highest=True)[0], expected)
    square = images.resize(pixels[:, 11:111], 64, 64)
    assert np.array_equal(drawn(prior_view, pixels, 64)[0], square)


@pytest.mark.parametrize("view", [dvae_view, prior_view, lambda pixels, size, _: centre_view(pixels, size)])
@pytest.mark.parametrize(("height", "width"), [(63, 200), (200, 63)])
def test_a_picture_under_the_size(view: Any, height: int, width: int) -> None:
    with pytest.raises(Rejected) as rejected:
        view(photograph(height, width), 64, np.random.default_rng(0))
    assert (rejected.value.reason, rejected.value.message) == ("too_small", f"{width}×{height}: short side under 64")


class TestCentreView:
    def test_the_middle_of_what_pillow_makes(self) -> None:
        pixels = photograph(300, 401)
        whole = Image.fromarray(pixels).resize((round(401 * 64 / 300), 64), Image.Resampling.LANCZOS)
        expected = np.asarray(whole)[:, 11 : 11 + 64]
        assert whole.width == 86
        assert np.array_equal(centre_view(pixels, 64), expected)

    def test_a_picture_of_the_size_stays(self) -> None:
        assert np.array_equal(centre_view(places(64, 80), 64), places(64, 80)[:, 8:72])
        assert np.array_equal(centre_view(places(90, 64), 64), places(90, 64)[13:77])
        assert np.array_equal(centre_view(places(89, 64), 64), places(89, 64)[12:76])
