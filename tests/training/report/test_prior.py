"""The page of a prior's run: its rules, shares, gradient scales and samples; used in Chromium."""

import json
import re
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from gesso.errors import UserError
from gesso.training import grids, metrics_file
from gesso.training.metrics_file import Record
from gesso.training.report import curves, page, prior, report, rules, samples, scales, words
from gesso.training.report.curves import Line
from gesso.training.report.facts import Fact
from gesso.training.report.run import Grid, Run, read_run
from gesso.training.report.samples import Cell
from gesso.training.report.scales import Scales
from tests import prior_runs, runs
from tests.prior_runs import CAPTIONS, write_prior_run
from tests.training.report.conftest import hover

MAP_COLOURS = """places => {
  const canvas = document.getElementById("heat");
  const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return places.map(([column, block]) => 4 * (block * width + column)).map((at) => [...data.slice(at, at + 4)]);
}"""


def run_of(records: Sequence[Record], grids: Sequence[Grid] = ()) -> Run:
    return Run("prior", {"kind": "prior", "settings": {}}, list(records), list(grids), None, None)


def skipping(*counts: int) -> Run:
    """A record every 100 updates, with the updates skipped so far."""
    return run_of([{"step": 100 * place, "skipped": count} for place, count in enumerate(counts, 1)])


def scaled(*rows: Sequence[float]) -> Run:
    """A record every 100 updates, with the scales of its blocks."""
    return run_of(
        [
            {"step": 100 * place, **{f"scale/{block:03d}": value for block, value in enumerate(row)}}
            for place, row in enumerate(rows, 1)
        ]
    )


def write_scales(folder: Path, rows: Sequence[Sequence[float]]) -> str:
    """A run of nothing but scales."""
    folder.mkdir()
    (folder / "run.json").write_text('{"kind": "prior"}')
    for record in scaled(*rows).records:
        values = {name: value for name, value in record.items() if name != "step"}
        metrics_file.append(str(folder / "metrics.jsonl"), int(record["step"]), values)
    return str(folder)


class TestRules:
    def test_a_run_that_is_well_has_no_warning(self, tmp_path: Path) -> None:
        assert rules.warnings(prior.RULES, read_run(write_prior_run(tmp_path / "run"), 12)) == []
        assert len(prior.RULES) == 5

    def test_losses_are_finite(self) -> None:
        run = run_of([{"step": 1, "loss": 2.0, "gradient_norm": inf}, {"step": 2, "val_image_loss": nan}])
        assert rules.warnings(prior.RULES, run) == [
            rules.Warned("Loss not finite", "val_image_loss is not a number at step 2, the first of 1 steps.")
        ]

    def test_overfitting_names_the_best_step(self) -> None:
        values = [(3.0, 4.0), (2.8, 3.5), (2.6, 3.6), (2.4, 3.75)]
        lines: list[Record] = [
            {"step": 50 * place, "loss": loss, "val_loss": found} for place, (loss, found) in enumerate(values, 1)
        ]
        assert prior.overfits(run_of(lines)) == rules.Warned(
            "Validation loss rises",
            "It rose over the last 3 evaluations (3.5 → 3.6 → 3.75 nats a token) while the training loss fell. "
            "It was best at step 100, 3.5: what came after overfits.",
        )
        assert prior.overfits(run_of(lines[:3])) is None

    @pytest.mark.parametrize(
        ("counts", "why"),
        [
            ([], None),
            ([5], None),
            ([6], "6 of the 100 after step 0: 6.0%, over 5%; their gradients were not finite."),
            ([90, 95, 100, 105], None),  # many, but long ago
            ([0, 0, 0, 11], "11 of the 200 after step 200: 5.5%, over 5%; their gradients were not finite."),
            ([0, 0, 0, 10], None),
            ([0, 0, 6], None),  # of 200
        ],
    )
    def test_many_skipped(self, counts: list[int], why: str | None) -> None:
        found = prior.many_skipped(skipping(*counts))
        assert found == (rules.Warned("Many updates skipped", why) if why else None)

    def test_scales_at_their_limit(self) -> None:
        assert prior.scale_at_limit(run_of([{"step": 1, "loss": 1.0}])) is None
        assert prior.scale_at_limit(scaled([7.0, 9.0], [7.01, 9.0])) is None
        assert prior.scale_at_limit(scaled([8.0, 9.0, 8.0], [7.0, 9.0, 7.0])) == rules.Warned(
            "Gradient scale at its lower limit",
            "At step 200 2 of 3 residual blocks are at 2^7 (block 0, 2): their gradients overflow even so; lower the "
            "learning rate, or train in bf16.",
        )
        many = prior.scale_at_limit(scaled(10 * [7.0]))
        assert many is not None
        assert "10 of 10 residual blocks are at 2^7 (block 0, 1, 2, 3, 4, 5, 6, 7, …):" in many.why


