"""The page: what it counts, what it escapes, what it shows of unfinished, foreign and empty directories."""

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso import cli, storage
from gesso.dataset import layout, manifest, shards
from gesso.dataset.reasons import STAGES, meaning, stage_of
from gesso.dataset.schemas import plan_schema
from gesso.dataset.shards import Outcome
from gesso.errors import UserError
from gesso.images import encode
from gesso.pipelines import report
from gesso.pipelines.report import charts, page, pages, samples
from gesso.pipelines.report.survey import Histogram, Tally, log_edges, outcome_of

HOSTILE = '<script>alert("1")</script> & <img src=x onerror=alert(2)> ‮مرحبا😀'
LONG = "the harbour and its boats, " * 37 + "x"
SETTINGS = {"engine": "gesso", "min_side": 16, "image_size": 32, "max_aspect_ratio": 2.0, "extra": []}
COUNTED = {"repeat_link": 2, "repeat_pair": 1, "url_missing": 1, "malformed_row": 0}


def jpeg(width: int, height: int) -> bytes:
    return encode(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8), 80)


def pair(number: int, caption: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    url = f"http://{'b' if number % 3 else 'A'}.example/{number}.jpg"
    return {"key": f"{number:032x}", "url": url, "caption": caption, "reason": reason, **fields}


def kept(width: int, height: int, *, reencoded: bool = True) -> Outcome:
    original = {"original_width": 2 * width, "original_height": 2 * height, "original_format": "jpeg"}
    fields = {"status": "success", "reason": None, "width": width, "height": height, "original_bytes": 1000}
    return Outcome({**fields, **original, "reencoded": reencoded}, jpeg(width, height))


def lost(reason: str, body: bytes = b"", **fields: Any) -> Outcome:
    status = "failed_to_resize" if body else "failed_to_download"
    return Outcome({"status": status, "reason": reason, "error_message": f"told {reason}", **fields}, body)


SHARDS = [
    [
        (pair(0, "A dog in the park"), kept(48, 32)),
        (pair(1, "cat", "caption_too_short"), None),
        (pair(2, "a red boat on a lake"), lost("http_404")),
        (pair(3, "a tiny boat"), lost("too_small", jpeg(12, 8), original_width=12, original_height=8)),
        (pair(4, "A dog in the park", original_caption="Stock photo of A dog in the park"), kept(32, 32)),
    ],
    [
        (pair(5, HOSTILE), kept(32, 48, reencoded=False)),
        (pair(6, "the view of a hill"), lost("timeout")),
        (pair(7, "a wide boat"), lost("aspect_ratio", jpeg(90, 20), original_width=180, original_height=40)),
        (pair(8, "a picture of a click", "url_invalid", url="javascript:alert(1)"), None),
        (pair(9, LONG), kept(40, 32)),
    ],
]


def write_shard(output: str, index: int) -> None:
    pairs = [row for row, _ in SHARDS[index]]
    plan = [pa.RecordBatch.from_pylist(pairs, plan_schema())]
    outcomes = [outcome_of for _, outcome_of in SHARDS[index]]
    written, counts = shards.write_shard(output, index, plan, outcomes.__getitem__, ())  # type: ignore[arg-type]
    shards.commit(output, index, written, counts, 1000.0 + 100 * index, 1010.0 + 100 * index)


def write_dataset(folder: Path, done: int = 2) -> str:
    output = str(folder)
    record = {"settings": SETTINGS, "input": [{"path": "links.parquet", "bytes": 12_345}]}
    plan = {**record, "shards": 2, "links": 8, "rows_read": 14, "counted_only": COUNTED}
    storage.write_json(storage.join(output, layout.PLAN), plan)
    for index in range(done):
        write_shard(output, index)
    if done == 2:
        manifest.finish(output)
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def dataset(finished: str) -> page.DatasetSummary:
    return pages.summarize(finished, 60)


def text_of(output: str, *flags: str) -> str:
    target = Path(output) / "report.html"
    assert report.main([output, *flags]) == 0
    return target.read_text()


class TestSurvey:
    def test_outcomes(self, dataset: page.DatasetSummary) -> None:
        counts = {"success": 4, "caption_too_short": 1, "http_404": 1, "too_small": 1, "timeout": 1}
        assert dataset.survey.outcomes == {**counts, "aspect_ratio": 1, "url_invalid": 1}
        assert dataset.survey.rows == 10

    def test_hosts_in_lower_case_with_their_outcomes(self, dataset: page.DatasetSummary) -> None:
        counts = dataset.survey.hosts.counts
        assert counts[("a.example", "success")] == 2
        assert counts[("b.example", "success")] == 2
        assert counts[("b.example", "http_404")] == 1
        assert sum(counts.values()) == 9  # javascript: has no host

    def test_sizes(self, dataset: page.DatasetSummary) -> None:
        survey = dataset.survey
        assert survey.short_side.kept.sum() == 4
        assert survey.short_side.other.sum() == 2
        assert survey.kept_side.kept[32 // 8] == 4
        assert survey.size_map.sum() == 6
        assert survey.downloaded == 4000
        assert survey.formats == {"jpeg": 4}
        assert survey.reencoded == {True: 3, False: 1}

    def test_captions_are_those_of_kept_pictures(self, dataset: page.DatasetSummary) -> None:
        survey = dataset.survey
        assert survey.captions.counts == {"A dog in the park": 2, HOSTILE: 1, LONG: 1}
        assert survey.words.counts["dog"] == 2
        assert survey.words.counts["harbour"] == 37
        assert "boat" not in survey.words.counts
        assert survey.caption_words.kept[5] == 2
        assert survey.caption_words.kept[-1] == 1  # LONG

    def test_cut_captions(self, dataset: page.DatasetSummary) -> None:
        assert dataset.survey.cut == 1
        assert dataset.survey.cut_examples == {"Stock photo of A dog in the park": "A dog in the park"}

    def test_examples(self, dataset: page.DatasetSummary) -> None:
        assert [row["caption"] for row in dataset.survey.examples["http_404"]] == ["a red boat on a lake"]
        assert dataset.survey.examples["success"] == []


class TestTally:
    def test_exact_up_to_its_limit(self) -> None:
        tally = Tally(4)
        tally.add([("a", 3), ("b", 1)])
        tally.add([("a", 1)])
        assert (tally.counts, tally.error) == ({"a": 4, "b": 1}, 0)

    def test_beyond_it_forgets_the_rarer_half_and_says_by_how_much_it_may_err(self) -> None:
        tally = Tally(4)
        tally.add([("a", 9), ("b", 8), ("c", 3), ("d", 2), ("e", 1)])
        assert (tally.counts, tally.error) == ({"a": 9, "b": 8}, 3)
        tally.add([("c", 1)])
        assert tally.counts["c"] + tally.error >= 4

    def test_keeps_the_frequent_ones_of_a_long_stream(self) -> None:
        tally = Tally(100)
        for start in range(0, 5000, 50):
            tally.add([("often", 5), *((number, 1) for number in range(start, start + 50))])
        assert len(tally.counts) <= 100
        assert tally.counts["often"] == 500


class TestHistogram:
    def test_ends_take_what_lies_beyond_and_nothing_takes_nan(self) -> None:
        counts = Histogram(np.arange(0, 4, 1.0))
        counts.add(np.array([-5, 0.5, 1.5, 99, np.nan]), np.array([True, True, False, True, True]))
        assert counts.kept.tolist() == [2, 0, 1]
        assert counts.other.tolist() == [0, 1, 0]
        assert counts.total == 4

    def test_median(self) -> None:
        counts = Histogram(np.arange(0, 10, 1.0))
        counts.add(np.array([1.0, 3, 3, 7]), np.ones(4, np.bool_))
        assert counts.median() == 3

    def test_logarithmic_edges(self) -> None:
        assert log_edges(0, 2, 2).tolist() == pytest.approx([1, 2**0.5, 2, 2**1.5, 4])


class TestReasons:
    def test_every_documented_reason_has_a_meaning_and_a_stage(self) -> None:
        table = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text().split("## Reasons")[1]
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        reasons = [reason for row in rows for reason in re.findall(r"`(\w+)`", row)]
        assert len(reasons) > 20
        assert [reason for reason in reasons if not meaning(reason)] == []
        assert {stage_of(reason) for reason in reasons} == {stage.name for stage in STAGES} - {"pending"}

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (404, "no longer"),
            (503, "Service Unavailable"),
            (418, "Teapot"),
            (999, "an error of its own"),
            (299, "with another code"),
        ],
    )
    def test_http_codes(self, code: int, words: str) -> None:
        assert words in meaning(f"http_{code}")

    @pytest.mark.parametrize(
        ("status", "message", "reason"),
        [
            ("success", None, "success"),
            ("failed_to_download", "HTTP Error 404: Not Found", "http_404"),
            ("failed_to_download", "HTTP Error 302: a redirect that would lead to an infinite loop", "redirects"),
            ("failed_to_download", "<urlopen error timed out>", "timeout"),
            ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>", "dns"),
            ("failed_to_download", "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED]>", "tls"),
            ("failed_to_download", "<urlopen error [Errno 111] Connection refused>", "connection"),
            ("failed_to_download", "IncompleteRead(13 bytes read, 20 more expected)", "body_incomplete"),
            ("failed_to_download", "unknown url type: 'x'", "url_unusable"),
            ("failed_to_resize", "image too small", "too_small"),
            ("failed_to_resize", "aspect ratio too large", "aspect_ratio"),
            ("failed_to_resize", "Image decoding error", "undecodable"),
            ("failed_to_resize", "something new", "failed_to_resize"),
            (None, None, "failed_to_download"),
        ],
    )
    def test_of_img2dataset(self, status: str | None, message: str | None, reason: str) -> None:
        assert outcome_of(status, message) == reason


