"""The `gesso` command: its list, its codes, one line for a mistake."""

import errno
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from gesso import cli
from gesso.errors import UserError


def run_with(monkeypatch: pytest.MonkeyPatch, main: object) -> None:
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(main=main))


def raising(error: BaseException) -> object:
    def main(argv: list[str]) -> int:
        raise error

    return main


def test_help_lists_the_commands_in_the_order_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line[2:21].strip() for line in lines if line.startswith("  ")]
    assert listed == [
        *("collect", "index", "status", "verify", "report"),
        *("train detector", "embed", "match", "review", "repeats", "export"),
        *("train tokenizer", "train dvae", "train prior", "train contrastive", "encode", "plan"),
        *("generate", "bundle", "evaluate", "studio"),
    ]


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: gesso [--version] [--debug] COMMAND …\n")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["colect"]) == 2
    assert (
        capsys.readouterr().err
        == "gesso: unknown command 'colect' (did you mean collect?): `gesso --help` lists them\n"
    )


def test_a_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(monkeypatch, raising(UserError("--output is '': name a directory")))
    assert cli.main(["collect"]) == 2
    assert capsys.readouterr().err == "gesso: --output is '': name a directory\n"


@pytest.mark.parametrize(
    "text",
    [
        "Traceback …\ngesso.errors.UserError: a.csv: cannot be read: mend it [while running 'JudgeRows']\nmore",
        "bundle failed: gesso.errors.UserError: a.csv: cannot be read: mend it",
    ],
)
def test_a_mistake_that_a_worker_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run_with(monkeypatch, raising(RuntimeError(text)))
    assert cli.main(["collect"]) == 2
    assert capsys.readouterr().err == "gesso: a.csv: cannot be read: mend it\n"


def test_a_bug_is_one_line_too_and_its_traceback_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "LOG", f"{tmp_path}/log.{{pid}}")
    run_with(monkeypatch, raising(RuntimeError("a bug\nwith details")))
    log = tmp_path / f"log.{os.getpid()}"
    assert cli.main(["collect"]) == 1
    told = f"gesso: a bug: RuntimeError: a bug: see {log}, or run it with --debug\n"
    assert capsys.readouterr().err == told
    assert log.read_text().endswith("RuntimeError: a bug\nwith details\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(monkeypatch, raising(UserError("--output is '': name a directory")))
    assert cli.main(["collect", "--debug"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], lines[-1]) == (
        "Traceback (most recent call last):",
        "gesso: --output is '': name a directory",
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "raw/00000.tar"),
            "raw/00000.tar: No space left on device: free some space, or point TMPDIR or --output to a larger disk",
        ),
        (
            RuntimeError("Traceback …\nOSError: [Errno 28] No space left on device: 'raw/a' [while running 'Collect']"),
            "No space left on device: 'raw/a': free some space, or point TMPDIR or --output to a larger disk",
        ),
        (
            RuntimeError("PermissionError: [Errno 13] Permission denied: 'raw'"),
            "Permission denied: 'raw': this user lacks the permission",
        ),
        (
            FileExistsError(errno.EEXIST, "File exists", "raw"),
            "raw: File exists: a file of that name is there: give another directory",
        ),
        (
            MemoryError(),
            "this machine has no memory left: free some, or lower the flags that say how much is done at once",
        ),
    ],
)
def test_a_fault_of_this_machine_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, told: str
) -> None:
    run_with(monkeypatch, raising(error))
    assert cli.main(["collect"]) == 2
    assert capsys.readouterr().err == f"gesso: {told}\n"


def test_a_full_disk_met_by_a_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beam logs the error and its traceback several times over: none of it is shown."""
    monkeypatch.setattr(cli, "LOG", f"{tmp_path}/log.{{pid}}")
    (tmp_path / "links.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.jpg,a dog on the grass\n")

    def full(temporary: str, path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr("gesso.storage._commit", full)
    where = ("--input", f"{tmp_path}/links.csv", "--output", f"{tmp_path}/raw")
    assert cli.main(["collect", *where]) == 2
    told = f"No space left on device: '{tmp_path}/raw/plan/00000.plan'"
    shown = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("planning")]
    assert shown == [f"gesso: {told}: free some space, or point TMPDIR or --output to a larger disk"]
    assert "No space left on device" in (tmp_path / f"log.{os.getpid()}").read_text()


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(monkeypatch, raising(ModuleNotFoundError("No module named 'faiss'", name="faiss")))
    assert cli.main(["match"]) == 2
    way = "pip install '.[dedup]' in gesso's checkout"
    assert capsys.readouterr().err == f"gesso: gesso match needs faiss, which is not installed: {way}\n"


def test_an_interrupt_has_code_130() -> None:
    code = (
        "from types import SimpleNamespace\nfrom gesso import cli\n"
        "def main(argv): raise KeyboardInterrupt\n"
        "cli.import_module = lambda name: SimpleNamespace(main=main)\ncli.main(['collect'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (130, "")
    assert ran.stderr == "gesso: interrupted; the same command goes on where it stopped\n"


def test_a_terminal_without_the_characters_does_not_fail_a_run() -> None:
    command, env = [sys.executable, "-m", "gesso", "--help"], {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "tables of links \\u2192 filtered webdataset shards" in ran.stdout


def test_a_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m gesso completion zsh | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ran.stdout.splitlines()[-1], ran.stderr) == ("0", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gesso {version('gesso')}\n"


@pytest.mark.parametrize("argv", [["train"], ["help", "train"], ["train", "--help"]])
def test_a_group_lists_its_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: gesso train WHAT …"
    assert [line.split("  ")[1] for line in lines[2:]] == [
        *("train detector", "train tokenizer", "train dvae", "train prior", "train contrastive")
    ]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", *name.split()]) == 0
    assert capsys.readouterr().out.startswith(f"usage: gesso {name} ")


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_completion_knows_every_flag(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("collect", "tokenizer", "--shard_size", "--no-serve", "--learning_rate"):
        assert word in script


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["completion", "bash"])
    asks = 'COMP_WORDS=(gesso collect --shard); COMP_CWORD=2; _shtab_gesso; echo "${COMPREPLY[@]}"'
    script = f"{capsys.readouterr().out}\n{asks}"
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == "--shard_size\n"


def test_completion_of_no_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "fish"]) == 2
    way = "give one of bash, zsh, as in `gesso completion bash`"
    assert capsys.readouterr().err == f"gesso: completion of 'fish': {way}\n"


def test_flags_come_in_groups_with_default_and_unit() -> None:
    command = [sys.executable, "-m", "gesso", "collect", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for group in ("input and output:", "plan:", "caption rules:", "image rules:", "fetching:", "a process:"):
        assert f"\n{group}\n" in text
    words = " ".join(text.split())
    assert "--image_size INT short side of a kept picture at most, pixels (default: 384)" in words
    assert "--english, --no-english reject captions that are not English (default: True)" in words
