"""The pages of exports and tokens; what has no page."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso import cli
from gesso.pipelines import report
from gesso.pipelines.report import charts, export_page, tokens_page
from gesso.pipelines.report.tokens_page import Usage
from tests import indexes
from tests.exports import write_export

HOSTILE = "<script>alert(1)</script> & a dog"
VOCABULARY = 8
# Of two shards for training and one for validation: (n, views, g, g).
CODES = {
    ("train", 0): np.array([[[[0, 1], [2, 3]]], [[[0, 0], [0, 0]]]], np.uint16),
    ("train", 1): np.array([[[[0, 1], [1, 1]]]], np.uint16),
    ("validation", 0): np.array([[[[7, 7], [7, 0]]]], np.uint16),
}
CAPTIONS = {("train", 0): [HOSTILE, "two dogs"], ("train", 1): ["a red boat"], ("validation", 0): [""]}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pages") / "clean"
    return write_export(folder, (24, 8), captions=lambda n: HOSTILE if n == 3 else f"a picture of number {n}")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    indexes.write_sources(folder / "theirs", (6, 5))
    refused = [("bad", {"jpg": b"<html>", "txt": HOSTILE.encode()}), ("none", {"txt": b"no picture"})]
    indexes.write_tar(folder / "theirs/part-2.tar", refused)
    return Path(indexes.write_index(folder / "index", sorted((folder / "theirs").iterdir())))


class TestIndex:
    def test_samples_reasons_and_what_stays(self, index: Path) -> None:
        page = Path(report.write(str(index), None, 4)).read_text()
        assert "From samples to pictures" in page
        for line in ("of 13 samples read", "With picture and caption", "picture_missing", "not_an_image"):
            assert line in page
        assert "<dt>cls</dt><dd>11</dd>" in page
        assert (page.count("data:image/jpeg"), "4 of 11, the first samples" in page) == (4, True)
        assert "Hosts of the links" not in page
        assert "links a second" not in page
        assert "<script>alert" not in page

    def test_of_links_that_json_told(self, tmp_path: Path) -> None:
        fields = json.dumps({"url": "http://one.example/1.jpg"}).encode()
        key, files = indexes.sample(1)
        indexes.write_tar(tmp_path / "theirs/a.tar", [(key, {**files, "json": fields})])
        page = Path(report.write(indexes.write_index(tmp_path / "index", [tmp_path / "theirs/a.tar"]), None, 4))
        assert "Hosts of the links" in page.read_text()

    def test_an_unfinished_one(self, index: Path, tmp_path: Path) -> None:
        shutil.copytree(index.parent, tmp_path / "made")
        for name in ("manifest.json", "00001_stats.json"):
            (tmp_path / "made/index" / name).unlink()
        page = Path(report.write(str(tmp_path / "made/index"), None, 60)).read_text()
        assert "Not finished: 2 of 3 shards are done." in page
        assert page.count("data:image/jpeg") == 6

    def test_a_project_has_it_as_a_chapter(self, index: Path) -> None:
        page = Path(report.write(str(index.parent), str(index.parent / "all.html"), 60)).read_text()
        assert "11 of 13 samples in 3 tars are taken." in page


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `gesso encode` writes, but for checksums."""
    folder, shards = tmp_path_factory.mktemp("pages") / "tokens", []
    for (split, index), codes in CODES.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{split}/{index:05d}.npy", codes)
        captions = CAPTIONS[split, index]
        table = pa.table({"key": [f"{split}{index}{at}" for at in range(len(captions))], "caption": captions})
        pq.write_table(table, folder / f"{split}/{index:05d}.parquet")
        files = {f"{index:05d}.npy": {"bytes": 500}, f"{index:05d}.parquet": {"bytes": 500}}
        shards.append({"split": split, "index": index, "count": len(codes), "successes": len(codes), "files": files})
    about = {
        "kind": "tokens",
        "codes": {"vocabulary": VOCABULARY, "views": 1, "grid": 2},
        "shards": shards,
        "samples": 4,
        "splits": {"train": 3, "validation": 1},
        "funnel": {"rows_read": 5, "success": 4, "too_small": 1},
        "settings": {"dvae": {"kind": "dvae", "sha256": "ab" * 32}, "views": 1, "seed": 0},
        "versions": {"gesso": "0.1.0"},
    }
    (folder / "manifest.json").write_text(json.dumps(about))
    return str(folder)


def text_of(output: str, *flags: str) -> str:
    assert report.main([output, *flags]) == 0
    return (Path(output) / "report.html").read_text()


