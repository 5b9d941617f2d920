"""`gesso train dvae`: the same curve however it is stopped and spread, what it writes, what it says to mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gesso import cli
from gesso.errors import UserError
from gesso.images import encode
from gesso.processes import Group
from gesso.training import checkpoint
from gesso.training.checkpoint import Checkpoints
from gesso.training.dvae import train
from gesso.training.dvae.trainer import Trainer
from gesso.training.metrics import MetricsLogger
from tests.exports import write_export

TINY = ("--preset", "tiny", "--image_size", "16", "--vocabulary", "32", "--width", "4", "--input_width", "8")
LOOP = ("--batch_size", "4", "--log_every", "1", "--evaluate_every", "4", "--save_every", "3", "--blocks", "1")
STEPS = 9
ALONE = Group(0, 1, torch.device("cpu"))
CLOCKED = ("images_per_second", "memory_mib")
CLOSE = 1e-6  # of the loss: sums over processes are rounded in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_export(tmp_path_factory.mktemp("clean"), (22, 6), 10)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def flags(data: str, output: Path, *more: str) -> list[str]:
    return ["--data", data, "--output", str(output), *TINY, *LOOP, "--steps", str(STEPS), *more]


def run(data: str, output: Path, *more: str) -> int:
    return cli.main(["train", "dvae", *flags(data, output, *more)])


def spread(processes: int, data: str, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command by torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*start, "-m", "gesso", "train", "dvae", *flags(data, output, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def curve(output: Path) -> list[dict[str, Any]]:
    """Every figure that no clock decides."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in lines]


def weights(output: Path, step: int = STEPS) -> dict[str, dict[str, torch.Tensor]]:
    state = checkpoint.read_whole(checkpoint.list_checkpoints(str(output))[step])
    return {kind: state[kind] for kind in ("model", "average", "exp_avg", "exp_avg_sq")}


