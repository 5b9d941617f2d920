"""Are altered copies found? Recall per transform at 0 and 0.1% false positives: `python tests/benchmarks/detection.py`.

Real pictures of the shared data that no detector was trained on. Each is a reference once, and once for each transform
it is planted, altered, in a gallery of all the others, plain and altered in the same way. A reference is embedded in
one view or in several, and its similarity to a picture of the gallery is the largest of its views'. It is a false
positive where some other picture of the gallery comes as close as the threshold; one threshold holds for all
transforms, as on the page where a person chooses it. The transforms are Pillow's: none of the training's code.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from gesso import images
from gesso.dedup import views

HERE = Path(__file__).resolve()
FOLDERS = (
    "coco_val2017/images",
    "imagenet_sample/images",
    "flickr8k_native/images",
    "near_duplicates/imagededup/base_images",
)
SIDE = 384  # pixels, short side of a reference: what a shard holds
ALLOWED = 0.001  # false positives, of all references and transforms
BATCH = 64

Picture = Image.Image
Transform = Callable[[Picture, Random], Picture]
Floats = npt.NDArray[np.float32]
Embed = Callable[[list[Picture]], Floats]  # pictures → (n, D), to be compared by inner product


# ── the transforms ──


def jpeg(quality: int) -> Transform:
    def through(picture: Picture, random: Random) -> Picture:
        stream = BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return through


def crop(share: float) -> Transform:
    """Keeps `share` of each side, at a random place."""

    def cut(picture: Picture, random: Random) -> Picture:
        width, height = round(picture.width * share), round(picture.height * share)
        left, top = random.randint(0, picture.width - width), random.randint(0, picture.height - height)
        return picture.crop((left, top, left + width, top + height))

    return cut


def scale(share: float) -> Transform:
    return lambda picture, random: picture.resize(
        (round(picture.width * share), round(picture.height * share)), Image.Resampling.BICUBIC
    )


def aspect(picture: Picture, random: Random) -> Picture:
    factor = random.choice((2 / 3, 3 / 2))
    return picture.resize((round(picture.width * factor), picture.height), Image.Resampling.BILINEAR)


def rotation(picture: Picture, random: Random) -> Picture:
    angle = random.uniform(3, 10) * random.choice((-1, 1))
    return picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=random.choice(("black", "white")))


def colour(picture: Picture, random: Random) -> Picture:
    hue, saturation, value = picture.convert("HSV").split()
    turn = random.randint(-12, 12)
    turned = Image.merge("HSV", (hue.point(lambda level: (level + turn) % 256), saturation, value)).convert("RGB")
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        turned = enhance(turned).enhance(random.uniform(0.7, 1.3))
    return turned


def grey(picture: Picture, random: Random) -> Picture:
    return ImageOps.grayscale(picture).convert("RGB")


def blur(picture: Picture, random: Random) -> Picture:
    return picture.filter(ImageFilter.GaussianBlur(random.uniform(1.5, 4)))


def border(picture: Picture, random: Random) -> Picture:
    width = round(min(picture.size) * random.uniform(0.08, 0.15))
    return ImageOps.expand(picture, width, random.choice(("black", "white", "#888888")))


def text(picture: Picture, random: Random) -> Picture:
    written = picture.copy()
    draw, size = ImageDraw.Draw(written), picture.height // 9
    for line in ("© John Q. Public 2014", "SAMPLE not for sale"):
        location = (random.uniform(0, picture.width / 4), random.uniform(0, picture.height - size))
        draw.text(location, line, random.choice(("white", "black", "yellow")), ImageFont.load_default(size))
    return written


def flip(picture: Picture, random: Random) -> Picture:
    return ImageOps.mirror(picture)


def screenshot(picture: Picture, random: Random) -> Picture:
    """The picture in a page: a bar above, text beside and below; it keeps about two thirds of each side."""
    page = Image.new("RGB", (round(picture.width * 1.5), round(picture.height * 1.5)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(max(10, picture.height // 24))
    draw.rectangle((0, 0, page.width, page.height // 12), fill=random.choice(("#3b5998", "#222222", "#dddddd")))
    left, top = random.randint(0, page.width - picture.width), random.randint(page.height // 12, page.height // 4)
    for line in range(12):
        draw.text((10, page.height * line // 12), "Home  News  Pictures of the day  Sign in " * 2, "#555555", font)
    page.paste(picture, (left, top))
    return page


def both(first: Transform, second: Transform) -> Transform:
    return lambda picture, random: second(first(picture, random), random)


TRANSFORMS: dict[str, Transform] = {
    "JPEG 90": jpeg(90),
    "JPEG 50": jpeg(50),
    "JPEG 30": jpeg(30),
    "crop to 80%": crop(0.8),
    "crop to 60%": crop(0.6),
    "scaled to 1/3": scale(1 / 3),
    "aspect × 3/2": aspect,
    "rotation 3–10°": rotation,
    "flip": flip,
    "border": border,
    "screenshot": screenshot,
    "colour": colour,
    "grey": grey,
    "blur": blur,
    "text": text,
    "crop 80% + JPEG 50": both(crop(0.8), jpeg(50)),
    "flip + colour": both(flip, colour),
    "rotation + 1/3": both(rotation, scale(1 / 3)),
    "border + text": both(border, text),
    "screenshot + JPEG 50": both(screenshot, jpeg(50)),
    "crop 80% + flip": both(crop(0.8), flip),
}
HARDER: dict[str, Transform] = {  # not in the mean
    "crop to 50%": crop(0.5),
    "crop 60% + JPEG 40 + flip": both(both(crop(0.6), jpeg(40)), flip),
}
ALL = TRANSFORMS | HARDER
GEOMETRIC = (
    "crop to 80%",
    "crop to 60%",
    "scaled to 1/3",
    "aspect × 3/2",
    "rotation 3–10°",
    "flip",
    "border",
    "screenshot",
)


# ── the models ──


def hashes(pictures: list[Picture]) -> Floats:
    """64 signs a picture: inner products are 64 less twice the differing bits, so that they rank as the hash does."""
    packed = [bytes.fromhex(images.perceptual_hash(np.asarray(picture))) for picture in pictures]
    bits = np.unpackbits(np.frombuffer(b"".join(packed), np.uint8).reshape(-1, 8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def detector_of(path: str | None) -> Embed:
    from gesso.dedup import detector

    model, config = detector.load(path)

    def embed(pictures: list[Picture]) -> Floats:
        squares = np.stack([detector.prepare(np.asarray(picture), config.image_size) for picture in pictures])
        batch = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return model(batch.contiguous(memory_format=torch.channels_last)).numpy()

    return embed


def open_clip_of(name: str, pretrained: str | None) -> Embed:
    import open_clip

    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained)
    model.eval()

    def embed(pictures: list[Picture]) -> Floats:
        with torch.inference_mode():
            features = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
            return torch.nn.functional.normalize(features.float(), dim=1).numpy()

    return embed


# ── the measurement ──


class Similarities(NamedTuple):
    """Of each reference, for one transform: to its own copy, and to the closest other picture of the gallery."""

    own: Floats
    other: Floats


class Result(NamedTuple):
    """A model's recall by transform, at no false positive and at ALLOWED of them; and the two thresholds."""

    strict: dict[str, float]
    allowed: dict[str, float]
    thresholds: tuple[float, float]


