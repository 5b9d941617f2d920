"""`gesso train contrastive`: the same curve however it is stopped and spread, that it learns, what mistakes tell."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gesso import cli
from gesso.processes import Group
from gesso.training import checkpoint
from gesso.training.contrastive import train
from tests import contrastive
from tests.contrastive import Inputs, flags, write_inputs

STEPS = 7
LOOP = ("--steps", str(STEPS), "--evaluate_every", "3", "--save_every", "2")
ALONE = Group(0, 1, torch.device("cpu"))
CLOCKED = ("images_per_second", "memory_mib")
CLOSE = 2e-5  # of a record: sums over processes are rounded in another order


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(inputs: Inputs, output: Path, *more: str) -> int:
    return contrastive.train(inputs, output, *LOOP, *more)


def spread(processes: int, inputs: Inputs, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command by torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*start, "-m", "gesso", "train", "contrastive", *flags(inputs, output, *LOOP, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)


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
def trained(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run wrote."""
    output = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    assert run(inputs, output) == 0
    return output


def test_stopped_after_every_update_it_ends_with_the_same_bits(inputs: Inputs, trained: Path, tmp_path: Path) -> None:
    for step in range(1, STEPS):
        outcome = train.train(train.parse(flags(inputs, tmp_path, *LOOP)), ALONE, lambda: True)
        assert outcome == f"stopped and saved after update {step}, the same command goes on from there"
    assert run(inputs, tmp_path) == 0
    assert same(trained, tmp_path)
    assert curve(tmp_path) == curve(trained)


@pytest.mark.parametrize("more", [("--workers", "1"), ("--recompute",)], ids=lambda more: more[0])
def test_what_changes_no_bit(inputs: Inputs, trained: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    assert run(inputs, tmp_path, *more) == 0
    assert same(trained, tmp_path)


@pytest.mark.slow
def test_two_processes_make_the_updates_of_one(inputs: Inputs, trained: Path, tmp_path: Path) -> None:
    """Losses, evaluations, gradients by their running mean; then one process goes on, from sharded checkpoints.

    Weights whose gradient is 0 but for rounding, biases of keys, differ: AdamW divides by its size.
    """
    done = spread(2, inputs, tmp_path, "--steps", "6", "--checkpoint", "sharded")
    assert done.returncode == 0, done.stderr
    assert run(inputs, tmp_path) == 0
    for found, expected in zip(curve(tmp_path), curve(trained), strict=True):
        assert found == pytest.approx(expected, rel=CLOSE, abs=CLOSE)
    means = weights(tmp_path)["exp_avg"]
    for name, value in weights(trained)["exp_avg"].items():
        torch.testing.assert_close(means[name], value, atol=CLOSE, rtol=1e-3)


def test_bf16_is_close_to_fp32(inputs: Inputs, trained: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path, "--precision", "bf16") == 0
    losses = [[line["loss"] for line in curve(output)] for output in (tmp_path, trained)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]


def test_it_learns_which_caption_is_of_which_picture(inputs: Inputs, tmp_path: Path) -> None:
    steps = ("--steps", "60", "--evaluate_every", "60", "--save_every", "60", "--ema", "0.8")
    assert contrastive.train(inputs, tmp_path, *steps) == 0
    last = curve(tmp_path)[-1]
    assert last["loss"] < 0.5 < 1.0 < curve(tmp_path)[0]["loss"]
    assert [last[name] for name in last if "recall" in name] == [100.0] * 4


def test_the_record(inputs: Inputs, trained: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    assert (record["kind"], record["preset"], record["settings"]["steps"]) == ("contrastive", "tiny", STEPS)
    tokenizer = Path(inputs.tokenizer, "tokenizer.json")
    assert record["settings"]["texts"] == len(json.loads(tokenizer.read_text())["model"]["vocab"])
    state = weights(trained)["model"]
    assert sum(record["parameters"].values()) == sum(value.numel() for value in state.values())
    assert (trained / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    assert curve(trained)[0].keys() == {
        *("step", "loss", "learning_rate", "gradient_norm", "temperature", "captions_cut", "epoch", "index")
    }
    assert [line["step"] for line in curve(trained) if "val_loss" in line] == [3, 6, 7]


def test_captions_that_are_cut_are_counted(inputs: Inputs, tmp_path: Path) -> None:
    assert run(inputs, tmp_path, "--text_positions", "3", "--steps", "2") == 0
    assert [line["captions_cut"] for line in curve(tmp_path)] == [16, 32]


MISTAKES = {
    "no data": ((), "--data is missing: give --data, --tokenizer and --output"),
    "one pair": (("--batch_size", "1"), "--batch_size is 1: give 2 or more"),
    "rate": (("--learning_rate", "0"), "--learning_rate is 0.0: give more than 0"),
    "average": (("--ema", "1"), "--ema is 1.0: give less than 1"),
    "precision": (("--precision", "fp16"), "--precision is 'fp16': give one of fp32, bf16"),
    "remote": (("--output", "memory://run"), "--output is memory://run: give a local folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more, message = MISTAKES[name]
    argv = [*flags(inputs, tmp_path / "run"), *more] if more else ["--output", str(tmp_path / "run")]
    assert cli.main(["train", "contrastive", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_picture_smaller_than_the_models_is_named(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, tmp_path, "--image_size", "64") == 2
    assert "is 40×40: short side under 64: give a smaller --image_size" in capsys.readouterr().err


def test_more_memory_than_there_is(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(inputs, tmp_path / "run", "--batch_size", "100000000") == 2
    assert "are free: give a smaller --preset or --batch_size, or --recompute" in capsys.readouterr().err


def test_other_settings_or_another_tokenizer_do_not_continue_a_run(
    inputs: Inputs, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, trained, "--seed", "1") == 2
    assert "was begun with other settings: seed was 0, is 1" in capsys.readouterr().err
    other = str(tmp_path / "tokenizer")
    assert cli.main(["train", "tokenizer", "--data", inputs.clean, "--output", other, "--vocabulary", "270"]) == 0
    assert run(inputs._replace(tokenizer=other), trained) == 2
    assert "tokenizer_sha256 was" in capsys.readouterr().err


def test_steps_say_only_when_to_stop(inputs: Inputs, trained: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path, "--steps", "4") == 0
    assert run(inputs, tmp_path) == 0
    assert same(trained, tmp_path)