def same(one: Path, other: Path) -> bool:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run wrote."""
    output = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    assert run(data, output) == 0
    return output


def test_stopped_after_every_update_it_ends_with_the_same_bits(data: str, trained: Path, tmp_path: Path) -> None:
    for step in range(1, STEPS):
        job, _ = train.parse(flags(data, tmp_path))
        outcome = train.train(job, ALONE, lambda: True)
        assert outcome == f"stopped and saved after update {step}, the same command goes on from there"
    assert run(data, tmp_path) == 0
    assert same(trained, tmp_path)
    assert curve(tmp_path) == curve(trained)


def test_a_stop_between_two_records_leaves_no_trace(data: str, tmp_path: Path) -> None:
    for step in (1, 3, 6):
        job, _ = train.parse(flags(data, tmp_path / "stopped", "--log_every", "4"))
        stops = iter([False] * (step - (0, 1, 3)[(1, 3, 6).index(step)] - 1) + [True])
        assert (
            train.train(job, ALONE, lambda stops=stops: next(stops))
            == f"stopped and saved after update {step}, the same command goes on from there"
        )  # type: ignore[misc]
    assert run(data, tmp_path / "stopped", "--log_every", "4") == 0
    assert run(data, tmp_path / "through", "--log_every", "4") == 0
    assert curve(tmp_path / "stopped") == curve(tmp_path / "through")


DEATHS = {
    "before an update": (Trainer, "update"),
    "in an evaluation": (Trainer, "evaluate"),
    "before its metrics are written": (MetricsLogger, "write"),
    "before a checkpoint": (Checkpoints, "save"),
    "before the best is marked": (Checkpoints, "mark_best"),
    "before an old checkpoint is deleted": (checkpoint, "delete"),
}


class Killed(BaseException):
    """Ends a run as a signal would."""


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("at", [1, 2])
def test_killed_without_warning_it_goes_on_from_the_last_checkpoint(
    data: str, trained: Path, tmp_path: Path, death: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics after the last checkpoint are logged again, and the best one is marked."""
    owner, name = DEATHS[death]
    before, calls = getattr(owner, name), 0

    def dying(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise Killed
        return before(*given, **named)

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(owner, name, dying)
        train.main(flags(data, tmp_path))
    assert run(data, tmp_path) == 0
    assert same(trained, tmp_path)
    assert curve(tmp_path) == curve(trained)
    note = "checkpoints/best.json"
    assert (tmp_path / note).read_bytes() == (trained / note).read_bytes()


def test_what_a_killed_run_left_half_written_is_removed(data: str, tmp_path: Path) -> None:
    left = [tmp_path / name for name in ("run.json.tmp-0123456789ab", "evaluations/0000004/grid.png.tmp-0123456789ab")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert run(data, tmp_path, "--steps", "1") == 0
    assert not [path for path in left if path.exists()]


def test_steps_say_only_when_to_stop(
    data: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "4") == 0
    assert run(data, tmp_path, "--steps", "4") == 0
    assert "update 4 is done already, give more --steps to continue" in capsys.readouterr().out
    assert run(data, tmp_path) == 0
    assert same(trained, tmp_path)


@pytest.mark.parametrize(
    "more", [("--workers", "1"), ("--loaders", "2"), ("--recompute",), ("--log_every", "3")], ids=lambda more: more[0]
)
def test_what_changes_no_bit(data: str, trained: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    assert run(data, tmp_path, *more) == 0
    assert same(trained, tmp_path)


def test_sharded_checkpoints_change_no_bit(data: str, trained: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--checkpoint", "sharded", "--steps", "5") == 0
    assert checkpoint.list_checkpoints(str(tmp_path))[5].endswith("0000005")
    assert run(data, tmp_path) == 0
    assert same(trained, tmp_path)


def test_a_lower_precision_takes_over(data: str, trained: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--steps", "5") == 0
    assert run(data, tmp_path, "--precision", "fp16") == 0
    assert [line.get("loss_scale") for line in curve(tmp_path)] == [None] * 5 + [65536.0] * 4
    assert losses(tmp_path) == pytest.approx(losses(trained), abs=0.05)


def test_a_damaged_shard_may_be_left_out(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = tmp_path / "clean"
    shutil.copytree(data, clean)
    assert run(str(clean), tmp_path / "run", "--steps", "4") == 0
    tar = clean / "train/00001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    assert run(str(clean), tmp_path / "run") == 2
    assert f"{tar} has" in capsys.readouterr().err
    assert run(str(clean), tmp_path / "run", "--damaged", "quarantine") == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["data"]["train"]["quarantined"] == ["train/00001.tar"]
    assert len(losses(tmp_path / "run")) == STEPS


@pytest.mark.slow
def test_compiled_it_is_the_same_curve(data: str, trained: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--compile", "--steps", "4") == 0
    assert losses(tmp_path) == pytest.approx(losses(trained)[:4], abs=1e-5)


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in curve(output)]


def test_accumulated_parts_give_the_same_curve(data: str, trained: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--accumulate", "2") == 0
    assert losses(tmp_path) == pytest.approx(losses(trained), abs=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_and_back_to_one(data: str, trained: Path, tmp_path: Path, parallel: str) -> None:
    """2 → 1 with ddp and whole checkpoints, 2 → 1 with fsdp and sharded ones: the uninterrupted curve."""
    form = ("--checkpoint", "sharded") if parallel == "fsdp" else ()
    done = spread(2, data, tmp_path, "--parallel", parallel, *form, "--steps", "5", "--accumulate", "2")
    assert done.returncode == 0, done.stderr
    assert run(data, tmp_path) == 0
    assert losses(tmp_path) == pytest.approx(losses(trained), abs=CLOSE)
    used = [line["codes_used"] for line in curve(tmp_path)]
    assert used == [line["codes_used"] for line in curve(trained)]
    evaluated = {line["step"]: line for line in curve(tmp_path) if "val_mse" in line}
    expected = {line["step"]: line for line in curve(trained) if "val_mse" in line}
    for step, line in expected.items():
        assert evaluated[step]["val_mse"] == pytest.approx(line["val_mse"], abs=CLOSE)
        assert evaluated[step]["val_codes_used"] == line["val_codes_used"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_from_one_process_to_two(data: str, trained: Path, tmp_path: Path, parallel: str) -> None:
    assert run(data, tmp_path, "--steps", "4") == 0
    done = spread(2, data, tmp_path, "--parallel", parallel)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == pytest.approx(losses(trained), abs=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("loaders", ["0", "2"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends(data: str, tmp_path: Path, number: signal.Signals, code: int, loaders: str) -> None:
    """The signal comes to all processes of the job, as from a terminal or `timeout`."""
    more = ("--steps", "100000", "--loaders", loaders)
    command = [sys.executable, "-m", "gesso", "train", "dvae", *flags(data, tmp_path, *more)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
    ) as going:
        while not (tmp_path / "checkpoints").is_dir() or not list((tmp_path / "checkpoints").glob("*.pt")):
            assert going.poll() is None
        os.killpg(going.pid, number)
        told, _ = going.communicate()
    assert going.returncode == code
    step = max(checkpoint.list_checkpoints(str(tmp_path)))
    assert (
        f"stopped and saved after update {step} the same command goes on from there; `gesso report {tmp_path}` shows it"
        in told.replace(",", "")
    )


def test_what_a_run_writes(data: str, trained: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    assert record["kind"] == "dvae"
    assert record["preset"] == "tiny"
    assert record["settings"]["vocabulary"] == 32
    assert record["data"]["train"]["samples"] == 22
    lines = curve(trained)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    training = {"step", "loss", "nll", "kl", "learning_rate", "temperature", "beta", "gradient_norm"}
    training |= {"codes_used", "perplexity", "epoch", "index"}
    assert training == set(lines[0])
    evaluated = {"val_relaxed_elbo", "val_hard_elbo", "val_nats_per_dim", "val_kl", "val_mse", "val_psnr", "val_ssim"}
    assert set(lines[3]) == training | evaluated | {"val_codes_used", "val_perplexity"}
    assert (lines[5]["epoch"], lines[5]["index"]) == (1, 2)
    assert lines[3]["val_nats_per_dim"] == pytest.approx(-lines[3]["val_hard_elbo"] + np.log(255 / 0.8))


def test_pictures_of_an_evaluation(trained: Path) -> None:
    folder = trained / "evaluations/0000008"
    counts = json.loads((folder / "usage.json").read_text())["counts"]
    assert len(counts) == 32
    assert sum(counts) == 6 * 4  # validation pictures, each of 2×2 codes
    assert Image.open(folder / "codes.png").size == (48, 48)  # 32 codes in rows of 6
    assert Image.open(folder / "grid.png").size == (6 * 18 - 2, 2 * 18 - 2)


def test_tensorboard_has_every_figure(trained: Path) -> None:
    board = EventAccumulator(str(trained)).Reload()
    for name in ("loss", "val_mse", "codes_used", "images_per_second"):
        expected = [
            (line["step"], line[name]) for line in map(json.loads, (trained / "metrics.jsonl").open()) if name in line
        ]
        found = [(event.step, event.value) for event in board.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    assert [event.step for event in board.Images("originals above, reconstructions under them")] == [4, 8, 9]


def test_the_last_three_and_the_best_checkpoint_stay(trained: Path) -> None:
    best = json.loads((trained / "checkpoints/best.json").read_text())
    evaluated = {line["step"]: line["val_nats_per_dim"] for line in curve(trained) if "val_mse" in line}
    assert best["step"] == min(evaluated, key=lambda step: evaluated[step])
    assert best["val_nats_per_dim"] == min(evaluated.values())
    improved = [step for step in evaluated if evaluated[step] == min(evaluated[at] for at in evaluated if at <= step)]
    saved = sorted({3, 6, 9, *improved})
    assert set(checkpoint.list_checkpoints(str(trained))) == {*saved[-3:], best["step"]}


def flat(number: int) -> bytes:
    """A picture of one colour, dark or bright."""
    return encode(np.full((32, 32, 3), 40 if number % 2 else 200, np.uint8), 95)


def test_it_learns_to_tell_dark_from_bright(tmp_path: Path) -> None:
    data = write_export(tmp_path / "flat", (12, 4), 10, flat)
    more = ("--steps", "250", "--evaluate_every", "250", "--learning_rate", "0.005", "--beta", "0", "--ema", "0.9")
    assert run(data, tmp_path / "run", *more) == 0
    values = [40 / 255, 200 / 255]
    assert curve(tmp_path / "run")[-1]["val_mse"] < np.var(values) / 5


def test_a_loss_that_is_no_number_stops_and_names_the_checkpoint(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backward = Trainer._backward

    def broken(trainer: Trainer, *given: Any) -> torch.Tensor:
        return torch.full((3,), torch.nan) if trainer.step == 7 else backward(trainer, *given)

    monkeypatch.setattr(Trainer, "_backward", broken)
    assert run(data, tmp_path) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    good = checkpoint.list_checkpoints(str(tmp_path))[6]
    assert told == (
        f"gesso: the loss of update 8 is nan: the last good checkpoint is {good}; "
        "begin another --output with a lower --learning_rate"
    )
    assert max(checkpoint.list_checkpoints(str(tmp_path))) == 6


def test_a_spike_stops(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gesso.training.spikes.WARMUP", 5)
    backward = Trainer._backward

    def spiking(trainer: Trainer, *given: Any) -> torch.Tensor:
        terms = backward(trainer, *given)
        return terms + torch.tensor([3.0, 0.0, 0.0]) if trainer.step == 7 else terms

    monkeypatch.setattr(Trainer, "_backward", spiking)
    assert run(data, tmp_path) == 2
    assert "the loss of update 8 jumped from" in capsys.readouterr().err


def test_gradients_that_are_not_finite_stop(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gesso.training.dvae.trainer.total_norm", lambda gradients: torch.tensor(torch.inf))
    assert run(data, tmp_path) == 2
    assert "the gradient of update 1 is inf: there is no checkpoint yet" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_alike(data: str, trained: Path, tmp_path: Path, precision: str) -> None:
    assert run(data, tmp_path, "--precision", precision) == 0
    assert losses(tmp_path) == pytest.approx(losses(trained), abs=0.05)
    assert losses(tmp_path) != losses(trained)
    scales = [line.get("loss_scale") for line in curve(tmp_path)]
    assert scales == ([None] * STEPS if precision == "bf16" else [65536.0] * STEPS)


def test_a_full_disk_ends_in_one_line(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(state: Any, stream: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert run(data, tmp_path) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        f"gesso: a checkpoint in {tmp_path} cannot be written (No space left on device): there is no checkpoint yet"
    )
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kind": "dvae"}'])
def test_a_damaged_record_is_refused(data: str, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(text)
    assert run(data, tmp_path) == 2
    assert f"gesso: {tmp_path}/run.json is damaged" in capsys.readouterr().err


def test_without_its_record_a_run_still_knows_its_settings(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--steps", "3") == 0
    (tmp_path / "run.json").unlink()
    assert run(data, tmp_path, "--learning_rate", "0.5") == 2
    assert "was begun with other settings: learning_rate was 0.003, is 0.5" in capsys.readouterr().err


def test_other_data_are_refused(data: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_export(tmp_path / "clean", (12, 4), 10)
    assert run(other, trained) == 2
    assert f"{trained} was begun with other samples for train, of {data}: give that --data" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(data, tmp_path / "file") == 2
    told = f"gesso: {tmp_path}/file: File exists: a file of that name is there: give another directory\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("url", ["nowhere://x", "memory://nothing"])
def test_data_that_cannot_be_read_are_told(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url, tmp_path / "out") == 2
    assert url in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--learning_rate", "0.5"), "learning_rate was 0.003, is 0.5"),
        (("--width", "8"), "width was 4, is 8"),
        (("--seed", "3", "--beta", "1"), "beta was 4.0, is 1.0; seed was 0, is 3"),
    ],
)
def test_other_settings_are_refused(
    data: str, trained: Path, more: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "run.json").read_bytes()
    assert run(data, trained, *more) == 2
    assert capsys.readouterr().err == (
        f"gesso: {trained} was begun with other settings: {told}; give those, or another --output\n"
    )
    assert (trained / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ("--batch_size", "5", "--accumulate", "2"),
            "--batch_size is 5: give a multiple of 2, 1 processes times --accumulate 2",
        ),
        (("--precision", "fp8"), "--precision is 'fp8': give one of fp32, bf16, fp16"),
        (("--image_size", "20"), "--image_size is 20: give a multiple of 8 pixels, 16 or more"),
        (("--width", "6"), "--width is 6: give a multiple of 4, the hidden width is a quarter of it"),
        (("--temperature", "0"), "--temperature is 0.0: give more than 0"),
        (("--ema", "1"), "--ema is 1.0: give less than 1"),
        (("--beta", "nan"), "--beta is nan: give a number"),
        (("--learning_rate", "nan"), "--learning_rate is nan: give more than 0"),
        (("--seed", str(2**63)), f"--seed is {2**63}: give at most {2**63 - 1}"),
    ],
)
def test_mistakes(
    data: str, tmp_path: Path, more: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path / "out", *more) == 2
    assert capsys.readouterr().err == f"gesso: {told}\n"
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_run_of_another_kind_is_refused(data: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"kind": "tokenizer"}))
    with pytest.raises(
        UserError, match="holds a tokenizer already; `gesso train dvae` writes a training of a dVAE: give another"
    ):
        train.main(flags(data, tmp_path))


def test_output_on_another_filesystem_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output is memory://run: give a local folder"):
        train.parse(["--data", data, "--output", "memory://run"])


def test_a_dry_run_counts_the_papers_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "dvae", "--preset", "paper", "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert "parameters of the encoder     53,786,240" in told
    assert "parameters of the decoder     43,829,766" in told
    assert "parameters in all             97,616,006" in told
    assert "150,000       9.62e-05       0.0625   6.600" in told


def test_presets_are_defaults_that_a_flag_overrides() -> None:
    job, dry = train.parse(["--data", "a/", "--output", "b/", "--preset", "tiny", "--width", "16"])
    assert not dry
    assert (job.output, job.dvae.width, job.dvae.vocabulary, job.steps) == ("b", 16, 512, 8000)
    paper, _ = train.parse(["--data", "a", "--output", "b", "--preset=paper"])
    assert (paper.steps, paper.dvae.vocabulary, paper.training.batch_size) == (3_000_000, 8192, 512)


@pytest.mark.parametrize(("driver", "preset"), [(True, "paper"), (False, "tiny")])
def test_without_a_preset_one_that_fits_the_machine_is_taken_and_said(
    driver: bool, preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gesso.devices.has_cuda_driver", lambda: driver)
    job, _ = train.parse(["--data", "a", "--output", "b"])
    assert job.preset == preset
    has = "a CUDA driver" if driver else "no CUDA driver"
    assert capsys.readouterr().err == f"--preset {preset}, since this machine has {has}\n"


def test_a_run_that_does_not_fit_the_memory_is_refused_before_anything_is_allocated(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gesso.processes.free_memory", lambda device: 10 << 20)
    assert run(data, tmp_path / "run", "--width", "64") == 2
    error = capsys.readouterr().err
    assert "GiB in each process, and 0.0 GiB are free: give a smaller --preset or --batch_size, --accumulate" in error
    assert not (tmp_path / "run").exists()
