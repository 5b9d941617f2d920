"""Trained contrastive models as they are opened again: runs, and files of a bundle."""

import shutil
from pathlib import Path

import pytest
import torch

from gesso.errors import UserError
from gesso.training import checkpoint
from gesso.training.contrastive.weights import is_contrastive, open_contrastive, save
from tests.contrastive import train, write_inputs
from tests.runs import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    steps = ("--steps", "4", "--evaluate_every", "2", "--save_every", "2")
    assert train(write_inputs(folder), folder / "run", *steps) == 0
    return folder / "run"


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    save(open_contrastive(str(run)), str(tmp_path / "ranker.safetensors"))
    shutil.copy(run / "tokenizer.json", tmp_path)
    return tmp_path


def test_of_a_run_the_averaged_weights_of_its_best_checkpoint(run: Path) -> None:
    best = checkpoint.best_checkpoint(str(run))
    assert best
    average = checkpoint.read_whole(best)["average"]
    opened = open_contrastive(str(run))
    assert dict(opened.model.named_parameters()).keys() == average.keys()
    assert all(torch.equal(value, average[name]) for name, value in opened.model.named_parameters())
    assert not opened.model.training
    assert opened.config.image_size == 32


@pytest.mark.parametrize("name", ["", "ranker.safetensors"])
def test_a_bundle_holds_the_same_model_in_float16(run: Path, bundle: Path, name: str) -> None:
    opened, expected = open_contrastive(str(bundle / name)), open_contrastive(str(run))
    assert (opened.config, opened.tokenizer_sha256) == (expected.config, expected.tokenizer_sha256)
    state = opened.model.state_dict()
    for key, value in expected.model.state_dict().items():
        assert torch.equal(state[key], value.half().float()), key


def test_the_same_weights_are_the_same_bytes(run: Path, bundle: Path) -> None:
    save(open_contrastive(str(run)), str(bundle / "again.safetensors"))
    assert (bundle / "again.safetensors").read_bytes() == (bundle / "ranker.safetensors").read_bytes()


def test_what_is_one(run: Path, bundle: Path, tmp_path: Path) -> None:
    assert is_contrastive(str(run))
    assert is_contrastive(str(bundle))
    assert not is_contrastive(write_run(tmp_path / "dvae", until=20))
    assert not is_contrastive(str(tmp_path / "none"))


def test_another_tokenizer_is_refused(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    with pytest.raises(UserError, match="is not the tokenizer that the model beside it was trained with"):
        open_contrastive(str(bundle))


def test_without_its_tokenizer(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        open_contrastive(str(bundle))


@pytest.mark.parametrize("size", [0, 5, 5000])
def test_a_damaged_file(bundle: Path, size: int) -> None:
    path = bundle / "ranker.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"ranker\.safetensors holds no contrastive model \("):
        open_contrastive(str(bundle))


def test_a_run_of_another_kind_and_one_without_a_checkpoint(run: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "run.json", tmp_path / "begun")
    for path in (write_run(tmp_path / "dvae", until=20), str(tmp_path / "begun"), str(tmp_path / "none")):
        with pytest.raises(UserError, match=f"{path} holds no trained contrastive model: give the --output of a"):
            open_contrastive(path)
