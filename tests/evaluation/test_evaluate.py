"""`gesso evaluate` on small real pictures: rows, files, reruns, and one line for each mistake."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image

from gesso import cli
from gesso.dataset import kinds
from gesso.evaluation import evaluator, prepare
from gesso.evaluation.fid import frechet_distance
from gesso.evaluation.inception import open_inception
from gesso.generation.models import shipped
from tests.evaluations import (
    PHOTOGRAPHS,
    cut,
    write_annotations,
    write_exclusion,
    write_generated,
    write_pictures,
)
from tests.exports import write_export
from tests.inception import QuickInception, random_state, real_inception, write_state


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> QuickInception:
    inception = QuickInception()
    monkeypatch.setattr(evaluator, "open_inception", lambda path, device: inception)
    return inception


class FakeRanker:
    """A picture matches a caption that names its mean brightness."""

    identity = {"name": "fake"}  # noqa: RUF012 - as Ranker's

    def embed_captions(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.stack([self._embed(float(caption)) for caption in captions])

    def embed_pictures(self, pictures: Sequence[Any]) -> torch.Tensor:
        return torch.stack([self._embed(float(np.mean(picture))) for picture in pictures])

    def _embed(self, brightness: float) -> torch.Tensor:
        angle = torch.tensor(brightness / 255 * torch.pi / 2)
        return torch.stack([angle.cos(), angle.sin()])


def run(generated: str, reference: str, *more: str) -> int:
    return cli.main(["evaluate", "--generated", generated, "--reference", reference, "--inception", "x.pth", *more])


def pictures(folder: str) -> list[Any]:
    """Those of a folder of squares, as they are."""
    return [np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.*"))]


def record(output: str) -> dict[str, Any]:
    return dict(json.loads((Path(output) / "evaluation.json").read_text()))


def values(rows: list[dict[str, Any]], name: str = "fid") -> list[float]:
    return [row[name]["value"] for row in rows]


def sides(tmp_path: Path, count: int = 20) -> tuple[str, str]:
    """Two halves of real pictures."""
    halves = PHOTOGRAPHS[: 2 * count : 2], PHOTOGRAPHS[1 : 2 * count : 2]
    return write_pictures(tmp_path / "a", halves[0]), write_pictures(tmp_path / "b", halves[1])


class TestRows:
    def test_a_row_for_each_radius(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        generated, reference = sides(tmp_path)
        assert run(generated, reference, "--blur", "4", "0", "1") == 0
        found = record(f"{generated}/evaluation")
        assert [(row["pictures"], row["blur"]) for row in found["rows"]] == [("all", 0.0), ("all", 1.0), ("all", 4.0)]
        for row in found["rows"]:
            assert (row["generated"], row["reference"], row["clip_score"]) == (20, 20, None)
            for name in ("fid", "inception_score", "kid"):
                assert row[name]["low"] < row[name]["value"] < row[name]["high"]
        assert found["settings"] == {"size": 64, "resize": "clean", "ranks": 1, "resamples": 1000, "seed": 2020}
        assert found["generated"]["path"] == ".."
        assert found["models"] == {"inception": {"inception_sha256": "quick", "resize": "clean"}}
        out = capsys.readouterr().out
        assert out.count("| all |") == 3
        assert "A side has 20 pictures: with fewer than 109 a covariance of 108 features lacks rank" in out
        assert "No CLIP score: --ranker gives one.\n" in out
        assert kinds.recognise(f"{generated}/evaluation") == kinds.KINDS["evaluation"]

    def test_the_same_command_again_computes_nothing_and_writes_the_same_bytes(
        self, tmp_path: Path, quick: QuickInception
    ) -> None:
        generated, reference = sides(tmp_path)
        names = ("evaluation.json", "evaluation.md", "evaluation.png")
        written = []
        for computed in (80, 0):
            quick.pictures = 0
            assert run(generated, reference, "--blur", "0", "2") == 0
            assert quick.pictures == computed
            written.append([(tmp_path / "a/evaluation" / name).read_bytes() for name in names])
        assert written[0] == written[1]

    def test_seeds_decide_intervals_alone(self, tmp_path: Path, quick: QuickInception) -> None:
        quick.classifier = None
        generated, reference = sides(tmp_path)
        found = []
        for seed in ("1", "2", "1"):
            assert run(generated, reference, "--blur", "0", "--seed", seed) == 0
            found.append(record(f"{generated}/evaluation")["rows"][0]["fid"])
        assert found[0] == found[2]
        assert found[0]["value"] == found[1]["value"]
        assert found[0]["low"] != found[1]["low"]

    def test_splits_of_an_export(self, tmp_path: Path) -> None:
        path = write_export(tmp_path / "clean", (14, 12))
        output = str(tmp_path / "out")
        assert run(f"{path}/train", f"{path}/validation", "--blur", "0", "--size", "32", "--output", output) == 0
        found = record(output)
        assert (found["rows"][0]["generated"], found["rows"][0]["reference"]) == (14, 12)
        assert (found["reference"]["kind"], found["settings"]["size"]) == ("shards", 32)

    def test_smaller_references_are_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        generated = write_pictures(tmp_path / "a", PHOTOGRAPHS[:12])
        reference = write_pictures(tmp_path / "b", PHOTOGRAPHS[12:15], side=40)
        write_pictures(tmp_path / "b/large", PHOTOGRAPHS[15:20], side=80)
        assert run(generated, reference, "--blur", "0") == 0
        assert "3 references were smaller than 64×64 and were enlarged.\n" in capsys.readouterr().out

    def test_no_score_is_told_with_its_reason(
        self, tmp_path: Path, quick: QuickInception, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generated, reference = sides(tmp_path, 4)
        assert run(generated, reference, "--blur", "0") == 0
        assert "No Inception Score of fewer than 10 generated pictures" in capsys.readouterr().out
        quick.classifier = None
        assert run(generated, reference, "--blur", "0") == 0
        assert "No Inception Score: --inception x.pth has no classifier" in capsys.readouterr().out
        assert record(f"{generated}/evaluation")["rows"][0]["inception_score"] is None


class TestOverlap:
    def test_rows_with_and_without(self, tmp_path: Path) -> None:
        """What `gesso generate` made for the captions of COCO's pictures; two captions belong to the overlap."""
        captions = {f"{path.stem}.jpg": [f"a picture of {path.stem}"] for path in PHOTOGRAPHS[:12]}
        reference = write_pictures(tmp_path / "coco", PHOTOGRAPHS[:12])
        texts = [one for each in captions.values() for one in each]
        generated = write_generated(tmp_path / "out", PHOTOGRAPHS[20:44], texts)
        excluded = write_exclusion(tmp_path / "x.json", [PHOTOGRAPHS[3].stem, PHOTOGRAPHS[5].stem, "elsewhere"])
        annotations = write_annotations(tmp_path / "c.json", captions)
        assert run(generated, reference, "--exclude", excluded, "--annotations", annotations, "--blur", "0", "1") == 0
        found = record(f"{generated}/evaluation")
        counts = [(row["pictures"], row["generated"], row["reference"]) for row in found["rows"]]
        assert counts == [("all", 12, 12)] * 2 + [("without the overlap", 10, 10)] * 2
        assert found["notes"][0].startswith("1 of the 3 references that --exclude names are not in")
        less = write_pictures(tmp_path / "less", [path for at, path in enumerate(PHOTOGRAPHS[:12]) if at not in (3, 5)])
        kept = [text for at, text in enumerate(texts) if at not in (3, 5)]
        fewer = write_generated(tmp_path / "fewer", PHOTOGRAPHS[20:44], texts)
        listing = json.loads((tmp_path / "fewer/generated.json").read_text())
        listing["pictures"] = [entry for entry in listing["pictures"] if entry["caption"] in kept]
        (tmp_path / "fewer/generated.json").write_text(json.dumps(listing))
        assert run(fewer, less, "--blur", "0", "1") == 0
        assert values(record(f"{fewer}/evaluation")["rows"]) == pytest.approx(values(found["rows"][2:]), rel=1e-9)

    def test_ranks(self, tmp_path: Path) -> None:
        reference = write_pictures(tmp_path / "b", PHOTOGRAPHS[:4])
        generated = write_generated(tmp_path / "out", PHOTOGRAPHS[4:12], ["a", "b", "c"], keep=3)
        for ranks, count in (("1", 3), ("2", 6), ("0", 9)):
            assert run(generated, reference, "--blur", "0", "--ranks", ranks) == 0
            assert record(f"{generated}/evaluation")["rows"][0]["generated"] == count


