"""Which of ten colour words fits a picture on white best: the share of each word among its pixels that are not white.

A word is a range of hue, saturation and value. The ranges do not overlap, and every pixel that is not white has a word.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (height, width, 3) RGB

PALETTE = {
    "red": (220, 38, 38),
    "orange": (245, 130, 32),
    "yellow": (250, 208, 30),
    "green": (34, 160, 70),
    "blue": (37, 99, 235),
    "purple": (126, 58, 190),
    "pink": (244, 114, 182),
    "brown": (121, 72, 40),
    "black": (20, 20, 20),
    "grey": (128, 128, 128),
}
WORDS = tuple(PALETTE)
SPELLINGS = {"gray": "grey", "violet": "purple", "golden": "yellow", "gold": "yellow"}
HUES = ((15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (300, "purple"), (345, "pink"))
WHITE = 0.1, 0.9  # saturation up to, value from
GREY = 0.2  # saturation up to
BLACK = 0.28  # value up to
BROWN = 0.68  # value up to, of hues from red to orange
PALE = 0.55  # saturation up to of a red or purplish red that is called pink


def words_of_pixels(pixels: Pixels) -> npt.NDArray[np.str_]:
    """The colour word of each pixel, "white" included, (height, width)."""
    hue, saturation, value = np.moveaxis(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2HSV), 2, 0)
    limits, names = zip(*HUES, strict=True)
    words = np.array([*names, "red"])[np.digitize(hue, limits)].astype("<U6")
    words[(words == "red") & (saturation <= PALE) & (value > BROWN)] = "pink"
    words[(hue >= 8) & (hue < 45) & (value <= BROWN)] = "brown"
    words[saturation <= GREY] = "grey"
    words[value <= BLACK] = "black"
    words[(saturation <= WHITE[0]) & (value >= WHITE[1])] = "white"
    return words


def shares(pixels: Pixels) -> dict[str, float]:
    """Each word's share of the pixels that are not white; all 0 for a white picture."""
    words = words_of_pixels(pixels)
    painted = max(1, int((words != "white").sum()))
    return {word: float((words == word).sum()) / painted for word in WORDS}


def main_colour(pixels: Pixels) -> str:
    """The most frequent word; of equal ones the first of WORDS."""
    found = shares(pixels)
    return max(WORDS, key=lambda word: found[word])


def named(caption: str) -> str | None:
    """The only colour word of a caption; None where it has none, or several."""
    words = {SPELLINGS.get(word, word) for word in caption.lower().replace(",", " ").split()} & {*WORDS, "white"}
    return words.pop() if len(words) == 1 and "white" not in words else None


def agreement(captions: Sequence[str], pictures: Sequence[Pixels]) -> float:
    """How often the only colour that a caption names is the picture's main colour; nan where no caption names one."""
    asked = [(named(caption), picture) for caption, picture in zip(captions, pictures, strict=True) if named(caption)]
    right = [main_colour(picture) == word for word, picture in asked]
    return sum(right) / len(right) if right else float("nan")
