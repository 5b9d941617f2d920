"""Captions as ids: what each slot holds, round trips, what a caption may contain, and files that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.errors import UserError
from gesso.training.data.randomness import random_of
from gesso.training.tokenizer import bpe
from gesso.training.tokenizer.bpe import Tokenizer
from gesso.training.tokenizer.settings import TOKEN_BYTES
from tests.captions import SCRIPTS

VOCABULARY = 700
WORDS = [
    "a brown dog runs across the grass",
    "two dogs and a cat",
    "the number three",
    "aaaaaaaa",
    *["-" * 70, " " * 70] * 9,
]


@pytest.fixture(scope="module")
def body() -> str:
    return bpe.train([*SCRIPTS.values(), *WORDS] * 3, VOCABULARY)


@pytest.fixture(scope="module")
def path(body: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(body)
    return path


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.open(str(path))


@pytest.fixture(scope="module")
def theirs(path: Path) -> tokenizers.Tokenizer:
    """The same file in Hugging Face's hands, names of special tokens taken as text."""
    found = tokenizers.Tokenizer.from_file(str(path))
    found.encode_special_tokens = True
    return found


def lowered(text: str, theirs: tokenizers.Tokenizer) -> str:
    return str(theirs.normalizer.normalize_str(text))


class TestSlots:
    def test_sizes(self, tokenizer: Tokenizer) -> None:
        assert (tokenizer.size, tokenizer.positions) == (VOCABULARY + 256, 256)

    def test_start_tokens_and_a_padding_for_each_position(
        self, tokenizer: Tokenizer, theirs: tokenizers.Tokenizer
    ) -> None:
        ids, expected = tokenizer.encode("two dogs"), theirs.encode("two dogs").ids
        assert ids.shape == (256,)
        assert ids.dtype == np.uint16
        assert 2 <= len(expected) <= 8
        assert ids.tolist() == [VOCABULARY, *expected, *range(VOCABULARY + len(expected) + 1, VOCABULARY + 256)]

    def test_no_caption_is_start_and_padding_alone(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("")
        assert ids.tolist() == list(range(VOCABULARY, VOCABULARY + 256))
        assert tokenizer.decode(ids) == ""

    def test_a_long_caption_is_cut_at_255_tokens(self, tokenizer: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
        caption = "two dogs and a cat, " * 60
        ids = tokenizer.encode(caption)
        assert ids.max() == ids[0] == VOCABULARY
        assert ids[1:].tolist() == theirs.encode(caption).ids[:255]
        assert lowered(caption, theirs).startswith(tokenizer.decode(ids))

    def test_ids_that_were_given_out_are_not_touched_by_the_next(self, tokenizer: Tokenizer) -> None:
        first = tokenizer.encode("two dogs")
        copy = first.copy()
        tokenizer.encode("a cat runs")
        np.testing.assert_array_equal(first, copy)

    def test_names_in_the_file(self, theirs: tokenizers.Tokenizer) -> None:
        names = [theirs.id_to_token(VOCABULARY + slot) for slot in (0, 1, 255)]
        assert names == ["<|startoftext|>", "<|padding_1|>", "<|padding_255|>"]
        assert theirs.get_vocab_size() == VOCABULARY + 256


class TestRoundTrip:
    @pytest.mark.parametrize("name", SCRIPTS)
    def test_scripts(self, name: str, tokenizer: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
        text = SCRIPTS[name]
        assert tokenizer.decode(tokenizer.encode(text)) == lowered(text, theirs)

    @pytest.mark.parametrize("name", SCRIPTS)
    def test_scripts_under_dropout(self, name: str, tokenizer: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
        text = SCRIPTS[name]
        assert tokenizer.decode(tokenizer.encode(text, np.random.default_rng(1))) == lowered(text, theirs)

    def test_scripts_that_were_never_seen(self, theirs: tokenizers.Tokenizer, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(bpe.train(["two dogs", "two cats"], 270))
        english = Tokenizer.open(str(tmp_path))
        for text in SCRIPTS.values():
            assert english.decode(english.encode(text)) == lowered(text, theirs)

    @settings(max_examples=300)
    @given(st.text(max_size=60))
    def test_any_text(self, tokenizer: Tokenizer, theirs: tokenizers.Tokenizer, text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == lowered(text, theirs)
        expected = theirs.encode(text).ids
        assert ids[1 : 1 + len(expected)].tolist() == expected

    @pytest.mark.parametrize(
        ("text", "lower"), [("HÉLLO", "héllo"), ("ΣΑΣ", "σασ"), ("İ", "i\u0307"), ("ẞ", "ß"), ("Ⅷ", "ⅷ"), ("漢", "漢")]
    )
    def test_lower_case_is_unicode_character_by_character(self, text: str, lower: str, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == lower

    def test_case_makes_no_difference(self, tokenizer: Tokenizer) -> None:
        np.testing.assert_array_equal(tokenizer.encode("A Brown DOG"), tokenizer.encode("a brown dog"))

    def test_a_character_that_was_cut(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode("☃")[:2]) == "\ufffd"


class TestWhatCaptionsHold:
    @pytest.mark.parametrize("text", ["<|startoftext|>", "a <|padding_3|> b", "<|PADDING_255|>"])
    def test_names_of_special_tokens_are_text(self, text: str, tokenizer: Tokenizer) -> None:
        for ids in (tokenizer.encode(text), tokenizer.encode(text, np.random.default_rng(0))):
            assert (ids[1:20] >= VOCABULARY).sum() == (ids[1:20] > VOCABULARY).sum()
            assert tokenizer.decode(ids) == text.lower()

    @pytest.mark.parametrize(
        ("text", "read"), [("a\ud800b", "a\ufffdb"), ("\udfff", "\ufffd"), ("\ude00\ud83d", "\ufffd\ufffd")]
    )
    def test_lone_surrogates_become_the_replacement_character(self, text: str, read: str, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == read
        np.testing.assert_array_equal(tokenizer.encode(text), tokenizer.encode(read))

    @pytest.mark.parametrize(
        "text",
        [
            "a" * 1_000_000,
            " " * 1_000_000,
            "-" * 1_000_000,
            "İ" * 1_000_000,
            "\n \t" * 400_000 + "a",
            "a brown dog runs across the grass " * 30_000,
            "草" * 1_000_000,
            "👩‍👩‍👧‍👦" * 150_000,
            ("-" * 70 + " " * 70 + "aaaaaaaa") * 7_000,
            "\ud800" * 1_000_000,
        ],
        ids=["letter", "spaces", "dashes", "grows", "blanks", "words", "chinese", "emoji", "runs", "surrogates"],
    )
    def test_a_megabyte_has_the_ids_of_the_whole(
        self, text: str, tokenizer: Tokenizer, theirs: tokenizers.Tokenizer
    ) -> None:
        whole = theirs.encode(bpe.SURROGATES.sub("\ufffd", text)).ids
        assert len(whole) > 255
        assert tokenizer.encode(text)[1:].tolist() == whole[:255]
        assert tokenizer.length(text) == 255
        assert tokenizer.encode(text, np.random.default_rng(0))[1:].max() < VOCABULARY

    @pytest.mark.parametrize("letter", ["-", " ", "a"])
    def test_what_is_kept_of_a_caption_holds_255_of_the_longest_tokens(
        self, letter: str, tokenizer: Tokenizer, theirs: tokenizers.Tokenizer
    ) -> None:
        caption = letter * (bpe.MOST_CHARACTERS + 100)
        assert tokenizer.encode(caption)[1:].tolist() == theirs.encode(caption).ids[:255]


class TestDropout:
    def test_the_same_numbers_give_the_same_ids(self, tokenizer: Tokenizer) -> None:
        caption = "a brown dog runs across the grass " * 3
        one, again, other = (tokenizer.encode(caption, random_of("bpe", 0, epoch, "uid")) for epoch in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert one.tolist() != other.tolist()

    def test_off_without_random_numbers(self, tokenizer: Tokenizer) -> None:
        caption = "a brown dog runs across the grass " * 3
        np.testing.assert_array_equal(tokenizer.encode(caption), tokenizer.encode(caption))
        assert tokenizer.length(caption) < (tokenizer.encode(caption, np.random.default_rng(5)) < VOCABULARY).sum()


class TestTraining:
    def test_no_token_is_longer_than_a_caption_s_bound_allows(self) -> None:
        """64 dashes would become one token."""
        vocabulary = json.loads(bpe.train(["-" * 64] * 10, 400))["model"]["vocab"]
        assert 16 <= max(map(len, vocabulary)) <= TOKEN_BYTES

    def test_poor_captions_hold_fewer_tokens(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(bpe.train(["ab ab ab", "ab cd"], 16_384))
        tokenizer = Tokenizer.open(str(tmp_path))
        assert tokenizer.size == 256 + 2 + 256  # "ab" and " ab" occur twice, "cd" once
        assert tokenizer.encode("ab ab")[:4].tolist() == [258, 256, 257, 261]

    def test_none_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(bpe.train([], 1000))
        tokenizer = Tokenizer.open(str(tmp_path))
        assert tokenizer.size == 512
        assert tokenizer.decode(tokenizer.encode("hé")) == "hé"

    def test_the_order_of_the_captions_does_not_matter(self, body: str) -> None:
        assert bpe.train(list(reversed([*SCRIPTS.values(), *WORDS] * 3)), VOCABULARY) == body


def with_(body: str, **model: object) -> str:
    told = json.loads(body)
    told["model"] |= model
    return json.dumps(told)


class TestOpening:
    def test_a_file_or_its_directory(self, path: Path, tokenizer: Tokenizer) -> None:
        np.testing.assert_array_equal(Tokenizer.open(str(path.parent)).encode("dogs"), tokenizer.encode("dogs"))

    @pytest.mark.parametrize("name", ["", "other.json"])
    def test_none(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"\.json is missing: give the --output of a `gesso train tokenizer`"):
            Tokenizer.open(str(tmp_path / name))

    @pytest.mark.parametrize("kept", [0, 1000, -2])
    def test_cut_off(self, kept: int, body: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(body[:kept])
        with pytest.raises(UserError, match=r"tokenizer\.json is damaged or no tokenizer of gesso"):
            Tokenizer.open(str(tmp_path))

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(UserError, match="damaged"):
            Tokenizer.open(str(tmp_path))

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda body: "[]", "TypeError"),
            (lambda body: with_(body, vocab=[]), "AttributeError"),
            (lambda body: with_(body, vocab={"a": 0}), "special tokens"),
            (lambda body: with_(body, merges=[["a"]]), "ValueError"),
            (lambda body: with_(body, merges=[["a", "zzzz"]]), "a merge is not in its vocabulary"),
            (lambda body: body.replace('"Lowercase"', '"NFC"'), "does not lower the case"),
            (lambda body: body.replace("{1,64}", "+"), "cuts other words"),
            (lambda body: body.replace("padding_7|", "seven|"), "special tokens"),
            (lambda body: body.replace('"a": ', '"long": ', 1), "vocabulary is not whole"),
        ],
    )
    def test_of_another_make(self, change: object, why: str, body: str, tmp_path: Path) -> None:
        assert callable(change)
        (tmp_path / "tokenizer.json").write_text(change(body))
        with pytest.raises(UserError, match=why):
            Tokenizer.open(str(tmp_path))

    def test_of_hugging_faces_own_make(self, tmp_path: Path) -> None:
        tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(UserError, match="no tokenizer of gesso"):
            Tokenizer.open(str(tmp_path))
