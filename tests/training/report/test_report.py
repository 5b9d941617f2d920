"""The page of a training: its rules, its figures, what it makes of unfinished and damaged runs; used in Chromium."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gesso import cli
from gesso.errors import UserError
from gesso.training.metrics_file import Record
from gesso.training.report import curves, dvae, facts, page, pictures, report, rules, words
from gesso.training.report.curves import Line, Panel, Scale
from gesso.training.report.run import Codebook, Run, is_run, read_run, spread
from tests import runs
from tests.training.report.conftest import hover

PIXELS = """places => {
  const canvas = document.getElementById("codes");
  const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return places.map(([x, y]) => [...data.slice(4 * (y * width + x), 4 * (y * width + x) + 4)]);
}"""
STRIDE = 50  # steps between the records of the runs below


def run_of(records: Sequence[Record], settings: dict[str, Any] | None = None, counts: list[int] | None = None) -> Run:
    """A run of nothing but records; its settings and its codes' counts where they matter."""
    book = Codebook(0, b"", counts) if counts is not None else None
    about = {"kind": "dvae", "settings": settings or {}}
    return Run("dvae", about, list(records), [], book, None)


def records(name: str, values: Sequence[float]) -> list[Record]:
    return [{"step": STRIDE * place, name: value} for place, value in enumerate(values, 1)]


def evaluated(losses: Sequence[float], validation: Sequence[float]) -> list[Record]:
    """Two records between evaluations, whose mean is a loss; an evaluation after each two."""
    lines: list[Record] = []
    for place, (loss, found) in enumerate(zip(losses, validation, strict=True)):
        lines.append({"step": 100 * place + 50, "loss": loss - 1})
        lines.append({"step": 100 * place + 100, "loss": loss + 1, "val_nats_per_dim": found})
    return lines


