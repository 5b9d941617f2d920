"""The contact sheet: every picture stands in its place, under its caption."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gesso.generation import sheet
from gesso.generation.sheet import GAP, LABEL, MARGIN, Line, fitting, font, wrapped


def entries(folder: Path, colours: list[int], side: int) -> list[dict[str, object]]:
    for colour in colours:
        Image.new("RGB", (side, side), (colour, 0, 0)).save(folder / f"{colour}.png")
    return [{"file": f"{colour}.png", "score": None, "seed": number} for number, colour in enumerate(colours)]


@pytest.mark.parametrize(("side", "shown"), [(32, 128), (64, 128), (256, 144)])
def test_pictures_stand_in_rows_of_eight(tmp_path: Path, side: int, shown: int) -> None:
    first, second = [10 * number for number in range(10)], [200, 210]
    lines = [Line("ten", entries(tmp_path, first, side)), Line("two", entries(tmp_path, second, side))]
    found = np.asarray(Image.open(io.BytesIO(sheet.draw(str(tmp_path), lines))))
    assert found.shape[1] == 2 * MARGIN + 8 * (shown + GAP) - GAP

    def colours(top: int) -> list[int]:
        row = found[top + shown // 2, MARGIN + shown // 2 :: shown + GAP]
        return [int(red) for red, green, blue in row if not green and not blue]

    top = MARGIN + LABEL + 8
    below = shown + sheet.BELOW + GAP
    assert colours(top) == first[:8]
    assert colours(top + below) == first[8:]
    assert colours(top + 2 * below + MARGIN + LABEL + 8) == second


def test_the_same_bytes_again(tmp_path: Path) -> None:
    lines = [Line("one", entries(tmp_path, [7], 32))]
    assert sheet.draw(str(tmp_path), lines) == sheet.draw(str(tmp_path), lines)


def test_what_stands_under_a_picture() -> None:
    assert sheet.told({"score": 0.31249, "seed": 17}) == "0.312 · seed 17"
    assert sheet.told({"score": None, "seed": 3}) == "seed 3"


@pytest.mark.parametrize("text", ["a cat", "a cat " * 12, "x" * 300, "一只猫" * 60])
def test_labels_have_two_lines_that_fit(text: str) -> None:
    label = font(LABEL)
    lines = list(wrapped(text, label, 400))
    assert 1 <= len(lines) <= 2
    assert all(label.getlength(line) <= 400 for line in lines)
    whole = " ".join(lines)
    assert whole == text.strip() or (whole.endswith("…") and text.startswith(lines[0]))


def test_a_character_is_taken_even_where_none_fits() -> None:
    assert fitting("wide", font(LABEL), 1) == 1


def test_of_many_captions_the_first_are_shown(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, [7], 32)
    tall = Image.open(io.BytesIO(sheet.draw(str(tmp_path), [Line("x", [entry])] * 100))).height
    assert tall == Image.open(io.BytesIO(sheet.draw(str(tmp_path), [Line("x", [entry])] * 64))).height
