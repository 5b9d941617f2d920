"""The progress that is read from a directory, and the line that shows it."""

import json
import os
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gesso import cli, lock
from gesso.dataset import manifest
from gesso.pipelines import status
from gesso.pipelines.status import CollectionProgress, Snapshot
from gesso.training import metrics_file
from tests import indexes
from tests.datasets import write_dataset
from tests.embeddings import clustered, write_embeddings
from tests.exports import write_export
from tests.runs import write_run


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
        "img2dataset's own shards: it keeps no plan, so that what is missing is not known\n"
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
        f"gesso: {tmp_path}/nothing is not there: give the --output of a gesso command, or img2dataset's folder\n"
    )


def write(folder: Path, name: str, value: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))
    return str(folder)


def told(directory: Path | str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert cli.main(["status", str(directory)]) == 0
    return capsys.readouterr().out.splitlines()


class TestKinds:
    def test_an_index(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        index = indexes.write_index(tmp_path / "index", indexes.write_sources(tmp_path / "theirs", (6, 5)))
        assert cli.main(["status", index]) == 0
        assert capsys.readouterr().out == "2 of 2 tars (100.0%) · 11 samples\nfinished\n"
        for name in ("manifest.json", "00001_stats.json"):
            (tmp_path / "index" / name).unlink()
        assert cli.main(["status", index]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "1 of 2 tars (50.0%) · 6 samples"
        assert lines[1].startswith("stopped since ")

    def test_embeddings(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        keys = [f"{number:032x}" for number in range(6)]
        output = Path(write_embeddings(tmp_path / "embeddings", clustered(6, 8, 0), keys, [4, 2]))
        write(output, "plan.json", {"settings": {"model": "detector"}, "input": [], "shards": 2})
        write(output, "00000_stats.json", {"count": 4, "successes": 3})
        (output / "manifest.json").unlink()
        assert told(output, capsys)[0] == "1 of 2 shards (50.0%) · 3 images embedded"
        write(output, "00001_stats.json", {"count": 2, "successes": 2})
        write(output, "manifest.json", {"kind": "embeddings"})
        assert told(output, capsys) == ["2 of 2 shards (100.0%) · 5 images embedded", "finished"]
        write(output, "plan.json", {"settings": {"views": 6}, "input": [], "shards": 2})
        assert told(output, capsys)[0] == "2 of 2 shards (100.0%) · 5 images embedded in 6 views each"

    def test_searches(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        begun = write(tmp_path / "begun", "plan.json", {"settings": {"top_k": 8}, "input": []})
        write(tmp_path / "begun", "00000_stats.json", {"count": 4})
        assert told(begun, capsys)[0] == "parts searched: 1"
        matches = {"kind": "matches", "references": 1234, "samples": 56789, "reference": {}}
        lines = told(write(tmp_path / "matches", "manifest.json", matches), capsys)
        assert lines == ["1,234 references among 56,789 training pictures", "finished"]
        write(tmp_path / "matches", "manifest.json", {**matches, "reference": {"views": 6}})
        in_views = "1,234 references in 6 views each among 56,789 training pictures"
        assert told(tmp_path / "matches", capsys)[0] == in_views
        repeats = {"kind": "repeats", "samples": 5000, "dropped": {"repeat_exact": 12, "repeat_near": 1034}}
        lines = told(write(tmp_path / "repeats", "manifest.json", repeats), capsys)
        assert lines == ["5,000 samples · repeat_exact 12 · repeat_near 1,034", "finished"]

    def test_an_export_and_its_splits(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clean = write_export(tmp_path / "clean", (6, 2))
        for directory in (clean, f"{clean}/train/"):
            assert told(directory, capsys) == ["8 of 8 images (100.0%)", "finished"]

    def test_a_training(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = write_run(tmp_path / "dvae", until=20, pictures=False)
        metrics_file.append(f"{run}/metrics.jsonl", 500, {"loss": 3.25, "images_per_second": 64.0})
        metrics_file.append(f"{run}/metrics.jsonl", 510, {"loss": 3.5, "val_psnr": 21.25})
        line, state = told(run, capsys)
        assert line == (
            "510 of 2,000 updates (25.5%) · 2.0 updates/s · 12 min 25 s left · loss 3.5 · validation PSNR 21.25"
        )
        assert state.startswith("stopped since ")
        metrics_file.append(f"{run}/metrics.jsonl", 2000, {"loss": 3.0})
        line, state = told(run, capsys)
        assert line.startswith("2,000 of 2,000 updates (100.0%) · 2.0 updates/s · 0 s left · loss 3")
        assert state == "finished"

    def test_a_training_of_a_prior(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        about = {"kind": "prior", "settings": {"steps": 800, "batch_size": 8}, "loop": {"tokens_per_update": 640}}
        run = write(tmp_path, "run.json", about)
        metrics_file.append(f"{run}/metrics.jsonl", 200, {"loss": 5.25, "val_loss": 5.5, "tokens_per_second": 3200.0})
        line, state = told(run, capsys)
        assert line == (
            "200 of 800 updates (25.0%) · 5.0 updates/s · 2 min 00 s left · loss 5.25 · validation loss 5.5"
        )
        assert state.startswith("stopped since ")
        metrics_file.append(f"{run}/metrics.jsonl", 800, {"loss": 3.0})
        assert told(run, capsys)[1] == "finished"

    def test_a_training_that_has_no_metrics_yet(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = write(tmp_path, "run.json", {"kind": "dvae", "settings": {"steps": 100, "batch_size": 8}})
        assert told(run, capsys)[0] == "0 of 100 updates (0.0%)"

    @pytest.mark.parametrize(
        ("kind", "begun", "last"),
        [("tokenizer", "run.json", "tokenizer.json"), ("detector", "checkpoint.pt", "detector.safetensors")],
    )
    def test_trainings_that_write_one_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, begun: str, last: str
    ) -> None:
        output = write(tmp_path, begun, {"kind": kind})
        assert told(output, capsys)[0] == f"{last} is not written yet"
        write(tmp_path, last, {})
        assert told(output, capsys) == [f"{last} is written", "finished"]


class TestRunningOrStopped:
    def test_stopped_since_the_newest_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = write_dataset(tmp_path, 2, 20, finished=False)
        newest = 1_700_000_000
        for path in tmp_path.rglob("*"):
            os.utime(path, (newest - 50, newest - 50))
        os.utime(tmp_path / "00001.tar", (newest, newest))
        monkeypatch.setattr(status, "time", lambda: newest + 125.0)
        since = datetime.fromtimestamp(newest).astimezone().isoformat(" ", timespec="seconds")
        assert told(output, capsys)[1] == f"stopped since {since} (2 min 05 s): the same command goes on"

    def test_running_while_the_lock_is_held(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = write_dataset(tmp_path, 2, 20, finished=False)
        with lock.lock(output):
            state = told(output, capsys)[1]
        assert state.startswith("running: `gesso")
        assert f"(process {os.getpid()} of " in state
        assert told(output, capsys)[1].startswith("stopped since ")

    def test_a_job_that_has_written_nothing_yet(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.argv", ["gesso", "collect", "--input"])
        with lock.lock(str(tmp_path / "raw")):
            line, state = told(tmp_path / "raw", capsys)
        assert line == "planning: reading tables, applying the caption rules"
        assert state.startswith("running: `gesso collect --input`")

    def test_nothing_of_gessos(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "notes.txt").write_text("")
        assert cli.main(["status", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"gesso: {tmp_path} holds nothing that gesso writes: give the --output of a gesso")


def test_damaged_files_are_one_line_and_no_bug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write_dataset(tmp_path, 2, 20)
    (tmp_path / "00001_stats.json").write_text("{")
    assert told(output, capsys)[0].startswith("18 of 36 links (50.0%)")
    (tmp_path / "plan.json").write_text("{")
    assert cli.main(["status", output]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gesso: {output}/plan.json is damaged: bring it back, or give another --output")
    assert error.count("\n") == 1


def test_watch_goes_on_until_it_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = write_dataset(tmp_path, 2, 20, finished=False)
    marker = (tmp_path / "00001_stats.json").read_bytes()
    (tmp_path / "00001_stats.json").unlink()
    pauses: list[float] = []

    def work(pause: float) -> None:
        """What the job does between two looks."""
        pauses.append(pause)
        if len(pauses) == 2:
            (tmp_path / "00001_stats.json").write_bytes(marker)
            manifest.finish(output)

    monkeypatch.setattr(status, "sleep", work)
    assert cli.main(["status", output, "--watch"]) == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert lines[0].startswith("18 of 36 links (50.0%)")
    assert lines[-1].startswith("36 of 36 links (100.0%)")
    assert (shown.out, pauses) == ("finished\n", [0.5, 0.5])
