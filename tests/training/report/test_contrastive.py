"""The page of a contrastive model's run."""

import json
from math import nan
from pathlib import Path

import pytest

from gesso.training import metrics_file
from gesso.training.report import contrastive, page, report, rules
from gesso.training.report.facts import Fact
from gesso.training.report.run import Run, is_run, read_run

RECALLS = {f"val_{of}_recall@{depth}": 10.0 * depth for of in ("picture", "caption") for depth in (1, 5)}
EVALUATED = {"val_loss": 1.5, **RECALLS}
LOGGED = {
    "loss": 2.0,
    "learning_rate": 1e-3,
    "gradient_norm": 3.0,
    "temperature": 0.07,
    "captions_cut": 0.0,
    "epoch": 0.0,
    "index": 64.0,
    "images_per_second": 90.0,
    "memory_mib": 900.0,
}


def write(folder: Path, *records: dict[str, float]) -> str:
    """A run with a record every ten updates."""
    (folder / "checkpoints").mkdir(parents=True)
    about = {"kind": "contrastive", "preset": "tiny", "settings": {"steps": 30}}
    (folder / "run.json").write_text(json.dumps(about))
    for place, record in enumerate(records, 1):
        metrics_file.append(str(folder / "metrics.jsonl"), 10 * place, record)
    (folder / "checkpoints/best.json").write_text(json.dumps({"step": 20, "val_loss": 1.5}))
    return str(folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    better = {name: value + 5 for name, value in EVALUATED.items() if "recall" in name}
    return read_run(write(tmp_path / "run", LOGGED, LOGGED | EVALUATED, LOGGED | EVALUATED | better), 12)


def test_every_metric_has_its_figure(run: Run) -> None:
    keys = [panel.key for column in contrastive.columns(run) for panel in column]
    assert keys == [
        *("loss", "picture_recall", "caption_recall", "gradient_norm", "learning_rate", "temperature"),
        *("images_per_second", "memory_mib", "captions_cut"),
    ]
    recall = contrastive.recall(run, "picture")
    assert [(line.label, list(line.points)) for line in recall.lines] == [
        ("recall@1", [(20, 10.0), (30, 15.0)]),
        ("recall@5", [(20, 50.0), (30, 55.0)]),
    ]


def test_facts(run: Run) -> None:
    assert contrastive.facts(run) == [
        Fact("1.5", "validation loss", "±0.0% since step 20"),
        Fact("15", "% of captions find their picture first", "+50.0% since step 20", "good"),
        Fact("15", "% of pictures find their caption first", "+50.0% since step 20", "good"),
        Fact("90", "images a second"),
    ]


def test_warnings(tmp_path: Path) -> None:
    found = rules.warnings(contrastive.RULES, read_run(write(tmp_path / "run", LOGGED | {"loss": nan}), 12))
    assert [warned.what for warned in found] == ["Loss not finite"]


def test_the_page_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "run", LOGGED, LOGGED | EVALUATED)
    assert is_run(path)
    text = Path(report(path, None)).read_text()
    assert "Training of a contrastive model, preset tiny · Best checkpoint: step 20, 1.5 nats." in text
    assert "Pictures found by their captions" in text


@pytest.mark.browser
def test_the_page_runs_without_errors(tmp_path: Path, browser: object) -> None:
    path = report(write(tmp_path / "run", LOGGED, LOGGED | EVALUATED), None)
    tab = browser.new_page()  # type: ignore[attr-defined]
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text))
    tab.goto(f"file://{path}")
    tab.wait_for_function("document.documentElement.dataset.ready === ''")
    assert errors == []
    tab.close()


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    assert "No metrics have been logged yet" in page.render(read_run(write(tmp_path / "run"), 12))
