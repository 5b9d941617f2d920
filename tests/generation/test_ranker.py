"""Rankers: scores by a trained run and by open_clip's models, against each library's own way; mistakes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from gesso.errors import UserError
from gesso.generation.ranker import open_ranker
from gesso.images import Pixels
from gesso.training.contrastive.weights import open_contrastive, save
from tests.contrastive import CAPTIONS, Inputs, square, train, write_inputs
from tests.runs import write_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def run(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    assert train(inputs, folder, "--steps", "60", "--evaluate_every", "60", "--ema", "0.8") == 0
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of open_clip's form that is small enough for tests, by its name."""
    config = tmp_path_factory.mktemp("open_clip") / "tiny-test-ranker.json"
    config.write_text(
        '{"embed_dim": 24,'
        ' "vision_cfg": {"image_size": 32, "layers": 1, "width": 48, "head_width": 24, "patch_size": 8},'
        ' "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 24, "heads": 1, "layers": 1}}'
    )
    open_clip.add_model_config(config)
    return config.stem


@pytest.fixture(scope="module")
def checkpoint(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(open_clip.create_model(tiny).state_dict(), path)
    return str(path)


def new_squares() -> list[Pixels]:
    """One of each colour that no export holds."""
    return [square(6000 + number) for number in range(len(CAPTIONS))]


class TestTrained:
    def test_each_caption_ranks_its_picture_first(self, run: str) -> None:
        ranker = open_ranker(run, "", CPU)
        for number, caption in enumerate(CAPTIONS):
            assert int(ranker.scores(caption, new_squares()).argmax()) == number

    def test_scores_are_products_of_unit_vectors(self, run: str) -> None:
        ranker = open_ranker(run, "", CPU)
        captions, pictures = ranker.embed_captions(CAPTIONS), ranker.embed_pictures(new_squares())
        assert captions.shape == pictures.shape == (6, 32)
        assert captions.dtype == pictures.dtype == torch.float32
        for found in (captions, pictures):
            torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
        torch.testing.assert_close(ranker.scores(CAPTIONS[2], new_squares()), pictures @ captions[2])

    def test_a_pictures_score_does_not_depend_on_the_others(self, run: str) -> None:
        ranker, pictures = open_ranker(run, "", CPU), [square(number) for number in range(300)]
        together = ranker.embed_pictures(pictures)
        torch.testing.assert_close(together[290], ranker.embed_pictures([pictures[290]])[0], atol=1e-5, rtol=0)

    def test_an_array_is_a_list_of_pictures(self, run: str) -> None:
        ranker = open_ranker(run, "", CPU)
        stacked = np.stack(new_squares())
        torch.testing.assert_close(ranker.embed_pictures(stacked), ranker.embed_pictures(new_squares()))

    def test_pictures_of_the_models_size_are_taken_as_they_are_and_others_resized(self, run: str) -> None:
        """With antialiasing: a fine chequered pattern becomes grey, not one of its colours."""
        ranker = open_ranker(run, "", CPU)
        grey = np.full((32, 32, 3), 128, np.uint8)
        chequered = np.indices((128, 192)).sum(0)[..., None].repeat(3, 2).astype(np.uint8) % 2 * 255
        found = ranker.embed_pictures([grey, chequered])
        assert float(found[0] @ found[1]) > 0.999

    def test_a_long_caption_is_cut_and_that_is_said(self, run: str, capsys: pytest.CaptureFixture[str]) -> None:
        ranker = open_ranker(run, "", CPU)
        capsys.readouterr()
        long = "a red square" + " and a blue one" * 9
        ranker.embed_captions(["a red square", long])
        told = capsys.readouterr().err
        assert told == f"ranking by its beginning, since contrastive reads 10 tokens at most: {long[:60]!r}\n"

    def test_a_bundle_is_the_same_ranker_in_float16(self, run: str, tmp_path: Path) -> None:
        save(open_contrastive(run), str(tmp_path / "ranker.safetensors"))
        shutil.copy(f"{run}/tokenizer.json", tmp_path)
        ours, bundled = open_ranker(run, "", CPU), open_ranker(str(tmp_path), "", CPU)
        torch.testing.assert_close(
            bundled.scores(CAPTIONS[0], new_squares()), ours.scores(CAPTIONS[0], new_squares()), atol=0.01, rtol=0
        )
        assert bundled.identity.keys() == ours.identity.keys()
        assert bundled.identity["sha256"] != ours.identity["sha256"]

    def test_bf16_is_close(self, run: str) -> None:
        scores = [open_ranker(run, "", CPU, form).scores(CAPTIONS[1], new_squares()) for form in ("fp32", "bf16")]
        torch.testing.assert_close(*scores, atol=0.05, rtol=0)
        assert scores[1].dtype == torch.float32

    def test_identity(self, run: str) -> None:
        identity = open_ranker(run, "", CPU).identity
        assert identity | {"sha256": ""} == {
            "name": "contrastive",
            "pretrained": None,
            "sha256": "",
            "image_size": 32,
            "dimension": 32,
        }
        assert len(identity["sha256"]) == 64


class TestOpenClip:
    def test_scores_are_open_clips_own(self, tiny: str, checkpoint: str) -> None:
        """By its model, transform and tokenizer, from a local checkpoint."""
        theirs, _, transform = open_clip.create_model_and_transforms(tiny, pretrained=checkpoint)
        tokens = open_clip.get_tokenizer(tiny)(["a red square"])
        pictures = torch.stack([transform(Image.fromarray(pixels)) for pixels in new_squares()])
        with torch.inference_mode():
            vectors = theirs.eval().encode_image(pictures, normalize=True)
            expected = vectors @ theirs.encode_text(tokens, normalize=True)[0]
        ranker = open_ranker(tiny, checkpoint, CPU)
        torch.testing.assert_close(ranker.scores("a red square", new_squares()), expected, atol=1e-5, rtol=0)
        assert ranker.identity | {"sha256": ""} == {
            "name": tiny,
            "pretrained": None,
            "sha256": "",
            "image_size": 32,
            "dimension": 24,
        }

    def test_random_weights_are_always_the_same(self, tiny: str) -> None:
        one, other = (open_ranker(tiny, "random", CPU) for _ in range(2))
        assert one.identity == other.identity
        assert one.identity["pretrained"] == "random"
        assert one.name == tiny

    def test_what_does_not_fit_its_text_is_cut(self, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
        ranker = open_ranker(tiny, "random", CPU)
        capsys.readouterr()
        ranker.embed_captions(["one two three four five six", "one two three four five six seven"])
        told = capsys.readouterr().err.splitlines()
        assert told == [
            f"ranking by its beginning, since {tiny} reads 6 tokens at most: 'one two three four five six seven'"
        ]

    def test_a_checkpoint_of_another_model(self, tiny: str, tmp_path: Path) -> None:
        torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
        with pytest.raises(UserError, match=rf"--pretrained .*other\.pt does not fit {tiny} \("):
            open_ranker(tiny, str(tmp_path / "other.pt"), CPU)

    def test_without_weights(self, tiny: str) -> None:
        with pytest.raises(UserError, match=f"{tiny} needs weights: give --pretrained and the path of a checkpoint"):
            open_ranker(tiny, "", CPU)

    def test_an_unknown_tag(self) -> None:
        with pytest.raises(UserError, match="--pretrained none is neither a file nor a tag of ViT-B-32: give --pretr"):
            open_ranker("ViT-B-32", "none", CPU)


class TestMistakes:
    def test_an_unknown_name(self) -> None:
        with pytest.raises(UserError) as caught:
            open_ranker("ViT-B-33", "", CPU)
        told = (
            "the ranker ViT-B-33 is not a run of `gesso train contrastive`, a bundle or a model of open_clip: similar"
        )
        assert str(caught.value).startswith(told)
        assert "ViT-B-32" in str(caught.value)

    def test_a_run_of_another_kind(self, tmp_path: Path) -> None:
        path = write_run(tmp_path / "dvae", until=20)
        with pytest.raises(UserError, match=f"{path} holds no trained contrastive model: give the --output of"):
            open_ranker(path, "", CPU)

    def test_a_tag_with_a_run(self, run: str) -> None:
        with pytest.raises(UserError, match="--pretrained openai is for open_clip's models: leave it out with the "):
            open_ranker(run, "openai", CPU)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"none\.safetensors holds no trained contrastive model"):
            open_ranker(str(tmp_path / "none.safetensors"), "", CPU)
