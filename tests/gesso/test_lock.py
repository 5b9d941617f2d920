"""The lock of an output: one process at a time, who holds it, and that it ends with its process."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gesso.errors import UserError
from gesso.lock import holder, lock

HOLD = """
import sys
from gesso.lock import lock
sys.argv = ["gesso", "collect", "--input", "a.csv"]
with lock({output!r}):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(output: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock while the body runs."""
    command = [sys.executable, "-c", HOLD.format(output=str(output))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    with held(tmp_path / "raw") as process, pytest.raises(UserError) as refused, lock(str(tmp_path / "raw")):
        pass
    since = r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+\d\d:\d\d"
    who = rf"`gesso collect --input` \(process {process.pid} of \S+ on \S+, {since}\)"
    what = rf"{re.escape(str(tmp_path))}/raw is being written by {who}: wait for it, or stop it"
    assert re.fullmatch(what, str(refused.value))


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with held(tmp_path / "raw") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "raw/.lock").exists()
        with lock(str(tmp_path / "raw")):
            pass


def test_nothing_of_it_stays(tmp_path: Path) -> None:
    with lock(str(tmp_path / "raw")):
        (tmp_path / "raw/a").write_text("")
    assert os.listdir(tmp_path / "raw") == ["a"]
    with lock(str(tmp_path / "none")):
        pass
    assert os.listdir(tmp_path) == ["raw"]


def test_it_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(str(tmp_path / "raw")):
            assert (tmp_path / "raw/.lock").exists()


def test_a_process_that_waits_for_a_file_that_is_removed_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking the last holder has removed the file: a lock on it would be nobody's."""
    from gesso import lock as module

    flock, path = module.fcntl.flock, tmp_path / ".lock"

    def removed_first(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(module.fcntl, "flock", removed_first)
    with lock(str(tmp_path)):
        assert path.exists()
        assert holder(str(tmp_path)) is not None


def test_the_holder(tmp_path: Path) -> None:
    assert holder(str(tmp_path)) is None
    with held(tmp_path) as process:
        found = holder(str(tmp_path))
        assert found is not None
        assert (found["pid"], found["command"]) == (process.pid, "gesso collect --input")
    assert holder(str(tmp_path)) is None


def test_an_object_store_has_none() -> None:
    with lock("memory://bucket/raw"), lock("memory://bucket/raw"):
        assert holder("memory://bucket/raw") is None
