"""The studio's page in headless Chromium, as a person uses it: typed, clicked, by keys, on a phone."""

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gesso.generation.output import png
from gesso.studio.folders import Folder
from gesso.studio.server import Server
from tests.serving import answering
from tests.studios import GRID, Fake, Gate, codes_of, runs_of, write_evaluation, write_generated

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
# Whether the candidates stand where the scores put them, none on its way.
AT_REST = "() => [...document.querySelectorAll('.cell')].every(cell => cell.getAnimations().length === 0)"


class Page:
    """A tab with the studio, and what a person sees of it."""

    def __init__(self, tab: Any, server: Server, gate: Gate) -> None:
        self.tab, self.server, self.gate = tab, server, gate
        self.said: list[str] = []
        tab.on("console", lambda message: self.said.append(message.text))
        tab.on("pageerror", lambda error: self.said.append(str(error)))
        tab.on("request", lambda request: self.hear(request.url))
        tab.set_default_timeout(15_000)
        tab.goto(server.url)
        tab.wait_for_selector("html[data-ready]")

    def hear(self, asked: str) -> None:
        """Remembers what is asked for elsewhere."""
        if not asked.startswith((self.server.url, "data:")):
            self.said.append(asked)

    def ask(self, caption: str, n: int = 4, seed: str = "5") -> None:
        """Types a request and sends it."""
        self.set(n=str(n), seed=seed)
        self.tab.fill("#caption", caption)
        self.tab.press("#caption", "Enter")

    def set(self, **fields: str) -> None:
        if self.tab.locator("#settings").get_attribute("open") is None:
            self.tab.click("#settings summary")
        for name, value in fields.items():
            self.tab.fill(f"#{name}", value)

    def draw(self, caption: str = "a red apple", n: int = 4, seed: str = "5") -> None:
        """A whole run."""
        self.ask(caption, n, seed)
        self.gate.open(n * GRID)
        self.facts(f"{n} candidate{'s' if n > 1 else ''}")
        self.tab.wait_for_function(AT_REST)

    def facts(self, first: str) -> None:
        self.shows("#run-facts span", first)

    def shows(self, selector: str, text: str) -> None:
        """Waits until a part has a text."""
        self.tab.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.textContent.trim() === text", arg=[selector, text]
        )

    def rows(self, *expected: int) -> None:
        """Waits until the candidates' pictures have so many rows of codes each, in the order of their seeds."""
        self.tab.wait_for_function(
            """([expected, side]) => {
              const seed = cell => Number(cell.querySelector('.seed').textContent);
              const cells = [...document.querySelectorAll('#grid .cell')].sort((one, other) => seed(one) - seed(other));
              const rows = cells.map(cell => (cell.querySelector('img')?.naturalHeight || 0) / side);
              return JSON.stringify(rows) === JSON.stringify(expected);
            }""",
            arg=[list(expected), 64 // GRID],
        )

    def texts(self, selector: str) -> list[str]:
        return [str(text).strip() for text in self.tab.locator(selector).all_text_contents()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Folder]:
    root = tmp_path_factory.mktemp("folders")
    first = write_generated(root / "out", ["a red apple", *(f"pear {number}" for number in range(30))], 3)
    write_evaluation(first / "evaluation")
    return [Folder(str(first)), Folder(str(write_generated(root / "more")))]


@pytest.fixture
def opened(browser: Any, folders: list[Folder]) -> Iterator[Callable[..., Page]]:
    """Opens a studio; nothing may be said on the console in the end, but for what a test expects."""
    made: list[Page] = []
    with ExitStack() as stack:

        def opener(
            size: dict[str, int] = WIDE,
            with_folders: bool = False,
            sampling: dict[str, float] | None = None,
            **more: Any,
        ) -> Page:
            gate = Gate()
            runs = stack.enter_context(closing(runs_of(Fake(gate=gate, sampling=sampling))))
            stack.callback(gate.open)
            server = stack.enter_context(Server(0, runs, folders if with_folders else []))
            stack.enter_context(answering(server))
            context = browser.new_context(viewport=size, permissions=["clipboard-read", "clipboard-write"], **more)
            stack.callback(context.close)
            made.append(Page(context.new_page(), server, gate))
            return made[-1]

        yield opener
    assert [page.said for page in made] == [[] for _ in made]


def best_first(caption: str, seeds: range) -> list[int]:
    """The seeds in the order of their scores."""
    fake = Fake()
    scores = {seed: fake.score(caption, fake.decode(codes_of(caption, seed)[None]))[0] for seed in seeds}
    return sorted(seeds, key=lambda seed: -scores[seed])


class TestDrawing:
    def test_rows_arrive_and_the_best_comes_first(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.ask("a red apple", n=5, seed="5")
        page.gate.reached()
        page.rows(0, 0, 0, 0, 0)
        page.facts("Drawing, 0 of 5")
        for row in (1, 2):
            page.gate.step()
            page.rows(row, row, row, row, 0)
        assert page.texts("#grid .seed") == ["5", "6", "7", "8", "9"]
        page.gate.step(GRID - 2)
        page.rows(GRID, GRID, GRID, GRID, 0)
        page.tab.wait_for_function(AT_REST)
        first = best_first("a red apple", range(5, 9))
        assert page.texts("#grid .seed") == [*map(str, first), "9"]
        assert page.texts("#grid .rank") == ["1", "2", "3", "4", ""]
        page.gate.open(GRID)
        page.facts("5 candidates")
        page.tab.wait_for_function(AT_REST)
        assert page.texts("#grid .seed") == [*map(str, best_first("a red apple", range(5, 10)))]
        scores = [float(text) for text in page.texts("#grid .score")]
        assert scores == sorted(scores, reverse=True)
        assert page.tab.locator(".cell.best .seed").text_content() == str(best_first("a red apple", range(5, 10))[0])
        assert page.texts("#said")[0].startswith("5 candidates drawn, the best has the seed ")

    def test_a_run_from_settings(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.set(temperature="0.5", top_k="40", top_p="0.9")
        page.draw(n=2)
        texts = page.texts("#run-facts span")
        assert texts == ["2 candidates", "seeds 5–6", "temperature 0.5", "top-k 40", "top-p 0.9"]
        (_, seeds, sampling) = page.server.runs.generator.drawn[0]  # type: ignore[attr-defined]
        assert (seeds, sampling.temperature, sampling.top_k, sampling.top_p) == ([5, 6], 0.5, 40, 0.9)

    def test_what_the_model_is_best_sampled_by(self, opened: Callable[..., Page]) -> None:
        page = opened(sampling={"temperature": 0.85, "top_p": 0.95})
        page.draw(n=1)
        (_, _, sampling) = page.server.runs.generator.drawn[0]  # type: ignore[attr-defined]
        assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.85, 0, 0.95)

    def test_a_random_seed_is_shown(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw(n=1, seed="")
        (_, seeds, _) = page.server.runs.generator.drawn[0]  # type: ignore[attr-defined]
        assert page.texts("#grid .seed") == [str(seeds[0])]

    def test_one_run_waits_for_another(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.ask("a red apple")
        page.gate.reached()
        page.facts("Drawing, 0 of 4")
        page.ask("two pears")
        page.facts("Waiting, 1 before it")
        assert page.texts(".runs .text") == ["two pears", "a red apple"]
        page.tab.click("#stop")
        page.shows("#run-caption", "a red apple")
        assert page.texts(".runs .text") == ["a red apple"]
        page.gate.step(3)
        page.rows(3, 3, 3, 3)
        page.tab.click("#stop")
        page.gate.open(1)
        page.facts("Stopped at 0 of 4")
        assert page.tab.locator("#stop").is_hidden()
        page.draw("two pears")
        page.tab.click(".runs li:nth-child(2) button")
        page.shows("#run-caption", "a red apple")
        page.rows(3, 3, 3, 3)

    def test_after_a_reload_all_is_there(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw()
        page.tab.reload()
        page.facts("4 candidates")
        page.rows(GRID, GRID, GRID, GRID)

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            ({"caption": "  "}, "The caption is empty: write what the picture shows."),
            ({"n": "65"}, "N is 65: give an integer from 1 to 64."),
            ({"seed": "x"}, "Seed is 'x': give an integer from 0 to 9007199254740988."),
            ({"temperature": "0"}, "Temperature is 0.0: give more than 0."),
        ],
    )
    def test_a_mistake_is_one_line(self, opened: Callable[..., Page], fields: dict[str, str], line: str) -> None:
        page = opened()
        page.set(**{"caption": "a red apple", "n": "4", **fields})
        page.tab.click("#go")
        page.shows("#wrong", line)
        assert page.texts(".runs li") == []
        page.tab.wait_for_function("() => document.activeElement.id === 'caption'")
        assert page.said == [REFUSED]
        page.said.clear()

    def test_a_fault_is_one_line(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.ask("out of memory")
        page.shows("#run-error", "A bug: RuntimeError: the device has no memory left.")
        page.facts("Failed")


class TestViewer:
    def test_a_picture_with_its_seed(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw()
        page.tab.click("#grid .cell:nth-child(2) button")
        second = best_first("a red apple", range(5, 9))[1]
        assert page.texts("#viewer-facts dt") == ["Seed", "Score"]
        assert page.texts("#viewer-facts dd")[0] == str(second)
        assert page.texts("#viewer-facts dd")[1].endswith(", rank 2 of 4")
        page.tab.click("#copy")
        page.shows("#copy", "Copied")
        assert page.tab.evaluate("navigator.clipboard.readText()") == str(second)

    def test_without_a_clipboard(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw(n=1)
        page.tab.click("#grid button")
        page.tab.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
        page.tab.click("#copy")
        page.shows("#copy", "Copied")
        assert page.tab.evaluate("navigator.clipboard.readText()") == "5"

    def test_the_download_tells_how_it_was_made(self, opened: Callable[..., Page], tmp_path: Path) -> None:
        page = opened()
        page.draw(n=1)
        page.tab.click("#grid button")
        with page.tab.expect_download() as download:
            page.tab.click("#download")
        assert download.value.suggested_filename == "a_red_apple_5.png"
        download.value.save_as(tmp_path / "picture.png")
        with Image.open(tmp_path / "picture.png") as image:
            told = json.loads(image.text["gesso"])  # type: ignore[attr-defined]
        assert (told["caption"], told["seed"]) == ("a red apple", 5)

    def test_by_keys_alone(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw()
        page.tab.locator("#grid .cell:first-child button").focus()
        page.tab.keyboard.press("Enter")
        seeds = [*map(str, best_first("a red apple", range(5, 9)))]
        assert page.texts("#viewer-facts dd")[0] == seeds[0]
        page.tab.keyboard.press("ArrowRight")
        page.tab.keyboard.press("ArrowRight")
        assert page.texts("#viewer-facts dd")[0] == seeds[2]
        page.tab.keyboard.press("ArrowLeft")
        assert page.texts("#viewer-facts dd")[0] == seeds[1]
        page.tab.keyboard.press("Escape")
        assert not page.tab.locator("#viewer").is_visible()
        assert page.tab.evaluate("document.activeElement.closest('.cell').matches(':first-child')")


class TestContinuing:
    def test_from_the_rows_that_are_kept(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw(n=1)
        page.tab.click("#grid button")
        page.tab.click("#continue")
        page.shows("#kept", "4 of 8 rows are kept.")
        page.tab.keyboard.press("ArrowUp")
        page.shows("#kept", "3 of 8 rows are kept.")
        for _ in range(9):
            page.tab.keyboard.press("ArrowUp")
        page.shows("#kept", "1 of 8 rows are kept.")
        page.tab.keyboard.press("ArrowDown")
        box = page.tab.locator("#frame").bounding_box()
        shade = page.tab.locator("#shade").bounding_box()
        assert shade["y"] - box["y"] == pytest.approx(box["height"] * 2 / GRID, abs=1)
        page.tab.fill("#next-caption", "two pears")
        page.tab.fill("#next-n", "2")
        page.tab.fill("#next-seed", "40")
        page.tab.click("#next-go")
        page.gate.open()
        page.facts("2 candidates")
        assert page.texts("#run-facts span")[1:] == ["seeds 40–41", "continued from seed 5, 2 rows kept"]
        assert not page.tab.locator("#viewer").is_visible()
        run = list(page.server.runs._runs.values())[-1]
        expected = [*codes_of("a red apple", 5)[: 2 * GRID], *codes_of("two pears", 40)[2 * GRID :]]
        assert run.candidates[0].codes.tolist() == expected  # type: ignore[union-attr]

    def test_the_line_is_dragged(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw(n=1)
        page.tab.click("#grid button")
        page.tab.click("#continue")
        box = page.tab.locator("#frame").bounding_box()
        middle = box["x"] + box["width"] / 2
        page.tab.mouse.move(middle, box["y"] + box["height"] / 2)
        page.tab.mouse.down()
        page.tab.mouse.move(middle, box["y"] + box["height"] * 6 / GRID, steps=4)
        page.tab.mouse.up()
        page.shows("#kept", "6 of 8 rows are kept.")

    def test_a_picture_of_ones_own(self, opened: Callable[..., Page]) -> None:
        page = opened()
        codes = codes_of("mine", 3)
        body = png(Fake().decode(codes[None])[0], {})
        page.tab.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": body})
        page.shows("#viewer-caption", "Your picture")
        page.tab.fill("#next-caption", "two pears")
        page.tab.press("#next-caption", "Enter")
        page.gate.open()
        page.facts("8 candidates")
        assert page.texts("#run-facts span")[-1] == "continued from a picture, 4 rows kept"
        run = list(page.server.runs._runs.values())[-1]
        assert run.candidates[0].codes[: 4 * GRID].tolist() == codes[: 4 * GRID].tolist()  # type: ignore[index]

    def test_a_mistake(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.draw(n=1)
        page.tab.click("#grid button")
        page.tab.click("#continue")
        page.tab.fill("#next-caption", "")
        page.tab.click("#next-go")
        page.shows("#next-wrong", "The caption is empty: write what the picture shows.")
        assert page.said == [REFUSED]
        page.said.clear()


class TestBrowsing:
    def test_captions_and_an_evaluation(self, opened: Callable[..., Page]) -> None:
        page = opened(with_folders=True)
        page.tab.click("#to-browse")
        page.shows("#found", "31 captions")
        assert page.tab.evaluate("scrollY") == 0
        assert len(page.texts(".caption h3")) == 24
        page.tab.click("#more")
        page.tab.wait_for_function("() => document.querySelectorAll('.caption h3').length === 31")
        assert page.tab.locator("#more").is_hidden()
        assert page.texts(".caption:first-child .rank") == ["1", "2", "3"]
        assert page.texts("#figures thead th") == ["Pictures", "Blur, pixels", "FID", "Inception Score", "KID × 1,000"]
        assert page.texts("#figures tbody tr:nth-child(2) td") == [
            "1",
            "28.5027.50 to 29.50",
            "17.9016.90 to 18.90",
            "12.500-987.500 to 1012.500",
        ]
        page.tab.wait_for_function("() => document.querySelector('#chart').naturalWidth > 100")
        assert page.texts("#notes li") == ["a note"]
        assert page.texts("#sides") == ["30 pictures of generated against 30 pictures of reference. Intervals of 95%."]

    def test_by_words(self, opened: Callable[..., Page]) -> None:
        page = opened(with_folders=True)
        page.tab.click("#to-browse")
        page.tab.fill("#words", "apple")
        page.shows("#found", "1 caption")
        assert page.texts(".caption h3") == ["a red apple"]

    def test_another_folder(self, opened: Callable[..., Page]) -> None:
        page = opened(with_folders=True)
        page.tab.click("#to-browse")
        page.tab.select_option("#folder", index=1)
        page.shows("#found", "2 captions")
        assert page.tab.locator("#evaluation").is_hidden()

    def test_a_picture_is_continued(self, opened: Callable[..., Page], folders: list[Folder]) -> None:
        page = opened(with_folders=True)
        page.tab.click("#to-browse")
        page.tab.click(".caption:first-child .cell:nth-child(2) button")
        assert page.texts("#viewer-facts dd") == ["99", "0.400, rank 2 of 3"]
        page.tab.click("#continue")
        page.tab.click("#next-go")
        page.gate.open()
        page.facts("8 candidates")
        assert page.tab.locator("#draw").is_visible()
        body = folders[0].read_picture("00000/01.png")
        assert body
        with Image.open(io.BytesIO(body)) as image:
            corner = image.getpixel((0, 0))
        run = list(page.server.runs._runs.values())[-1]
        red, green, blue = (value // 36 for value in corner)  # type: ignore[union-attr]
        assert run.candidates[0].codes[0] == 64 * red + 8 * green + blue  # type: ignore[index]

    def test_nothing_to_browse(self, opened: Callable[..., Page]) -> None:
        page = opened()
        page.tab.click("#to-browse")
        assert page.texts("#nothing")[0].startswith("Start `gesso studio --generated out/` to look at")


class TestPhone:
    @pytest.fixture
    def phone(self, opened: Callable[..., Page]) -> Page:
        return opened(PHONE, with_folders=True, has_touch=True, is_mobile=True)

    def fits(self, page: Page) -> None:
        assert page.tab.evaluate("document.documentElement.scrollWidth") == 390

    def test_everything_fits(self, phone: Page) -> None:
        self.fits(phone)
        phone.draw("a caption of many words, of which some are long, " + "antidisestablishmentarianism" * 3)
        self.fits(phone)
        widths = {round(cell.bounding_box()["width"]) for cell in phone.tab.locator("#grid .cell").all()}
        assert len(widths) == 1
        assert min(widths) > 150
        phone.tab.locator("#grid button").first.tap()
        phone.tab.locator("#continue").tap()
        assert phone.tab.locator("#viewer").evaluate("part => [part.scrollWidth, part.clientWidth]") == [390, 390]
        for part in phone.tab.locator("#viewer button:visible, #viewer a:visible").all():
            assert part.bounding_box()["height"] >= 40, part
        phone.tab.locator("#close").tap()
        phone.tab.locator("#to-browse").tap()
        phone.shows("#found", "31 captions")
        phone.tab.wait_for_function("() => document.querySelector('#chart').naturalWidth > 100")
        self.fits(phone)

    def test_settings_are_folded(self, phone: Page) -> None:
        assert not phone.tab.locator("#temperature").is_visible()
        phone.tab.locator("#settings summary").tap()
        assert phone.tab.locator("#temperature").is_visible()
        self.fits(phone)


@pytest.mark.parametrize("width", [320, 480, 760, 1000, 2200])
def test_nothing_sticks_out(opened: Callable[..., Page], width: int) -> None:
    page = opened({"width": width, "height": 800}, with_folders=True)
    page.draw()
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    page.tab.click("#to-browse")
    page.tab.wait_for_function("() => document.querySelector('#chart').naturalWidth > 100")
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(opened: Callable[..., Page]) -> None:
    page = opened(with_folders=True)
    page.draw(n=1)
    page.tab.click("#grid button")
    page.tab.click("#continue")
    told = page.tab.locator("#viewer").aria_snapshot()
    for name in (
        'button "Close"',
        'button "Copy seed"',
        'link "Download PNG"',
        'slider "Rows to keep"',
        'textbox "Caption"',
    ):
        assert name in told, told
    page.tab.keyboard.press("Escape")
    whole = page.tab.locator("body").aria_snapshot()
    assert re.search(r'button "Open seed 5, rank 1, score 0\.\d{3}"', whole), whole
    assert 'navigation "Views"' in whole
    assert 'textbox "Caption"' in whole


def test_a_server_that_is_started_again(browser: Any) -> None:
    """The page goes on by itself: the token is another one, and the runs of before are gone."""
    with closing(runs_of(Fake())) as made, Server(0, made) as server:
        tab = browser.new_page()
        with answering(server):
            tab.goto(server.url)
            tab.wait_for_selector("html[data-ready]")
        tab.wait_for_selector("#lost:not([hidden])")
        port = server.port
        tab.fill("#caption", "a red apple")
        tab.click("#go")
        tab.wait_for_function(
            "() => document.querySelector('#wrong').textContent.startsWith('`gesso studio` does not')"
        )
    with closing(runs_of(Fake())) as made, Server(port, made) as server, answering(server):
        tab.wait_for_selector("#lost", state="hidden")
        tab.click("#go")
        tab.wait_for_function("() => document.querySelector('#run-facts span')?.textContent === '16 candidates'")
        tab.close()
