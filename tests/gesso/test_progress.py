"""The progress of a job: counts from markers and progress files, rates, durations."""

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import IO

import pytest

from gesso import progress
from gesso.dataset.progress import ProgressFile, ShardsProgress
from tests.datasets import write_dataset


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (270_000, "3 d 03 h")],
)
def test_seconds(value: float, text: str) -> None:
    assert progress.seconds(value) == text


def test_line() -> None:
    assert progress.line(500, 1000, "images", None) == "500 of 1,000 images (50.0%)"
    assert progress.line(500, 1000, "images", 10.0) == "500 of 1,000 images (50.0%) · 10 images/s · 50 s left"
    assert progress.line(10, 20, "updates", 0.25) == "10 of 20 updates (50.0%) · 0.2 updates/s · 40 s left"
    assert progress.line(0, 0, "images", None) == "0 of 0 images (100.0%)"


def test_a_note_stands_until_it_is_removed(tmp_path: Path) -> None:
    counts = Counter(success=3)
    progress_file = ProgressFile(str(tmp_path), 7, counts)
    progress_file.write()
    counts["success"] += 1
    progress_file.write()
    assert json.loads((tmp_path / ".progress/00007.json").read_text()) == {"success": 4}
    progress_file.remove()
    assert not list((tmp_path / ".progress").iterdir())


def test_markers_and_notes_add_up_and_a_marker_takes_its_notes_place(tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 2, 10, finished=False)
    marker = (tmp_path / "00001_stats.json").read_bytes()
    (tmp_path / "00001_stats.json").unlink()
    ProgressFile(output, 1, Counter(success=4, timeout=1)).write()
    progress = ShardsProgress(output, 20, "links")
    assert progress()[:2] == (15, 20)
    (tmp_path / "00001_stats.json").write_bytes(marker)
    assert progress()[:2] == (20, 20)
    assert progress().line(5.0) == "20 of 20 links (100.0%) · 5.0 links/s · 0 s left"


SHOW = """
from gesso.progress import State, line, watch
text = "257 of 257 links (100.0%) · 241 kept · shard 2 of 2 · 1,234 links/s · 0 s left · http_404 12, timeout 3, dns 1"
with watch({output!r}, lambda: State(257, 257, lambda rate: text)):
    {body}
"""


def shown(tmp_path: Path, body: str, columns: int | None) -> str:
    """What `watch` writes to stderr: a terminal of that many columns, or a pipe. The body's error is left out."""
    command = [sys.executable, "-c", SHOW.format(output=str(tmp_path), body=body)]
    if columns is None:
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    subprocess.run(command, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        written = b"".join(iter(lambda: read_terminal(stream), b""))
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())


def read_terminal(stream: IO[bytes]) -> bytes:
    """The next bytes; none where the other side is closed."""
    try:
        return os.read(stream.fileno(), 1 << 16)
    except OSError:
        return b""


def test_the_last_line_says_100_percent(tmp_path: Path) -> None:
    text = shown(tmp_path, "pass", None)
    assert text.splitlines()[-1].startswith("257 of 257 links (100.0%) · 241 kept")


def test_nothing_is_said_to_be_done_that_failed(tmp_path: Path) -> None:
    assert "100.0%" not in shown(tmp_path, "raise SystemExit(1)", None)


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_twenty_cells_of_bar_and_every_number(tmp_path: Path, columns: int) -> None:
    written = shown(tmp_path, "pass", columns)
    frame = written[written.rindex("━" * 20) :].replace("\r", "")
    lines = [line.rstrip() for line in frame.splitlines()]
    assert re.match("━{20} 257 of", lines[0])
    assert max(map(len, lines)) <= columns
    words = " ".join(frame.replace("━", "").split())
    causes = "http_404 12, timeout 3, dns 1"
    assert words == f"257 of 257 links (100.0%) · 241 kept · shard 2 of 2 · 1,234 links/s · 0 s left · {causes}"
