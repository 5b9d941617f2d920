"""The review's page in headless Chromium, as a person uses it: by keys alone, by mouse, after a reload, as a file."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gesso.dedup import decision, overlap
from gesso.dedup.decision import Decision, Override
from gesso.dedup.review import folder, server, suggestion
from tests.datasets import picture
from tests.reviews import HOSTILE, MODEL, Match, Sample, similarity, write_overlap, write_tiny
from tests.serving import answering

pytestmark = pytest.mark.browser

SIZE = {"width": 1200, "height": 800}
MANY = 300  # references of the larger overlap
DRAWN = 12  # rows in the document at most
STICKING_OUT = """rows => rows.flatMap(row => [...row.querySelectorAll(".mark, .figure, .frame, .chip, .ranks")]
.filter(part => {
  const inner = part.getBoundingClientRect(), outer = row.getBoundingClientRect();
  return inner.width && (inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1);
}).map(part => part.className))"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 references of 4 neighbours."""
    path = Path(write_tiny(tmp_path_factory.mktemp("small")))
    folder.prepare(overlap.read(str(path)), None)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 references of 2 neighbours; of their pictures none is there."""
    path = Path(write_tiny(tmp_path_factory.mktemp("large"), references=MANY, top_k=2))
    (path.parent / "raw").rename(path.parent / "raw_away")
    (path.parent / "coco").rename(path.parent / "coco_away")
    folder.prepare(overlap.read(str(path)), None)
    return path


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 references, 15 of which have a copy; two more neighbours each."""
    bodies = [picture(number, 60, 40) for number in range(40)]
    shown = [Sample(f"r{number:04d}", body) for number, body in enumerate(bodies)]
    samples = [Sample(f"{number:032x}", body) for number, body in enumerate(bodies)]
    nearest = [0.96 - 0.01 * place if place < 15 else 0.64 - 0.01 * (place - 15) for place in range(40)]
    found = [
        [Match((place + rank) % 40, nearest[place] - 0.1 * rank, None) for rank in range(3)] for place in range(40)
    ]
    path = Path(write_overlap(tmp_path_factory.mktemp("parted"), shown, samples, found))
    folder.prepare(overlap.read(str(path)), None)
    return path


@pytest.fixture(scope="module")
def in_views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 references in 6 views, of 4 neighbours: of the first the whole matched, then the crops 1, 2 and 3."""
    path = Path(write_tiny(tmp_path_factory.mktemp("in_views"), views=6))
    folder.prepare(overlap.read(str(path)), None)
    return path


class Page:
    """A tab with the page, and what a person sees on it."""

    def __init__(self, tab: Any, path: Path, url: str) -> None:
        self.tab, self.path, self.url = tab, path, url
        self.said: list[str] = []
        self.heard = {
            "console": lambda message: self.said.append(message.text),
            "pageerror": lambda error: self.said.append(str(error)),
            "request": lambda request: self.hear(request.url),
        }
        for kind, act in self.heard.items():
            tab.on(kind, act)
        self.open()

    def hear(self, asked: str) -> None:
        """Remembers what is asked for elsewhere."""
        if not asked.startswith((self.url.rstrip("/"), "data:", "blob:")):
            self.said.append(asked)

    def leave(self) -> None:
        for kind, act in self.heard.items():
            self.tab.remove_listener(kind, act)
        self.tab.unroute_all()  # the tab serves other tests, also after one that failed
        self.tab.goto("about:blank")

    def open(self) -> None:
        self.tab.goto(f"{self.url}index.html")
        self.tab.wait_for_selector("html[data-ready] .row:focus")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)

    def type(self, text: str) -> None:
        self.tab.keyboard.type(text)

    def shows(self, selector: str, text: str) -> None:
        """Waits until a part has a text."""
        self.tab.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.textContent.trim() === text", arg=[selector, text]
        )

    def text(self, selector: str) -> str:
        return str(self.tab.locator(selector).first.text_content()).strip()

    @property
    def at(self) -> str:
        """The key of the reference that is worked on, which has the keyboard's focus."""
        return self.text(".row:focus .reference .key")

    def verdicts(self) -> list[str]:
        return [self.text(f"#{name}") for name in ("left-out", "dropped", "pairs", "judged")]

    def kept(self, is_so: Callable[[Decision], bool]) -> Decision:
        """What is on disk, once it is so."""
        self.tab.wait_for_function("() => document.querySelector('#saved').className === 'saved kept'")
        found = decision.read(str(self.path / "decision.json"), overlap.read(str(self.path)))
        assert is_so(found), found
        return found


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    return browser.new_context(viewport=SIZE).new_page()