def references(data: Path) -> list[Picture]:
    """The held-out pictures at the size at which a shard would hold them."""
    paths = [path for folder in FOLDERS for path in sorted((data / folder).glob("*.[jJ]*"))]
    if not paths:
        print(f"{data} holds none of {', '.join(FOLDERS)}: nothing to measure with; give --data")
        sys.exit()
    return [kept(path.read_bytes()) for path in paths]


def kept(body: bytes) -> Picture:
    header = images.read_header(body)
    width, height = images.fitted(header, SIDE, min(header.width, header.height))
    return Image.fromarray(images.render(body, header, width, height))


def altered(pictures: list[Picture], name: str) -> Iterator[list[Picture]]:
    """Each picture after a transform, the same at every run, a batch at a time."""
    with ThreadPoolExecutor() as pool:
        for begin in range(0, len(pictures), BATCH):
            batch = range(begin, min(begin + BATCH, len(pictures)))
            yield list(pool.map(lambda at: ALL[name](pictures[at], Random(f"{name} {at}")), batch))


def compare(plain: Floats, copies: Floats) -> Similarities:
    """`plain` (views, n, D) are the references; the gallery is the wholes and `copies` (n, D): all but one's own."""
    count = plain.shape[1]
    everything = (plain @ np.concatenate((plain[views.WHOLE], copies)).T).max(0)
    rows = np.arange(count)
    own = everything[rows, rows + count]
    everything[rows, rows] = everything[rows, rows + count] = -np.inf
    return Similarities(own, everything.max(1))


