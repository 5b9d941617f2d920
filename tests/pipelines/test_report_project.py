"""The page of a folder of outputs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gesso import storage
from gesso.errors import UserError
from gesso.evaluation import report as evaluation
from gesso.pipelines import report
from gesso.pipelines.report import project_page
from gesso.pipelines.report.project_page import Chapter
from tests.exports import caption, picture, write_export, write_raw
from tests.overlaps import decide, write_overlap
from tests.prior_runs import write_prior_run
from tests.runs import write_run

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind that has a chapter, and what has none."""
    folder = tmp_path_factory.mktemp("project")
    write_raw(str(folder / "z_raw"), 5, picture, caption)
    pairs = [("r1", "a", 0.9), ("r1", "b", 0.4), ("r2", "a", 0.5), ("r3", "c", 0.95)]
    decide(write_overlap(folder / "overlap", "shards", pairs), 0.8)
    write_export(folder / "clean", (24, 8))
    write_run(folder / "dvae", until=400)
    write_prior_run(folder / "prior")
    write_generated(folder / "drawn")
    write_evaluation(folder / "evaluation")
    (folder / "unfinished").mkdir()
    (folder / "unfinished/plan.json").write_text('{"kind": "export"}')
    (folder / "notes").mkdir()
    (folder / "notes/readme.txt").write_text("mine")
    return folder


def write_generated(folder: Path) -> None:
    """Two captions, two pictures kept of each."""
    pictures = []
    for index, text in enumerate((HOSTILE, "a red apple")):
        for rank in range(2):
            file = f"{index:05d}/{rank:02d}.png"
            with storage.write_whole(str(folder / file)) as stream:
                stream.write(cv2.imencode(".png", np.full((8, 8, 3), 50 * rank, np.uint8))[1].tobytes())
            entry = {"file": file, "caption": text, "caption_index": index, "rank": rank, "seed": 7 + rank}
            pictures.append({**entry, "score": 0.25 - rank / 10 if index else None})
    about = {"format": 1, "kind": "generated", "n": 16, "keep": 2, "pictures": pictures}
    (folder / "generated.json").write_text(json.dumps(about))
    (folder / "plan.json").write_text('{"kind": "generated"}')


def write_evaluation(folder: Path) -> None:
    """Two radii, no Inception Score."""
    told = {"value": 27.5, "low": 26.0, "high": 29.0}
    figures = {"fid": told, "kid": {name: value / 1000 for name, value in told.items()}, "clip_score": told}
    counts = {"pictures": "all", "generated": 20, "reference": 30, "inception_score": None}
    record = {
        "kind": "evaluation",
        "generated": {"pictures": 20, "name": "drawn"},
        "reference": {"pictures": 30, "name": "coco"},
        "models": {"embeddings": {}},
        "rows": [{**counts, "blur": blur, **figures} for blur in (0.0, 4.0)],
        "notes": [],
    }
    folder.mkdir()
    evaluation.write(str(folder), record)


def chapter(project: Path, name: str) -> Chapter:
    path, kind = next(each for each in project_page.outputs(str(project)) if each[0].endswith(f"/{name}"))
    found = project_page.CHAPTERS[kind.name](path)
    assert found is not None
    return found


def test_chapters_stand_in_the_order_of_the_work(project: Path) -> None:
    names = [path.rpartition("/")[2] for path, _ in project_page.outputs(str(project))]
    assert names == ["z_raw", "overlap", "clean", "unfinished", "dvae", "prior", "drawn", "evaluation"]


def test_what_chapters_say(project: Path) -> None:
    lines = {name: chapter(project, name).line for name in ("z_raw", "overlap", "clean", "dvae", "prior", "drawn")}
    assert lines["z_raw"] == "5 rows of a table of links became 5 pictures with captions, 100.0% of them."
    assert lines["overlap"] == (
        "For each of 3 pictures of the validation set its nearest training picture. 2 of them have a nearest picture "
        "at or above the threshold of 0.8."
    )
    assert lines["clean"] == (
        "0 of 32 samples were dropped as overlaps and repeats; the others were shuffled into 24 for training and 8 for "
        "validation."
    )
    assert lines["dvae"].startswith("400 updates, not finished. Validation: a squared error of 0.0")
    assert lines["prior"].startswith("20,000 updates. Validation: ")
    assert lines["drawn"] == "2 captions, 16 candidates each; the best are shown."


def test_pictures_of_chapters(project: Path) -> None:
    assert len(chapter(project, "z_raw").pictures) == 5
    assert [each.note for each in chapter(project, "clean").pictures] == ["train"] * 9 + ["validation"] * 3
    assert [len(chapter(project, name).wide) for name in ("dvae", "prior")] == [1, 1]
    drawn = [(each.caption, each.note) for each in chapter(project, "drawn").pictures]
    assert drawn == [
        (HOSTILE, "seed 7"),
        ("a red apple", "seed 7, score 0.250"),
        (HOSTILE, "seed 8"),
        ("a red apple", "seed 8, score 0.150"),
    ]


def test_figures_of_an_evaluation(project: Path) -> None:
    found = chapter(project, "evaluation")
    assert found.line == "20 of drawn against 30 of coco, each figure with its 95% interval."
    figures = ["27.50 (26.00 to 29.00)", "27.500 (26.000 to 29.000)", "27.50 (26.00 to 29.00)"]
    assert found.table == [
        ["Pictures", "Blur", "Fréchet distance", "KID × 1,000", "CLIP score"],
        ["all", "0", *figures],
        ["all", "4", *figures],
    ]
    assert len(found.wide) == 1


def test_nobody_has_decided(tmp_path: Path) -> None:
    write_overlap(tmp_path / "overlap", "shards", [("r1", "a", 0.9)])
    assert chapter(tmp_path, "overlap").line.endswith("Nobody has decided yet which of them are the same picture.")


def test_the_page(project: Path) -> None:
    report.write(str(project / "clean"), None, 4)
    path = report.write(str(project), None, 60)
    page = Path(path).read_text()
    assert path == str(project / "report.html")
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert 'href="clean/report.html"' in page
    assert "z_raw/report.html" not in page
    assert 'id="unfinished"' not in page


def test_nothing_is_finished_yet(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/plan.json").write_text('{"kind": "export"}')
    assert "Nothing is finished yet" in Path(report.write(str(tmp_path), None, 60)).read_text()


def test_a_folder_without_outputs_has_no_page(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="holds nothing that gesso writes"):
        report.write(str(tmp_path), None, 60)
    assert not (tmp_path / "report.html").exists()
