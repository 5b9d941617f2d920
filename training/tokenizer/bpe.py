"""Captions ↔ token ids: byte-level BPE of lower-cased text, in 256 positions that each have their own padding id.

    slot   0               1 … n            n+1 … 255
    id     V               BPE, below V     V+n+1 … V+255        V tokens, V + 256 ids in all

Start-of-text takes slot 0 and its padding's id, which could not occur otherwise. Tokens after the 255th are dropped.
No torch.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from gesso import storage
from gesso.errors import UserError
from gesso.training.tokenizer.dropout import Draws, Merges
from gesso.training.tokenizer.settings import DROPOUT, POSITIONS, TOKEN_BYTES, file_of

Json = dict[str, Any]
Ids = npt.NDArray[np.uint16]

# GPT-2's word pattern with runs of at most RUN characters: text far after a position then cannot change its tokens, so
# a caption of a megabyte may be cut, and merging one word takes bounded time.
RUN = 64
PATTERN = (
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}{{1,{RUN}}}| ?\p{{N}}{{1,{RUN}}}| ?[^\s\p{{L}}\p{{N}}]{{1,{RUN}}}"
    rf"|\s{{1,{RUN}}}(?!\S)|\s{{1,{RUN}}}"
)
# More characters than 255 tokens can hold, plus a word and what the pattern looks ahead.
MOST_CHARACTERS = (POSITIONS - 1) * TOKEN_BYTES + 4 * RUN
MIN_FREQUENCY = 2  # a pair that occurs once is not merged
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SURROGATES = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """A trained tokenizer; its methods may run on any thread."""

    positions = POSITIONS

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self._bpe = new_tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        self._words = self._bpe.pre_tokenizer
        self._lower = self._bpe.normalizer
        self._merges = Merges(vocabulary, merges)
        self._first = len(vocabulary)
        self._slots = np.arange(self._first, self.size).astype(np.uint16)

    @classmethod
    def open(cls, path: str) -> "Tokenizer":
        """Opens a `tokenizer.json`, or the directory that holds one.

        Raises UserError where there is none, where it is damaged, and where `gesso train tokenizer` did not write it.
        """
        name = file_of(path)
        if not storage.exists(name):
            raise UserError(f"{name} is missing: give the --output of a `gesso train tokenizer`")
        try:
            return cls(*parse(json.loads(storage.read(name))))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{name} is damaged or no tokenizer of gesso ({error!r}): give the --output of `gesso train tokenizer`"
            ) from error

    @property
    def size(self) -> int:
        """Ids in all: the tokens of the byte-pair encoding and one for each position."""
        return self._first + POSITIONS

    def encode(self, caption: str, random: np.random.Generator | None = None) -> Ids:
        """The ids of a caption, (256,) uint16; with `random`, under BPE dropout of 10% with its random numbers."""
        return self.ids(self.tokens(caption, POSITIONS, random))

    def tokens(self, caption: str, most: int, random: np.random.Generator | None = None) -> list[int]:
        """The tokens of a caption: at least the first `most`, up to 256, where it has as many; `random` as above."""
        text = plain(caption)
        return self._bpe.encode(text).ids if random is None else self._dropped(text, most, random)

    def ids(self, tokens: Sequence[int]) -> Ids:
        """Tokens behind start-of-text, padded or cut off: (256,) uint16."""
        ids = self._slots.copy()
        kept = tokens[: POSITIONS - 1]
        ids[1 : 1 + len(kept)] = kept
        return ids

    def length(self, caption: str) -> int:
        """The number of tokens of a caption, 255 at most."""
        return min(len(self._bpe.encode(plain(caption))), POSITIONS - 1)

    def decode(self, ids: Iterable[int]) -> str:
        """The lower-cased text of the ids, without start-of-text and padding; U+FFFD for an incomplete character."""
        return str(self._bpe.decode([int(each) for each in ids if each < self._first]))

    def _dropped(self, text: str, most: int, random: np.random.Generator) -> list[int]:
        words = self._words.pre_tokenize_str(self._lower.normalize_str(text))
        draw, ids = Draws(random), list[int]()
        for word, _ in words:
            if len(ids) >= most:
                break
            ids += self._merges.ids(word, draw, DROPOUT)
        return ids


def plain(caption: str) -> str:
    """The part of a caption that 255 tokens can hold; U+FFFD for lone surrogates."""
    return SURROGATES.sub("\ufffd", caption[:MOST_CHARACTERS])


def new_tokenizer(model: models.BPE) -> tokenizers.Tokenizer:
    """Hugging Face's tokenizer around a model: lower-casing, word pattern, bytes."""
    result = tokenizers.Tokenizer(model)
    result.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    result.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    result.decoder = decoders.ByteLevel()
    return result


def train(captions: Iterable[str], vocabulary: int) -> str:
    """Trains the merges on captions; returns the text of `tokenizer.json`, the same for the same captions.

    It has fewer tokens than `vocabulary` where the captions have too few pairs that repeat.
    """
    tokenizer = new_tokenizer(models.BPE())
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=MIN_FREQUENCY,
        max_token_length=TOKEN_BYTES,
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(plain, captions), trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in slot_names()])
    return str(tokenizer.to_str(pretty=True)) + "\n"


def slot_names() -> list[str]:
    """The names in tokenizer.json of the ids from V on."""
    return ["<|startoftext|>", *(f"<|padding_{position}|>" for position in range(1, POSITIONS))]


def parse(document: Json) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a tokenizer.json. Raises ValueError, KeyError, … where gesso did not write it."""
    vocabulary = {str(token): int(number) for token, number in document["model"]["vocab"].items()}
    merges = [(str(left), str(right)) for left, right in document["model"]["merges"]]
    added = [(token["id"], token["content"]) for token in document["added_tokens"]]
    if document["normalizer"]["type"] != "Lowercase":
        raise ValueError("it does not lower the case")
    if document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] != PATTERN:
        raise ValueError("it cuts other words")
    if added != list(enumerate(slot_names(), len(vocabulary))):
        raise ValueError("it has other special tokens")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))) or not set(ALPHABET) <= vocabulary.keys():
        raise ValueError("its vocabulary is not whole")
    if any(not {left, right, left + right} <= vocabulary.keys() for left, right in merges):
        raise ValueError("a merge is not in its vocabulary")
    if max(map(len, vocabulary)) > TOKEN_BYTES:
        raise ValueError(f"it has a token of more than {TOKEN_BYTES} bytes")
    return vocabulary, merges