class TestRanker:
    def test_the_score_is_of_each_picture_with_its_caption(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evaluator, "open_ranker", lambda name, pretrained, device: FakeRanker())
        levels = [str(np.mean(np.asarray(cut(path, 64)))) for path in PHOTOGRAPHS[:6]]
        reference = write_pictures(tmp_path / "b", PHOTOGRAPHS[6:12])
        generated = write_generated(tmp_path / "out", PHOTOGRAPHS[:6], levels, keep=1)
        assert run(generated, reference, "--blur", "0", "--ranker", "fake") == 0
        found = record(f"{generated}/evaluation")
        assert found["rows"][0]["clip_score"]["value"] == pytest.approx(100, abs=1e-3)
        assert found["models"]["ranker"] == {"ranker": {"name": "fake"}}

    def test_without_inception_distances_are_of_its_embeddings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(evaluator, "open_ranker", lambda name, pretrained, device: FakeRanker())
        generated, reference = sides(tmp_path)
        flags = ("--generated", generated, "--reference", reference, "--blur", "0", "--ranker", "fake")
        assert cli.main(["evaluate", *flags]) == 0
        found = record(f"{generated}/evaluation")
        embedded = [FakeRanker().embed_pictures(pictures(each)).double().numpy() for each in (generated, reference)]
        expected = frechet_distance(*embedded).value
        assert found["rows"][0]["fid"]["value"] == pytest.approx(expected, rel=1e-5)
        assert found["rows"][0]["inception_score"] is None
        assert found["models"] == {"embeddings": {"embeddings_of": {"name": "fake"}}}
        assert "Distances are between the embeddings of fake, not Inception's" in capsys.readouterr().out

    def test_without_both_the_shipped_ranker_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def opened(name: str, pretrained: str, device: torch.device) -> FakeRanker:
            asked.append(name)
            return FakeRanker()

        monkeypatch.setattr(evaluator, "open_ranker", opened)
        generated, reference = sides(tmp_path)
        assert cli.main(["evaluate", "--generated", generated, "--reference", reference, "--blur", "0"]) == 0
        assert asked == [shipped()]

    def test_without_captions(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        generated, reference = sides(tmp_path, 3)
        assert run(generated, reference, "--ranker", "fake") == 2
        assert f"--ranker fake: {generated} has no captions to rate by" in capsys.readouterr().err


class TestMistakes:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--blur", "-1"], "--blur has -1: give radii of 0 pixels or more"),
            (["--blur", "nan"], "--blur has nan: give radii of 0 pixels or more"),
            (["--resize", "cubic"], "--resize is 'cubic': give one of clean, legacy"),
            (["--resamples", "10"], "--resamples is 10: give 100 or more"),
            (["--exclude", "none.json"], "--exclude none.json cannot be read (No such file or directory): give the"),
            (["--annotations", "none.json"], "--annotations none.json cannot be read (No such file or directory)"),
            (
                ["--reference", "none"],
                "--reference none holds no pictures: give a folder of gif, jpeg, jpg, png, webp files",
            ),
        ],
    )
    def test_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
        generated, reference = sides(tmp_path, 2)
        assert run(generated, reference, *flags) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"gesso: {message}")
        assert error.count("\n") == 1
        assert not (tmp_path / "a/evaluation").exists()

    def test_too_few_pictures(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        generated, reference = sides(tmp_path, 1)
        assert run(generated, reference) == 2
        message = (
            f"gesso: --generated {generated} has 1 pictures: FID needs 2 at least, and is comparable from 2,049 on\n"
        )
        assert capsys.readouterr().err == message

    def test_too_few_pictures_without_the_overlap(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        generated, reference = sides(tmp_path, 2)
        excluded = write_exclusion(tmp_path / "x.json", [PHOTOGRAPHS[1].stem])
        assert run(generated, reference, "--exclude", excluded) == 2
        assert f"--reference {reference} has 1 pictures without the overlap: FID needs 2" in capsys.readouterr().err

    def test_missing_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(evaluator, "open_inception", open_inception)
        generated, reference = sides(tmp_path, 2)
        assert run(generated, reference) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            "gesso: --inception x.pth cannot be read (No such file or directory): README.md, “Evaluate”"
        )
        assert not (tmp_path / "a/evaluation").exists()

    def test_captions_of_no_reference(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        export = write_export(tmp_path / "clean", (6, 4))
        generated = write_generated(tmp_path / "out", PHOTOGRAPHS[:2], ["a zebra", "a horse"])
        assert run(generated, f"{export}/validation") == 2
        assert "2 of 2 generated pictures have captions of no reference, as 'a zebra'" in capsys.readouterr().err

    def test_an_output_of_another_kind(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        generated, reference = sides(tmp_path, 2)
        export = write_export(tmp_path / "clean", (6, 4))
        assert run(generated, reference, "--output", export) == 2
        assert f"--output {export} holds an export already; `gesso evaluate` writes an eval" in capsys.readouterr().err


@pytest.mark.slow
class TestRealNetwork:
    """FID rises with what is done to one of two sides that were the same."""

    @pytest.fixture(params=["random", "real"])
    def weights(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(evaluator, "open_inception", open_inception)
        return real_inception() if request.param == "real" else write_state(tmp_path, random_state())

    @pytest.mark.parametrize("weights", ["random"], indirect=True)  # torch-fidelity takes no file without a classifier
    def test_figures_of_the_same_files_are_torch_fidelitys(self, tmp_path: Path, weights: str) -> None:
        generated, reference = sides(tmp_path, 10)
        theirs = torch_fidelity.calculate_metrics(
            input1=generated,
            input2=reference,
            fid=True,
            isc=True,
            kid=True,
            kid_subsets=1,
            kid_subset_size=10,
            feature_extractor_weights_path=weights,
            cuda=False,
            cache=False,
            verbose=False,
        )
        assert run(generated, reference, "--inception", weights, "--blur", "0", "--resize", "legacy") == 0
        row = record(f"{generated}/evaluation")["rows"][0]
        assert row["fid"]["value"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
        assert row["inception_score"]["value"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
        assert row["kid"]["value"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-2, abs=1e-5)

    def test_fid_rises_with_blur_and_loss_of_quality(self, tmp_path: Path, weights: str) -> None:
        chosen = PHOTOGRAPHS[::40][:8]
        reference = write_pictures(tmp_path / "b", chosen)
        altered = {"q50": 50, "q10": 10, "q2": 2}
        for name in (*altered, "blur1", "blur3"):
            (tmp_path / name).mkdir()
        for path in chosen:
            for name, quality in altered.items():
                cut(path, 64).save(tmp_path / name / f"{path.stem}.jpg", quality=quality)
            for radius in (1, 3):
                blurred = Image.fromarray(prepare.blur(np.asarray(cut(path, 64)), radius))
                blurred.save(tmp_path / f"blur{radius}" / f"{path.stem}.png")
        found = {}
        for name in ("b", *altered, "blur1", "blur3"):
            flags = ["--inception", weights, "--blur", "0", "--output", str(tmp_path / "out")]
            assert run(str(tmp_path / name), reference, *flags) == 0
            found[name] = values(record(str(tmp_path / "out"))["rows"])[0]
        assert found["b"] == pytest.approx(0, abs=1e-4 * found["q2"])
        assert found["b"] < found["q50"] < found["q10"] < found["q2"]
        assert found["b"] < found["blur1"] < found["blur3"]
