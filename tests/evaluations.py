"""Small sides of an evaluation: folders of real pictures, and what `gesso generate` writes."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

PHOTOGRAPHS = sorted((Path(__file__).parents[1] / "examples/pictures/files").glob("*.jpg"))


def cut(path: Path, side: int) -> Image.Image:
    """The middle of a photograph."""
    with Image.open(path) as image:
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        return image.convert("RGB").crop((left, top, left + short, top + short)).resize((side, side))


def write_pictures(folder: Path, chosen: Sequence[Path], side: int = 64) -> str:
    folder.mkdir(parents=True)
    for path in chosen:
        cut(path, side).save(folder / f"{path.stem}.png")
    return str(folder)


def write_generated(folder: Path, chosen: Sequence[Path], captions: Sequence[str], keep: int = 2) -> str:
    """`keep` pictures of each caption, best first: the photographs in turn."""
    entries = []
    for index, caption in enumerate(captions):
        for rank in range(keep):
            file = f"{index:05d}/{rank:02d}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            cut(chosen[(index * keep + rank) % len(chosen)], 64).save(folder / file)
            entries.append({"file": file, "caption": caption, "caption_index": index, "rank": rank, "score": None})
    (folder / "contact_sheet.png").write_bytes(b"no picture of the side")
    (folder / "generated.json").write_text(json.dumps({"format": 1, "kind": "generated", "pictures": entries}))
    return str(folder)


def write_annotations(path: Path, captions: dict[str, list[str]]) -> str:
    """COCO's annotation file of the captions of each file name."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(captions)]
    texts = [(number, text) for number, name in enumerate(captions) for text in captions[name]]
    annotations = [{"id": at, "image_id": number, "caption": text} for at, (number, text) in enumerate(texts)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(path)


def write_exclusion(path: Path, keys: Sequence[str]) -> str:
    path.write_text(json.dumps({"format": 1, "kind": "left_out", "leave_out": list(keys), "overlaps": []}))
    return str(path)
