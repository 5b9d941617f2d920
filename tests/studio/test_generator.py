"""The studio with models: small untrained ones."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.errors import UserError
from gesso.generation import sampler
from gesso.generation.generate import check_pretrained, ranker_of
from gesso.generation.models import Models
from gesso.generation.settings import Sampling
from gesso.studio.generator import ModelGenerator
from gesso.studio.request import DrawRequest
from gesso.studio.runs import Prefix, Runs
from tests.drawing import CODES, GRID, toy_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return toy_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def generator(models: Models) -> ModelGenerator:
    return ModelGenerator(models, None, {})


def test_a_run_is_what_the_sampler_draws(models: Models, generator: ModelGenerator) -> None:
    seen: list[tuple[int, ...]] = []
    request = DrawRequest("a red apple", 3, Sampling(temperature=0.9, top_k=20, seed=17))
    with closing(Runs(generator, 0, lambda: 0.0)) as runs:
        run = runs.add(request, None)
        assert run.future
        run.future.result(60)
    drawn = sampler.draw(models, "a red apple", [17, 18, 19], request.sampling)
    pictures = sampler.decode_pictures(models, drawn)
    for candidate, codes, pixels in zip(run.candidates, drawn, pictures, strict=True):
        assert candidate.codes is not None
        assert candidate.codes.tolist() == codes.tolist()
        assert (np.asarray(candidate.pixels) == pixels).all()
        assert (candidate.rows, candidate.score) == (GRID, None)
        seen.append(tuple(codes.tolist()))
    assert len(set(seen)) == 3


def test_rows_come_one_by_one(generator: ModelGenerator) -> None:
    rows, parts = [], []

    def on_row(row: int, codes: np.ndarray) -> None:  # type: ignore[type-arg]
        rows.append(row)
        parts.append(codes.copy())

    codes = generator.draw("a red apple", [1, 2], Sampling(), None, on_row)
    assert rows == list(range(GRID))
    for row, part in zip(rows, parts, strict=True):
        drawn = (row + 1) * GRID
        assert (part[:, :drawn] == codes[:, :drawn]).all()
        assert (part[:, drawn:] == 0).all()


def test_what_on_row_raises_ends_the_drawing(generator: ModelGenerator) -> None:
    def on_row(row: int, codes: np.ndarray) -> None:  # type: ignore[type-arg]
        if row == 1:
            raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        generator.draw("a red apple", [1], Sampling(), None, on_row)


def test_a_prefix_is_kept(generator: ModelGenerator) -> None:
    first = generator.draw("a red apple", [1], Sampling(), None, lambda row, codes: None)
    prefix = Prefix(first[0, : 2 * GRID], 2, "seed 1")
    with closing(Runs(generator, 0, lambda: 0.0)) as runs:
        run = runs.add(DrawRequest("two pears", 2, Sampling(seed=5)), prefix)
        assert run.future
        run.future.result(60)
    for candidate in run.candidates:
        assert candidate.codes is not None
        assert candidate.codes[: 2 * GRID].tolist() == first[0, : 2 * GRID].tolist()
        assert candidate.codes.tolist() != first[0].tolist()


def test_a_picture_as_codes(models: Models, generator: ModelGenerator) -> None:
    side = generator.side
    pixels = np.random.default_rng(0).integers(0, 256, (2 * side, 3 * side, 3), np.uint8)
    codes = generator.encode(pixels)
    assert codes.shape == (GRID**2,)
    assert (codes < CODES).all()
    assert codes.tolist() == sampler.encode_picture(models, pixels).tolist()
    with pytest.raises(UserError, match="the picture is"):
        generator.encode(pixels[: side - 1])


def test_a_caption_that_is_too_long(generator: ModelGenerator) -> None:
    generator.check("a red apple")
    with pytest.raises(UserError, match="the caption has more than the 7 tokens that the model reads: shorten it"):
        generator.check("zzz " * 8)


def test_a_ranker_scores(models: Models) -> None:
    class Bright:
        """Likes what is bright."""

        name, identity = "bright", {"sha256": "ab"}

        def scores(self, caption: str, pictures: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
            return torch.from_numpy(pictures.mean((1, 2, 3)) / 255)

    generator = ModelGenerator(models, Bright(), {})  # type: ignore[arg-type]
    assert generator.ranker == "bright"
    assert generator.identity["ranker"] == {"sha256": "ab"}
    black_and_white = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 255)])
    assert generator.score("a red apple", black_and_white) == [0.0, 1.0]


def test_no_ranker(models: Models, tmp_path: Path) -> None:
    assert ranker_of(models, "", "") is None
    assert ranker_of(models._replace(bundle=str(tmp_path)), "", "") is None
    assert ranker_of(models, "none", "") is None
    with pytest.raises(UserError, match="--pretrained is random without --ranker: give the model of open_clip, too"):
        check_pretrained("", "random")
    with pytest.raises(UserError, match="the ranker runs/none is not a run"):
        ranker_of(models, "runs/none", "")