@pytest.fixture
def serve(tab: Any) -> Iterator[Callable[..., Page]]:
    """Opens an overlap's page as `gesso review` serves it; nothing may be said on the console in the end."""
    closing = ExitStack()
    opened: list[Page] = []

    def opener(path: Path, decided: Decision | None = None, who: str = "Ada") -> Page:
        for name in ("decision.json", "decision.draft.json"):
            (path / name).unlink(missing_ok=True)
        if decided:
            decision.write(str(path / "decision.json"), decided)
        found = overlap.read(str(path))
        target = str(path / "review")
        listening = server.Server(0, target, server.DecisionStore(found, target, who))
        closing.enter_context(listening)
        closing.enter_context(answering(listening))
        opened.append(Page(tab, path, listening.url))
        closing.callback(opened[-1].leave)
        return opened[-1]

    with closing:
        yield opener
    assert [page.said for page in opened] == [[] for _ in opened]


@pytest.fixture
def as_file(tab: Any) -> Iterator[Callable[..., Page]]:
    """Opens an overlap's page without a server, in a browser that has kept nothing."""
    opened: list[Page] = []

    def opener(path: Path, decided: Decision | None = None) -> Page:
        folder.write_session(str(path / "review"), decided, suggestion.suggest(overlap.read(str(path))))
        opened.append(Page(tab, path, f"file://{path}/review/"))
        return opened[-1]

    yield opener
    for page in opened:
        page.tab.evaluate("() => localStorage.clear()")
        page.leave()


def given(path: Path, threshold: float, *overrides: Override) -> Decision:
    found = overlap.read(str(path))
    return Decision(threshold, overrides, "Bob", "2026-01-01T00:00:00+00:00", MODEL, found.sha256)