class TestSkipped:
    def test_shares_between_records(self) -> None:
        assert prior.shares_skipped([(100, 4.0), (200, 4.0), (250, 29.0)]) == [(100, 4.0), (200, 0.0), (250, 50.0)]
        assert prior.shares_skipped([]) == []

    def test_fact(self) -> None:
        assert prior.all_skipped(skipping(0, 3)) == [Fact("1.5%", "of the updates skipped", "3 of 200")]
        assert prior.all_skipped(run_of([])) == []


class TestScales:
    def test_are_read_where_they_are_finite(self) -> None:
        run = scaled([13.0, 12.0], [13.1, nan], [13.2, 12.2])
        assert scales.read(run) == Scales([100, 300], [[13.0, 12.0], [13.2, 12.2]])
        assert scales.read(run_of([{"step": 1, "loss": 2.0}])) is None
        assert scales.read(scaled([nan])) is None

    def test_a_line_for_each_block_and_three_over_all(self) -> None:
        panel = scales.panel(Scales([100, 200], [[13.0, 12.0, 9.0], [14.0, 11.0, 8.0]]))
        assert panel.behind[1:] == [
            Line("1", "thread", [(100, 12.0), (200, 11.0)], depth=0.5),
            Line("2", "thread", [(100, 9.0), (200, 8.0)], depth=1.0),
        ]
        assert [(line.label, list(line.points)) for line in panel.lines] == [
            ("lowest", [(100, 9.0), (200, 8.0)]),
            ("median", [(100, 12.0), (200, 11.0)]),
            ("highest", [(100, 13.0), (200, 14.0)]),
        ]
        drawn = str(curves.draw(panel, 200))
        assert '<path class="thread" style="--depth:50%" d="M500.0 ' in drawn
        assert len(curves.data([panel])["scales"]) == 3

    def test_the_map_has_a_column_for_each_record(self) -> None:
        found = scales.heat_data(Scales([100, 200], [[13.004, 7.0], [13.5, 7.25]]), 200)
        assert (found["steps"], found["values"]) == ([100, 200], [[13.0, 7.0], [13.5, 7.25]])
        assert (found["low"], found["high"], found["limit"]) == (7, 14, 7.0)

    def test_its_columns_are_equally_wide(self) -> None:
        """Of a run whose records were made rarer, and one of more records than columns."""
        found = scales.heat_data(Scales([100, 200, 800, 1600], [[1.0], [2.0], [3.0], [4.0]]), 1600)
        assert found["steps"] == [200, 800, 800, 1600]
        steps = list(range(1, 2401))
        found = scales.heat_data(Scales(steps, [[9.0] for _ in steps]), 2400)
        assert found["steps"] == list(range(4, 2401, 4))

    def test_ticks(self) -> None:
        found = scales.heat(Scales([100], [[7.0, 9.5, 7.0, 10.0]]), 100)
        assert found["rows"] == [(0, 12.5), (1, 37.5), (2, 62.5), (3, 87.5)]
        assert found["marks"][0] == (7, 0.0)
        assert found["marks"][-1] == (10, 100.0)
        assert found["limited"] == 2

    def test_one_value_has_a_span(self) -> None:
        assert scales.span(Scales([1], [[13.0]])) == (13, 15)


