"""The contact sheet: captions as labels, under each its pictures, best first, with scores and seeds. No torch."""

import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from gesso import storage

Json = dict[str, Any]

COLUMNS, MOST_CAPTIONS = 8, 64  # pictures in a row; captions on the sheet, the first ones
SIDE, GAP, MARGIN = 144, 8, 16  # pixels: of a picture about, between pictures, around all
LABEL, SMALL, BELOW = 17, 11, 16  # pixels: sizes of the two fonts, the line under a picture
LINES = 2  # of a label at most
INK, GREY, PAPER = "#222222", "#777777", "#ffffff"


class Line(NamedTuple):
    """A caption with its pictures."""

    caption: str
    entries: Sequence[Json]


def draw(output: str, lines: Sequence[Line]) -> bytes:
    """A PNG of the first captions; the pictures are read from `output`."""
    shown, label, small = lines[:MOST_CAPTIONS], font(LABEL), font(SMALL)
    side = side_of(output, shown[0].entries[0])
    columns = min(COLUMNS, max(len(line.entries) for line in shown))
    width = max(columns, 3) * (side + GAP) - GAP
    labels = [list(wrapped(line.caption, label, width)) for line in shown]
    heights = [height_of(len(text), len(line.entries), columns, side) for text, line in zip(labels, shown, strict=True)]
    sheet = Image.new("RGB", (width + 2 * MARGIN, sum(heights) + MARGIN), PAPER)
    canvas, top = ImageDraw.Draw(sheet), MARGIN
    for text, line, height in zip(labels, shown, heights, strict=True):
        for number, words in enumerate(text):
            canvas.text((MARGIN, top + number * (LABEL + 5)), words, INK, label)
        begin = top + len(text) * (LABEL + 5) + 3
        for place, entry in enumerate(line.entries):
            row, column = divmod(place, columns)
            x, y = MARGIN + column * (side + GAP), begin + row * (side + BELOW + GAP)
            sheet.paste(picture(output, entry, side), (x, y))
            canvas.text((x, y + side + 2), told(entry), GREY, small)
        top += height
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def told(entry: Json) -> str:
    score = "" if entry["score"] is None else f"{entry['score']:.3f} · "
    return f"{score}seed {entry['seed']}"


def height_of(labels: int, pictures: int, columns: int, side: int) -> int:
    """Pixels of a caption, the space behind it included."""
    return labels * (LABEL + 5) + 3 + -(-pictures // columns) * (side + BELOW + GAP) + MARGIN


def side_of(output: str, entry: Json) -> int:
    """The side of a picture on the sheet: about SIDE, small pictures a whole number of times as large."""
    with storage.open_input(storage.join(output, entry["file"])) as stream, Image.open(stream) as image:
        return image.width * max(1, round(SIDE / image.width)) if image.width <= SIDE else SIDE


def picture(output: str, entry: Json, side: int) -> Image.Image:
    with storage.open_input(storage.join(output, entry["file"])) as stream, Image.open(stream) as image:
        kind = Image.Resampling.NEAREST if image.width < side else Image.Resampling.LANCZOS
        return image.convert("RGB").resize((side, side), kind)


def wrapped(text: str, label: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """The text in lines that are not wider than `width` pixels, the last one cut where it does not fit."""
    rest = " ".join(text.split())
    for number in range(LINES):
        taken = fitting(rest, label, width)
        if taken < len(rest) and number == LINES - 1:
            yield f"{rest[: fitting(rest, label, width - LABEL)].rstrip()}…"
            return
        at = rest.rfind(" ", 0, taken + 1) if taken < len(rest) else taken
        at = at if at > 0 else taken
        yield rest[:at]
        rest = rest[at:].strip()
        if not rest:
            return


def fitting(text: str, label: ImageFont.FreeTypeFont, width: int) -> int:
    """How many characters fit, 1 at least."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if label.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek, Cyrillic and Arabic letters."""
    import matplotlib

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
