"""Random transforms that make positive pairs: how copies of a picture on the web differ (arXiv 2102.12092, section 9).

The section lists crop and zoom, aspect distortion, down- and up-scaling, small rotation, JPEG and HSV jitter, with a
random interpolation kernel wherever one is used. Added here: flips, blur, noise, grey, borders, screenshots, overlaid
text. Pictures are (height, width, 3) uint8 RGB; OpenCV, no torch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from gesso.images import Pixels, encode

KERNELS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
WARPING = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)  # warpAffine has no area kernel
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:!?@#©"

Transform = Callable[[Pixels, Generator], Pixels]


class Step(NamedTuple):
    """A transform and the probability with which it is applied."""

    probability: float
    transform: Transform


def resize(pixels: Pixels, width: int, height: int, random: Generator) -> Pixels:
    """To a size, with a random kernel, so that no kernel identifies a copy."""
    kernel = int(random.choice(KERNELS))
    return np.asarray(cv2.resize(pixels, (max(1, width), max(1, height)), interpolation=kernel), dtype=np.uint8)


def crop(pixels: Pixels, random: Generator) -> Pixels:
    """A random rectangle of 30% to 100% of the area, its aspect ratio up to 4/3 from the picture's."""
    height, width = pixels.shape[:2]
    share, stretch = random.uniform(0.3, 1), math.exp(random.uniform(-1, 1) * math.log(4 / 3))
    across = min(width, max(8, round(width * math.sqrt(share * stretch))))
    down = min(height, max(8, round(height * math.sqrt(share / stretch))))
    left, top = int(random.integers(width - across + 1)), int(random.integers(height - down + 1))
    return pixels[top : top + down, left : left + across]


def change_aspect(pixels: Pixels, random: Generator) -> Pixels:
    """Changes the aspect ratio: scales each side by 2/3 to 3/2."""
    height, width = pixels.shape[:2]
    across, down = (random.uniform(2 / 3, 3 / 2) for _ in range(2))
    return resize(pixels, round(width * across), round(height * down), random)


def rescale(pixels: Pixels, random: Generator) -> Pixels:
    """Scales by 1/4 to 4/3; a last resize brings it to the model's size."""
    height, width = pixels.shape[:2]
    factor = math.exp(random.uniform(math.log(1 / 4), math.log(4 / 3)))
    return resize(pixels, round(width * factor), round(height * factor), random)


def rotate(pixels: Pixels, random: Generator) -> Pixels:
    """By up to 15°, zoomed in or not; corners are filled with a colour, or with the edge's pixels."""
    height, width = pixels.shape[:2]
    zoom = random.choice((1.0, random.uniform(1, 1.4)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-15, 15), zoom)
    border = int(random.choice((cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT)))
    kernel, corners = int(random.choice(WARPING)), colour(random)
    turned = cv2.warpAffine(pixels, matrix, (width, height), flags=kernel, borderMode=border, borderValue=corners)
    return np.asarray(turned, dtype=np.uint8)


def flip(pixels: Pixels, random: Generator) -> Pixels:
    """Mirrors left and right."""
    return np.ascontiguousarray(pixels[:, ::-1])


def shift_hsv(pixels: Pixels, random: Generator) -> Pixels:
    """Hue by up to 18°, saturation and brightness by up to 40%, contrast by up to 30%."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + random.uniform(-9, 9)) % 180
    hsv[..., 1] *= random.uniform(0.6, 1.4)
    hsv[..., 2] *= random.uniform(0.6, 1.4)
    shifted = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    mean, contrast = float(shifted.mean()), random.uniform(0.7, 1.3)
    return np.asarray(cv2.convertScaleAbs(cv2.addWeighted(shifted, contrast, shifted, 0, mean * (1 - contrast))))


def grey(pixels: Pixels, random: Generator) -> Pixels:
    """Without colour, or in sepia."""
    luminance = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    tint = np.array(random.choice(((1, 1, 1), (1.07, 0.95, 0.8))), np.float32)
    return np.clip(luminance * tint, 0, 255).astype(np.uint8)


def blur(pixels: Pixels, random: Generator) -> Pixels:
    """Gaussian, of a radius up to a hundredth of the short side."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), random.uniform(0.3, 0.012 * min(pixels.shape[:2]) + 0.4)))


def noise(pixels: Pixels, random: Generator) -> Pixels:
    """Gaussian, of up to 16 levels."""
    added = random.normal(0, random.uniform(2, 16), pixels.shape).astype(np.float32)
    return np.clip(pixels + added, 0, 255).astype(np.uint8)


