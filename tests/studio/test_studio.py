"""`gesso studio` as it is started: by its flags, until an interrupt."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gesso.errors import UserError
from gesso.studio import main
from tests.drawing import write_runs
from tests.studios import write_generated


def test_it_serves_until_an_interrupt(tmp_path: Path) -> None:
    prior, _ = write_runs(tmp_path)
    out = write_generated(tmp_path / "out")
    command = [sys.executable, "-m", "gesso", "studio", "--prior", prior, "--generated", str(out), "--port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as ran:
        try:
            assert ran.stdout
            address, _, note = ran.stdout.readline().partition("  ")
            assert note == "(Ctrl-C ends; what is drawn stays here until then)\n"
            with urllib.request.urlopen(f"{address}about") as answer:
                about = json.load(answer)
            assert about["model"] == {"grid": 4, "side": 32, "ranker": "", "sampling": {}}
            assert [each["path"] for each in about["folders"]] == [str(out)]
            request = urllib.request.Request(
                f"{address}draw",
                json.dumps({"caption": "a red apple", "n": 2, "temperature": 1, "top_k": 0, "top_p": 1}).encode(),
                {"X-Gesso-Token": about["token"]},
            )
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200
            ran.send_signal(signal.SIGINT)
            assert ran.communicate(timeout=60) == ("\n", "")
        finally:
            ran.kill()
    assert ran.returncode == 0


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--generated .* has no generated\.json and no evaluation\.json: give"):
        main(["--generated", str(tmp_path)])


def test_no_such_prior(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none"):
        main(["--prior", str(tmp_path / "none"), "--port", "0"])


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    prior, _ = write_runs(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is not available"):
            main(["--prior", prior, "--port", str(port)])