class TestSamples:
    def test_grids_are_those_of_the_training(self) -> None:
        assert (samples.COLUMNS, samples.GAP) == (grids.COLUMNS, grids.GAP)

    def test_where_a_pair_stands(self) -> None:
        captions = [str(place) for place in range(10)]
        found = samples.cells(Grid(1, runs.encoded(prior_runs.grid(1, 10)), captions))
        assert found.ratio == "64 / 130"
        assert found.cells[0] == Cell("0", 0.0, 0.0, 100 * 526 / 64)
        assert found.cells[9] == Cell("9", -100 * 66 / 64, -100 * 132 / 130, 100 * 526 / 64)

    @pytest.mark.parametrize("count", [1, 3, 8, 17])
    def test_few_and_many(self, count: int) -> None:
        grid = Grid(1, runs.encoded(prior_runs.grid(1, count)), count * ["x"])
        assert len(samples.cells(grid).cells) == count

    def test_a_grid_of_other_captions(self) -> None:
        with pytest.raises(UserError, match="grid of step 5 is 196×130 pixels and does not fit its 4 captions"):
            samples.cells(Grid(5, runs.encoded(prior_runs.grid(1, 3)), 4 * ["x"]))

    @pytest.mark.parametrize("text", [None, "{}", '{"captions": []}', '{"captions": [1]}'])
    def test_captions_that_are_damaged(self, tmp_path: Path, text: str | None) -> None:
        path = Path(write_prior_run(tmp_path / "run", until=2000))
        beside = path / "evaluations/0002000/samples.json"
        beside.unlink() if text is None else beside.write_text(text)
        with pytest.raises(UserError, match=r"samples\.json has no list of captions: remove that evaluation's folder"):
            report(str(path), None)

    def test_grids_of_other_captions_are_left_out(self, tmp_path: Path) -> None:
        path = Path(write_prior_run(tmp_path / "run", until=8000))
        (path / "evaluations/0004000/samples.json").write_text('{"captions": ["a fox"]}')
        assert [grid.step for grid in read_run(str(path), 12).grids] == [2000, 6000, 8000]


class TestPage:
    def test_head(self, tmp_path: Path) -> None:
        text = Path(report(write_prior_run(tmp_path / "run"), None)).read_text()
        head = text.split("<main")[0].split("</style>")[1]
        assert "Training of a prior, preset tiny · Best checkpoint: step 20,000, 3.811 nats a token." in head
        assert "<b>No warnings.</b> All 5 checks passed." in head
        facts = [re.sub("<[^>]+>", "|", line) for line in re.findall("<div><dt>.*</dd></div>", head)]
        assert facts[:4] == [
            "||of 20,000 steps||20,000||",
            "||validation loss|−0.5% since step 18,000|||3.811||",
            "||image loss in validation|−0.5% since step 18,000|||3.967||",
            "||tokens a second||14,961||",
        ]
        last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
        share = words.share(last["skipped"], 20_000)
        assert facts[4] == f"||of the updates skipped|{last['skipped']} of 20,000|||{share}||"
        assert re.findall('<li><a href="#([^"]+)"', head) == ["curves", "samples", "scales", "settings"]

    def test_figures(self, tmp_path: Path) -> None:
        text = Path(report(write_prior_run(tmp_path / "run"), None)).read_text()
        assert re.findall('data-panel="([^"]+)"', text.split("<script")[0]) == [
            *("loss", "image_loss", "text_loss", "gradient_norm", "learning_rate", "tokens_per_second", "memory_mib"),
            *("skipped", "skipped_share", "traffic", "mfu", "captions_cut", "scales"),
        ]
        assert "<i></i>update skipped</span>" in text
        assert re.findall(r"https?://", text) == []

    def test_without_scales_samples_and_compression(self, tmp_path: Path) -> None:
        text = Path(report(write_prior_run(tmp_path / "run", layers=0, captions=()), None)).read_text()
        assert "No evaluation with samples yet." in text
        assert "Gradient scales" not in text
        panels = [panel for column in prior.columns(run_of([{"step": 1, "loss": 1.0}])) for panel in column]
        assert [panel.key for panel in panels if panel.drawn] == ["loss"]

    def test_no_step_yet(self, tmp_path: Path) -> None:
        text = Path(report(write_prior_run(tmp_path / "run", until=0), None)).read_text()
        assert "No metrics have been logged yet: run `gesso report` again later." in text
        assert 'data-panel="' not in text.split("<script")[0]

    def test_captions_are_text(self, tmp_path: Path) -> None:
        path = write_prior_run(tmp_path / "run", until=2000, captions=("</figure><script>alert(1)</script>",))
        text = Path(report(path, None)).read_text()
        assert "&lt;/figure&gt;&lt;script&gt;alert(1)" in text
        assert "<script>alert(1)" not in text

    def test_a_metric_without_a_figure_of_its_own_gets_one(self) -> None:
        text = page.render(run_of([{"step": 1, "loss": 1.0, "another": 2.0, "epoch": 3, "scale/000": 13.0}]))
        assert re.findall('data-panel="([^"]+)"', text) == ["loss", "another", "scales"]


