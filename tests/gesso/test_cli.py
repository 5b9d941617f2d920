"""The `gesso` command: its list, its codes, one line for a mistake."""

import subprocess
import sys
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
    listed = [line[2:18].strip() for line in lines if line.startswith("  ")]
    assert listed == [
        *("collect", "status", "verify", "report"),
        *("train detector", "embed", "match", "review", "repeats", "export"),
        *("train tokenizer", "train dvae", "encode"),
    ]


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: gesso COMMAND" in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["colect"]) == 2
    assert capsys.readouterr().err == "gesso: unknown command 'colect': `gesso --help` lists them\n"


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


def test_a_bug_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    run_with(monkeypatch, raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["collect"])


def test_flags_come_in_groups_with_default_and_unit() -> None:
    command = [sys.executable, "-m", "gesso", "collect", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for group in ("input and output:", "plan:", "caption rules:", "image rules:", "fetching:", "a process:"):
        assert f"\n{group}\n" in text
    words = " ".join(text.split())
    assert "--image_size INT short side of a kept picture at most, pixels (default: 384)" in words
    assert "--english, --no-english reject captions that are not English (default: True)" in words