class TestRules:
    def test_a_run_that_is_well_has_no_warning(self, tmp_path: Path) -> None:
        run = read_run(runs.write_run(tmp_path / "run"), 12)
        assert rules.warnings(dvae.RULES, run) == []
        assert len(dvae.RULES) == 5

    @pytest.mark.parametrize(
        ("lines", "why"),
        [
            ([{"step": 1, "loss": 2.0}], None),
            ([{"step": 1, "gradient_norm": nan}], None),
            (
                [{"step": 1, "loss": 2.0}, {"step": 2, "kl": nan, "loss": 1.0}],
                "kl is not a number at step 2, the first",
            ),
            (
                [{"step": 1000, "loss": nan, "nll": inf}, {"step": 1100, "val_mse": nan}],
                "loss is not a number at step 1,000, the first of 2 steps.",
            ),
        ],
    )
    def test_loss_not_finite(self, lines: list[Record], why: str | None) -> None:
        found = rules.not_finite(run_of(lines), dvae.FINITE)
        assert (found is None) == (why is None)
        assert found is None or (found.what == "Loss not finite" and found.why.startswith(str(why)))

    @pytest.mark.parametrize(
        ("losses", "validation", "warned"),
        [
            ([5, 4, 3], [3.5, 3.6, 3.7], True),
            ([9, 5, 4, 3], [9.0, 3.5, 3.6, 3.7], True),
            ([5, 4, 3], [3.5, 3.6, 3.6], False),
            ([5, 4, 3], [3.7, 3.6, 3.65], False),
            ([5, 3, 4], [3.5, 3.6, 3.7], False),
            ([5, 4], [3.5, 3.6], False),
            ([], [], False),
        ],
    )
    def test_validation_worsens(self, losses: list[float], validation: list[float], warned: bool) -> None:
        found = dvae.worsens(run_of(evaluated(losses, validation)))
        why = "It rose over the last 3 evaluations (3.5 → 3.6 → 3.7 nats/dim) while the training loss fell."
        assert found == (rules.Warned("Validation loss rises", why) if warned else None)

    def test_validation_is_not_judged_without_a_training_loss(self) -> None:
        lines = records("val_nats_per_dim", [3.5, 3.6, 3.7])
        assert dvae.worsens(run_of(lines)) is None

    def test_the_codes_of_a_run_that_has_only_begun_are_not_judged(self) -> None:
        settings = {"vocabulary": 1000, "temperature_steps": 6000}
        begun = run_of([{"step": 300, "val_codes_used": 1}], settings)
        assert dvae.codebook_collapse(begun) is None
        why = "After 300 updates it is too early to judge the codes in use: look again after 600."
        assert dvae.too_early(begun) == why
        later = run_of([{"step": 600, "val_codes_used": 1}], settings)
        assert dvae.too_early(later) is None
        assert dvae.codebook_collapse(later) is not None

    @pytest.mark.parametrize(
        ("used", "settings", "counts", "warned"),
        [
            ([99], {"vocabulary": 1000}, None, "99 of 1,000 codes are in use at the last evaluation: 9.9%, under 10%."),
            ([100], {"vocabulary": 1000}, None, None),
            ([50, 100], {"vocabulary": 1000}, None, None),
            (
                [100, 50],
                {"vocabulary": 1000},
                None,
                "50 of 1,000 codes are in use at the last evaluation: 5.0%, under 10%.",
            ),
            ([1], {}, [20] + 19 * [0], "1 of 20 codes are in use at the last evaluation: 5.0%, under 10%."),
            ([1], {"vocabulary": 20}, [5] + 19 * [0], None),  # of 5 positions
            ([1], {}, None, None),
            ([], {"vocabulary": 1000}, None, None),
        ],
    )
    def test_codebook_collapse(
        self, used: list[float], settings: dict[str, Any], counts: list[int] | None, warned: str | None
    ) -> None:
        found = dvae.codebook_collapse(run_of(records("val_codes_used", used), settings, counts))
        assert found == (rules.Warned("Codebook collapse", warned) if warned else None)

    @pytest.mark.parametrize(
        ("norms", "warned"),
        [
            (20 * [2.0] + [20.0], None),
            (
                20 * [2.0] + [20.5],
                "20.5 at step 1,050, 10 times the median of the 20 records before. Jumps in the last 100 records: 1.",
            ),
            (19 * [2.0] + [90.0], None),  # too few before
            (20 * [2.0] + [90.0] + 99 * [2.0], "90 at step 1,050, 45 times"),
            (20 * [2.0] + [90.0] + 100 * [2.0], None),  # long ago
            (
                20 * [2.0] + [90.0, 2.0, 80.0],
                "80 at step 1,150, 40 times the median of the 20 records before. Jumps in the last 100 records: 2.",
            ),
            (20 * [2.0] + [nan, 2.0], None),  # a step that fp16 left out
            (20 * [0.0] + [1.0], None),
        ],
    )
    def test_gradient_jumped(self, norms: list[float], warned: str | None) -> None:
        found = rules.gradient_jumped(run_of(records("gradient_norm", norms)))
        assert (found is None) == (warned is None)
        assert found is None or (found.what == "Gradient norm jumped" and found.why.startswith(str(warned)))

    @pytest.mark.parametrize(
        ("scales", "warned"),
        [
            ([1024, 1], None),
            ([0.5, 2], None),
            ([4, 0.25], "It has fallen to 0.25: gradients overflow even unscaled; train in bf16 or fp32."),
            ([4, 0], "It has fallen to 0: gradients overflow even unscaled; train in bf16 or fp32."),
            ([], None),
        ],
    )
    def test_loss_scale_under_one(self, scales: list[float], warned: str | None) -> None:
        found = dvae.scale_under_one(run_of(records("loss_scale", scales)))
        assert found == (rules.Warned("fp16 loss scale under 1", warned) if warned else None)


