"""`gesso train detector`: the same weights however it is stopped, what it says to mistakes, its figures."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gesso import cli
from gesso.dedup import augment, train
from gesso.dedup.contrast import Contrast, info_nce
from gesso.dedup.pictures import Location, content_sha256
from gesso.dedup.settings import DetectorConfig, TrainSettings
from gesso.dedup.trainer import Trainer, step_size
from gesso.processes import Group
from tests.datasets import picture

TINY = ("--preset", "tiny", "--width", "0.1", "--image_size", "32", "--dimension", "8", "--batch_size", "4")
ALONE = Group(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        (folder / f"{number}.jpg").write_bytes(picture(number, 80, 60))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def flags(data: Path, output: Path, *more: str) -> list[str]:
    paths = ("--data", str(data), "--output", str(output))
    return [*paths, *TINY, "--steps", "6", "--warmup", "2", "--workers", "0", *more]


def run(data: Path, output: Path, *more: str) -> int:
    return cli.main(["train", "detector", *flags(data, output, *more)])


def detector_of(output: Path) -> bytes:
    return (output / "detector.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run wrote."""
    output = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    assert run(data, output) == 0
    return output


def test_stopped_after_every_update_it_ends_with_the_same_weights(data: Path, trained: Path, tmp_path: Path) -> None:
    job = train.parse(flags(data, tmp_path))
    for step in range(1, 7):
        trainer = Trainer(job, ALONE)
        assert trainer.step == step - 1
        assert not train.train(job, trainer, True, lambda: True)
        trainer.close()
    assert run(data, tmp_path) == 0
    assert detector_of(tmp_path) == detector_of(trained)


