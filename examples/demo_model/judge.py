"""How well generated pictures fit their captions: by colour words, and by a ranker among 32 captions.

    python examples/demo_model/judge.py GENERATED [--ranker NAME]

GENERATED is the --output of `gesso generate`. Each picture's caption stands against 31 others of the same folder, the
next ones in its order. A tie counts half.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from colours import agreement, named, shares
from PIL import Image

OTHERS = 31

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float64]  # (pictures, captions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generated", type=Path)
    parser.add_argument("--ranker", default="", help="a run of `gesso train contrastive`, or a bundle")
    given = parser.parse_args()
    captions, of, pictures = read(given.generated)
    print(f"{len(pictures)} pictures of {len(captions)} captions")
    coloured = [number for number, caption in enumerate(captions) if named(caption)]
    chosen = [place for place, caption in enumerate(of) if caption in coloured]
    right = agreement([captions[of[place]] for place in chosen], [pictures[place] for place in chosen])
    print(f"the main colour is the caption's: {right:.1%} of {len(chosen)} pictures (by chance 10%)")
    told = by_colour([captions[number] for number in coloured], [pictures[place] for place in chosen])
    show("colour words", told, [coloured.index(of[place]) for place in chosen])
    if given.ranker:
        show("the ranker", by_ranker(given.ranker)(captions, pictures), of)


def read(folder: Path) -> tuple[list[str], list[int], list[Pixels]]:
    """The captions, and of each picture the number of its caption and its pixels."""
    entries = json.loads((folder / "generated.json").read_text())["pictures"]
    named_by = {entry["caption_index"]: entry["caption"] for entry in entries}
    pictures = [np.asarray(Image.open(folder / entry["file"]).convert("RGB")) for entry in entries]
    return [named_by[number] for number in sorted(named_by)], [entry["caption_index"] for entry in entries], pictures


def by_colour(captions: Sequence[str], pictures: Sequence[Pixels]) -> Scores:
    """The share of each caption's colour in each picture."""
    words = [named(caption) or "" for caption in captions]
    return np.array([[found[word] for word in words] for found in map(shares, pictures)])


def by_ranker(name: str) -> Callable[[Sequence[str], Sequence[Pixels]], Scores]:
    import torch

    from gesso.generation.ranker import open_ranker

    ranker = open_ranker(name, "", torch.device("cpu"))
    return lambda captions, pictures: np.asarray(
        (ranker.embed_pictures(pictures) @ ranker.embed_captions(captions).T).double().numpy()
    )


def show(name: str, scores: Scores, own: Sequence[int]) -> None:
    firsts, places = zip(*(place(row, caption) for row, caption in zip(scores, own, strict=True)), strict=True)
    count = min(OTHERS, scores.shape[1] - 1) + 1
    print(
        f"by {name} the own caption among {count}: first {np.mean(firsts):.1%} (by chance {1 / count:.1%}), "
        f"mean place {np.mean(places):.1f} (by chance {(count + 1) / 2:.1f})"
    )


def place(scores: npt.NDArray[np.float64], own: int) -> tuple[float, float]:
    """The chance that the own caption is first where ties are drawn, and its mean place, among it and OTHERS next."""
    others = np.take(scores, range(own + 1, own + 1 + min(OTHERS, len(scores) - 1)), mode="wrap")
    above, tied = int((others > scores[own]).sum()), int((others == scores[own]).sum())
    return (0.0 if above else 1 / (1 + tied)), 1 + above + tied / 2


if __name__ == "__main__":
    main()
