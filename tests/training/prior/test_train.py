"""`gesso train prior`: the same curve however it is stopped and spread, what it writes, what it says to mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from gesso import cli
from gesso.generation.models import open_models
from gesso.processes import Group
from gesso.training import checkpoint
from gesso.training.checkpoint import Checkpoints
from gesso.training.metrics import MetricsLogger
from gesso.training.prior import train
from gesso.training.prior.model import Prior
from gesso.training.prior.trainer import Trainer
from gesso.training.tokenizer.bpe import Tokenizer
from tests.dvaes import write_dvae
from tests.exports import write_export

TINY = ("--preset", "tiny", "--layers", "2", "--heads", "2", "--head_size", "8", "--text_positions", "8")
LOOP = ("--batch_size", "4", "--log_every", "1", "--evaluate_every", "4", "--save_every", "3", "--warmup", "3")
MORE = ("--samples", "2", "--ema_every", "2", "--kernel", "3", "--learning_rate", "5e-3")
PAPER = ("--precision", "fp16", "--compression_rank", "8")
STEPS = 9
ALONE = Group(0, 1, torch.device("cpu"))
CLOCKED = ("tokens_per_second", "memory_mib")


class Inputs(NamedTuple):
    """What a prior is trained on."""

    clean: str
    tokens: str
    tokenizer: str
    dvae: str


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("inputs")
    clean, dvae = write_export(root / "clean", (22, 6), 10), write_dvae(root / "dvae.pt")
    made = Inputs(clean, str(root / "tokens"), str(root / "tokenizer"), dvae)
    assert cli.main(["train", "tokenizer", "--data", clean, "--output", made.tokenizer, "--vocabulary", "300"]) == 0
    assert cli.main(["encode", "--shards", clean, "--dvae", dvae, "--output", made.tokens, "--views", "2"]) == 0
    return made


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def flags(inputs: Inputs, output: Path, *more: str) -> list[str]:
    what = ["--data", inputs.tokens, "--tokenizer", inputs.tokenizer, "--output", str(output)]
    return [*what, *TINY, *LOOP, *MORE, "--steps", str(STEPS), *more]


def run(inputs: Inputs, output: Path, *more: str) -> int:
    return cli.main(["train", "prior", *flags(inputs, output, *more)])


def spread(processes: int, inputs: Inputs, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command by torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*start, "-m", "gesso", "train", "prior", *flags(inputs, output, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)


def curve(output: Path) -> list[dict[str, Any]]:
    """Every figure that no clock decides."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in lines]


def losses(output: Path) -> list[float]:
    return [record["loss"] for record in curve(output)]


def weights(output: Path, step: int = STEPS) -> dict[str, dict[str, torch.Tensor]]:
    state = checkpoint.read_whole(checkpoint.list_checkpoints(str(output))[step])
    return {kind: state[kind] for kind in state if kind != "numbers"}


def same(one: Path, other: Path) -> bool:
    """Whether the last checkpoints hold the same bits; 16-bit codes look like float16, NaN among them."""
    kinds = zip(weights(one).values(), weights(other).values(), strict=True)
    return all(equal(a[name], b[name]) for a, b in kinds for name in a)


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


