"""`gesso generate`: pictures, what is told of them, re-ranking, going on after a kill, and mistakes."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gesso import cli
from gesso.generation import generate, ranker
from gesso.generation.generate import default_output
from gesso.generation.models import open_models
from gesso.generation.output import Output
from gesso.generation.sampler import decode_pictures, draw
from gesso.generation.settings import Sampling
from tests.drawing import CAPTIONS, GRID, write_runs

SIDE = 8 * GRID


class Bright:
    """Likes bright pictures of long captions."""

    name = "bright"

    def __init__(self, name: str, pretrained: str) -> None:
        self.identity = {"name": name, "pretrained": pretrained}

    def scores(self, caption: str, pictures: Any) -> Tensor:
        return torch.tensor([each.mean() / 255 + len(caption) / 1000 for each in pictures])


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_runs(tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture(autouse=True)
def bright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker, "open_ranker", lambda name, pretrained, device: Bright(name, pretrained))


def run(prior: str, output: Path, *more: str, caption: str = CAPTIONS[0]) -> int:
    return cli.main(["generate", *([caption] if caption else []), "--prior", prior, "--output", str(output), *more])


def told(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "generated.json").read_text()))


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


class TestPictures:
    def test_those_of_the_seeds(self, prior: str, tmp_path: Path) -> None:
        assert run(prior, tmp_path / "out", "--n", "5", "--seed", "7") == 0
        models = open_models(prior, "", torch.device("cpu"), "auto")
        expected = decode_pictures(models, draw(models, CAPTIONS[0], range(7, 12), Sampling()))
        entries = told(tmp_path / "out")["pictures"]
        assert [(each["seed"], each["rank"], each["score"]) for each in entries] == [(7 + i, i, None) for i in range(5)]
        for entry, pixels in zip(entries, expected, strict=True):
            with Image.open(tmp_path / "out" / entry["file"]) as image:
                assert np.array_equal(np.asarray(image), pixels)

    def test_one_seed_is_one_picture(self, prior: str, tmp_path: Path) -> None:
        assert run(prior, tmp_path / "many", "--n", "20", "--keep", "20") == 0
        assert run(prior, tmp_path / "one", "--n", "1", "--seed", "17") == 0
        pictures = [Image.open(tmp_path / name) for name in ("many/00000/17.png", "one/00000/00.png")]
        assert np.array_equal(*map(np.asarray, pictures))

    def test_what_the_json_and_the_text_of_a_picture_tell(self, prior: str, tmp_path: Path) -> None:
        flags = ("--temperature", "0.5", "--top_k", "9", "--top_p", "0.9", "--seed", "3")
        assert run(prior, tmp_path / "out", "--n", "2", *flags) == 0
        found = told(tmp_path / "out")
        assert {name: found[name] for name in ("format", "kind", "n", "keep", "ranker", "image", "scores")} == {
            "format": 1,
            "kind": "generated",
            "n": 2,
            "keep": 2,
            "ranker": None,
            "image": None,
            "scores": None,
        }
        assert found["sampling"] == {"temperature": 0.5, "top_k": 9, "top_p": 0.9, "seed": 3}
        entry = found["pictures"][1]
        body = (tmp_path / "out/00000/01.png").read_bytes()
        assert entry == {
            "file": "00000/01.png",
            "caption": "a red apple",
            "caption_index": 0,
            "rank": 1,
            "seed": 4,
            "score": None,
            "bytes": len(body),
            "sha256": sha256(body).hexdigest(),
        }
        with Image.open(tmp_path / "out/00000/01.png") as image:
            text = json.loads(image.info["gesso"])
        settings = {name: found[name] for name in ("models", "ranker", "sampling", "n", "keep", "image")}
        assert text == {**{key: entry[key] for key in entry if key not in ("bytes", "sha256")}, **settings}
        assert str(tmp_path) not in json.dumps(text["models"]).replace(str(Path(prior).parent), "")

    def test_captions_of_a_file(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS) + "\n")
        flags = ("--captions", str(tmp_path / "captions.txt"), "--n", "2")
        assert run(prior, tmp_path / "out", *flags, caption="") == 0
        entries = told(tmp_path / "out")["pictures"]
        assert [(each["caption"], each["file"]) for each in entries] == [
            (caption, f"{index:05d}/{rank:02d}.png") for index, caption in enumerate(CAPTIONS) for rank in (0, 1)
        ]
        captured = capsys.readouterr()
        assert captured.out == f"6 pictures in {tmp_path}/out; contact_sheet.png shows them\n"
        assert "6 of 6 pictures (100.0%)" in captured.err
        assert run(prior, tmp_path / "one", "--n", "2", caption=CAPTIONS[1]) == 0
        assert (tmp_path / "out/contact_sheet.png").exists()
        for rank in (0, 1):
            pair = (f"out/00001/{rank:02d}.png", f"one/00000/{rank:02d}.png")
            assert np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in pair))

    def test_first_rows_of_a_picture(self, prior: str, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "given.png")
        flags = ("--image", str(tmp_path / "given.png"), "--n", "2")
        assert run(prior, tmp_path / "half", *flags) == 0
        assert run(prior, tmp_path / "three", *flags, "--rows", "3") == 0
        body = sha256((tmp_path / "given.png").read_bytes()).hexdigest()
        assert told(tmp_path / "half")["image"] == {"path": "../given.png", "sha256": body, "rows": 2}
        assert told(tmp_path / "three")["image"]["rows"] == 3
        models = open_models(prior, "", torch.device("cpu"), "auto")
        codes = models.dvae.encode(torch.from_numpy(pixels)[None]).flatten()
        drawn = draw(models, CAPTIONS[0], [0, 1], Sampling(), prefix=codes[: 3 * GRID])
        expected = decode_pictures(models, drawn)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "three/00000/01.png")), expected[1])

    def test_long_captions_are_told(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(prior, tmp_path / "out", "--n", "1", caption="x" * 1_000_000) == 0
        assert f"only the first 7 tokens are read of '{'x' * 39}…'" in capsys.readouterr().err


class TestRanking:
    def test_the_best_first_with_their_scores(self, prior: str, tmp_path: Path) -> None:
        assert run(prior, tmp_path / "out", "--n", "12", "--keep", "3", "--ranker", "runs/ranker") == 0
        found = told(tmp_path / "out")
        (scores,) = found["scores"]
        order = sorted(range(12), key=lambda seed: -scores[seed])
        assert len(set(scores)) > 6
        assert [(each["seed"], each["score"]) for each in found["pictures"]] == [(i, scores[i]) for i in order[:3]]
        assert found["ranker"] == {"name": "runs/ranker", "pretrained": ""}
        with Image.open(tmp_path / "out/00000/00.png") as image:
            expected = np.asarray(image).mean() / 255 + len(CAPTIONS[0]) / 1000
        assert scores[order[0]] == pytest.approx(expected, abs=1e-6)
        assert (tmp_path / "out/gain.png").exists()

    def test_without_one_the_order_is_that_of_seeds(self, prior: str, tmp_path: Path) -> None:
        assert run(prior, tmp_path / "out", "--n", "4", "--ranker", "none") == 0
        assert [each["seed"] for each in told(tmp_path / "out")["pictures"]] == [0, 1, 2, 3]
        assert not (tmp_path / "out/gain.png").exists()

    def test_a_bundles_own_is_the_default(self, prior: str, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        assert cli.main(["bundle", "--prior", prior, "--output", str(bundle)]) == 0
        (bundle / "ranker.safetensors").write_bytes(b"the fake does not read it")
        assert run(str(bundle), tmp_path / "out", "--n", "2") == 0
        assert told(tmp_path / "out")["ranker"] == {"name": str(bundle), "pretrained": ""}
        assert run(str(bundle), tmp_path / "none", "--n", "2", "--ranker", "none") == 0
        assert told(tmp_path / "none")["ranker"] is None


class TestAgain:
    @pytest.mark.parametrize(
        "killed_at", ["00001/01.png", "00002/pictures.json", "contact_sheet.png", "generated.json"]
    )
    def test_killed_and_started_again(
        self, prior: str, tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
        flags = ("--captions", str(tmp_path / "captions.txt"), "--n", "3", "--ranker", "x")
        assert run(prior, tmp_path / "whole", *flags, caption="") == 0
        write = generate.storage.write_whole

        def killed(path: str) -> Any:
            if path.endswith(killed_at):
                raise OSError(28, "No space left on device", path)
            return write(path)

        with monkeypatch.context() as patch:
            patch.setattr("gesso.storage.write_whole", killed)
            assert run(prior, tmp_path / "out", *flags, caption="") == 2
        assert not (tmp_path / "out/generated.json").exists()
        assert run(prior, tmp_path / "out", *flags, caption="") == 0
        assert files(tmp_path / "out") == files(tmp_path / "whole")

    def test_a_finished_one_is_left_alone(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(prior, tmp_path / "out", "--n", "2") == 0
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
        assert run(prior, tmp_path / "out", "--n", "2") == 0
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")} == before
        assert "is finished: nothing to do" in capsys.readouterr().out

    def test_other_settings(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(prior, tmp_path / "out", "--n", "2") == 0
        assert run(prior, tmp_path / "out", "--n", "3") == 2
        assert "was begun with other settings: n was 2, is 3; keep was 2, is 3; give those" in capsys.readouterr().err
        assert run(prior, tmp_path / "out", "--n", "2", caption="two pears") == 2
        assert "captions_sha256 was" in capsys.readouterr().err

    def test_outputs_without_a_name(self, prior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for flags in (("--n", "1"), ("--n", "1"), ("--n", "2"), ("--n", "1", "--seed", "5")):
            assert cli.main(["generate", CAPTIONS[0], "--prior", prior, *flags]) == 0
        names = sorted(path.name for path in (tmp_path / "generated").iterdir())
        assert names == ["a-red-apple", "a-red-apple-2", "a-red-apple-3"]

    def test_status_and_verify(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        assert run(prior, out, "--n", "2") == 0
        shutil.copytree(out, tmp_path / "begun")
        (tmp_path / "begun/generated.json").unlink()
        capsys.readouterr()
        assert cli.main(["status", str(out)]) == 0
        assert capsys.readouterr().out == "1 of 1 captions (100.0%)\nfinished\n"
        assert cli.main(["verify", str(out)]) == 0
        assert cli.main(["verify", str(tmp_path / "begun")]) == 1
        assert "unfinished: run the same `gesso generate` again" in capsys.readouterr().out

    def test_damage_is_found_and_mended(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        assert run(prior, out, "--n", "2") == 0
        whole = files(out)
        picture = out / "00000/01.png"
        picture.write_bytes(picture.read_bytes()[:-1] + b"x")
        assert cli.main(["verify", str(out)]) == 1
        assert "00000/01.png: sha256 differs from generated.json" in capsys.readouterr().out
        assert cli.main(["verify", str(out), "--repair", "--yes"]) == 0
        assert run(prior, out, "--n", "2") == 0
        assert files(out) == whole


def small_picture(folder: Path) -> str:
    Image.new("RGB", (SIDE - 1, 100)).save(folder / "small.png")
    return str(folder / "small.png")


def truncated_picture(folder: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:2000])
    return str(folder / "cut.png")


def no_picture(folder: Path) -> str:
    (folder / "no.png").write_text("no picture")
    return str(folder / "no.png")


class TestMistakes:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--n", "4", "--keep", "5"], "--keep is 5 and --n is 4: keep no more than are drawn"),
            (["--n", "0"], "--n is 0: give 1 or more"),
            (["--rows", "2"], "--rows is 2 without --image"),
            (["--rows", "0"], "--rows is 0: give 1 or more"),
            (["--pretrained", "openai"], "--pretrained is openai without --ranker"),
            (["--image", "none.png"], "--image none.png is not there"),
            (["--captions", "more.txt"], "give one caption"),
            (["--temperature", "0"], "--temperature is 0.0"),
            (["--device", "tpu"], "--device is 'tpu': give one of auto, cpu, cuda"),
            (["--precision", "int8"], "--precision is 'int8'"),
        ],
    )
    def test_flags(
        self, prior: str, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(prior, tmp_path / "out", *flags) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"gesso: {message}")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (small_picture, "small.png is 31×100 pixels: give one with 32 or more each way"),
            (truncated_picture, "cut.png is damaged or no picture"),
            (no_picture, "no.png is damaged or no picture"),
        ],
    )
    def test_pictures(
        self,
        prior: str,
        tmp_path: Path,
        make: Callable[[Path], str],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run(prior, tmp_path / "out", "--image", make(tmp_path)) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_too_many_rows(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "given.png")
        assert run(prior, tmp_path / "out", "--image", str(tmp_path / "given.png"), "--rows", "4") == 2
        assert "--rows is 4: give 1 to 3, of the grid's 4" in capsys.readouterr().err

    def test_another_kind_in_the_output(self, prior: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["generate", "x", "--prior", prior, "--output", prior]) == 2
        assert (
            "holds a training of a prior already; `gesso generate` writes generated pictures" in capsys.readouterr().err
        )

    def test_a_dvae_as_prior(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "dvae").mkdir()
        (tmp_path / "dvae/run.json").write_text('{"kind": "dvae"}')
        assert run(str(tmp_path / "dvae"), tmp_path / "out") == 2
        assert (
            "is a training of a dVAE; `gesso generate --prior` wants a training of a prior" in capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("caption", "captions", "name"),
    [
        ("A red apple, on a table!", "", "a-red-apple-on-a-table"),
        ("x" * 100, "", "x" * 48),
        ("红苹果", "", "红苹果"),
        ("!!!", "", "picture"),
        ("a cat", "data/coco_captions.txt", "coco_captions"),
        ("a cat", "captions", "captions"),
    ],
)
def test_names_of_outputs(caption: str, captions: str, name: str) -> None:
    assert default_output(caption, captions) == f"generated/{name}"


def test_a_folder_of_the_user_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert not Output(str(tmp_path / "mine"), ["a"], {"ranker": None}).is_free
    assert Output(str(tmp_path / "new"), ["a"], {"ranker": None}).is_free


class TestRecommendation:
    """What a bundle says of sampling takes the place of defaults alone."""

    @pytest.fixture(scope="class")
    def bundle(self, prior: str, tmp_path_factory: pytest.TempPathFactory) -> str:
        output = str(tmp_path_factory.mktemp("made") / "bundle")
        assert cli.main(["bundle", "--prior", prior, "--output", output, "--temperature", "0.5", "--top_k", "3"]) == 0
        return output

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ((), {"temperature": 0.5, "top_k": 3, "top_p": 1.0, "seed": 0}),
            (("--temperature", "1", "--top_p", "0.9"), {"temperature": 1.0, "top_k": 3, "top_p": 0.9, "seed": 0}),
        ],
    )
    def test_of_a_bundle(self, bundle: str, tmp_path: Path, flags: tuple[str, ...], expected: dict[str, Any]) -> None:
        assert run(bundle, tmp_path / "out", "--n", "1", *flags) == 0
        assert told(tmp_path / "out")["sampling"] == expected

    def test_of_a_run_there_is_none(self, prior: str, tmp_path: Path) -> None:
        assert run(prior, tmp_path / "out", "--n", "1") == 0
        assert told(tmp_path / "out")["sampling"] == {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0}

    def test_of_what_cannot_be_sampled_by(self, prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["bundle", "--prior", prior, "--output", str(tmp_path / "bundle"), "--top_p", "2"]) == 2
        assert "--top_p is 2.0: give more than 0, and 1 at most" in capsys.readouterr().err
        assert not (tmp_path / "bundle").exists()
