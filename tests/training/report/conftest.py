"""Pages of runs, opened in Chromium."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gesso.training.report import report
from tests import runs


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page of a run moved away from its files; it may ask for nothing and say nothing on the console."""
    said: list[str] = []
    contexts: list[Any] = []

    def opener(width: int = 1280, write: Callable[..., str] = runs.write_run, **of_run: Any) -> Any:
        shutil.move(report(write(tmp_path / "run", **of_run), None), tmp_path / "page.html")
        shutil.rmtree(tmp_path / "run")
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else said.append(asked.url))
        tab.goto(f"file://{tmp_path}/page.html")
        tab.wait_for_selector("html[data-ready]")
        return tab

    yield opener
    for context in contexts:
        context.close()
    assert said == []


def hover(tab: Any, selector: str, x: float, y: float) -> None:
    """Moves the mouse over a part, to shares of its width and height."""
    part = tab.locator(selector)
    part.scroll_into_view_if_needed()
    box = part.bounding_box()
    tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
