"""Captions as open_clip's CLIP reads them: ids of our BPE between a start and an end, then zeros. numpy alone.

slot   0        1 … n            n+1      n+2 … T-1
id     V        BPE, below V     V+1      0

The end has the largest id, at which CLIP reads the caption's embedding; what is behind it is not attended to.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from gesso.dataset.records import LINK_HEX
from gesso.training.data.captions import Tokenizer
from gesso.training.data.randomness import random_of

Text = npt.NDArray[np.int64]  # (b, T)

ENDS = 2  # start and end


def ids_of(texts: int) -> int:
    """How many ids there are for `texts` tokens."""
    return texts + ENDS


class Captions:
    """Writes captions as ids; threads may share it. `texts`: V; `seed` of the BPE dropout, None: no dropout."""

    def __init__(self, tokenizer: Tokenizer, texts: int, length: int, seed: int | None) -> None:
        self._tokenizer, self._texts, self._length, self._seed = tokenizer, texts, length, seed

    def empty(self, count: int) -> Text:
        """Rows to write captions into, (count, T)."""
        return np.empty((count, self._length), np.int64)

    def write(self, text: Text, caption: str, epoch: int, key: str) -> bool:
        """Writes a caption into a row, (T,); whether it has more than T - 2 tokens, the others dropped."""
        random = None if self._seed is None else random_of("caption", self._seed, epoch, key)
        tokens = self._tokenizer.tokens(caption, self._length, random)
        kept = tokens[: self._length - ENDS]
        text[:] = 0
        text[: len(kept) + ENDS] = [self._texts, *kept, self._texts + 1]
        return len(tokens) > len(kept)


def write_all(captions: Captions, texts: Sequence[str]) -> tuple[Text, list[bool]]:
    """Some captions as ids, (b, T), and which of them were cut."""
    text = captions.empty(len(texts))
    return text, [captions.write(row, each, 0, "") for row, each in zip(text, texts, strict=True)]


def caption_hash(caption: str) -> int:
    """A caption by a number of 63 bits; case and outer spaces make no difference."""
    return hash_of(caption.strip().lower())


def picture_hash(key: str) -> int:
    """The picture of a sample by a number of 63 bits: all captions of a link share the first half of their keys."""
    return hash_of(key[:LINK_HEX])


def hash_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
