"""What is opened of runs and of bundles, and what is told of those that are damaged or do not fit each other."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gesso import cli
from gesso.errors import UserError
from gesso.generation import models as opening
from gesso.generation.models import open_models, precision_of
from gesso.generation.sampler import draw
from gesso.generation.settings import Sampling
from gesso.training.prior.settings import Tokens
from tests.drawing import CODES, GRID, write_prior, write_runs, write_tokenizer
from tests.dvaes import CONFIG, write_dvae

CPU = torch.device("cpu")


def test_a_run_with_what_it_names(tmp_path: Path) -> None:
    prior, dvae = write_runs(tmp_path)
    found = open_models(prior, "", CPU, "auto")
    given = open_models(f"{prior}/checkpoints/0000100.pt", dvae, CPU, "fp32", f"{tmp_path}/tokenizer")
    shas = [[each.identity[name]["sha256"] for name in ("prior", "dvae", "tokenizer")] for each in (found, given)]
    assert shas[0] == shas[1]
    assert found.identity["precision"] == "fp32"
    assert (found.grid, found.bundle, found.prior.training) == (GRID, "", False)
    codes = [draw(each, "a red apple", [0, 1], Sampling()) for each in (found, given)]
    assert torch.equal(codes[0], codes[1])


def test_a_run_that_moved_with_its_dvae(tmp_path: Path) -> None:
    write_runs(tmp_path / "old")
    record = tmp_path / "old/prior/run.json"
    told = json.loads(record.read_text())
    record.write_text(json.dumps({**told, "dvae": {"path": "../dvae"}}))
    (tmp_path / "old").rename(tmp_path / "new")
    assert open_models(str(tmp_path / "new/prior"), "", CPU, "auto").identity["dvae"]["path"] == f"{tmp_path}/new/dvae"


def test_precisions() -> None:
    cuda = torch.device("cuda")
    assert [precision_of("auto", CPU, trained) for trained in ("fp32", "fp16", "bf16")] == ["fp32"] * 3
    assert [precision_of("auto", cuda, trained) for trained in ("fp32", "fp16", "bf16")] == ["fp16", "fp16", "bf16"]
    assert precision_of("bf16", CPU, "fp32") == "bf16"


def no_dvae(root: Path) -> tuple[str, str]:
    prior, _ = write_runs(root)
    (root / "dvae").rename(root / "gone")
    return prior, ""


def another_dvae(root: Path) -> tuple[str, str]:
    prior, _ = write_runs(root)
    return prior, write_dvae(root / "other.pt", seed=1)


def another_tokenizer(root: Path) -> tuple[str, str]:
    prior, dvae = write_runs(root)
    path = root / "prior/tokenizer.json"
    path.write_text(path.read_text() + "\n")
    return prior, dvae


def no_tokenizer(root: Path) -> tuple[str, str]:
    prior, dvae = write_runs(root)
    (root / "prior/tokenizer.json").unlink()
    return prior, dvae


def truncated(root: Path) -> tuple[str, str]:
    prior, dvae = write_runs(root)
    path = root / "prior/checkpoints/0000100.pt"
    path.write_bytes(path.read_bytes()[:5000])
    return prior, dvae


def without_weights(root: Path) -> tuple[str, str]:
    prior, dvae = write_runs(root)
    (root / "prior/checkpoints/0000100.pt").unlink()
    return prior, dvae


def a_dvae_as_prior(root: Path) -> tuple[str, str]:
    _, dvae = write_runs(root)
    return f"{dvae}/checkpoints/0000100.pt", dvae


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (no_dvae, "is not at .*dvae any more: give --dvae"),
        (another_dvae, "--dvae .*other.pt is not the one that .*prior was trained with"),
        (another_tokenizer, "--tokenizer .*prior is not the one that .*prior was trained with"),
        (no_tokenizer, "has no tokenizer.json: give --tokenizer"),
        (truncated, "is not a readable prior"),
        (without_weights, "prior holds no prior: give the --output of a `gesso train prior`"),
        (a_dvae_as_prior, "is not a readable prior"),
        (lambda root: (str(root / "none"), ""), "none does not exist"),
    ],
)
def test_mistakes(tmp_path: Path, make: Callable[[Path], tuple[str, str]], told: str) -> None:
    with pytest.raises(UserError, match=told):
        open_models(*make(tmp_path), CPU, "auto")


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (Tokens(2 * GRID, CODES, 256), "--dvae has grids of 4×4 of 64 codes, and --prior draws 8×8 of 64"),
        (Tokens(GRID, CODES + 1, 256), "and --prior draws 4×4 of 65"),
        (Tokens(GRID, CODES, 1000), "--tokenizer has .* tokens, and --prior knows 1,000"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, tokens: Tokens, told: str) -> None:
    dvae, tokenizer = write_dvae(tmp_path / "dvae.pt"), write_tokenizer(tmp_path / "tokenizer")
    from gesso.training.dvae.weights import open_dvae

    sha256 = open_dvae(dvae).identity()["weights_sha256"]
    prior = write_prior(tmp_path / "prior", tokenizer, dvae, sha256, tokens=tokens)
    with pytest.raises(UserError, match=told):
        open_models(prior, dvae, CPU, "auto")


def test_a_dvae_of_other_pictures_has_the_same_weights_and_another_grid(tmp_path: Path) -> None:
    prior, _ = write_runs(tmp_path)
    other = write_dvae(tmp_path / "other.pt", config=replace(CONFIG, image_size=64))
    with pytest.raises(UserError, match="--dvae has grids of 8×8 of 64 codes"):
        open_models(prior, other, CPU, "auto")


class TestBundle:
    @pytest.fixture(scope="class")
    @staticmethod
    def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
        return write_runs(tmp_path_factory.mktemp("runs"))[0]

    @pytest.fixture
    def bundle(self, runs: str, tmp_path: Path) -> str:
        output = str(tmp_path / "bundle")
        assert cli.main(["bundle", "--prior", runs, "--output", output]) == 0
        return output

    def test_the_weights_in_float16(self, runs: str, bundle: str) -> None:
        of_run, of_bundle = open_models(runs, "", CPU, "auto"), open_models(bundle, "", CPU, "auto")
        for one, other in ((of_run.prior, of_bundle.prior), (of_run.dvae, of_bundle.dvae)):
            expected = {name: value.half().float() for name, value in one.state_dict().items()}
            found = other.state_dict()
            assert expected.keys() == found.keys()
            assert all(torch.equal(found[name], value) for name, value in expected.items())
        assert of_bundle.prior.config == of_run.prior.config
        assert of_bundle.bundle == bundle
        assert draw(of_bundle, "a red apple", [0], Sampling()).shape == (1, GRID**2)

    def test_the_same_bytes_again(self, runs: str, bundle: str, tmp_path: Path) -> None:
        again = tmp_path / "again"
        assert cli.main(["bundle", "--prior", runs, "--output", str(again)]) == 0
        names = {path.name for path in again.iterdir()}
        assert names == {"model.json", "prior.safetensors", "dvae.safetensors", "tokenizer.json"}
        assert all((again / name).read_bytes() == Path(bundle, name).read_bytes() for name in names)

    def test_status_and_verify(self, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["status", bundle]) == 0
        assert "model.json is written\nfinished" in capsys.readouterr().out
        assert cli.main(["verify", bundle]) == 0
        Path(bundle, "dvae.safetensors").write_bytes(b"short")
        assert cli.main(["verify", bundle]) == 1
        assert "dvae.safetensors: 5 bytes, in model.json" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("prior.safetensors", b"x", "prior.safetensors differs from model.json in its sha256"),
            ("dvae.safetensors", None, "dvae.safetensors is missing"),
            ("tokenizer.json", b"{}", "tokenizer.json differs from model.json"),
            ("model.json", b"{", "model.json is damaged"),
            ("model.json", b'{"format": 2, "kind": "bundle", "files": {"tokenizer.json": {}}}', "another format"),
        ],
    )
    def test_damage(self, bundle: str, name: str, content: bytes | None, told: str) -> None:
        if content is None:
            Path(bundle, name).unlink()
        else:
            Path(bundle, name).write_bytes(content)
        with pytest.raises(UserError, match=told):
            open_models(bundle, "", CPU, "auto")

    def test_flags_that_a_bundle_answers_itself(self, bundle: str) -> None:
        with pytest.raises(UserError, match=r"--dvae is other, and .*bundle is a bundle, which has its own"):
            open_models(bundle, "other", CPU, "auto")

    def test_other_kinds_are_refused(self, runs: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["bundle", "--prior", f"{runs}/../dvae", "--output", f"{runs}/../made"]) == 2
        assert "run.json" not in capsys.readouterr().err


def test_the_shipped_bundle_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opening.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"the model that gesso ships is not installed .* give --prior"):
        open_models("", "", CPU, "auto")
