"""How fast are captions learnt and encoded? `python tests/benchmarks/tokenizer.py [--captions FILE …]`.

Trains on the lines of text files, then encodes some of them on one core, by gesso and by Hugging Face's own. Prints one
table and what a dropout of 10% adds to a caption by each.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[2]))

import tokenizers

from gesso.training.data.randomness import random_of
from gesso.training.tokenizer import bpe
from gesso.training.tokenizer.settings import DROPOUT, POSITIONS


def seconds(work: Callable[[str], object], captions: Sequence[str]) -> float:
    begun = time.perf_counter()
    for caption in captions:
        work(caption)
    return time.perf_counter() - begun


def row(name: str, captions: int, spent: float) -> str:
    return f"{name:34}{captions:>10,}{captions / spent:>14,.0f}{1e6 * spent / captions:>12.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = sorted((Path(__file__).parents[3] / "shared/data").glob("captions_*/*.txt"))
    parser.add_argument("--captions", nargs="+", type=Path, default=shared, help="text files, a caption a line")
    parser.add_argument("--encoded", type=int, default=20_000, help="captions that are encoded")
    given = parser.parse_args()
    if not given.captions:
        parser.error("give --captions: there are no shared ones beside this checkout")
    captions = [line for path in given.captions for line in path.read_text("utf-8").splitlines() if line.strip()]
    some = captions[:: max(1, len(captions) // given.encoded)][: given.encoded]
    begun = time.perf_counter()
    body = bpe.train(captions, 16_384)
    trained = time.perf_counter() - begun
    theirs = tokenizers.Tokenizer.from_str(body)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(body)
        ours = bpe.Tokenizer.open(folder)
    print(f"{'':34}{'captions':>10}{'captions/s':>14}{'µs each':>12}")
    print(row("train", len(captions), trained))
    print(row("encode", len(some), seconds(ours.encode, some)))
    print(row("encode, Hugging Face", len(some), seconds(theirs.encode, some)))
    dropped = seconds(lambda caption: ours.encode(caption, random_of("bpe", 0, 0, caption)), some)
    print(row("encode with dropout", len(some), dropped))
    plain = sum(map(ours.length, some)) / len(some)
    tokens = [sum(ours.encode(caption, random_of("bpe", 0, 0, caption)) < ours.size - POSITIONS) for caption in some]
    theirs.model.dropout = DROPOUT
    print(row("encode with dropout, Hugging Face", len(some), seconds(theirs.encode, some)))
    added = sum(len(theirs.encode(caption)) for caption in some) / len(some) - plain
    print(
        f"{plain:.1f} tokens a caption; dropout adds {sum(tokens) / len(some) - plain:.1f}, Hugging Face's {added:.1f}"
    )


if __name__ == "__main__":
    main()
