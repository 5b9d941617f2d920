"""Metrics of a run in metrics.jsonl and TensorBoard, and the progress line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from gesso.processes import Group
from gesso.training import metrics_file
from gesso.training.metrics import MetricsLogger, summary

CPU = torch.device("cpu")
FIRST, SECOND = Group(0, 2, CPU), Group(1, 2, CPU)


def scalars(output: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in EventAccumulator(str(output)).Reload().Scalars(name)]


def test_records_go_to_both_places(tmp_path: Path) -> None:
    with MetricsLogger(str(tmp_path), FIRST, 0, 4) as logger:
        logger.write(2, {"loss": 3.5, "kl": 1.0})
        logger.write(3, {})
        logger.write(4, {"loss": 2.5})
    assert metrics_file.read(f"{tmp_path}/metrics.jsonl") == [
        {"step": 2, "loss": 3.5, "kl": 1.0},
        {"step": 4, "loss": 2.5},
    ]
    assert scalars(tmp_path, "loss") == [(2, 3.5), (4, 2.5)]
    assert scalars(tmp_path, "kl") == [(2, 1.0)]


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files of one second by the number of writers in their process, as text: 10 before 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", AtomicCounter(0))
    with MetricsLogger(str(tmp_path), FIRST, 0, 9) as logger:
        for step in (1, 2, 3):
            logger.write(step, {"loss": float(step)})
    with MetricsLogger(str(tmp_path), FIRST, 1, 9) as logger:
        logger.write(2, {"loss": 20.0})
    assert metrics_file.read(f"{tmp_path}/metrics.jsonl") == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 20.0}]
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 20.0)]


def test_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    with MetricsLogger(str(tmp_path), FIRST, 0, 9) as logger:
        logger.write_images(5, {"a title": pixels})
    (image,) = EventAccumulator(str(tmp_path)).Reload().Images("a title")
    assert (image.step, image.height, image.width) == (5, 4, 6)


def test_other_processes_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MetricsLogger(str(tmp_path), SECOND, 0, 1) as logger:
        logger.write(1, {"loss": 1.0})
        logger.write_images(1, {"a": np.zeros((2, 2, 3), np.uint8)})
        logger.show(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_line_every_ten_seconds_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("gesso.progress.monotonic", lambda: now[0])
    with MetricsLogger(str(tmp_path), FIRST, 0, 40) as logger:
        for step in range(1, 41):
            now[0] = step / 2
            logger.show(step, {"loss": 1.5})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "21", "40"]
    assert lines[1] == "21 of 40 updates (52.5%) · 2.0 updates/s · 10 s left · loss 1.500"


def test_a_summary() -> None:
    values = {"loss": -0.5121, "images_per_second": 1234.5, "memory_mib": 812.0, "mfu": 0.314}
    assert summary(values) == "loss -0.512 · 1,234 images/s · 812 MiB · MFU 31%"
    assert summary({"loss": 3.0}) == "loss 3.000"
