"""A candidate is a caption and a seed: its codes do not depend on what is drawn beside it. And pictures of codes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from gesso.errors import UserError
from gesso.generation import sampler
from gesso.generation.models import Models
from gesso.generation.sampler import decode_pictures, draw, draw_captions, encode_picture
from gesso.generation.settings import Sampling
from gesso.generation.tiles import Tile
from gesso.training.prior.model import Prior
from tests.drawing import CAPTIONS, CODES, GRID, toy_models

SEEDS = range(100, 120)
CAPTION = CAPTIONS[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return toy_models(tmp_path_factory.mktemp("models"), heads=4, head_size=16)


@pytest.fixture(scope="module")
def twenty(models: Models) -> torch.Tensor:
    return draw(models, CAPTION, SEEDS, Sampling())


class TestSeeds:
    def test_candidates_differ(self, twenty: torch.Tensor) -> None:
        assert twenty.shape == (20, GRID**2)
        assert len({tuple(row) for row in twenty.tolist()}) == 20

    @pytest.mark.parametrize(
        "seeds",
        [[107], [119, 100, 107], list(reversed(SEEDS)), list(SEEDS)[3:10], [107] * 17],
        ids=["alone", "three", "backwards", "a part", "one seed many times"],
    )
    def test_bit_for_bit_in_every_batch(self, models: Models, twenty: torch.Tensor, seeds: list[int]) -> None:
        models.tiles.clear()
        found = draw(models, CAPTION, seeds, Sampling())
        assert torch.equal(found, twenty[[seed - SEEDS[0] for seed in seeds]])

    def test_among_other_captions(self, models: Models, twenty: torch.Tensor) -> None:
        captions = [CAPTIONS[1], CAPTION, CAPTIONS[2], CAPTIONS[1], CAPTION]
        found = draw_captions(models, captions, [103, 104], Sampling())
        assert torch.equal(found[1], twenty[3:5])
        assert torch.equal(found[4], twenty[3:5])
        assert torch.equal(found[0], found[3])
        assert not torch.equal(found[0], found[1])

    @pytest.mark.parametrize("rows", [1, 4, 16, 64])
    def test_numbers_of_a_row_do_not_depend_on_its_place(self, models: Models, rows: int) -> None:
        tile = Tile(models.prior, 1, rows)
        text = sampler.ids(models, CAPTION)[None]
        found = tile.draw(text, [5] * rows, Sampling(), torch.zeros(0, dtype=torch.int64))
        assert (found == found[0]).all()

    def test_the_path_of_a_cuda_graph_gives_the_same(self, models: Models, twenty: torch.Tensor) -> None:
        """Its step, run without a graph."""
        tile = Tile(models.prior, 1, 16)
        tile._step_of = lambda sampling: lambda position: tile._step_in_place(sampling)  # type: ignore[method-assign]
        given = twenty[0, :3]
        for prefix in (given[:0], given):
            text = sampler.ids(models, CAPTION)[None]
            found = tile.draw(text, SEEDS[:16], Sampling(), prefix)
            assert torch.equal(found, draw(models, CAPTION, SEEDS[:16], Sampling(), prefix=prefix))


class TestDistribution:
    def test_chi_squared_of_whole_pictures(self, tmp_path: Path) -> None:
        """All pictures of two codes in a grid of two, against their exact probabilities by full passes."""
        from gesso.training.dvae.settings import DvaeConfig

        dvae = DvaeConfig(image_size=16, vocabulary=2, width=4, input_width=4, blocks=1)
        models = toy_models(tmp_path, dvae, layers=3)
        count = 4000
        drawn = draw(models, CAPTION, range(count), Sampling())
        counts = np.bincount((drawn * torch.tensor([8, 4, 2, 1])).sum(1).numpy(), minlength=16)
        every = torch.tensor([[number >> shift & 1 for shift in (3, 2, 1, 0)] for number in range(16)])
        expected = exact(models.prior, sampler.ids(models, CAPTION)[None].expand(16, -1), every) * count
        assert abs(expected.sum() - count) < 1e-2
        assert chisquare(counts, expected * (count / expected.sum())).pvalue > 0.01
        assert max(expected) > 2 * count / 16  # far from uniform

    def test_top_k_of_one_takes_the_likeliest(self, models: Models) -> None:
        drawn = draw(models, CAPTION, [0, 1], Sampling(top_k=1))
        assert torch.equal(drawn[0], drawn[1])
        text = sampler.ids(models, CAPTION)[None]
        for position in range(GRID**2):
            logits = models.prior.next_logits(text, drawn[:1], position)
            assert int(logits.argmax()) == int(drawn[0, position])


def exact(prior: Prior, text: torch.Tensor, codes: torch.Tensor) -> np.ndarray:
    """The probabilities of whole pictures."""
    found = torch.ones(len(codes), dtype=torch.float64)
    for position in range(codes.shape[1]):
        shares = prior.next_logits(text, codes, position).double().softmax(1)
        found *= shares[torch.arange(len(codes)), codes[:, position]]
    return found.numpy()


class TestRows:
    def test_given_rows_stay_and_the_others_are_drawn(self, models: Models, twenty: torch.Tensor) -> None:
        prefix = twenty[0, : 2 * GRID]
        found = draw(models, CAPTION, [100, 101], Sampling(), prefix=prefix)
        assert torch.equal(found[:, : 2 * GRID], prefix.expand(2, -1))
        assert torch.equal(found[0], twenty[0])  # the same seed goes on as it began
        assert not torch.equal(found[1, 2 * GRID :], found[0, 2 * GRID :])

    def test_rows_are_told_as_they_are_drawn(self, models: Models, twenty: torch.Tensor) -> None:
        told = list[tuple[int, torch.Tensor]]()
        found = draw(models, CAPTION, SEEDS, Sampling(), on_row=lambda row, codes: told.append((row, codes.clone())))
        assert [row for row, _ in told] == [*range(GRID)] * 2
        for row, codes in told[:GRID]:
            drawn = (row + 1) * GRID
            assert torch.equal(codes[:16, :drawn], twenty[:16, :drawn])
            assert not codes[:16, drawn:].any()
            assert not codes[16:].any()
        assert torch.equal(told[-1][1], twenty)
        assert torch.equal(found, twenty)

    def test_nothing_is_left_to_draw(self, models: Models, twenty: torch.Tensor) -> None:
        with pytest.raises(UserError, match="all 4 rows are given: give 3 at most"):
            draw(models, CAPTION, [0], Sampling(), prefix=twenty[0])


class TestMemory:
    def test_tiles_become_smaller(self, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
        row = sampler.bytes_of_tile(models, 1)
        for free, rows in ((16 * row, 16), (15 * row, 8), (5 * row, 4)):
            monkeypatch.setattr(sampler, "free_memory", lambda device, free=free: free / sampler.RESERVE)
            assert sampler.rows_that_fit(models) == rows

    def test_not_even_the_smallest_fits(self, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampler, "free_memory", lambda device: 1000)
        with pytest.raises(UserError, match="to draw 4 pictures at once takes"):
            sampler.rows_that_fit(models)

    def test_one_tile_is_kept(self, models: Models) -> None:
        models.tiles.clear()
        first = sampler.tile_for(models, 100)
        assert (first.captions, first.candidates) == (1, 16)
        assert sampler.tile_for(models, 16) is first
        assert [sampler.tile_for(models, n).candidates for n in (1, 4, 5, 8, 9)] == [4, 4, 8, 8, 16]
        assert len(models.tiles) == 1


class TestPictures:
    def test_a_picture_is_decoded_alike_in_every_batch(self, models: Models, twenty: torch.Tensor) -> None:
        together = decode_pictures(models, twenty)
        assert together.shape == (20, 8 * GRID, 8 * GRID, 3)
        assert together.dtype == np.uint8
        assert np.array_equal(decode_pictures(models, twenty[7:9]), together[7:9])

    def test_codes_of_the_middle_of_a_picture(self, models: Models) -> None:
        side = models.dvae.config.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (side, side + 6, 3), np.uint8)
        expected = models.dvae.encode(torch.from_numpy(pixels[:, 3:-3].copy())[None]).flatten()
        assert torch.equal(encode_picture(models, pixels), expected)
        assert int(expected.max()) < CODES

    def test_a_small_picture(self, models: Models) -> None:
        with pytest.raises(UserError, match="the picture is 31×40: short side under 32"):
            encode_picture(models, np.zeros((40, 31, 3), np.uint8))


@pytest.mark.parametrize(
    ("caption", "told"),
    [("", "is empty"), ("  ", "is empty"), ("a\x00b", "is no text"), ("caf\udce9", "is no text")],
)
def test_captions_that_are_none(models: Models, caption: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        draw(models, caption, [0], Sampling())


def test_long_and_foreign_captions(models: Models) -> None:
    long = "a red apple " * 100_000
    assert torch.equal(draw(models, long, [0], Sampling()), draw(models, long[:5000], [0], Sampling()))
    assert sampler.is_cut(models, long)
    assert not sampler.is_cut(models, "apple")
    assert draw(models, "一个红苹果 🍎", [0], Sampling()).shape == (1, GRID**2)
