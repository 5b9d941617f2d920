"""The progress that is read from a directory, and the line that shows it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from gesso import cli
from gesso.pipelines import status
from gesso.pipelines.status import CollectionProgress, Snapshot
from tests.datasets import write_dataset
from tests.embeddings import clustered, write_embeddings


def test_markers_and_progress_files_add_up(tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 2, 10, finished=False)
    (tmp_path / "00001_stats.json").unlink()
    (tmp_path / ".progress").mkdir()
    (tmp_path / ".progress/00001.json").write_text(json.dumps({"success": 4, "timeout": 1}))
    collection_progress = CollectionProgress(output)
    now = collection_progress.snapshot()
    assert (now.links, now.shards, now.shards_done, now.done, now.kept) == (18, 2, 1, 14, 10)
    assert now.failures() == [("timeout", 2), ("aspect_ratio", 1), ("http_404", 1)]
    assert (now.since, now.until) == (100.0, 102.0)


def test_before_the_plan_there_are_no_numbers(tmp_path: Path) -> None:
    assert CollectionProgress(str(tmp_path)).snapshot() == Snapshot(None, 0, 0, Counter(), None, None)


def test_line() -> None:
    now = Snapshot(1000, 4, 1, Counter(success=300, timeout=150, http_404=50), 0.0, 9.0)
    assert status.line(now, 10.0) == (
        "500 of 1,000 links (50.0%) · 300 kept · shard 1 of 4 · 10 links/s · 50 s left · timeout 150, http_404 50"
    )
    assert status.line(Snapshot(None, 0, 0, Counter(), None, None), None) == (
        "planning: reading tables, applying the caption rules"
    )


def test_img2datasets_own_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statistics = {"count": 9, "status_dict": {"success": 6, "HTTP Error 404: Not Found": 3}}
    marker = {**statistics, "start_time": 1.0, "end_time": 4.0}
    (tmp_path / "00000_stats.json").write_text(json.dumps(marker))
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        "9 of 9 links (100.0%) · 6 kept · shard 1 of 1 · 3 links/s · 0 s left · HTTP Error 404: Not Found 3\n"
        "without a plan: img2dataset's own, or the plan is not complete yet\n"
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write_dataset(tmp_path / "raw", 2, 20)
    assert cli.main(["status", output]) == 0
    assert capsys.readouterr().out == (
        "36 of 36 links (100.0%) · 24 kept · shard 2 of 2 · 12 links/s · 0 s left · "
        "aspect_ratio 4, http_404 4, timeout 4\nfinished\n"
    )
    assert cli.main(["status", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == (
        f"gesso: {tmp_path}/nothing holds no collection: give the --output of a `gesso collect`\n"
    )


def test_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"{number:032x}" for number in range(6)]
    output = Path(write_embeddings(tmp_path / "embeddings", clustered(6, 8, 0), keys, [4, 2]))
    (output / "plan.json").write_text('{"settings": {}, "input": [], "shards": 2}')
    assert cli.main(["status", str(output)]) == 0
    assert capsys.readouterr().out == "finished\n"
    (output / "manifest.json").unlink()
    (output / "00000_stats.json").write_text('{"count": 4}')
    assert cli.main(["status", str(output)]) == 0
    assert capsys.readouterr().out == "not finished: 1 parts committed\n"