class TestFunnel:
    def test_each_step_and_what_is_lost(self, dataset: page.DatasetSummary) -> None:
        steps = [(step["label"], step["count"], step["lost"]) for step in page.steps(dataset)]
        assert steps == [
            ("Rows read", "14", ""),
            ("Rows with a link", "13", "− 1 rows without a usable link (7.1%)"),
            ("Distinct links", "10", "− 3 repeats of a link (21.4%)"),
            ("Links fetched", "8", "− 2 refused by the caption and link rules (14.3%)"),
            ("Downloaded", "6", "− 2 not downloaded (14.3%)"),
            ("Kept", "4", "− 2 pictures refused (14.3%)"),
        ]

    def test_an_unfinished_one_counts_the_shards_to_come(self, tmp_path: Path) -> None:
        output = write_dataset(tmp_path / "half", done=1)
        steps = [(step["label"], step["count"]) for step in page.steps(pages.summarize(output, 0))]
        assert ("In finished shards", "5") in steps
        assert steps[-1] == ("Kept", "2")
        text = text_of(output)
        assert "Not finished: 1 of 2 shards are done." in text
        assert "of 14 rows read, so far" in text

    def test_before_the_first_shard(self, tmp_path: Path) -> None:
        text = text_of(write_dataset(tmp_path / "none", done=0))
        assert "Not finished: 0 of 2 shards are done." in text
        assert "There is no caption yet." in text


