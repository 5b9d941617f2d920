"""Real pictures with captions as an export, for benchmarks: no picture on both sides, several captions of it in train.

Those beside the checkout, else the bundled ones. A validation picture has one caption, the one of the smallest hash.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gesso.pipelines.export.shuffle import key_hashes
from tests.exports import pair, write_export

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / "../shared/data"
SEPARATOR = " ||| "


class Sample(NamedTuple):
    """A picture's number and file, one of its captions, and the hash by which an export splits."""

    link: int
    path: Path
    caption: str
    hash: int


def pictures() -> dict[Path, list[str]]:
    """The captions of every picture."""
    if not SHARED.is_dir():
        return bundled()
    found = {path: captions for name in ("flickr8k_224", "coco_val2017") for path, captions in captioned(SHARED / name)}
    named = sorted((SHARED / "imagenet_sample/images").iterdir())
    return found | {path: [path.stem.partition("_")[2].replace("_", " ")] for path in named}


def captioned(folder: Path) -> list[tuple[Path, list[str]]]:
    rows = read_tsv(folder / "captions.tsv")
    return [(folder / "images" / row["file"], row["captions"].split(SEPARATOR)) for row in rows]


def bundled() -> dict[Path, list[str]]:
    folder = ROOT / "examples/pictures"
    return {folder / "files" / row["file"]: [row["caption"]] for row in read_tsv(folder / "pictures.tsv")}


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def samples() -> list[Sample]:
    """Every picture with each of its captions."""
    texts = [
        (link, path, caption.strip())
        for link, (path, captions) in enumerate(pictures().items())
        for caption in dict.fromkeys(captions)
    ]
    hashes = key_hashes([pair(0, caption, link)["key"] for link, _, caption in texts], "validation").tolist()
    return [Sample(*text, hashed) for text, hashed in zip(texts, hashes, strict=True)]


def divided(found: Sequence[Sample], validation: int) -> list[Sample]:
    """The samples of an export that holds out so many pictures, each with its first caption by hash; others' all."""
    first: dict[int, int] = {}
    for sample in found:
        first[sample.link] = min(sample.hash, first.get(sample.link, sample.hash))
    held_out = set(sorted(first, key=lambda link: first[link])[:validation])
    return [sample for sample in found if sample.link not in held_out or sample.hash == first[sample.link]]


def write_captioned(folder: Path, validation: int) -> str:
    """Writes the export with so many validation pictures; returns its path."""
    kept = divided(samples(), validation)
    return write_export(
        folder,
        (len(kept) - validation, validation),
        500,
        lambda number: kept[number].path.read_bytes(),
        lambda number: kept[number].caption,
        lambda number: kept[number].link,
    )