@pytest.mark.browser
class TestInChromium:
    def test_the_map_is_read_with_all_curves(self, open_page: Callable[..., Any]) -> None:
        records: list[Record] = []

        def write(folder: Path) -> str:
            path = write_prior_run(folder)
            records.extend(metrics_file.read(f"{path}/metrics.jsonl"))
            return path

        tab = open_page(write=write)
        hover(tab, "#heat", 0.5 + 0.25 / 200, 0.3)  # the column after the middle one of 200, and block 3 of 12
        record = records[100]
        assert tab.locator("#cell").inner_text() == (
            f"Block 3, MLP of layer 2, step 10,100: 2^{record['scale/003']:.2f}"
        )
        assert tab.locator(".heat .cross").get_attribute("data-at") == "step 10,100"
        assert tab.locator("[data-panel=loss] .readout .raw b").inner_text() == words.short(record["loss"])
        lowest = min(record[f"scale/{block:03d}"] for block in range(12))
        assert tab.locator("[data-panel=scales] .readout b").first.inner_text() == words.short(lowest)
        tab.mouse.move(5, 5)
        assert tab.locator("#cell").inner_text() == "Point at the map."
        assert tab.locator(".cross:visible").count() == 0

    def test_the_map_by_keys(self, open_page: Callable[..., Any]) -> None:
        tab = open_page(write=write_prior_run)
        tab.locator("#heat").focus()
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("ArrowDown")
        assert tab.locator("#cell").inner_text().startswith("Block 2, attention of layer 2, step 20,000: 2^")

    def test_colours_of_the_map(self, open_page: Callable[..., Any]) -> None:
        """The ends of viridis at the span's, its middle halfway; another colour at the lower limit."""
        tab = open_page(write=lambda folder: write_scales(folder, [[7.0, 8.0, 10.0, 17.0], [7.5, 9.0, 11.5, 12.0]]))
        places = [(0, 0), (0, 3), (1, 3), (1, 0)]
        assert tab.evaluate(MAP_COLOURS, places) == [
            [176, 57, 31, 255],
            [253, 231, 37, 255],
            [38, 144, 137, 255],
            [67, 18, 97, 255],
        ]

    def test_samples_are_stepped_through(self, open_page: Callable[..., Any]) -> None:
        tab = open_page(write=write_prior_run)
        assert tab.locator(".cell figcaption").all_inner_texts() == list(CAPTIONS)
        last = tab.locator(".cell img").first.get_attribute("src")
        tab.locator("#time").focus()
        tab.keyboard.press("ArrowLeft")
        assert tab.locator("#time-step").inner_text() == "18,000"
        sources = [image.get_attribute("src") for image in tab.locator(".cell img").all()]
        assert len(set(sources)) == 1
        assert sources[0] != last
        image, part = (tab.locator(f".cell:nth-child(3) {name}").bounding_box() for name in ("img", "div"))
        scale = part["width"] / runs.SIDE
        assert (part["x"] - image["x"]) / scale == pytest.approx(2 * (runs.SIDE + samples.GAP), abs=0.1)
        assert part["height"] / scale == pytest.approx(2 * runs.SIDE + samples.GAP, abs=0.1)

    @pytest.mark.parametrize("width", [380, 800, 1280])
    def test_nothing_sticks_out(self, open_page: Callable[..., Any], width: int) -> None:
        tab = open_page(width, write=write_prior_run, layers=64, every=500)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
