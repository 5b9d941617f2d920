"""Captions as CLIP's ids: start, tokens, end, zeros."""

import numpy as np
import pytest

from gesso.dataset.records import sample_key
from gesso.training.contrastive.captions import Captions, caption_hash, picture_hash, write_all
from gesso.training.tokenizer import bpe
from gesso.training.tokenizer.bpe import Tokenizer

TEXTS = ["a red square"] * 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(bpe.train(TEXTS, 300))
    return Tokenizer.open(str(path))


def test_start_tokens_end_zeros(tokenizer: Tokenizer) -> None:
    texts = tokenizer.size - 256
    tokens = tokenizer.tokens("a red square", 256)
    text, cut = write_all(Captions(tokenizer, texts, 12, None), ["A red square", ""])
    assert text.dtype == np.int64
    assert text.tolist() == [
        [texts, *tokens, texts + 1, *[0] * (10 - len(tokens))],
        [texts, texts + 1, *[0] * 10],
    ]
    assert cut == [False, False]


def test_the_end_stays_behind_a_caption_that_is_cut(tokenizer: Tokenizer) -> None:
    texts = tokenizer.size - 256
    long = "red square " * 40
    text, cut = write_all(Captions(tokenizer, texts, 6, None), [long])
    assert text.tolist() == [[texts, *tokenizer.tokens(long, 256)[:4], texts + 1]]
    assert cut == [True]


def test_exactly_full_is_not_cut(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.tokens("a red square", 256)
    text, cut = write_all(Captions(tokenizer, tokenizer.size - 256, len(tokens) + 2, None), ["a red square"])
    assert text[0, 1:-1].tolist() == tokens
    assert cut == [False]


def test_dropout_is_keyed_by_seed_epoch_and_sample(tokenizer: Tokenizer) -> None:
    def written(seed: int, epoch: int, key: str) -> list[int]:
        captions = Captions(tokenizer, tokenizer.size - 256, 40, seed)
        text = captions.empty(1)
        captions.write(text[0], "a red square, a red square, a red square", epoch, key)
        return text[0].tolist()

    assert written(0, 0, "a") == written(0, 0, "a")
    assert len({tuple(written(*given)) for given in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))}) == 4


def test_what_pictures_and_captions_are_known_by() -> None:
    keys = [sample_key("http://a/1.jpg", "x"), sample_key("http://a/1.jpg", "y"), sample_key("http://a/2.jpg", "x")]
    pictures = [picture_hash(key) for key in keys]
    assert pictures[0] == pictures[1] != pictures[2]
    assert caption_hash(" A red square\n") == caption_hash("a red square") != caption_hash("a square")
    assert all(0 <= number < 2**63 for number in (*pictures, caption_hash("\ud800")))
