"""The table, the page and the chart."""

import hashlib
from pathlib import Path

import pytest

from gesso.evaluation import report
from gesso.evaluation.report import Json
from gesso.training.report.png import png_size


def figure(value: float) -> Json:
    return {"value": value, "low": value - 1, "high": value + 1}


def row(pictures: str, blur: float, fid: float, score: float | None) -> Json:
    counts = {"generated": 30_000, "reference": 40_504}
    kid = {"value": 0.0123, "low": 0.0119, "high": 0.0128}
    told = {"fid": figure(fid), "inception_score": score and figure(score), "kid": kid, "clip_score": None}
    return {"pictures": pictures, "blur": blur, **counts, **told}


INCEPTION: Json = {"inception": {"inception_sha256": "ab"}}
ROWS = [row("all", 0, 27.5, 17.9), row("all", 0.5, 85, 5), row("without the overlap", 0, 28, 17)]


def test_the_table() -> None:
    kid = "12.300 (11.900 to 12.800)"
    assert report.table({"rows": ROWS[:2], "models": INCEPTION}).splitlines() == [
        "| pictures | blur, pixels | generated | reference | FID | Inception Score | KID × 1,000 | CLIP score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| all | 0 | 30,000 | 40,504 | 27.50 (26.50 to 28.50) | 17.90 (16.90 to 18.90) | {kid} | – |",
        f"| all | 0.5 | 30,000 | 40,504 | 85.00 (84.00 to 86.00) | 5.00 (4.00 to 6.00) | {kid} | – |",
    ]


def test_fid_is_named_so_with_inception_alone() -> None:
    table = report.table({"rows": ROWS[:1], "models": {"embeddings": {}}})
    assert "| Fréchet distance |" in table
    assert "FID" not in table


def test_what_is_written(tmp_path: Path) -> None:
    sides = {"generated": {"pictures": 30_000, "name": "out"}, "reference": {"pictures": 40_504, "name": "coco"}}
    report.write(
        str(tmp_path), {"kind": "evaluation", **sides, "rows": ROWS, "notes": ["A note."], "models": INCEPTION}
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "evaluation.md", "evaluation.png"]
    page = (tmp_path / "evaluation.md").read_text()
    assert page.startswith(
        "# Evaluation\n\n- generated: 30,000 pictures of `out`\n- reference: 40,504 pictures of `coco`\n"
    )
    assert "\n- A note.\n\n| pictures |" in page
    assert page.endswith("| – |\n\n![evaluation.png](evaluation.png)\n")


@pytest.mark.parametrize(("score", "width"), [(5.0, 1500), (None, 750)])
def test_the_chart_has_a_panel_for_each_figure_that_is_there(tmp_path: Path, score: float | None, width: int) -> None:
    rows = [*ROWS, row("without the overlap", 0.5, 80, score)]
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        report.draw(str(path), {"rows": rows, "models": INCEPTION})
    assert png_size(paths[0].read_bytes(), "a.png") == (width, 570)
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert first == second