class TestMoving:
    def test_by_keys(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        assert page.at == "r0000"
        page.press("j", "j", "ArrowDown")
        assert page.at == "r0003"
        page.press("k", "ArrowUp")
        assert page.at == "r0001"
        page.press("End")
        assert page.at == "r0011"
        page.press("j", "Home", "k")
        assert page.at == "r0000"

    def test_among_neighbours(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("ArrowRight", "l")
        assert page.text(".row:focus .similarity") == f"{similarity(0, 2, 12):.4f}"
        assert page.text(".row:focus .hash") == "6"
        page.press("h")
        assert page.text(".row:focus .sample .key") == f"{1:032x}"
        page.press("4")
        assert (
            page.tab.locator(".row:focus .rank[aria-current=true]").get_attribute("aria-label").startswith("Rank 4, ")
        )
        page.press("ArrowRight")
        assert page.text(".row:focus .sample .key") == f"{3:032x}"

    def test_go_to(self, serve: Callable[..., Page], large: Path) -> None:
        page = serve(large)
        for target, key in (("0.8", "r0115"), ("#7", "r0006"), ("r0250", "r0250"), ("201", "r0200")):
            page.press("g")
            page.type(target)
            page.press("Enter")
            assert page.at == key, target
        page.press("g")
        page.type("nowhere")
        page.press("Enter")
        page.shows("#goto-said", "Nothing found for nowhere")
        page.press("Escape")
        assert page.at == "r0200"

    def test_to_the_threshold(self, serve: Callable[..., Page], large: Path) -> None:
        page = serve(large)
        page.press("t")
        assert page.at == "r0054"
        assert page.tab.locator(".row:focus").get_attribute("data-edge") == "under the threshold 0.900"

    def test_many_pairs_are_few_rows(self, serve: Callable[..., Page], large: Path) -> None:
        page = serve(large)
        assert page.tab.locator(".row:not([hidden])").count() <= DRAWN
        page.press(*["PageDown"] * 30)
        page.tab.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight / 2; }")
        page.tab.wait_for_function(
            "() => [...document.querySelectorAll('.place')].some(one => one.textContent === '150')"
        )
        page.press("End")
        assert page.at == f"r{MANY - 1:04d}"
        assert page.tab.locator(".row").count() <= DRAWN

    def test_by_mouse(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        second = page.tab.locator(".row", has_text="r0001")
        second.locator(".mark.duplicate").click()
        page.shows("#judged", "1")
        assert page.kept(lambda kept: len(kept.overrides) == 1).overrides[0].reference_key == "r0001"


class TestJudging:
    def test_marks_are_on_disk_at_once(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("d", "x", "f")
        assert page.at == "r0003"
        page.shows("#judged", "3")
        kept = page.kept(lambda kept: len(kept.overrides) == 3)
        assert [item.verdict for item in kept.overrides] == ["duplicate", "different", "different"]
        assert (kept.who, kept.threshold) == ("Ada", 0.9)

    def test_the_same_again_takes_back(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("a", "d")
        page.shows(".row:focus .chip", "Judged duplicate")
        page.press("x")
        page.shows(".row:focus .chip", "Judged different")
        page.press("x")
        page.shows(".row:focus .chip", "Duplicate by threshold")
        assert page.kept(lambda kept: True).overrides == ()

    def test_a_further_neighbour(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("End", "3", "d", "1")
        page.shows(".row:focus .also", "reference is left out because of neighbour 3")
        kept = page.kept(lambda kept: len(kept.overrides) == 1)
        assert kept.overrides == (Override("r0011", f"{1:032x}", "duplicate"),)

    def test_undo_and_redo(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("d", "x", "End", "u")
        assert page.at == "r0001"
        page.shows(".row:focus .chip", "Duplicate by threshold")
        page.press("Control+z")
        assert page.at == "r0000"
        page.shows("#judged", "0")
        page.press("U", "Shift+U")
        page.shows("#judged", "2")
        page.press("u", "d", "U")
        assert [item.verdict for item in page.kept(lambda kept: len(kept.overrides) == 2).overrides] == [
            "duplicate"
        ] * 2

    def test_precision_and_misses(self, serve: Callable[..., Page], small: Path) -> None:
        verdicts = [Override(f"r{n:04d}", f"{n:032x}", "duplicate" if n != 1 else "different") for n in range(8)]
        decided = given(small, 0.8, *verdicts)
        page = serve(small, decided)
        result = decision.judged(overlap.read(str(small)).matches, decided)
        for name, share in result._asdict().items():
            assert page.text(f"#{name}") == f"{100 * share.hits / share.total:.1f}%"
            assert page.text(f"#{name}-interval") == f"{round(100 * share.low)}–{round(100 * share.high)}%"
        assert page.text("#lowest") == f"{similarity(7, 0, 12):.4f}"
        page.tab.locator("#highest").click()
        assert page.at == "r0001"

    def test_the_next_one_near_the_threshold(self, serve: Callable[..., Page], large: Path) -> None:
        page = serve(large)
        page.press("n")
        assert page.at == "r0054"
        page.press("a", "d", "n")
        assert page.at == "r0053"


class TestThreshold:
    def test_counts_are_those_of_the_decision(self, serve: Callable[..., Page], small: Path) -> None:
        verdicts = Override("r0001", f"{2:032x}", "different"), Override("r0009", f"{9:032x}", "duplicate")
        page = serve(small, given(small, 0.7, *verdicts))
        for threshold in (0.99, 0.9, 0.83, 0.5, -1):
            page.tab.locator("#threshold").fill(str(threshold))
            page.press("Enter")
            kept = page.kept(lambda kept, wanted=threshold: kept.threshold == wanted)  # type: ignore[misc]
            result = decision.duplicates(overlap.read(str(small)).matches, kept)
            counts = [len(result.references), len(result.samples), int(result.pairs.sum()), 2]
            assert page.verdicts() == [str(count) for count in counts], threshold

    def test_by_keys(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("[", "[", "{", "]", "}")
        page.tab.wait_for_function("value => document.getElementById('threshold').value === value", arg="0.895")
        page.shows("#left-out", "3")
        assert page.kept(lambda kept: kept.threshold == 0.895).overrides == ()
        page.press("u", "u")
        assert page.kept(lambda kept: kept.threshold == 0.889)

    def test_at_this_pair(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("j", "j", "j", "j", "s")
        page.shows("#left-out", "5")
        assert page.kept(lambda kept: kept.threshold == 0.8233)

    def test_slide_is_one_step(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.tab.locator("#slider").focus()
        page.press("ArrowLeft")
        page.kept(lambda kept: kept.threshold == 0.899)
        box = page.tab.locator("#slider").bounding_box()
        page.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
        page.tab.mouse.down()
        for step in range(1, 6):
            page.tab.mouse.move(box["x"] + box["width"] / 2 - 15 * step, box["y"] + 40)
        page.tab.mouse.up()
        page.kept(lambda kept: kept.threshold < 0.7)
        page.tab.locator("#undo").click()
        page.kept(lambda kept: kept.threshold == 0.899)

    def test_typed(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.tab.locator("#threshold").fill("0.8125")
        page.press("Enter")
        assert page.kept(lambda kept: kept.threshold == 0.8125)
        assert page.at == "r0005"


class TestSuggestion:
    def test_too_few(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        assert page.text(".suggested") == "Suggested: none. 12 references are too few to see where they part."
        assert page.tab.locator("#threshold").input_value() == "0.900"

    @pytest.mark.parametrize("way", ["serve", "as_file"])
    def test_where_they_part(self, way: str, request: pytest.FixtureRequest, parted: Path) -> None:
        page = request.getfixturevalue(way)(parted)
        assert page.text(".suggested") == (
            "Suggested: 0.730. Where the references part (Otsu): 15 have a sample at 0.820 or more, 25 only up to "
            "0.640; 89% of the variance lies between them."
        )
        assert page.tab.locator("#threshold").input_value() == "0.730"
        assert page.text("#left-out") == "15"
        assert page.text("#saved") in ("No decision yet", "Opened as a file: verdicts are saved in this browser")
        page.press("[")
        page.tab.locator("#suggested").click()
        page.tab.wait_for_function("value => document.getElementById('threshold').value === value", arg="0.730")
        page.tab.wait_for_function("() => !saving.dirty && !saving.busy")

    def test_a_decision_outweighs_it(self, serve: Callable[..., Page], parted: Path) -> None:
        page = serve(parted, given(parted, 0.66))
        assert page.tab.locator("#threshold").input_value() == "0.660"


class TestFilter:
    def test_words(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("/")
        page.type("reference NUMBER 11")
        page.press("Enter")
        page.shows("#found", "1 of 12")
        assert page.at == "r0011"
        page.press("/", "Control+a", "Delete", "Enter")
        page.shows("#found", "12")
        assert page.at == "r0011"

    def test_uid_of_any_rank(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("/")
        page.type(f"{5:032x}")
        page.press("Enter")
        page.shows("#found", "4 of 12")

    def test_nothing_is_found(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("/")
        page.type("zebra")
        page.press("Enter", "j", "d", "n", "t", "x", " ", "s")
        assert page.text(".empty") == "No pair passes the filter."
        assert page.text("#judged") == "0"
        page.press("g")
        page.type("0.8")
        page.press("Enter")

    def test_choices(self, serve: Callable[..., Page], small: Path) -> None:
        verdicts = [(0, 0, "duplicate"), (1, 1, "different"), (5, 6, "duplicate")]
        overrides = [Override(f"r{place:04d}", f"{sample:032x}", word) for place, sample, word in verdicts]
        page = serve(small, given(small, 0.85, *overrides))
        found = {
            "verdicts": {"unjudged": "10", "judged": "3", "duplicate": "2", "different": "1"},
            "scores": {"near": "1", "over": "4", "under": "8", "disagree": "7"},
        }
        for name, counts in found.items():
            for value, count in counts.items():
                page.tab.locator(f"#{name}").select_option(value)
                page.shows("#found", f"{count} of 12")
            page.tab.locator(f"#{name}").select_option("")

    def test_nothing_goes_away_under_ones_hands(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.tab.locator("#verdicts").select_option("unjudged")
        page.tab.locator("#verdicts").press("Escape")
        page.press("d", "d")
        page.shows("#judged", "2")
        assert page.text("#found") == "12"
        page.press("r")
        page.shows("#found", "10 of 12")
        assert page.at == "r0002"


class TestRemembering:
    def test_after_a_reload(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("d", "x", "[")
        page.kept(lambda kept: kept.threshold == 0.895)
        page.open()
        assert page.text("#judged") == "2"
        assert page.tab.locator("#threshold").input_value() == "0.895"
        assert [page.text(f".row[aria-posinset='{n}'] .chip") for n in (1, 2)] == [
            "Judged duplicate",
            "Judged different",
        ]

    def test_looking_alone_decides_nothing(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("j", "t", "n", " ", "Escape", "?", "Escape")
        assert page.text("#saved") == "No decision yet"
        assert not (small / "decision.json").exists()

    def test_who(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("d")
        page.kept(lambda kept: kept.who == "Ada")
        page.tab.locator("#who").fill("Grace")
        page.press("Tab")
        assert page.kept(lambda kept: kept.who == "Grace")

    def test_the_first_verdict_asks_for_a_name(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small, who="")
        page.press("[", "d")
        page.tab.wait_for_selector("#naming[open]")
        page.press("Enter")
        assert page.tab.locator("#naming").is_visible()
        page.type("Grace")
        page.press("Enter")
        kept = page.kept(lambda kept: len(kept.overrides) == 1)
        assert (kept.who, kept.threshold) == ("Grace", 0.895)
        assert page.at == "r0001"
        assert not (small / "decision.draft.json").exists()

    def test_a_verdict_without_a_name_is_a_draft(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small, who="")
        page.press("d", "Escape", "x")
        page.shows("#judged", "2")
        assert not page.tab.locator("#naming").is_visible()
        page.tab.wait_for_function("() => document.querySelector('#saved').textContent.startsWith('Draft saved, ')")
        page.tab.wait_for_function("() => !saving.dirty && !saving.busy")
        page.open()
        assert (page.text("#judged"), page.text("#saved")) == ("2", "Draft saved")
        assert not (small / "decision.json").exists()
        page.tab.locator("#sign").click()
        page.type("Grace")
        page.tab.locator("#naming-save").click()
        assert page.kept(lambda kept: len(kept.overrides) == 2).who == "Grace"
        assert page.tab.locator("#sign").is_hidden()

    def test_two_tabs_do_not_undo_each_other(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        other = Page(page.tab.context.new_page(), small, page.url)
        page.press("d")
        page.kept(lambda kept: len(kept.overrides) == 1)
        other.press("j", "j", "x")
        other.tab.get_by_role("button", name="Take theirs").click()
        other.shows("#judged", "1")
        page.press("d")
        page.kept(lambda kept: len(kept.overrides) == 2)
        other.press("End", "d")
        other.tab.get_by_role("button", name="Keep mine").click()
        other.kept(lambda kept: [item.reference_key for item in kept.overrides] == ["r0000", "r0011"])
        assert [text for text in page.said + other.said if "409" not in text] == []
        page.said.clear()
        other.tab.close()

    def test_a_server_that_comes_back(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("d")
        page.kept(lambda kept: len(kept.overrides) == 1)
        page.tab.route("**/decision", lambda route: route.abort())
        page.press("d")
        page.shows("#saved", "Not saved: `gesso review` does not answer. Trying again")
        page.tab.unroute("**/decision")
        page.kept(lambda kept: len(kept.overrides) == 2)
        page.said.clear()

    def test_a_token_of_before_a_restart(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.tab.route(
            "**/decision",
            lambda route: route.continue_(headers={**route.request.headers, "x-gesso-token": "old"}),
            times=1,
        )
        page.press("d")
        page.kept(lambda kept: len(kept.overrides) == 1)
        page.said.clear()


class TestFile:
    def test_marks_stay_in_the_browser(self, as_file: Callable[..., Page], small: Path) -> None:
        page = as_file(small)
        page.press("d", "x", "[")
        page.shows("#saved", "Saved in this browser; Export writes decision.json")
        page.open()
        assert (page.text("#judged"), page.tab.locator("#threshold").input_value()) == ("2", "0.895")
        assert page.said == []

    def test_begins_with_the_decision_of_the_folder(self, as_file: Callable[..., Page], small: Path) -> None:
        page = as_file(small, given(small, 0.77, Override("r0001", f"{1:032x}", "different")))
        assert (page.text("#judged"), page.tab.locator("#threshold").input_value()) == ("1", "0.770")
        assert page.text("#saved") == "Last saved by Bob"

    def test_pictures_are_drawn(self, as_file: Callable[..., Page], small: Path) -> None:
        page = as_file(small)
        for part in (".reference", ".sample"):
            image = page.tab.locator(f".row:focus {part} img")
            page.tab.wait_for_function(
                "image => image.naturalWidth > 0 && !image.classList.contains('waiting')", arg=image.element_handle()
            )

    def test_export_is_read_by_the_command(self, as_file: Callable[..., Page], small: Path, tmp_path: Path) -> None:
        page = as_file(small)
        page.press("d", "[")
        page.tab.locator("#export").click()
        assert page.tab.locator("#who").evaluate("field => field === document.activeElement")
        page.type("Grace")
        with page.tab.expect_download() as download:
            page.tab.locator("#export").press("Enter")
        download.value.save_as(tmp_path / "exported.json")
        read = decision.read(str(tmp_path / "exported.json"), overlap.read(str(small)))
        assert (read.who, read.threshold) == ("Grace", 0.895)
        assert read.overrides == (Override("r0000", f"{0:032x}", "duplicate"),)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", read.when)


class TestImport:
    def hand(self, page: Page, value: Any, tmp_path: Path) -> str:
        """Gives the page a file; returns what it says to it."""
        (tmp_path / "given.json").write_text(value if isinstance(value, str) else json.dumps(value))
        page.tab.locator("#file").set_input_files(tmp_path / "given.json")
        page.tab.wait_for_selector("#notice:not([hidden])")
        return page.text("#notice")

    def test_takes_over_and_can_be_undone(self, serve: Callable[..., Page], small: Path, tmp_path: Path) -> None:
        page = serve(small)
        page.press("d")
        page.kept(lambda kept: len(kept.overrides) == 1)
        decided = given(small, 0.7, Override("r0003", f"{4:032x}", "different"))
        said = self.hand(page, decision.to_json(decided), tmp_path)
        assert said == "1 verdicts and the threshold 0.700 of Bob are imported; Undo takes it back"
        page.kept(lambda kept: (kept.threshold, kept.overrides) == (0.7, decided.overrides))
        page.press("u")
        page.kept(lambda kept: (kept.threshold, kept.overrides[0].reference_key) == (0.9, "r0000"))

    def test_of_another_decision(self, serve: Callable[..., Page], small: Path, tmp_path: Path) -> None:
        page, made = serve(small), decision.to_json(given(small, 0.7))
        stranger = {"reference_key": "r0000", "uid": "x", "verdict": "duplicate"}
        model = {**MODEL, "name": "ViT-B-32"}
        for change, said in (
            ({"model": model}, "It was made for another model (ViT-B-32), not for detector"),
            ({"matches_sha256": "0" * 64}, "It was made on other matches than these"),
            ({"views": 15}, "It was made on references in 15 views, not in 1"),
            ({"threshold": 7}, "Its threshold is 7"),
            ({"kind": "matches"}, "This is not a decision.json of gesso review"),
            ({"overrides": [stranger]}, "It judges a pair that is not in these matches: r0000, x"),
        ):
            self.hand(page, {**made, **change}, tmp_path)
            page.shows("#notice", f"given.json is not imported. {said}")
        assert not (small / "decision.json").exists()

    def test_no_json(self, serve: Callable[..., Page], small: Path, tmp_path: Path) -> None:
        page = serve(small)
        assert self.hand(page, "{", tmp_path).startswith("given.json is not imported. ")


class TestCompare:
    def test_flips_at_the_same_place(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("j", " ")
        assert page.text(".which .seen") == "Reference"
        page.press(" ")
        assert page.text(".which .seen") == "Training"
        images = [page.tab.locator(f"#stage .{name}") for name in "ab"]
        page.tab.wait_for_function(
            "([a, b]) => a.style.width && a.style.width === b.style.width && a.style.left === b.style.left",
            arg=[image.element_handle() for image in images],
        )
        assert [image.evaluate("image => getComputedStyle(image).visibility") for image in images] == [
            "hidden",
            "visible",
        ]
        page.press("d")
        assert page.text("#compare-numbers").startswith("3 of 12 · rank 1 · similarity ")
        page.press("i", "z", "m", "+", "0", "Escape")
        assert page.at == "r0002"
        assert page.kept(lambda kept: len(kept.overrides) == 1)


FRAMED = """part => {
  const image = part.parentElement.querySelector("img"), inner = part.lastElementChild.getBoundingClientRect();
  const scale = Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight);
  const outer = image.getBoundingClientRect(), size = [image.naturalWidth * scale, image.naturalHeight * scale];
  const begin = [outer.x + (outer.width - size[0]) / 2, outer.y + (outer.height - size[1]) / 2];
  const ends = [[inner.left, inner.top], [inner.right, inner.bottom]];
  return ends.flatMap(([x, y]) => [(x - begin[0]) / size[0], (y - begin[1]) / size[1]]);
}"""


class TestViews:
    """The view that matched is framed on the reference's picture, and named."""

    def framed(self, page: Page, selector: str) -> list[float]:
        """Left, top, right and bottom of the frame, in shares of the picture as it is shown."""
        page.tab.wait_for_selector(f"{selector}:not([hidden])")
        return [round(float(share), 2) for share in page.tab.locator(selector).first.evaluate(FRAMED)]

    def test_of_each_pair(self, serve: Callable[..., Page], in_views: Path) -> None:
        page = serve(in_views)
        assert page.text(".row:focus .matched") == ""
        assert page.tab.locator(".row:focus .part").is_hidden()
        page.press("l", "l")
        assert page.text(".row:focus .matched") == "matched: top right 70%"
        assert self.framed(page, ".row:focus .part") == [0.3, 0, 1, 0.7]
        page.press("l")
        assert self.framed(page, ".row:focus .part") == [0, 0.3, 0.7, 1]
        assert "duplicate by threshold, matched: bottom left 70%" in page.text("#said")
        page.press("j")
        assert self.framed(page, ".row:focus .part") == [0, 0, 0.7, 0.7]

    def test_while_comparing(self, serve: Callable[..., Page], in_views: Path) -> None:
        page = serve(in_views)
        page.press("j", " ")
        assert page.text("#compare-numbers").endswith(" · matched: top left 70%")
        assert self.framed(page, "#stage .part") == [0, 0, 0.7, 0.7]
        page.press(" ")
        assert page.tab.locator("#stage .part").evaluate("part => getComputedStyle(part).visibility") == "hidden"

    def test_a_decision_tells_them(self, serve: Callable[..., Page], in_views: Path) -> None:
        page = serve(in_views)
        page.press("d")
        assert page.kept(lambda kept: len(kept.overrides) == 1).views == 6

    def test_the_word_has_room(self, serve: Callable[..., Page], in_views: Path) -> None:
        page = serve(in_views)
        page.press("j")
        for width in (390, 420, 760, 1000, 2200):
            page.tab.set_viewport_size({"width": width, "height": 900})
            cut = "words => words.filter(word => word.scrollWidth > word.clientWidth).map(word => word.textContent)"
            assert page.tab.locator(".row:not([hidden]) .matched").evaluate_all(cut) == [], width
        page.tab.set_viewport_size(SIZE)

    def test_a_folder_of_before_there_were_views(
        self, as_file: Callable[..., Page], small: Path, in_views: Path, tmp_path: Path
    ) -> None:
        """Its data say nothing of them; the page is today's."""
        shutil.copytree(small, tmp_path / "old")
        pairs = tmp_path / "old/review/data/pairs.js"
        value = json.loads(pairs.read_text().removeprefix('gesso("pairs",').removesuffix(");\n"))
        del value["views"], value["matched"]
        pairs.write_text(f'gesso("pairs",{json.dumps(value)});')
        page = as_file(tmp_path / "old")
        assert (page.at, page.text(".row:focus .matched"), page.said) == ("r0000", "", [])
        page.press("d")
        page.shows("#saved", "Saved in this browser; Export writes decision.json")


class TestAccess:
    def test_every_control_is_reached_by_tab(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("d")
        page.kept(lambda kept: True)
        page.tab.evaluate("() => document.activeElement.blur()")
        seen = set()
        for _ in range(60):
            page.press("Tab")
            seen.add(page.tab.evaluate("() => document.activeElement.id || document.activeElement.className"))
        wanted = {
            "words",
            "verdicts",
            "scores",
            "undo",
            "jump",
            "export",
            "import",
            "help",
            "threshold",
            "slider",
            "log",
        }
        wanted |= {"lowest", "next", "who", "frame", "mark duplicate", "mark different", "skip"}
        assert wanted - seen == set()

    def test_focus_is_seen(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("j")
        assert page.tab.locator(".row:focus").evaluate("row => getComputedStyle(row).outlineStyle") == "solid"

    def test_controls_have_names(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        named = (
            "part => part.ariaLabel || part.labels?.length || part.textContent.trim() || part.ariaLabelledByElements"
        )
        for part in page.tab.locator("button, input:not([hidden]), select, canvas").all():
            assert part.evaluate(named), part.evaluate("part => part.outerHTML")

    def test_a_row_tells_its_place(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("j")
        row = page.tab.locator(".row:focus")
        assert (row.get_attribute("aria-posinset"), row.get_attribute("aria-setsize")) == ("2", "12")
        assert row.get_attribute("aria-label").startswith(
            "Pair 2 of 12: similarity 0.9483, 1 hash bits differ, duplicate"
        )
        assert page.text("#said") == row.get_attribute("aria-label")

    def test_letters_are_letters_in_a_field(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.press("/")
        page.type("dxu[")
        assert page.tab.locator("#words").input_value() == "dxu["
        assert page.text("#judged") == "0"
        page.press("Escape")


class TestUntrusted:
    def test_a_caption_is_text(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        assert page.text(".row:focus .reference .text") == HOSTILE
        assert page.tab.locator("#list script, #list [onerror]").count() == 0

    def test_only_web_links_are_links(self, serve: Callable[..., Page], small: Path) -> None:
        page = serve(small)
        page.tab.wait_for_selector(".row:has-text('r0001') .sample a[href='https://pictures.example/1.jpg']")
        assert page.tab.locator("a[href^='javascript']").count() == 0
        assert page.tab.locator(".row:focus .sample a").is_hidden()


class TestPlaceholders:
    def test_are_reported(self, serve: Callable[..., Page], large: Path) -> None:
        page = serve(large)
        assert page.text(".row:focus .sample .absent") == "This picture could not be read"
        lost = "300 of the references and 300 of the training pictures could not be read"
        assert page.text("#lost") == f"{lost}; placeholders are shown instead."


def test_nothing_sticks_out(serve: Callable[..., Page], small: Path) -> None:
    page = serve(small)
    for width in (420, 760, 1000, 1440, 2200):
        page.tab.set_viewport_size({"width": width, "height": 900})
        assert page.tab.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.tab.locator(".row:not([hidden])").evaluate_all(STICKING_OUT) == [], width
    page.tab.set_viewport_size(SIZE)


@pytest.fixture
def phone(browser: Any, small: Path) -> Iterator[Any]:
    """The page on a screen of 390 × 844 that is touched."""
    found = overlap.read(str(small))
    (small / "decision.json").unlink(missing_ok=True)
    target = str(small / "review")
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    with server.Server(0, target, server.DecisionStore(found, target, "Ada")) as listening, answering(listening):
        tab = context.new_page()
        tab.goto(listening.url)
        tab.wait_for_selector("html[data-ready] .row:focus")
        yield tab
        context.close()


class TestPhone:
    def test_the_list_has_the_screen(self, phone: Any) -> None:
        box = phone.locator("#list").bounding_box()
        assert (box["x"], box["width"], box["y"] + box["height"]) == (0, 390, 844)
        assert box["height"] > 780
        assert not phone.locator("#panel").is_visible()
        assert not phone.locator("#words").is_visible()
        assert phone.evaluate("() => document.documentElement.scrollWidth") == 390
        assert phone.locator("#list").evaluate("list => list.scrollWidth") == 390
        assert phone.locator(".row:not([hidden])").evaluate_all(STICKING_OUT) == []

    def test_the_panel_folds_out_and_away(self, phone: Any) -> None:
        phone.locator("#fold").tap()
        assert phone.locator("#fold").get_attribute("aria-expanded") == "true"
        box = phone.locator("#panel").bounding_box()
        assert (box["x"], box["width"], box["y"] + box["height"]) == (0, 390, 844)
        for name in ("threshold", "histogram", "words", "export", "who"):
            assert phone.locator(f"#{name}").is_visible(), name
        assert not phone.locator("#list").is_visible()
        assert phone.evaluate("() => document.documentElement.scrollWidth") == 390
        assert phone.locator("#panel").evaluate("panel => panel.scrollWidth") == 390
        assert phone.locator("#histogram").evaluate(
            "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        )
        phone.locator("#next").tap()
        assert not phone.locator("#panel").is_visible()
        assert phone.locator(".row:focus .reference .key").text_content() == "r0002"

    def test_compare_fits(self, phone: Any) -> None:
        phone.locator(".row:focus .reference .frame").tap()
        phone.wait_for_function("() => document.querySelector('#stage .a').clientWidth")
        assert phone.locator("#compare").evaluate("part => [part.scrollWidth, part.clientWidth]") == [390, 390]
        for part in phone.locator("#compare button, #compare #stage, #stage .a").all():
            box = part.bounding_box()
            assert box["x"] >= 0, part
            assert box["x"] + box["width"] <= 390, part
            assert box["y"] + box["height"] <= 844, part
        phone.locator("#compare .mark.duplicate").tap()
        phone.wait_for_function("() => document.querySelector('#compare-numbers').textContent.startsWith('2 of 12')")
        phone.locator("#close").tap()
        assert phone.locator("#list").is_visible()

    def test_no_keys_are_hinted_at(self, phone: Any) -> None:
        phone.locator("#fold").tap()
        assert [part.text_content() for part in phone.locator("kbd, .keyboard").all() if part.is_visible()] == []
        assert phone.locator("#judged-split").inner_text() == "No pair yet."

    def test_verdicts_are_as_large_as_a_finger(self, phone: Any) -> None:
        for mark in phone.locator(".row:focus .mark").all():
            assert mark.bounding_box()["height"] >= 44


def test_a_wide_screen_has_both(serve: Callable[..., Page], small: Path) -> None:
    page = serve(small)
    assert page.tab.locator("#panel").is_visible()
    assert page.tab.locator("#fold").is_hidden()
    assert page.text("#judged-split") == "No pair yet. Press d or x to judge the current pair."
    assert page.tab.locator(".row:focus .mark kbd").first.is_visible()