class TestExport:
    def test_counts(self, clean: str) -> None:
        splits = export_page.committed(clean)
        assert {name: (len(shards.indexes), shards.samples) for name, shards in splits.items()} == {
            "train": (3, 24),
            "validation": (1, 8),
        }
        on_disk = sum(path.stat().st_size for name in splits for path in (Path(clean) / name).glob("*.[tp]a*"))
        assert sum(shards.bytes for shards in splits.values()) == on_disk

    def test_page(self, clean: str) -> None:
        text = text_of(clean)
        assert "<title>clean – export report</title>" in text
        assert "<td>24</td><td>3</td>" in text
        assert text.count("data:image/jpeg;base64,") == 32  # the third that is for training, a quarter for validation
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; a dog" in text
        assert "<script" not in text
        assert "Not finished" not in text

    def test_fewer_pictures(self, clean: str) -> None:
        assert text_of(clean, "--pictures", "4").count("data:image/jpeg") == 4
        assert "No picture is shown." in text_of(clean, "--pictures", "0")

    def test_a_split_has_the_page_of_its_export(self, clean: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert report.main([f"{clean}/train"]) == 0
        assert capsys.readouterr().out == f"{clean}/report.html\n"

    def test_an_unfinished_one(self, tmp_path: Path) -> None:
        output = write_export(tmp_path / "clean", (24, 8))
        (tmp_path / "clean/manifest.json").unlink()
        (tmp_path / "clean/train/00001_stats.json").unlink()
        assert "Not finished: 3 of 4 shards are done." in text_of(output)

    def test_funnel(self) -> None:
        funnel = {"samples_read": 100, "train": 70, "validation": 10, "overlap": 15, "repeat_exact": 5}
        told = [(step["label"], step["count"], step["share"], step["lost"]) for step in export_page.steps(funnel)]
        assert told == [
            ("Samples read", "100", "100.0%", ""),
            ("Less overlap", "85", "85.0%", "− 15 duplicates of reference pictures (15.0%)"),
            ("Less repeat_exact", "80", "80.0%", "− 5 the same picture as another sample's (5.0%)"),
            ("Train", "70", "70.0%", ""),
            ("Validation", "10", "10.0%", ""),
        ]
        assert export_page.funnel_line(funnel) == "20 samples (20.0%) were dropped."

    def test_decisions(self) -> None:
        overlap = {"threshold": 0.9342, "references": 5000, "duplicates": 21, "uids": 17, "who": ""}
        assert export_page.decisions([overlap]) == [("0.9342", "5,000", "21", "17", "–")]


class TestTokens:
    def test_how_often_codes_are_used(self, tokens: str) -> None:
        manifest = tokens_page.read_manifest(tokens)
        usage = tokens_page.survey_codes(tokens, manifest, tokens_page.chosen_shards(manifest))
        assert usage.counts.tolist() == [7, 4, 1, 1, 0, 0, 0, 3]
        assert (usage.used, usage.grids) == (5, 4)
        assert tokens_page.usage_line(usage, VOCABULARY) == ("5 of 8 codes (62.5%) are used; their perplexity is 3.9.")
        assert [(line["code"], line["share"]) for line in tokens_page.top_codes(usage)] == [
            *((0, "43.8%"), (1, "25.0%"), (7, "18.8%"), (2, "6.2%"), (3, "6.2%"))
        ]
        assert usage.examples[0] == {"caption": HOSTILE, "codes": "0 1 2 3"}
        assert [example["caption"] for example in usage.examples] == [HOSTILE, "two dogs", "a red boat", ""]

    @pytest.mark.parametrize(("counts", "perplexity"), [([5, 5, 5, 5], 4), ([9, 0, 0], 1), ([0, 0], 1)])
    def test_perplexity(self, counts: list[int], perplexity: float) -> None:
        assert Usage(np.array(counts)).perplexity == pytest.approx(perplexity)

    def test_page(self, tokens: str) -> None:
        text = text_of(tokens)
        assert "<title>tokens – tokens report</title>" in text
        assert "Of all codes: 5 of 8 codes (62.5%) are used" in text
        assert "1 samples (20.0%) were left out" in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; a dog" in text
        assert "<script" not in text
        assert "<code>0 1 2 3 …</code>" in text

    def test_only_some_shards_are_read_of_many(self, tokens: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens_page, "SHARDS", 1)
        assert "Of the codes of 2 of 3 shards: 5 of 8" in text_of(tokens)

    def test_unfinished(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "plan.json").write_text('{"kind": "tokens"}')
        assert cli.main(["report", str(tmp_path)]) == 2
        assert "is not finished: run the same `gesso encode` again" in capsys.readouterr().err

    def test_damaged(self, tokens: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        import shutil

        output = Path(shutil.copytree(tokens, tmp_path / "tokens"))
        (output / "train/00000.npy").write_bytes(b"nothing")
        assert cli.main(["report", str(output)]) == 2
        assert f"`gesso verify {output}` shows what is damaged" in capsys.readouterr().err

    def test_share_curve_ends_at_all(self) -> None:
        drawn = str(charts.share_curve(np.array([1, 3]), "label"))
        assert 'points="40.0,176.0 191.0,62.0 342.0,24.0"' in drawn


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("embeddings", "`gesso match --embeddings {}` searches them"),
        ("matches", "`gesso review {}` shows them"),
        ("repeats", "`gesso export --drop {}` takes them"),
        ("tokenizer", "{}/tokenizer.json is all that there is"),
        ("detector", "`tensorboard --logdir {}` shows its curves"),
    ],
)
def test_what_has_no_page(kind: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "run.json" if kind in ("tokenizer", "detector") else "manifest.json"
    (tmp_path / name).write_text(json.dumps({"kind": kind}))
    assert cli.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gesso: `gesso report` has no page for ")
    assert told.format(tmp_path) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 400, 700, 1000, 1600])
@pytest.mark.parametrize("kind", ["clean", "tokens"])
def test_nothing_sticks_out_and_nothing_is_loaded(browser: Any, kind: str, width: int, clean: str, tokens: str) -> None:
    output = {"clean": clean, "tokens": tokens}[kind]
    text_of(output)
    tab, said = browser.new_page(viewport={"width": width, "height": 800}), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: request.url.startswith("data:") or said.append(request.url))
    tab.goto(f"file://{output}/report.html")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for picture in tab.locator("img").all():
        picture.scroll_into_view_if_needed()
        tab.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=picture.element_handle())
    assert tab.locator("nav a").count() == tab.locator("main section").count() == 5
    assert said == [f"file://{output}/report.html"]
    tab.close()
