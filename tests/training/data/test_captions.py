"""Captions as ids: the first of the tokenizer's, dropout by a sample's own random numbers, what is cut off."""

import numpy as np
import pytest

from gesso.training.data.captions import Captions
from gesso.training.data.randomness import random_of
from tests.captions import SCRIPTS, small_tokenizer

TOKENIZER = small_tokenizer()
LONG = "a very long caption " * 100


def written(captions: Captions, caption: str, epoch: int = 0, key: str = "k") -> tuple[list[int], bool]:
    text = captions.empty(2)
    text[:] = -1
    truncated = captions.write(text[1], caption, epoch, key)
    assert (text[0] == -1).all()
    return text[1].tolist(), truncated


class TestCaptions:
    @pytest.mark.parametrize("length", [1, 2, 16, 255, 256])
    @pytest.mark.parametrize("caption", [*SCRIPTS.values(), "", LONG])
    def test_the_first_ids_of_the_tokenizer(self, length: int, caption: str) -> None:
        ids, _ = written(Captions(TOKENIZER, length, None), caption)
        assert ids == TOKENIZER.encode(caption)[:length].tolist()

    @pytest.mark.parametrize("length", [1, 2, 16, 255, 256])
    @pytest.mark.parametrize("caption", [*SCRIPTS.values(), "", LONG])
    def test_dropout_by_seed_epoch_and_key(self, length: int, caption: str) -> None:
        ids, _ = written(Captions(TOKENIZER, length, 7), caption, epoch=3, key="abc")
        random = random_of("caption", 7, 3, "abc")
        assert ids == TOKENIZER.encode(caption, random)[:length].tolist()

    def test_another_epoch_key_or_seed_drops_others(self) -> None:
        caption, one = SCRIPTS["english"] * 3, Captions(TOKENIZER, 256, 7)
        others = [written(one, caption), written(one, caption, 1), written(one, caption, 0, "l")]
        others.append(written(Captions(TOKENIZER, 256, 8), caption))
        assert len({tuple(ids) for ids, _ in others}) == 4

    @pytest.mark.parametrize("seed", [None, 5])
    @pytest.mark.parametrize("length", [4, 256])
    def test_what_is_cut_off(self, length: int, seed: int | None) -> None:
        """Characters of one token each, which no merge joins: as many as there are positions, and one less."""
        caption = "".join("qzxj"[(number * number + number // 7) % 4] for number in range(length))
        count = TOKENIZER.length(caption) if length < 256 else len(TOKENIZER.tokens(caption, 256))
        assert count == length
        captions = Captions(TOKENIZER, length, seed)
        assert written(captions, caption)[1]
        ids, truncated = written(captions, caption[:-1])
        assert not truncated
        assert max(ids[1:]) < TOKENIZER.size - 256

    def test_ids_fit_the_models_embedding(self) -> None:
        """Below V + T: padding of slot i is V + i."""
        ids, _ = written(Captions(TOKENIZER, 16, None), "")
        assert ids == list(np.arange(16) + TOKENIZER.size - 256)
