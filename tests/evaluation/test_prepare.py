"""Squares, blur and both resizes, against Pillow, scipy, torch and torch-fidelity."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from gesso import images
from gesso.errors import Rejected
from gesso.evaluation import prepare
from gesso.images import EXIF_ORIENTATION, Pixels
from tests.pictures import quarters, save

GOLDEN_CLEAN = (0.0, 0.083822, 42.292061, 100.502235, 154.22348, 235.18454, 255.0)
CORNERS = [[0, 0], [0, -1], [-1, 0], [-1, -1]]


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def squared(body: bytes, size: int) -> Pixels:
    return prepare.square(body, images.read_header(body), size)


class TestSquare:
    def test_a_picture_of_that_size_stays_as_it_is(self) -> None:
        pixels = noise(40, 40)
        np.testing.assert_array_equal(squared(save(Image.fromarray(pixels), "PNG"), 40), pixels)

    def test_the_middle_of_a_wide_and_of_a_high_one(self) -> None:
        pixels = noise(40, 61)
        np.testing.assert_array_equal(squared(save(Image.fromarray(pixels), "PNG"), 40), pixels[:, 10:50])
        upright = pixels.transpose(1, 0, 2)
        np.testing.assert_array_equal(squared(save(Image.fromarray(upright), "PNG"), 40), upright[10:50])

    @pytest.mark.parametrize("size", [24, 100])
    def test_another_size_is_pillows_antialiased_bicubic(self, size: int) -> None:
        pixels = noise(50, 60)
        expected = Image.fromarray(pixels[:, 5:55]).resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(squared(save(Image.fromarray(pixels), "PNG"), size), np.asarray(expected))

    def test_it_stands_upright(self) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 3
        turned = squared(save(quarters(64, 64), "PNG", exif=exif), 64)
        plain = np.asarray(quarters(64, 64))
        for row, column in CORNERS:
            np.testing.assert_array_equal(turned[row, column], plain[-1 - row, -1 - column])

    def test_a_large_jpeg_is_decoded_whole(self) -> None:
        """A scaled decode would change the pixels."""
        body = save(Image.fromarray(noise(256, 256)).resize((512, 512)), "JPEG", quality=90)
        whole = Image.open(io.BytesIO(body)).resize((64, 64), Image.Resampling.BICUBIC)
        assert np.abs(squared(body, 64).astype(int) - np.asarray(whole)).max() <= 1

    def test_a_truncated_one_is_rejected(self) -> None:
        body = save(Image.fromarray(noise(64, 64)), "PNG")
        with pytest.raises(Rejected):
            squared(body[: len(body) // 2], 32)


class TestBlur:
    @pytest.mark.parametrize("radius", [0.5, 1, 2, 4, 8])
    def test_it_is_a_gaussian_mirrored_at_the_borders(self, radius: float) -> None:
        pixels = noise(80, 70)
        exact = gaussian_filter(pixels.astype(float), (radius, radius, 0), mode="mirror", truncate=4)
        found = prepare.blur(pixels, radius)
        assert found.dtype == np.uint8
        assert np.abs(found - exact).max() < 0.501

    def test_radius_0_changes_nothing(self) -> None:
        pixels = noise(9, 9)
        assert prepare.blur(pixels, 0) is pixels

    def test_an_even_picture_stays_even_and_a_small_one_too(self) -> None:
        pixels = np.full((5, 5, 3), 77, np.uint8)
        np.testing.assert_array_equal(prepare.blur(pixels, 8), pixels)


class TestResize:
    @pytest.mark.parametrize("side", [64, 256, 299, 400])
    def test_clean_is_antialiased_bicubic_in_float(self, side: int) -> None:
        pixels = noise(side, side)
        channels = torch.from_numpy(pixels).movedim(2, 0)[None].float()
        theirs = torch.nn.functional.interpolate(channels, (299, 299), mode="bicubic", antialias=True)[0].movedim(0, 2)
        found = prepare.resize(pixels, "clean")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, theirs.clamp(0, 255), atol=0.01)

    def test_golden_values_of_clean(self) -> None:
        """Of a ramp and a step, 4 pixels wide: Pillow 12.1's, so that another version that differs is seen."""
        row = np.array([0, 100, 200, 255], np.uint8)
        pixels = np.repeat(np.tile(row, (4, 1))[:, :, None], 3, 2)
        found = prepare.resize(pixels, "clean")[150, [0, 37, 75, 112, 150, 224, 298], 0]
        np.testing.assert_allclose(found, GOLDEN_CLEAN, atol=1e-3)

    @pytest.mark.parametrize("side", [64, 256, 299, 400])
    def test_legacy_is_torch_fidelitys(self, side: int) -> None:
        pixels = noise(side, side)
        channels = torch.from_numpy(pixels).movedim(2, 0)[None].float()
        theirs = interpolate_bilinear_2d_like_tensorflow1x(channels, size=(299, 299), align_corners=False)
        np.testing.assert_array_equal(prepare.resize(pixels, "legacy"), theirs[0].movedim(0, 2).numpy())

    def test_they_differ_where_a_picture_is_made_smaller(self) -> None:
        """Without antialiasing what lies between the taps is lost: lines of one pixel alias."""
        lines = np.zeros((598, 598, 3), np.uint8)
        lines[:, ::2] = 255
        clean, legacy = (prepare.resize(lines, how)[20:-20, 20:-20] for how in ("clean", "legacy"))
        assert (clean.mean(), np.ptp(clean)) == pytest.approx((127.5, 0), abs=0.1)
        assert (legacy == 255).all()
