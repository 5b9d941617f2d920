"""The stream of captions and pictures: listing 2 by each sample's own random numbers; the codes of `gesso encode`."""

import threading
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gesso import images
from gesso.errors import UserError
from gesso.training.data.pair_loader import PairBatch, PairLoader, sequential_pairs
from gesso.training.data.randomness import random_of
from gesso.training.data.split import Split, open_split
from gesso.training.data.token_loader import sequential_tokens
from gesso.training.data.token_split import open_token_split
from gesso.training.data.views import prior_view
from gesso.training.encode_settings import EncodeSettings
from tests.captions import small_tokenizer
from tests.dvaes import Plain
from tests.exports import caption, picture, write_export
from tests.tokens import encode_export

SIZE, SEED, TRAIN, LENGTH = 32, 7, 30, 12
TOKENIZER = small_tokenizer()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_export(tmp_path_factory.mktemp("made") / "clean", (TRAIN, 9), shard_size=8, pictures=small))


def small(number: int) -> bytes:
    return picture(number, side=48 + number % 16)


@pytest.fixture(scope="module")
def train(made: Path) -> Split:
    return open_split(str(made), "train")


@pytest.fixture(scope="module")
def numbers(made: Path) -> dict[str, int]:
    """The number of each sample by its key."""
    tables = [pq.read_table(path, columns=["key", "caption"]) for path in made.glob("*/*.parquet")]
    by_caption = {caption(number): number for number in range(TRAIN + 9)}
    return {row["key"]: by_caption[row["caption"]] for table in tables for row in table.to_pylist()}


def batches(split: Split, count: int, batch_size: int = 12, **how: Any) -> list[PairBatch]:
    with closing(PairLoader(split, SIZE, TOKENIZER, LENGTH, SEED, batch_size, window=16, **how)) as loader:
        return list(islice(loader, count))


def view(key: str, number: int, purpose: str, seed: int, epoch: int) -> Any:
    body = small(number)
    whole = images.decode(body, images.read_header(body), round(1.5 * SIZE))
    return prior_view(whole, SIZE, random_of(purpose, seed, epoch, key))


class TestStream:
    def test_each_is_its_caption_with_dropout_and_its_picture_by_listing_2(
        self, train: Split, numbers: dict[str, int]
    ) -> None:
        found = batches(train, 4)
        assert [(batch.state.epoch, batch.state.index) for batch in found] == [(0, 12), (0, 24), (1, 6), (1, 18)]
        for batch in found:
            assert (batch.text.dtype, batch.pixels.dtype) == (torch.int64, torch.uint8)
            cut = 0
            for key, epoch, text, pixels in zip(batch.keys, batch.epochs, batch.text, batch.pixels, strict=True):
                np.testing.assert_array_equal(pixels, view(key, numbers[key], "view", SEED, epoch))
                words, random = caption(numbers[key]), random_of("caption", SEED, epoch, key)
                tokens = TOKENIZER.tokens(words, LENGTH, random)
                assert text.tolist() == TOKENIZER.ids(tokens)[:LENGTH].tolist()
                cut += len(tokens) > LENGTH - 1
            assert batch.truncated == cut

    def test_threads_and_ranks_change_nothing(self, train: Split) -> None:
        whole = batches(train, 4, threads=1)
        shares = [batches(train, 4, rank=rank, ranks=3, threads=3) for rank in range(3)]
        for number, batch in enumerate(whole):
            parts = [share[number] for share in shares]
            assert [key for part in parts for key in part.keys] == batch.keys
            assert torch.equal(torch.cat([part.text for part in parts]), batch.text)
            assert torch.equal(torch.cat([part.pixels for part in parts]), batch.pixels)
            assert sum(part.truncated for part in parts) == batch.truncated
            assert {part.state for part in parts} == {batch.state}

    def test_it_goes_on_where_it_stopped(self, train: Split) -> None:
        whole = batches(train, 4)
        again = batches(train, 2, state=whole[1].state)
        for one, other in zip(again, whole[2:], strict=True):
            assert one.keys == other.keys
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.text, other.text)

    def test_a_picture_that_is_too_small(self, train: Split) -> None:
        words = r"train/\d+\.tar: sample [0-9a-f]{32} is \d+×\d+: short side under 56: give a smaller --image_size"
        loader = PairLoader(train, 56, TOKENIZER, LENGTH, SEED, 30)
        with closing(loader), pytest.raises(UserError, match=words):
            next(iter(loader))


class TestInOrder:
    def test_it_gives_what_the_tokens_of_the_same_dvae_give(self, made: Path, tmp_path: Path) -> None:
        """Captions without dropout and view 0 of `gesso encode` with its default seed."""
        dvae: Any = Plain()
        tokens = encode_export(str(made), tmp_path / "tokens", dvae, EncodeSettings(views=2, device="cpu"))
        how: dict[str, Any] = {"batch_size": 4, "threads": 2}
        pairs = list(sequential_pairs(open_split(str(made), "validation"), SIZE, TOKENIZER, LENGTH, **how))
        encoded = list(sequential_tokens(open_token_split(tokens, "validation"), TOKENIZER, LENGTH, **how))
        assert [len(batch.keys) for batch in pairs] == [4, 4, 1]
        for pair, other in zip(pairs, encoded, strict=True):
            assert (pair.keys, pair.truncated) == (other.keys, other.truncated)
            assert torch.equal(pair.text, other.text)
            assert torch.equal(dvae.encode(pair.pixels).flatten(1), other.codes)

    def test_ranks_take_turns(self, made: Path) -> None:
        split = open_split(str(made), "validation")
        keys = [key for shard in split.shards for key in split.rows(shard, ["key"])["key"].to_pylist()]
        for rank in range(3):
            share = sequential_pairs(split, SIZE, TOKENIZER, LENGTH, 7, rank, 3, batch_size=2)
            assert [key for batch in share for key in batch.keys] == keys[:7][rank::3]

    def test_threads_end_though_it_is_left_early(self, made: Path) -> None:
        before = set(threading.enumerate())
        with closing(sequential_pairs(open_split(str(made), "validation"), SIZE, TOKENIZER, LENGTH)) as found:
            next(found)
        assert set(threading.enumerate()) == before