@pytest.fixture(scope="module", params=[(), PAPER], ids=["fp32", "fp16 and PowerSGD"])
def trained(request: pytest.FixtureRequest, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> "Trained":
    """What an uninterrupted run wrote."""
    output = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    assert run(inputs, output, *request.param) == 0
    return Trained(output, request.param)


class Trained(NamedTuple):
    """A run and its flags."""

    output: Path
    flags: tuple[str, ...]


def test_stopped_after_every_update_it_ends_with_the_same_bits(
    inputs: Inputs, trained: Trained, tmp_path: Path
) -> None:
    for step in range(1, STEPS):
        outcome = train.train(train.parse(flags(inputs, tmp_path, *trained.flags)), ALONE, lambda: True)
        assert outcome == f"stopped and saved after update {step}, the same command goes on from there"
    assert run(inputs, tmp_path, *trained.flags) == 0
    assert same(trained.output, tmp_path)
    assert curve(tmp_path) == curve(trained.output)


DEATHS = {
    "before an update": (Trainer, "update"),
    "in the middle of an update": (Trainer, "_count"),
    "in an evaluation": (Trainer, "evaluate"),
    "before its metrics are written": (MetricsLogger, "write"),
    "before a checkpoint": (Checkpoints, "save"),
}


class Killed(BaseException):
    """Ends a run as a signal would."""


@pytest.mark.parametrize("death", DEATHS)
def test_killed_without_warning_it_goes_on_from_the_last_checkpoint(
    inputs: Inputs, trained: Trained, tmp_path: Path, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = DEATHS[death]
    before, calls = getattr(owner, name), 0

    def dying(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Killed
        return before(*given, **named)

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(owner, name, dying)
        train.main(flags(inputs, tmp_path, *trained.flags))
    assert run(inputs, tmp_path, *trained.flags) == 0
    assert same(trained.output, tmp_path)
    assert curve(tmp_path) == curve(trained.output)


@pytest.mark.parametrize(
    "more", [("--workers", "1"), ("--recompute",), ("--attention", "dense"), ("--accumulate", "2")]
)
def test_how_it_is_computed_changes_the_curve_by_rounding_alone(
    inputs: Inputs, trained: Trained, tmp_path: Path, more: tuple[str, ...]
) -> None:
    assert run(inputs, tmp_path, *trained.flags, *more) == 0
    assert losses(tmp_path) == pytest.approx(losses(trained.output), rel=1e-3 if trained.flags else 1e-5)


def test_sharded_checkpoints_change_no_bit(inputs: Inputs, trained: Trained, tmp_path: Path) -> None:
    assert run(inputs, tmp_path, *trained.flags, "--checkpoint", "sharded", "--steps", "4") == 0
    assert run(inputs, tmp_path, *trained.flags) == 0
    assert same(trained.output, tmp_path)


# Flags and, one after the other, the numbers of processes that train three updates each.
SPREAD: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "replicas of two shards, sharded checkpoints": (("--shards", "2", "--checkpoint", "sharded"), (4, 2, 4)),
    "compressed between replicas, fp16": ((*PAPER, "--shards", "1"), (4, 2)),
    "DDP": (("--parallel", "ddp"), (2, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPREAD)
def test_on_other_numbers_of_processes_it_is_the_same_curve(name: str, inputs: Inputs, tmp_path: Path) -> None:
    """Up to the order of sums, which in fp16 round."""
    more, numbers = SPREAD[name]
    for place, processes in enumerate(numbers, 1):
        done = spread(processes, inputs, tmp_path / "spread", *more, "--steps", str(3 * place))
        assert done.returncode == 0, done.stderr
    alone = PAPER if "fp16" in more else ()
    assert run(inputs, tmp_path / "alone", *alone, "--steps", str(3 * len(numbers))) == 0
    expected = losses(tmp_path / "alone")
    assert losses(tmp_path / "spread") == pytest.approx(expected, rel=1e-3 if "fp16" in more else 1e-5)


# What kills a process in its first life: after update 4 the second, and the first when half of a checkpoint is written.
LIVES = {
    "in the middle of an update": """
from gesso.training.prior.trainer import Trainer
before = Trainer._count
def dying(self, *given):
    if self.step == 4 and self._group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    before(self, *given)
if first_life:
    Trainer._count = dying
""",
    "in the middle of a save": """
import torch
before = torch.save
def dying(state, stream):
    if state["numbers"]["step"] == 6:
        stream.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    before(state, stream)
if first_life:
    torch.save = dying
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("death", LIVES)
def test_torchrun_starts_again_what_was_killed(death: str, inputs: Inputs, tmp_path: Path) -> None:
    """Elastic restart: both processes are started again and go on from the last checkpoint."""
    script = tmp_path / "dying.py"
    begin = "import os, signal, sys\nfirst_life = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
    end = f"from gesso import cli\nsys.exit(cli.main(['train', 'prior', *{flags(inputs, tmp_path / 'run')!r}]))\n"
    script.write_text(begin + LIVES[death] + end)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*start, "--max_restarts", "1", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "goes on after update 4" in done.stderr
    assert spread(2, inputs, tmp_path / "through").returncode == 0
    assert curve(tmp_path / "run") == curve(tmp_path / "through")


def test_pictures_may_be_encoded_in_the_training(inputs: Inputs, tmp_path: Path) -> None:
    more = ("--data", inputs.clean, "--dvae", inputs.dvae)
    assert run(inputs, tmp_path / "run", *more) == 0
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    for _ in range(2):
        train.train(train.parse(flags(inputs, tmp_path / "stopped", *more)), ALONE, lambda: True)
    assert run(inputs, tmp_path / "stopped", *more) == 0
    assert same(tmp_path / "run", tmp_path / "stopped")


def test_what_a_run_writes(inputs: Inputs, trained: Trained) -> None:
    record = json.loads((trained.output / "run.json").read_text())
    assert record["kind"] == "prior"
    texts = Tokenizer.open(inputs.tokenizer).size - 256
    assert record["settings"]["tokens"] == {"grid": 4, "codes": 64, "texts": texts}
    embeddings = 16 * (2 * (texts + 8) + 2 * 64 + 2 * 4)
    assert record["parameters"] == {"matrices": 6144, "gains_and_biases": 448, "embeddings": embeddings}
    assert record["loop"]["tokens_per_update"] == 4 * (8 + 16)
    evaluated = [line["step"] for line in curve(trained.output) if "val_loss" in line]
    assert evaluated == [4, 8, 9]
    for step in evaluated:
        folder = trained.output / f"evaluations/{step:07d}"
        assert len(json.loads((folder / "samples.json").read_text())["captions"]) == 2
        assert (folder / "samples.png").stat().st_size > 100
    scales = {name for name in curve(trained.output)[0] if name.startswith("scale/")}
    assert scales == ({f"scale/00{block}" for block in range(4)} if trained.flags else set())


def test_generation_finds_tokenizer_and_dvae_by_the_run(inputs: Inputs, trained: Trained) -> None:
    found = open_models(str(trained.output), "", torch.device("cpu"), "fp32")
    assert Path(inputs.tokenizer, "tokenizer.json").read_bytes() == (trained.output / "tokenizer.json").read_bytes()
    assert found.identity["dvae"]["path"] == inputs.dvae
    average = weights(trained.output)["average"]
    assert all(torch.equal(value, average[name]) for name, value in found.prior.state_dict().items())


def test_state_is_kept_in_16_bits_where_the_paper_has_it_so(trained: Trained) -> None:
    state = weights(trained.output)
    half = {name for name, value in state["model"].items() if value.dtype == torch.float16}
    narrow = {name for name, value in state["mean"].items() if value.dtype == torch.float16}
    matrices = {name for name in state["model"] if ".branch." in name and name.endswith("weight")}
    assert len(matrices) == 12
    assert narrow == matrices
    assert half == (matrices if trained.flags else set())
    assert state.get("error", {}).keys() == (matrices if trained.flags else set())
    assert {value.dtype for value in state["average"].values()} == {torch.float32}


def test_a_nan_in_one_block_moves_its_scale_alone(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update is skipped: weights and moments stay as they were."""
    before, broken = Trainer._backward, iter([False, False, True, *[False] * 9])

    def breaking(self: Trainer, batch: Any) -> Any:
        found = before(self, batch)
        if next(broken):
            branch = self.prior.blocks[2].branch
            assert branch.q.weight.grad is not None
            branch.q.weight.grad[0, 0] = float("nan")
        return found

    monkeypatch.setattr(Trainer, "_backward", breaking)
    assert run(inputs, tmp_path, "--precision", "fp16", "--steps", "4", "--save_every", "1", "--keep", "9") == 0
    records = curve(tmp_path)
    assert [record["skipped"] for record in records] == [0, 0, 1, 1]
    assert records[2]["gradient_norm"] is None  # JSON has no infinity
    moved = [records[2][f"scale/00{block}"] - records[1][f"scale/00{block}"] for block in range(4)]
    assert moved == pytest.approx([1e-3, 1e-3, -0.5, 1e-3], abs=1e-5)
    held, after = weights(tmp_path, 2), weights(tmp_path, 3)
    for kind in ("model", "mean", "variance"):
        assert all(equal(held[kind][name], after[kind][name]) for name in held[kind])


def test_a_loss_that_is_no_number_stops_and_names_the_checkpoint(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, tmp_path, "--steps", "3") == 0
    embed = Prior.embed
    monkeypatch.setattr(Prior, "embed", lambda *given: embed(*given) * float("nan"))
    assert run(inputs, tmp_path) == 2
    assert (
        f"the loss of update 4 is nan: the last good checkpoint is {tmp_path}/checkpoints/0000003.pt; "
        "begin another --output with a lower --learning_rate" in capsys.readouterr().err
    )


def test_gradients_that_are_never_finite_stop(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Trainer._backward

    def breaking(self: Trainer, batch: Any) -> Any:
        found = before(self, batch)
        weight = self.prior.blocks[0].branch.q.weight
        assert weight.grad is not None
        weight.grad.fill_(float("inf"))
        return found

    monkeypatch.setattr(Trainer, "_backward", breaking)
    assert run(inputs, tmp_path, "--steps", "200", "--evaluate_every", "500") == 2
    assert "the gradients of 100 updates in a row were not finite" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends(inputs: Inputs, tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "gesso", "train", "prior", *flags(inputs, tmp_path, "--steps", "100000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "of 100,000 updates" in line:
                process.send_signal(number)
                break
        out, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert "stopped and saved after update" in out
    assert checkpoint.list_checkpoints(str(tmp_path))


def test_a_full_disk_ends_in_one_line(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, tmp_path, "--steps", "3") == 0

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert run(inputs, tmp_path, "--steps", "6") == 2
    assert "cannot be written (No space left on device): the last good checkpoint is" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(inputs, tmp_path, "--steps", "6") == 0


def test_a_damaged_token_shard_is_refused_or_left_out(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = inputs._replace(tokens=str(tmp_path / "tokens"))
    shutil.copytree(inputs.tokens, copy.tokens)
    with (tmp_path / "tokens/train/00001.npy").open("r+b") as stream:
        stream.truncate(100)
    assert run(copy, tmp_path / "run") == 2
    assert "train/00001.npy has 100 bytes, in manifest.json" in capsys.readouterr().err
    assert run(copy, tmp_path / "run", "--damaged", "quarantine", "--steps", "3") == 0
    assert "00001" in capsys.readouterr().err


def test_a_long_caption_is_cut_and_counted(inputs: Inputs, tmp_path: Path) -> None:
    assert run(inputs, tmp_path, "--steps", "2") == 0
    assert [record["captions_cut"] for record in curve(tmp_path)] == [4, 8]


MISTAKES = {
    "no data": ((), "--data is missing: give --data, --tokenizer and --output"),
    "shards": (("--shards", "3"), "--shards is 3: give a divisor of 1, the number of processes"),
    "batch": (("--batch_size", "5", "--accumulate", "2"), "--batch_size is 5: give a multiple of 2"),
    "kernel": (("--kernel", "4"), "--kernel is 4: give an odd number"),
    "text": (("--text_positions", "300"), "--text_positions is 300: give 2 to 256"),
    "decay": (("--weight_decay", "nan"), "--weight_decay is nan: give a number"),
    "clip": (("--clip", "0"), "--clip is 0.0: give more than 0"),
    "average": (("--ema", "1"), "--ema is 1.0: give less than 1"),
    "moments": (("--moments", "8"), "--moments is 8: give 16 or 32"),
    "attention": (("--attention", "fast"), "--attention is 'fast': give one of auto, dense"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more, message = MISTAKES[name]
    argv = flags(inputs, tmp_path / "run", *more) if more else ["--output", str(tmp_path / "run")]
    assert cli.main(["train", "prior", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_does_not_fit_is_refused(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_dvae(tmp_path / "other.pt", seed=1)
    assert run(inputs, tmp_path / "run", "--dvae", other) == 2
    assert f"--dvae {other} is not the one that encoded {inputs.tokens}" in capsys.readouterr().err
    assert run(inputs, tmp_path / "run", "--data", inputs.clean) == 2
    assert f"{inputs.clean} is an export: give --dvae" in capsys.readouterr().err
    assert run(inputs, tmp_path / "run", "--tokenizer", inputs.clean) == 2
    assert "`gesso train prior --tokenizer` wants a tokenizer" in capsys.readouterr().err


def test_another_tokenizer_does_not_continue_a_run(
    inputs: Inputs, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tmp_path / "tokenizer")
    assert cli.main(["train", "tokenizer", "--data", inputs.clean, "--output", other, "--vocabulary", "270"]) == 0
    assert run(inputs, trained.output, *trained.flags, "--tokenizer", other, "--steps", "12") == 2
    told = capsys.readouterr().err
    assert "was begun with other settings" in told
    assert "tokenizer_sha256 was" in told


def test_without_its_dvae_it_draws_nothing_and_says_so(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = inputs._replace(tokens=str(tmp_path / "elsewhere/tokens"))
    shutil.copytree(inputs.tokens, copy.tokens)
    assert run(copy, tmp_path / "run", "--steps", "4") == 0
    assert not (tmp_path / "run/evaluations").exists()
    assert f"no samples will be drawn: the dVAE of {copy.tokens} is not where it was" in capsys.readouterr().err