def border(pixels: Pixels, random: Generator) -> Pixels:
    """A border of one colour, on each side up to a fifth of the picture."""
    height, width = pixels.shape[:2]
    top, bottom = (int(height * random.uniform(0, 0.2)) for _ in range(2))
    left, right = (int(width * random.uniform(0, 0.2)) for _ in range(2))
    framed = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour(random))
    return np.asarray(framed, dtype=np.uint8)


def screenshot(pixels: Pixels, random: Generator) -> Pixels:
    """The picture on a page with bars, lines of text and boxes around it; it has 55% to 90% of the page's sides."""
    height, width = pixels.shape[:2]
    page_height, page_width = (round(side / random.uniform(0.55, 0.9)) for side in (height, width))
    page = np.full((page_height, page_width, 3), page_colour(random), np.uint8)
    for _ in range(int(random.integers(2, 9))):
        draw_element(page, random)
    top, left = int(random.integers(page_height - height + 1)), int(random.integers(page_width - width + 1))
    page[top : top + height, left : left + width] = pixels
    return page


def draw_element(page: Pixels, random: Generator) -> None:
    """Draws a bar, a box or a line of text."""
    height, width = page.shape[:2]
    left, top = int(random.integers(width)), int(random.integers(height))
    match random.integers(3):
        case 0:
            cv2.rectangle(page, (0, top), (width, top + height // 14), colour(random), -1)
        case 1:
            cv2.rectangle(page, (left, top), (left + width // 6, top + height // 8), colour(random), -1)
        case _:
            draw_text(page, random, left // 2, top)


def text(pixels: Pixels, random: Generator) -> Pixels:
    """One to three lines of text over the picture, sometimes on a coloured band."""
    written = pixels.copy()
    height, width = written.shape[:2]
    for _ in range(int(random.integers(1, 4))):
        top = int(random.integers(height))
        if random.random() < 0.3:
            cv2.rectangle(written, (0, top - height // 12), (width, top + height // 30), colour(random), -1)
        draw_text(written, random, int(random.integers(max(1, width // 2))), top)
    return written


def draw_text(page: Pixels, random: Generator, left: int, top: int) -> None:
    """A line of random letters in a random font, size and colour."""
    letters = "".join(random.choice(list(LETTERS), int(random.integers(4, 28))))
    size = random.uniform(0.0012, 0.006) * page.shape[0]
    font, thickness = int(random.choice(FONTS)), max(1, round(size * 2))
    cv2.putText(page, letters, (left, top), font, size, colour(random), thickness, cv2.LINE_AA)


def jpeg(pixels: Pixels, random: Generator) -> Pixels:
    """Compresses as a JPEG of quality 20 to 95."""
    body = encode(np.ascontiguousarray(pixels), int(random.integers(20, 96)))
    return np.asarray(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def colour(random: Generator) -> tuple[int, int, int]:
    """Black or white, each with probability 1/4, else any colour."""
    plain = random.random()
    if plain < 0.5:
        return (0, 0, 0) if plain < 0.25 else (255, 255, 255)
    red, green, blue = random.integers(0, 256, 3)
    return int(red), int(green), int(blue)


def page_colour(random: Generator) -> tuple[int, int, int]:
    """A page's background."""
    return colour(random) if random.random() < 0.5 else (245, 245, 245)


# In the order in which a picture on the web is edited, published, downloaded and posted again.
STEPS = (
    Step(0.35, flip),
    Step(0.75, crop),
    Step(0.3, change_aspect),
    Step(0.3, rotate),
    Step(0.2, border),
    Step(0.15, screenshot),
    Step(0.2, text),
    Step(0.5, rescale),
    Step(0.5, shift_hsv),
    Step(0.1, grey),
    Step(0.2, blur),
    Step(0.1, noise),
    Step(0.6, jpeg),
)


def transformed(pixels: Pixels, side: int, random: Generator) -> Pixels:
    """An altered copy, (side, side, 3): each transform of STEPS with its probability."""
    for step in STEPS:
        if random.random() < step.probability:
            pixels = step.transform(pixels, random)
    return resize(pixels, side, side, random)


def plain(pixels: Pixels, side: int, random: Generator) -> Pixels:
    """The picture itself, resized to (side, side, 3) with a random kernel."""
    return resize(pixels, side, side, random)