class TestCurves:
    def test_few_points_stay_as_they_are(self) -> None:
        points = [(step, float(step)) for step in range(600)]
        assert curves.thin(points) is points

    def test_many_keep_ends_and_extremes_of_each_run(self) -> None:
        values = [5.0, 1, 2, 0, 3, 9, 4, 7, 7, 7, 7, 6, 8, 2]
        points = list(enumerate(values))
        assert curves.thin(points, 8) == [(0, 5.0), (3, 0), (4, 3), (5, 9), (6, 4), (11, 6), (12, 8), (13, 2)]

    def test_a_run_without_a_difference_is_one_point(self) -> None:
        assert curves.thin([(step, 1.0) for step in range(12)], 6) == [(0, 1.0), (1, 1.0), (6, 1.0), (11, 1.0)]

    def test_thinning_keeps_a_single_peak(self) -> None:
        points = [(step, 0.0) for step in range(100_000)]
        points[54_321] = (54_321, 7.0)
        thinned = curves.thin(points)
        assert len(thinned) <= curves.MOST
        assert (54_321, 7.0) in thinned
        assert thinned == sorted(thinned)

    def test_smoothing_of_few_changes_nothing(self) -> None:
        assert curves.smooth([(1, 4.0), (2, nan), (3, 2.0)]) == [(1, 4.0), (3, 2.0)]

    def test_smoothing_is_an_unbiased_mean(self) -> None:
        points = [(step, float(step % 2)) for step in range(200)]  # keeps 3/4
        smoothed = curves.smooth(points)
        weights = 0.75 ** np.arange(199, -1, -1)
        assert smoothed[0] == (0, 0.0)
        assert smoothed[1][1] == pytest.approx(1 / 1.75)
        assert smoothed[-1][1] == pytest.approx(float((weights * (np.arange(200) % 2)).sum() / weights.sum()))
        assert [value for _, value in curves.smooth([(step, 3.0) for step in range(500)])] == pytest.approx(500 * [3.0])

    @pytest.mark.parametrize(
        ("low", "high", "ticks"),
        [
            (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
            (-0.31, 0.12, [-0.3, -0.2, -0.1, 0, 0.1]),
            (3.61, 3.67, [3.62, 3.64, 3.66]),
        ],
    )
    def test_ticks(self, low: float, high: float, ticks: list[float]) -> None:
        assert Scale(low, high).ticks() == ticks

    @pytest.mark.parametrize(
        ("low", "high", "ticks"),
        [
            (0.5, 2000.0, [1, 10, 100, 1000]),
            (1e-9, 1.0, [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]),
            (0.09, 1.1, [0.1, 0.2, 0.5, 1]),
            (140.0, 310.0, [150, 200, 250, 300]),
        ],
    )
    def test_logarithmic_ticks(self, low: float, high: float, ticks: list[float]) -> None:
        assert Scale(low, high, log=True).ticks() == pytest.approx(ticks)

    def test_an_axis_leaves_out_the_outermost_percent_of_long_lines(self) -> None:
        values = [1000.0, *np.linspace(2, 3, 198), -1000.0]
        scale = curves.upright([Line("loss", "train", list(enumerate(values)))], log=False)
        assert 1.9 < scale.low < 2.01
        assert 2.99 < scale.high < 3.1
        short = curves.upright([Line("loss", "train", list(enumerate(values[:50])))], log=False)
        assert short.high > 1000

    @pytest.mark.parametrize("log", [False, True])
    @pytest.mark.parametrize("value", [0.004, 1.0, 37.5])
    def test_one_value_has_an_axis(self, value: float, log: bool) -> None:
        scale = curves.upright([Line("x", "train", [(1, value)])], log)
        assert scale.low < value < scale.high
        assert len(scale.ticks()) >= 2

    def test_where_points_stand(self) -> None:
        points = [(0, 1.0), (50, 100.0), (100, 10.0)]
        drawn = str(curves.path(Line("x", "val", points, dots=True), Scale(0, 100), Scale(1, 100, log=True)))
        assert '<path class="val" d="M0.0 1000.0L500.0 0.0L1000.0 500.0"/>' in drawn
        assert '<path class="dots val" d="M0.0 1000.0h0M500.0 0.0h0M1000.0 500.0h0"/>' in drawn

    @pytest.mark.parametrize(("points", "dotted"), [(60, True), (61, False)])
    def test_dots_that_would_run_together_are_left_out(self, points: int, dotted: bool) -> None:
        line = Line("x", "val", [(step, 1.0) for step in range(points)], dots=True)
        assert ("dots val" in curves.path(line, Scale(0, 100), Scale(0, 2))) == dotted

    def test_what_is_no_number_is_marked_not_drawn(self) -> None:
        panel = Panel("loss", "Loss", "nats", [Line("loss", "train", [(0, 1.0), (50, nan), (100, 2.0)])])
        drawn = str(curves.draw(panel, 100))
        assert '<path class="broken" d="M500.0 0v60"/>' in drawn
        assert "not a number" in drawn
        assert curves.data([panel]) == {"loss": [[[0, 100], [1.0, 2.0]]]}

    @pytest.mark.parametrize("points", [[], [(1, nan)], [(1, 0.0)]])
    def test_nothing_to_draw(self, points: list[tuple[int, float]]) -> None:
        assert curves.draw(Panel("x", "X", "", [Line("x", "train", points)], log=True), 10) == ""

    def test_labels_are_text(self) -> None:
        drawn = curves.draw(Panel("<i>", "<b>", '"', [Line("<u>", "train", [(1, 1.0)])]), 10)
        assert not re.search("<[biu]>", str(drawn).replace("<i></i>", "").replace("<b>1</b>", ""))


class TestWords:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0"), (3.67189, "3.672"), (12345.6, "12,346"), (-1.5, "−1.5"), (0.0231, "0.0231"),
            (3.2e-5, "3.2e−5"), (1e-4, "1e−4"), (1.25e-6, "1.25e−6"), (nan, "not a number"),
        ],
    )  # fmt: skip
    def test_short(self, value: float, text: str) -> None:
        assert words.short(value) == text

    def test_change(self) -> None:
        assert [words.change(4, 3), words.change(4, 5), words.change(-4, -3), words.change(0, 1)] == [
            "−25.0%", "+25.0%", "+25.0%", "–",
        ]  # fmt: skip


