"""Captions by rules, from names, keywords and colours; and which captions no training caption may give away."""

import re
import tomllib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from colours import SPELLINGS, WORDS

COLOURS = {*WORDS, *SPELLINGS, "white", "coloured", "colored", "rainbow"}
SMALL = {"a", "an", "the", "of"}
NUMBERS = {"no", "two", "three", "four"}
HERE = Path(__file__).resolve().parent
WORDLISTS: dict[str, frozenset[str]] = {
    name: frozenset(words.strip().split("\n") if name == "mdi_groups" else words.split())
    for name, words in tomllib.loads((HERE / "words.toml").read_text(encoding="utf-8")).items()
}
THE = {"statue of liberty": "the statue of liberty", "tokyo tower": "the tokyo tower", "sun": "the sun"}


def normal(name: str) -> str:
    """A name or title as plain lower-case words: no dashes, camel case, numbering or file endings.

    "red-apple", "RedApple_01.svg" → "red apple"
    """
    name = re.sub(r"\.(?:svg|png|jpe?g)$", "", name)
    name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name)
    name = re.sub(r"\((?:.*?)\)|\[(?:.*?)\]", " ", name.replace("’", "'"))
    name = re.sub(r"[_/|~#*\"“”.!?;-]+", " ", name.lower())
    name = re.sub(r"(?:\s+|^)\d{1,4}[a-z]?$|(?<=[a-z])\d{1,3}$", "", name.strip())
    return re.sub(r"\s*,\s*", ", ", " ".join(name.split()).strip(" ,:"))


def head(phrase: str) -> str:
    """The noun that a phrase is about: the last word before "with", "of", …"""
    words = phrase.split()
    for number, word in enumerate(words[1:], 1):
        if word in WORDLISTS["after_head"]:
            return words[number - 1].strip(",")
    return words[-1]


def is_plural(word: str) -> bool:
    if word in WORDLISTS["plural"]:
        return True
    return word.endswith("s") and not word.endswith(("ss", "us", "'s")) and word not in WORDLISTS["singular_in_s"]


def with_article(phrase: str) -> str:
    """ "apple" → "an apple", "scissors" → "scissors", "glass of milk" → "a glass of milk"."""
    words = phrase.split()
    if phrase in THE:
        return THE[phrase]
    if phrase.startswith("flag of "):
        return f"the {phrase}"
    bare = SMALL | NUMBERS | WORDLISTS["proper"] | WORDLISTS["plural"]  # no article before these
    if not words or words[0] in bare or "," in phrase:
        return phrase
    last = head(phrase)
    if is_plural(last) or (last in WORDLISTS["mass"] and len(words) < 4) or last in ("up", "down"):
        return phrase
    return f"{article(words[0])} {phrase}"


def article(word: str) -> str:
    """ "a" or "an", by how the word begins when spoken, as far as its letters tell."""
    if re.match(r"(?:eu|ewe|one|once|u[bfkrst][aeiou0]|u(?:fo|sb|ni|tensil)|uni[^nm])", word):
        return "a"
    return "an" if re.match(r"(?:[aeiou]|hour|honest|8|11$|18$)", word) else "a"


def number_of(key: str) -> int:
    """A number that is the same for the same key on every machine."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")


def coloured(phrase: str, colour: str) -> str:
    return with_article(f"{colour} {phrase}")


def has_colour(phrase: str) -> bool:
    return not COLOURS.isdisjoint(phrase.replace(",", " ").replace("-", " ").split())


def of_icon(key: str, name: str, style: str, keywords: Sequence[str], colour: str | None) -> list[str]:
    """Captions of a colourful picture, two or three: its name, its measured colour, and one of three further forms.

    key      decides the further form
    name     normalised
    style    "a flat icon"; "" for none
    colour   the measured main colour, where one dominates
    """
    plain = with_article(name)
    found = [plain]
    if colour and not has_colour(name):
        found.append(coloured(name, colour))
    further = [name] if plain != name else []
    if style:
        further.append(f"{style} of {plain}")
    if name.endswith(" face") and "animal" in keywords:
        further.append(with_article(name.removesuffix(" face")))
    more = [word for word in keywords if word not in name and len(word) > 2 and word.isalpha()]
    if more:
        further.append(", ".join([name, *more[:3]]))
    if further:
        found.append(further[number_of(key) % len(further)])
    return list(dict.fromkeys(found))


def of_silhouette(key: str, name: str, colour: str) -> list[str]:
    """Captions of a silhouette in one colour, two: "a red anchor", and one of three further forms."""
    plain = coloured(name, colour)
    further = (
        f"{colour} {name}",
        f"{article(colour)} {colour} silhouette of {with_article(name)}",
        f"{with_article(name)} in {colour}",
    )
    return list(dict.fromkeys([plain, further[number_of(key) % 3]]))


def content(caption: str) -> frozenset[str]:
    """Its words without articles; singular and plural forms are the same."""
    words = re.findall(r"[a-z0-9']+", caption.lower())
    return frozenset(SPELLINGS.get(word, stem(word)) for word in words if word not in SMALL)


def stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and is_plural(word) and word.endswith("s") else word


class Unseen:
    """Captions that the data must not hold: no other caption may have all of one's words, articles aside."""

    def __init__(self, captions: Sequence[str]) -> None:
        self._wanted = [content(caption) for caption in captions]

    def gives_away(self, caption: str) -> bool:
        words = content(caption)
        return any(wanted <= words for wanted in self._wanted)
