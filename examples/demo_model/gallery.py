"""Pictures of many captions in two columns, a line for each caption: `gallery.py GENERATED OUTPUT.jpg`."""

import sys
from pathlib import Path

from judge import read
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TEXT, COLUMNS = 60, 4, 20, 2  # pixels of a picture, between two, for a caption


def main() -> None:
    captions, of, pictures = read(Path(sys.argv[1]))
    each, lines = len(pictures) // len(captions), -(-len(captions) // COLUMNS)
    wide, high = each * (SIDE + GAP) + 4 * GAP, TEXT + SIDE + 2 * GAP
    page = Image.new("RGB", (COLUMNS * wide, lines * high), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for number, caption in enumerate(captions):
        left, top = number // lines * wide + 2 * GAP, number % lines * high
        draw.text((left, top + 2), caption, "black", font)
        for place, pixels in enumerate(pixels for own, pixels in zip(of, pictures, strict=True) if own == number):
            small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            page.paste(small, (left + place * (SIDE + GAP), top + TEXT))
    page.save(sys.argv[2], quality=88)


if __name__ == "__main__":
    main()