class TestRun:
    def test_spread_has_first_and_last(self) -> None:
        assert spread(list(range(5)), 12) == [0, 1, 2, 3, 4]
        assert spread(list(range(100)), 12) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]

    def test_reads_all_there_is(self, tmp_path: Path) -> None:
        run = read_run(runs.write_run(tmp_path / "run", vocabulary=32, share=0.5), 4)
        assert (run.name, run.step, run.steps, run.vocabulary) == ("run", 2000, 2000, 32)
        assert [grid.step for grid in run.grids] == [200, 800, 1400, 2000]
        assert run.codebook is not None
        assert (run.codebook.step, run.codebook.columns, run.codebook.used) == (2000, 6, 16)

    def test_an_evaluation_that_was_broken_off_is_passed_over(self, tmp_path: Path) -> None:
        path = Path(runs.write_run(tmp_path / "run", vocabulary=32))
        (path / "evaluations/0002000/usage.json").unlink()
        (path / "evaluations/0002000/grid.png").rename(path / "evaluations/0002000/grid.png.tmp-0123")
        run = read_run(str(path), 12)
        assert run.codebook is not None
        assert run.codebook.step == 1800
        assert run.grids[-1].step == 1800

    @pytest.mark.parametrize(
        ("name", "body", "told"),
        [
            ("run.json", b"{", "run.json is damaged"),
            ("run.json", b"[1]", "run.json is damaged"),
            ("metrics.jsonl", b"x\n{}\n", "line 1 is damaged"),
            ("checkpoints/best.json", b"", "best.json is damaged"),
            ("evaluations/0002000/usage.json", b"{}", "has no list of counts"),
            ("evaluations/0002000/usage.json", b'{"counts": []}', "has no list of counts"),
            ("evaluations/0002000/usage.json", b'{"counts": [1, -1]}', "has no list of counts"),
            ("evaluations/0002000/usage.json", b'{"counts": [1, 2]}', "is 48×48 pixels and .* counts 2 codes"),
            ("evaluations/0002000/codes.png", b"JFIF", "codes.png is not a PNG"),
            ("evaluations/0002000/grid.png", b"JFIF", "grid of step 2000 is not a PNG"),
        ],
    )
    def test_damage_is_told(self, tmp_path: Path, name: str, body: bytes, told: str) -> None:
        path = Path(runs.write_run(tmp_path / "run", vocabulary=32))
        (path / name).write_bytes(body)
        with pytest.raises(UserError, match=told) as raised:
            report(str(path), None)
        assert "\n" not in str(raised.value)
        assert not (path / "report.html").exists()

    def test_the_command_takes_a_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path, target = runs.write_run(tmp_path / "run", vocabulary=32), tmp_path / "elsewhere.html"
        assert is_run(path)
        assert cli.main(["report", path, "--output", str(target)]) == 0
        assert capsys.readouterr().out == f"{target}\n"
        assert "<title>run – training report</title>" in target.read_text()
        assert cli.main(["report", path]) == 0
        assert (tmp_path / "run/report.html").read_text() == target.read_text()

    def test_what_is_no_run_is_left_to_datasets(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text('{"kind": "other"}')
        assert not is_run(str(tmp_path))
        assert not is_run(str(tmp_path / "nowhere"))


class TestPage:
    @pytest.fixture
    def text(self, tmp_path: Path) -> str:
        return Path(report(runs.write_run(tmp_path / "run"), None)).read_text()

    def test_needs_nothing_else(self, text: str) -> None:
        assert re.findall(r"https?://", text) == []
        sources = re.findall(r'(?:src|href)="([^"]{0,5})', text)
        assert set(sources) <= {"data:", "#main", "#curv", "#grid", "#code", "#sett"}
        assert "@import" not in text
        assert "url(" not in text

    def test_has_grids_and_codes_whole(self, text: str, tmp_path: Path) -> None:
        bodies = [base64.b64decode(body) for body in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
        folders = sorted((tmp_path / "run/evaluations").iterdir())
        assert bodies == [
            *((folder / "grid.png").read_bytes() for folder in folders),
            (folders[-1] / "codes.png").read_bytes(),
        ]

    def test_head(self, text: str) -> None:
        head = text.split("<main")[0].split("</style>")[1]
        assert "<b>No warnings.</b> All 5 checks passed." in head
        assert [re.sub("<[^>]+>", "|", line) for line in re.findall("<div><dt>.*</dd></div>", head)] == [
            "||of 2,000 steps||2,000||",
            "||validation MSE|−0.6% since step 1,800|||0.01208||",
            "||nats per dimension|±0.0% since step 1,800|||3.6||",
            "||of the codes in use|410 of 512|||80.1%||",
            "||perplexity of the codes|±0.0% since step 1,800|||205||",
            "||images a second||117.2||",
        ]
        assert "Best checkpoint: step 2,000, 3.6 nats/dim." in head

    def test_trend(self) -> None:
        better = facts.moving([(1, 4.0), (2, 3.0)], "MSE", less=True)
        assert better == [facts.Fact("3", "MSE", "−25.0% since step 1", "good")]
        assert facts.moving([(1, 4.0), (2, 3.0)], "perplexity", less=False)[0].trend == "bad"
        assert facts.moving([(1, 4.0), (2, 4.0001)], "MSE", less=True)[0].trend == ""
        assert facts.moving([(1, nan), (2, 3.0)], "MSE", less=True) == [facts.Fact("3", "MSE")]
        assert facts.moving([(1, 3.0), (2, nan)], "MSE", less=True) == [facts.Fact("not a number", "MSE")]
        assert facts.moving([], "MSE", less=True) == []

    def test_no_step_yet(self, tmp_path: Path) -> None:
        text = Path(report(runs.write_run(tmp_path / "run", until=0), None)).read_text()
        assert "No metrics have been logged yet: run `gesso report` again later." in text
        assert "No warnings" not in text
        assert 'data-panel="' not in text.split("<script")[0]

    def test_no_evaluation_yet(self, tmp_path: Path) -> None:
        text = Path(report(runs.write_run(tmp_path / "run", until=100), None)).read_text()
        assert "Not finished: step 100 of 2,000. No evaluation yet." in text
        assert "No evaluation with a grid yet." in text
        assert 'data-panel="loss"' in text

    def test_a_killed_run(self, tmp_path: Path) -> None:
        path = Path(runs.write_run(tmp_path / "run", until=1000))
        with (path / "metrics.jsonl").open("ab") as stream:
            stream.write(b'{"step": 1010, "lo')
        assert "Not finished: step 1,000 of 2,000." in Path(report(str(path), None)).read_text()

    def test_warnings_are_told(self, tmp_path: Path) -> None:
        path = Path(runs.write_run(tmp_path / "run", share=0.05))
        text = Path(report(str(path), None)).read_text()
        assert "<li><b>Codebook collapse</b> 26 of 512 codes are in use" in text
        assert "No warnings" not in text

    def test_what_settings_say_is_text(self, tmp_path: Path) -> None:
        path = Path(runs.write_run(tmp_path / "run", vocabulary=32))
        about = json.loads((path / "run.json").read_text())
        about["settings"]["note"] = "</script><script>alert(1)</script>"
        (path / "run.json").write_text(json.dumps(about))
        text = Path(report(str(path), None)).read_text()
        assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
        assert "<script>alert(1)" not in text

    def test_a_metric_without_a_figure_of_its_own_gets_one(self) -> None:
        run = run_of([{"step": 1, "loss": 1.0, "</script>": 2.0, "epoch": 3}])
        assert [panel.title for column in dvae.columns(run) for panel in column if panel.drawn] == [
            "Loss",
            "</script>",
        ]
        assert "</script>" not in page.render(run).split('id="data">')[1].split("</script>\n<script>")[0]

    def test_a_large_grid_becomes_a_jpeg(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8)
        body = runs.encoded(noise)
        assert len(body) > pictures.LARGE
        shown = base64.b64decode(pictures.uri(body, "grid.png").removeprefix("data:image/jpeg;base64,"))
        assert shown[:2] == b"\xff\xd8"
        with pytest.raises(UserError, match=r"grid\.png cannot be decoded"):
            pictures.uri(body[:100] + bytes(pictures.LARGE), "grid.png")


# ── in Chromium ──


@pytest.mark.browser
class TestInChromium:
    def test_all_curves_are_read_at_one_step(self, open_page: Callable[..., Any]) -> None:
        tab = open_page()
        before = tab.locator("[data-panel=loss] .readout").inner_text()
        hover(tab, "[data-panel=val_mse] .frame", 0.42, 0.5)
        assert tab.locator("[data-panel=val_mse] .cross").get_attribute("data-at") == "step 800"
        found = runs.evaluation(800, 512, 0.8)
        assert tab.locator("[data-panel=val_mse] .readout b").inner_text() == words.short(found["val_mse"])
        assert tab.locator("[data-panel=loss] .readout .val b").inner_text() == words.short(-found["val_hard_elbo"])
        rate = runs.training(800, 512, np.random.default_rng(0))["learning_rate"]
        assert tab.locator("[data-panel=learning_rate] .readout b").inner_text() == words.short(rate)
        assert tab.locator("[data-panel=usage] .cross").is_hidden()
        tab.mouse.move(5, 5)
        assert tab.locator("[data-panel=loss] .readout").inner_text() == before
        assert tab.locator(".cross:visible").count() == 0

    def test_curves_by_keys(self, open_page: Callable[..., Any]) -> None:
        tab = open_page()
        tab.locator("[data-panel=loss] .frame").focus()
        tab.keyboard.press("ArrowLeft")
        assert tab.locator("[data-panel=loss] .cross").get_attribute("data-at") == "step 1,980"

    def test_a_code_is_read(self, open_page: Callable[..., Any]) -> None:
        tab = open_page()
        counts = runs.usage(512, 0.8)
        most = max(range(512), key=lambda code: (counts[code], -code))
        hover(tab, "#codes", 0.01, 0.01)
        share = f"{100 * counts[most] / sum(counts):.3f}"
        assert (
            tab.locator("#code").inner_text()
            == f"Code {most}: chosen {counts[most]} times, {share}% of all; rank 1 of 512"
        )
        tab.locator("[data-order=index]").click()
        tab.locator("#codes").focus()
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#code").inner_text().startswith("Code 0: ")
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#code").inner_text().startswith("Code 1: ")

    def test_unused_codes_are_told(self, open_page: Callable[..., Any]) -> None:
        tab = open_page(vocabulary=8192, share=0.05)
        assert tab.locator(".crossed").inner_text() == "unused: 7,782"
        hover(tab, "#codes", 0.5, 0.9)
        assert re.fullmatch(r"Code \d+: unused", tab.locator("#code").inner_text())

    def test_the_map_draws_each_code_at_its_place(self, open_page: Callable[..., Any]) -> None:
        tab = open_page(vocabulary=512)
        tab.locator("[data-order=index]").click()
        across = tab.evaluate("Math.floor(document.querySelector('.book').clientWidth / 33)")  # 32 pixels and a gap
        used = [code for code, count in enumerate(runs.usage(512, 0.8)) if count][::40]
        places = [(code % across * 33 + 2, code // across * 37 + 2) for code in used]  # a bar of 4 under each
        tiles = runs.tiles(512)[::8, ::8, ::-1].reshape(-1, 3)
        assert tab.evaluate(PIXELS, places) == [[*tiles[code].tolist(), 255] for code in used]

    def test_grids_are_stepped_through(self, open_page: Callable[..., Any]) -> None:
        tab = open_page()
        assert tab.locator("#time-step").inner_text() == "2,000"
        last = tab.locator("#grid").get_attribute("src")
        tab.locator("#time").focus()
        tab.keyboard.press("ArrowLeft")
        assert tab.locator("#time-step").inner_text() == "1,800"
        assert tab.locator("#grid").get_attribute("src") != last
        tab.locator(".film button").first.click()
        assert tab.locator("#time-step").inner_text() == "200"
        assert tab.locator("#grid").evaluate("image => image.naturalWidth") == 8 * runs.SIDE

    @pytest.mark.parametrize("width", [380, 800, 1280])
    def test_nothing_sticks_out(self, open_page: Callable[..., Any], width: int) -> None:
        tab = open_page(width, vocabulary=8192)
        assert tab.evaluate("document.documentElement.scrollWidth") == width

    def test_numbers_are_written_as_in_python(self, open_page: Callable[..., Any]) -> None:
        tab = open_page(until=100)
        values = [0, 1, 3.67189, 12345.6, -1.5, 0.0231, 3.2e-5, 1e-4, 1.25e-6, 999.96, 0.5, 1234, 100, 1e-3]
        assert tab.evaluate("values => values.map((value) => short(value))", values) == [words.short(v) for v in values]