def measure(embed: Embed, pictures: list[Picture], counts: tuple[int, ...]) -> dict[int, Result]:
    """The results by number of views; the views of fewer are the first of more."""
    boxes = views.VIEWS[max(counts)]
    plain = np.stack([np.concatenate([embed(batch) for batch in batches(pictures, box)]) for box in boxes])
    copies = {name: np.concatenate([embed(batch) for batch in altered(pictures, name)]) for name in ALL}
    return {count: result({name: compare(plain[:count], copy) for name, copy in copies.items()}) for count in counts}


def batches(pictures: list[Picture], box: views.Box) -> Iterator[list[Picture]]:
    """One view of each picture, a batch at a time."""
    for begin in range(0, len(pictures), BATCH):
        batch = pictures[begin : begin + BATCH]
        yield [Image.fromarray(views.crop(np.asarray(picture), box)) for picture in batch]


def result(found: dict[str, Similarities]) -> Result:
    """The thresholds and the mean are those of TRANSFORMS; the HARDER are told beside them."""
    others = np.sort(np.concatenate([found[name].other for name in TRANSFORMS]))[::-1]
    thresholds = float(others[0]), float(others[int(ALLOWED * len(others))])

    def recall(threshold: float) -> dict[str, float]:
        each = {name: float((similarities.own > threshold).mean()) for name, similarities in found.items()}
        return {**each, "all": float(np.mean([each[name] for name in TRANSFORMS]))}

    return Result(recall(thresholds[0]), recall(thresholds[1]), thresholds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared/data")
    parser.add_argument("--model", help="a detector, if not the shipped one")
    parser.add_argument("--open_clip", nargs=2, metavar=("NAME", "PRETRAINED"), help="a model whose weights are there")
    parser.add_argument("--only_detector", action="store_true", help="without ViT-B-32, which takes half of the time")
    parser.add_argument("--every", type=int, default=2, help="of so many pictures one, to be through in ten minutes")
    given = parser.parse_args()
    pictures = references(given.data)[:: given.every]
    print(f"{len(pictures)} references, each in a gallery of {2 * len(pictures) - 2} others and its own copy")
    ours = measure(detector_of(given.model), pictures, tuple(views.VIEWS))
    results = {f"detector, {count} view{'s' * (count > 1)}": found for count, found in ours.items()}
    peers: dict[str, Callable[[], Embed]] = {"hash": lambda: hashes}
    if not given.only_detector:
        peers["ViT-B-32, untrained"] = lambda: open_clip_of("ViT-B-32", None)
    if given.open_clip:
        peers[" ".join(given.open_clip)] = lambda: open_clip_of(*given.open_clip)
    show(results | {name: measure(opened(), pictures, (1,))[1] for name, opened in peers.items()})


def show(results: dict[str, Result]) -> None:
    """A table: for each model, recall in % at 0 and at 0.1% false positives."""
    print(f"{'transform':26}" + "".join(f"{name:>21}" for name in results))
    for row in (*TRANSFORMS, "all", *HARDER):
        cells = [f"{100 * it.strict[row]:6.1f} / {100 * it.allowed[row]:5.1f}" for it in results.values()]
        print(f"{row:26}" + "".join(f"{cell:>21}" for cell in cells))
    cells = ["{:.3f} / {:.3f}".format(*it.thresholds) for it in results.values()]
    print(f"{'threshold':26}" + "".join(f"{cell:>21}" for cell in cells))
    alone, *_ = results.values()
    behind = [name for name in GEOMETRIC if alone.allowed[name] < results["hash"].allowed[name]]
    print(f"geometric transforms on which the hash leads the detector in one view: {', '.join(behind) or 'none'}")


if __name__ == "__main__":
    main()