class TestPage:
    def test_figures_of_the_head(self, dataset: page.DatasetSummary) -> None:
        figures = page.facts(dataset)
        assert figures[:2] == [("4", "pictures with captions"), ("28.6%", "of 14 rows read")]
        assert figures[3:] == [("2", "shards"), ("20 s", "of work at 0.4 links a second")]

    def test_time_between_two_runs_is_no_work(self) -> None:
        times = [(0, 10), (5, 12), (6, 7), (100, 101)]
        assert page.busy({at: {"start_time": a, "end_time": b} for at, (a, b) in enumerate(times)}) == 13

    def test_captions_are_text(self, finished: str) -> None:
        text = text_of(finished)
        assert "<script" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in text
        assert "😀" in text

    def test_only_web_links_are_links(self, finished: str) -> None:
        text = text_of(finished)
        assert 'href="javascript' not in text
        assert "javascript:alert(1)" in text
        links = re.findall(r'<a href="http[^>]*>', text)
        assert links
        assert all('rel="noreferrer noopener nofollow"' in link for link in links)

    @pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "http://[", "", None, "//x.example"])
    def test_no_link_of(self, url: str | None) -> None:
        assert page.safe_href(url) == ""

    def test_loads_nothing(self, finished: str) -> None:
        text = text_of(finished)
        assert {source[:23] for source in re.findall(r'src="([^"]*)"', text)} == {"data:image/jpeg;base64,"}
        assert re.findall(r"url\(|@import|<link", text) == []

    def test_the_same_twice(self, finished: str) -> None:
        assert text_of(finished) == text_of(finished)

    def test_examples_of_every_reason(self, dataset: page.DatasetSummary) -> None:
        shown = {card["reason"]: (len(card["pictures"]), len(card["rows"])) for card in page.cards(dataset)}
        texts = dict.fromkeys(("caption_too_short", "http_404", "timeout", "url_invalid"), (0, 1))
        assert shown == {**texts, "too_small": (1, 0), "aspect_ratio": (1, 0)}

    def test_a_long_caption_is_cut(self) -> None:
        assert page.brief("x" * 5000) == "x" * 999 + "…"

    def test_edits_are_marked_and_escaped(self) -> None:
        assert page.edited("Stock photo of <b>", "<b> &") == ("<del>Stock photo of</del> &lt;b&gt; <ins>&amp;</ins>")

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (347_340_800, "347 MB"), (6.3e12, "6.3 TB")],
    )
    def test_sizes_for_people(self, value: float, text: str) -> None:
        assert page.size(value) == text

    def test_shares_for_people(self) -> None:
        assert [charts.share(*pair) for pair in ((1, 8), (1, 10_000), (0, 5), (1, 0))] == [
            "12.5%",
            "<0.1%",
            "0.0%",
            "–",
        ]