@pytest.mark.slow
def test_processes_that_prepare_pictures_change_nothing(data: Path, trained: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--workers", "2") == 0
    assert detector_of(tmp_path) == detector_of(trained)


def test_another_seed_is_another_detector(data: Path, trained: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--seed", "1") == 0
    assert detector_of(tmp_path) != detector_of(trained)


def test_figures_of_every_update(trained: Path) -> None:
    board = EventAccumulator(str(trained)).Reload()
    names = {"loss", "accuracy", "step_size", "gradient_norm", "rejected", "pairs_per_second"}
    assert set(board.Tags()["scalars"]) == names
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    steps = TrainSettings(steps=6, warmup=2)
    assert [event.value for event in board.Scalars("step_size")] == pytest.approx(
        [step_size(step, steps) for step in range(6)]
    )
    assert sum(event.value for event in board.Scalars("rejected")) == 3  # 24 places of the order, 8 of them an epoch


def test_pictures_are_learned(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that are altered by the kernel alone: after forty updates they are told apart."""
    monkeypatch.setattr(augment, "STEPS", ())
    assert run(data, tmp_path, "--steps", "40", "--learning_rate", "0.003") == 0
    board = EventAccumulator(str(tmp_path)).Reload()
    assert all(event.value == 1 for event in board.Scalars("accuracy")[-5:])
    assert all(event.value < 0.5 for event in board.Scalars("loss")[-5:])


@pytest.mark.parametrize(
    ("steps", "expected"), [(0, 0.5), (1, 1.0), (2, 1.0), (4, 0.5), (6, 0.0)], ids=lambda value: str(value)
)
def test_step_size(steps: int, expected: float) -> None:
    learning = TrainSettings(steps=6, warmup=2, learning_rate=1.0)
    assert step_size(steps, learning) == pytest.approx(expected)


def test_presets_are_defaults_that_a_flag_overrides() -> None:
    job = train.parse(["--data", "a", "b", "--output", "c/", "--preset", "small", "--steps", "7"])
    assert (job.data, job.output, job.training.steps, job.training.batch_size) == (("a", "b"), "c", 7, 64)
    assert job.detector.backbone == "efficientnet_lite0"
    paper = train.parse(["--data", "a", "--output", "c", "--preset", "paper"])
    assert (paper.detector, paper.training) == (DetectorConfig(), TrainSettings())
    assert (paper.detector.backbone, paper.training.batch_size) == ("resnet50", 1712)


@pytest.mark.parametrize(("driver", "batch_size"), [(True, 1712), (False, 64)])
def test_without_a_preset_one_that_fits_the_machine_is_taken(
    driver: bool, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gesso.devices.has_cuda_driver", lambda: driver)
    assert train.parse(["--data", "a", "--output", "c"]).training.batch_size == batch_size


def test_a_run_that_does_not_fit_the_memory_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gesso.processes.free_memory", lambda device: 1 << 10)
    assert run(data, tmp_path / "run") == 2
    assert "are free: give a smaller --preset or --batch_size" in capsys.readouterr().err


def test_it_goes_on_with_pictures_that_were_moved_and_not_with_others(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(data, tmp_path / "moved")
    assert run(data, tmp_path / "run", "--steps", "2") == 0
    assert run(moved, tmp_path / "run", "--steps", "2") == 0
    next(path for path in sorted(moved.rglob("*")) if path.is_file()).unlink()
    assert run(moved, tmp_path / "run", "--steps", "2") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"was begun with other settings: data path was ['{data}'], is ['{moved}']; data sha256 was '" in line


def test_pictures_are_told_wherever_their_folders_are() -> None:
    found = [Location("/a/b/x.jpg", 0, 3), Location("/c/0.tar", 512, 9)]
    moved = [Location("/z/x.jpg", 0, 3), Location("/y/0.tar", 512, 9)]
    same = content_sha256(["/a/b", "/c/"], found)
    assert content_sha256(["/z/", "/y"], moved) == same
    assert content_sha256(["/z/", "/y"], [moved[0], moved[1]._replace(size=8)]) != same


class TestMistakes:
    """One line, exit code 2."""

    def test_other_settings_than_the_run_has(
        self, data: Path, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = detector_of(trained)
        assert run(data, trained, "--steps", "9", "--seed", "5") == 2
        assert "begun with other settings: steps was 6, is 9; seed was 0, is 5" in capsys.readouterr().err
        assert detector_of(trained) == before

    @pytest.mark.parametrize(("factor", "what"), [(float("nan"), "loss"), (1e38, "gradient")])
    def test_a_figure_that_is_no_number(
        self,
        data: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        factor: float,
        what: str,
    ) -> None:
        """The third update goes wrong: the checkpoint of the second stays."""
        updates = iter(range(10))

        def spoiled(*halves: torch.Tensor) -> Contrast:
            contrast = info_nce(*halves)
            return contrast._replace(loss=contrast.loss * factor) if next(updates) == 2 else contrast

        monkeypatch.setattr("gesso.dedup.trainer.info_nce", spoiled)
        assert run(data, tmp_path, "--save_every", "1") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"the {what} of update 3 is nan: lower --learning_rate" in error
        assert f"the last checkpoint is {tmp_path}/checkpoint.pt" in error
        state = torch.load(tmp_path / "checkpoint.pt")
        assert state["step"] == 2
        assert all(value.isfinite().all() for value in state["model"].values())

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (("--batch_size", "1"), "--batch_size is 1: give 2 or more"),
            (("--learning_rate", "0"), "--learning_rate is 0.0: give more than 0"),
            (("--init", "nothing.pth"), "--init nothing.pth"),
            (("--data", "nowhere"), "--data nowhere: no picture"),
            (("--save_every", "0"), "--save_every is 0: give 1 or more"),
        ],
    )
    def test_one_line(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
    ) -> None:
        assert run(data, tmp_path / "run", *more) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]
        assert not (tmp_path / "run").exists()

    def test_nothing_that_can_be_decoded(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.jpg").write_bytes(b"no picture")
        assert run(tmp_path, tmp_path / "run") == 2
        assert "no picture of --data can be decoded" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_see_what_one_sees(data: Path, trained: Path, tmp_path: Path) -> None:
    torchrun: list[Any] = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "gesso", "train", "detector", *flags(data, tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    boards = [EventAccumulator(str(folder)).Reload() for folder in (trained, tmp_path)]
    one, two = ([event.value for event in board.Scalars("loss")] for board in boards)
    assert two == pytest.approx(one, abs=1e-4)
    assert [event.step for event in boards[1].Scalars("rejected")] == [1, 2, 3, 4, 5, 6]
