"""What the jobs share: Beam's flags, and that Ctrl-C ends a job with one line."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gesso import cli
from gesso.errors import UserError
from gesso.lock import lock
from gesso.pipelines import jobs
from gesso.pipelines.collect.job import build_parser
from tests import servers
from tests.datasets import write_dataset


def test_beams_flags_pass() -> None:
    argv = ["--input", "a.csv", "--output", "raw", "--direct_num_workers", "2", "--runner", "DirectRunner"]
    given, beam_flags = jobs.parse(build_parser(), argv)
    assert given.output == "raw"
    assert beam_flags == ["--direct_num_workers", "2", "--runner", "DirectRunner"]


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--shard_sizes", " (did you mean --shard_size?)"),
        ("--direct_num_worker", " (did you mean --direct_num_workers?)"),
        ("--xyzzy", ""),
    ],
)
def test_a_flag_that_nobody_knows(flag: str, near: str) -> None:
    with pytest.raises(UserError) as refused:
        jobs.parse(build_parser(), ["--input", "a.csv", "--output", "raw", flag, "3"])
    way = "`gesso collect --help` lists the flags; Beam has none of that name"
    assert str(refused.value) == f"unknown flag {flag}{near}: {way}"


def test_what_a_worker_raises_is_raised() -> None:
    def fail() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        jobs.run_interruptible(fail)


@pytest.mark.parametrize(
    "beam",
    [
        [],
        pytest.param(
            ["--direct_num_workers", "2", "--direct_running_mode", "multi_processing"], marks=pytest.mark.slow
        ),
    ],
)
def test_ctrl_c_ends_a_job_with_one_line(tmp_path: Path, beam: list[str]) -> None:
    """The interrupt comes, as a terminal sends it, to the whole process group, while an answer is held."""
    asked = threading.Event()

    async def hold(exchange: servers.Exchange) -> None:
        asked.set()
        await servers.stall(exchange)

    with servers.serve({"/a.jpg": hold}) as web:
        table = tmp_path / "links.csv"
        table.write_text(f"url,caption\n{web.url('/a.jpg')},a dog on the grass\n")
        where = ("--input", str(table), "--output", f"{tmp_path}/raw")
        command = [sys.executable, "-m", "gesso", "collect", *where, *beam]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
        assert asked.wait(120)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    shown = [line for line in err.splitlines() if " links (" not in line and not line.startswith("planning")]
    assert (out, shown) == ("", ["gesso: interrupted; the same command goes on where it stopped"])
    assert not (tmp_path / "raw/.lock").exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize(
    "argv",
    [
        ["collect", "--input", "{t}/links.csv", "--output", "{t}/out"],
        ["export", "--shards", "{t}/raw", "--output", "{t}/out"],
        ["repeats", "--shards", "{t}/raw", "--output", "{t}/out"],
        ["train", "detector", "--data", "{t}/raw", "--output", "{t}/out", "--preset", "tiny"],
    ],
)
def test_a_second_run_on_one_output_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    (tmp_path / "links.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.jpg,a dog on the grass\n")
    write_dataset(tmp_path / "raw", 1, 10)
    with lock(str(tmp_path / "out")):
        assert cli.main([item.format(t=tmp_path) for item in argv]) == 2
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert capsys.readouterr().err.startswith(f"gesso: {tmp_path}/out is being written by `gesso")