class TestPictures:
    def test_kept_ones_of_both_shards(self, dataset: page.DatasetSummary) -> None:
        assert [picture.row["caption"] for picture in dataset.kept] == ["A dog in the park"] * 2 + [HOSTILE, LONG]

    def test_as_many_as_asked_for(self, finished: str) -> None:
        found = samples.kept_pictures(finished, [0, 1], 2)
        assert [picture.row["key"] for picture in found] == [f"{number:032x}" for number in (0, 5)]
        assert samples.kept_pictures(finished, [0, 1], 0) == []

    def test_spread(self) -> None:
        assert samples.spread(list(range(100)), 4) == [0, 25, 50, 75]
        assert samples.spread([3, 4], 24) == [3, 4]

    def test_a_budget_bounds_the_page(self, dataset: page.DatasetSummary) -> None:
        large = dataset.kept[0]._replace(uri="x" * (samples.BUDGET // 3))
        assert len(list(samples.within_budget([large] * 9))) == 3

    def test_a_tar_that_breaks_off(self, finished: str, tmp_path: Path) -> None:
        body = (Path(finished) / "00000.tar").read_bytes()
        (tmp_path / "00000.tar").write_bytes(body[: len(body) // 3])
        assert [picture.row["key"] for picture in samples.pictures(str(tmp_path / "00000.tar"))] in ([], [f"{0:032x}"])


def write_img2dataset(folder: Path) -> str:
    """A directory as img2dataset 1.47 leaves it: two kept, one 404, one too small."""
    folder.mkdir()
    names = ("url", "caption", "key", "status", "error_message", "width", "height", "original_width", "original_height")
    rows = [
        ("http://a.example/0.jpg", "a dog", "000000000", "success", None, 32, 32, 64, 64),
        ("http://a.example/1.jpg", None, "000000001", "success", None, 32, 40, 64, 80),
        (
            "http://b.example/2.jpg",
            "a boat",
            "000000002",
            "failed_to_download",
            "HTTP Error 404: Not Found",
            *[None] * 4,
        ),
        (None, "a hill", "000000003", "failed_to_resize", "image too small", *[None] * 4),
    ]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    pq.write_table(table, folder / "00000.parquet")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for row in rows[:2]:
            parts = {"jpg": jpeg(32, 32), "txt": str(row[1] or "").encode()}
            for suffix, body in {**parts, "json": json.dumps(dict(zip(names, row, strict=True))).encode()}.items():
                info = tarfile.TarInfo(f"{row[2]}.{suffix}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    counts = {"count": 4, "successes": 2, "failed_to_download": 1, "failed_to_resize": 1, "duration": 2.0}
    times = {"start_time": 5.0, "end_time": 7.0, "status_dict": {"success": 2, "HTTP Error 404: Not Found": 1}}
    (folder / "00000_stats.json").write_text(json.dumps({**counts, **times}))
    return str(folder)


class TestForeign:
    def test_counts(self, tmp_path: Path) -> None:
        dataset = pages.summarize(write_img2dataset(tmp_path / "theirs"), 9)
        assert dataset.by_img2dataset
        assert dataset.funnel == {"rows_read": 4, "success": 2, "http_404": 1, "too_small": 1}
        assert [step["count"] for step in page.steps(dataset)] == ["4", "4", "3", "2"]
        assert len(dataset.kept) == 2

    def test_page(self, tmp_path: Path) -> None:
        text = text_of(write_img2dataset(tmp_path / "theirs"))
        assert "collected by img2dataset" in text
        assert "Not finished" not in text
        assert "http_404" in text

    def test_without_its_table(self, tmp_path: Path) -> None:
        output = write_img2dataset(tmp_path / "theirs")
        (Path(output) / "00000.parquet").unlink()
        with pytest.raises(UserError, match="holds no dataset"):
            report.main([output])


class TestMistakes:
    def test_no_dataset(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["report", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"gesso: {tmp_path} holds nothing that gesso writes: give")
        assert said.count("\n") == 1

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="nowhere is not there: give"):
            report.main([str(tmp_path / "nowhere")])

    def test_a_damaged_table(self, tmp_path: Path) -> None:
        output = write_img2dataset(tmp_path / "theirs")
        (Path(output) / "00000.parquet").write_bytes(b"PAR1 no table PAR1")
        with pytest.raises(UserError, match=r"00000.parquet cannot be read \(.*\): `gesso verify` shows"):
            report.main([output])

    def test_name_of_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert [pages.directory_name(path) for path in (".", "a/b/", "gs://c/d/")] == [tmp_path.name, "b", "d"]

    def test_number_of_pictures(self, finished: str) -> None:
        with pytest.raises(UserError, match="--pictures is -1: give 0 or more"):
            report.main([finished, "--pictures", "-1"])

    def test_elsewhere(self, finished: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        target = tmp_path / "new" / "page.html"
        assert report.main([finished, "--output", str(target)]) == 0
        assert target.read_text().startswith("<!doctype html>")
        assert capsys.readouterr().out == f"{target}\n"

    def test_loads_neither_beam_nor_torch(self, finished: str, tmp_path: Path) -> None:
        run = (
            f"from gesso.pipelines import report; report.main([{finished!r}, '--output', {str(tmp_path / 'x.html')!r}])"
        )
        check = "import sys; sys.exit(any(name in sys.modules for name in ('apache_beam', 'torch', 'aiohttp')))"
        assert subprocess.run([sys.executable, "-c", f"{run}; {check}"], check=False).returncode == 0


@pytest.mark.browser
class TestInBrowser:
    @pytest.fixture
    def opened(self, browser: Any, finished: str) -> Iterator[Any]:
        text_of(finished)
        tab, said = browser.new_page(viewport={"width": 400, "height": 800}), []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append("a dialog opened"))
        tab.on("request", lambda request: request.url.startswith("data:") or said.append(request.url))
        tab.goto(f"file://{finished}/report.html")
        yield tab
        assert said == [f"file://{finished}/report.html"]
        tab.close()

    def test_headings_and_counts(self, opened: Any) -> None:
        assert opened.locator("h1").all_inner_texts() == ["tiny"]
        assert opened.locator("h2").count() == 7
        assert opened.locator(".funnel .count b").all_inner_texts() == ["14", "13", "10", "8", "6", "4"]
        assert opened.locator(".hosts tbody tr").count() == 2

    def test_pictures_are_drawn(self, opened: Any) -> None:
        assert opened.locator("#kept img").count() == 4
        assert opened.locator("#refused img").count() == 2
        for picture in opened.locator("img").all():
            picture.scroll_into_view_if_needed()
            opened.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=picture.element_handle())

    def test_a_caption_is_read_as_it_is(self, opened: Any) -> None:
        assert opened.locator("#kept figcaption .text").nth(2).text_content() == HOSTILE
        assert opened.locator("#kept img").nth(2).get_attribute("alt") == HOSTILE

    @pytest.mark.parametrize("width", [320, 400, 700, 1000, 1600])
    def test_nothing_sticks_out(self, opened: Any, width: int) -> None:
        opened.set_viewport_size({"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width

    def test_reasons_lead_to_their_examples(self, opened: Any) -> None:
        for link in opened.locator("#reasons a").all():
            assert opened.locator(link.get_attribute("href")).count() == 1

    def test_charts_have_names(self, opened: Any) -> None:
        drawn = opened.locator("svg[role=img]")
        assert drawn.count() > 20
        assert all(name for name in drawn.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))"))
