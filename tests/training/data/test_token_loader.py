"""The stream of captions and codes: the same whoever prepares it and wherever it goes on; what damage looks like."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gesso.errors import UserError
from gesso.training.data.order import State
from gesso.training.data.randomness import random_of, seed_of
from gesso.training.data.token_loader import TokenBatch, TokenLoader, sequential_tokens
from gesso.training.data.token_split import TokenSplit, open_token_split
from tests.captions import small_tokenizer
from tests.exports import upload
from tests.tokens import write_tokens

SEED, TRAIN, LENGTH, VIEWS = 7, 50, 24, 3
TOKENIZER = small_tokenizer()
Samples = list[tuple[str, int]]  # key and epoch
Stream = tuple[Samples, torch.Tensor, torch.Tensor]


def caption(number: int) -> str:
    """Every fifth is too long for LENGTH."""
    return f"A picture of number {number}, drawn" * (4 if number % 5 == 0 else 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tokens"
    return Path(write_tokens(folder, (TRAIN, 21), shard_size=10, views=VIEWS, captions=caption))


@pytest.fixture(scope="module")
def train(made: Path) -> TokenSplit:
    return open_token_split(str(made), "train")


@pytest.fixture(scope="module")
def known(made: Path) -> dict[str, tuple[str, Any]]:
    """Caption and codes of each sample by its key, as NumPy and PyArrow read them."""
    found = {}
    for path in sorted(made.glob("*/*.parquet")):
        codes = np.load(path.with_suffix(".npy"))
        rows = pq.read_table(path).to_pylist()
        found |= {row["key"]: (row["caption"], each) for row, each in zip(rows, codes, strict=True)}
    return found


def batches(split: TokenSplit, count: int, batch_size: int = 12, **how: Any) -> list[TokenBatch]:
    with closing(TokenLoader(split, TOKENIZER, LENGTH, SEED, batch_size, window=20, **how)) as loader:
        return list(islice(loader, count))


def joined(found: list[TokenBatch]) -> Stream:
    samples = [sample for batch in found for sample in zip(batch.keys, batch.epochs, strict=True)]
    return samples, torch.cat([batch.text for batch in found]), torch.cat([batch.codes for batch in found])


def assert_same(one: Stream, other: Stream) -> None:
    assert one[0] == other[0]
    assert torch.equal(one[1], other[1])
    assert torch.equal(one[2], other[2])


def first(stream: Stream, count: int) -> Stream:
    return stream[0][:count], stream[1][:count], stream[2][:count]


@pytest.fixture(scope="module")
def stream(train: TokenSplit) -> Stream:
    """Two epochs and a little more, as one thread of one process prepares it."""
    return joined(batches(train, 10, threads=1))


class TestStream:
    def test_what_a_batch_is(self, train: TokenSplit) -> None:
        (batch,) = batches(train, 1)
        assert (batch.text.dtype, batch.text.shape) == (torch.int64, (12, LENGTH))
        assert (batch.codes.dtype, batch.codes.shape) == (torch.int64, (12, 16))
        assert (batch.epochs, batch.state) == ([0] * 12, State(SEED, 0, 12))

    def test_every_sample_once_an_epoch(self, train: TokenSplit, stream: Stream) -> None:
        keys = {key for shard in train.shards for key in train.rows(shard, ["key"])["key"].to_pylist()}
        assert [epoch for _, epoch in stream[0]] == [0] * TRAIN + [1] * TRAIN + [2] * 20
        assert Counter(stream[0][: 2 * TRAIN]) == Counter({(key, epoch): 1 for key in keys for epoch in (0, 1)})

    def test_each_is_its_caption_with_dropout_and_the_view_of_its_key(
        self, stream: Stream, known: dict[str, tuple[str, Any]]
    ) -> None:
        for (key, epoch), text, codes in zip(*stream, strict=True):
            words, views = known[key]
            random = random_of("caption", SEED, epoch, key)
            assert text.tolist() == TOKENIZER.encode(words, random)[:LENGTH].tolist()
            assert codes.tolist() == views[seed_of("view", SEED, epoch, key) % VIEWS].ravel().tolist()

    def test_every_view_is_chosen(self, stream: Stream) -> None:
        chosen = Counter(seed_of("view", SEED, epoch, key) % VIEWS for key, epoch in stream[0])
        assert all(30 <= chosen[view] <= 50 for view in range(VIEWS)), chosen

    def test_truncated_captions_are_counted(self, train: TokenSplit, known: dict[str, tuple[str, Any]]) -> None:
        for batch in batches(train, 9):
            lengths = [
                len(TOKENIZER.tokens(known[key][0], 256, random_of("caption", SEED, epoch, key)))
                for key, epoch in zip(batch.keys, batch.epochs, strict=True)
            ]
            assert batch.truncated == sum(length > LENGTH - 1 for length in lengths)

    @pytest.mark.parametrize("threads", [2, 3, 8])
    def test_any_number_of_threads(self, train: TokenSplit, stream: Stream, threads: int) -> None:
        assert_same(joined(batches(train, 10, threads=threads)), stream)

    @pytest.mark.parametrize(("ranks", "batch_size"), [(2, 12), (3, 12), (5, 7)])
    def test_any_number_of_ranks(self, train: TokenSplit, stream: Stream, ranks: int, batch_size: int) -> None:
        shares = [batches(train, 8, batch_size, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert [[batch.state for batch in share] for share in shares] == [[b.state for b in shares[0]]] * ranks
        in_turn = [share[number] for number in range(8) for share in shares]
        assert_same(joined(in_turn), first(stream, 8 * batch_size))

    @pytest.mark.parametrize("stopped", [1, 4, 5, 7])
    def test_it_goes_on_where_it_stopped(self, train: TokenSplit, stream: Stream, stopped: int) -> None:
        """On two ranks with other threads and another batch size, in an epoch's middle and over its end."""
        begun = batches(train, stopped)
        state = begun[-1].state
        shares = [batches(train, 3, 10, rank=rank, ranks=2, threads=3, state=state) for rank in range(2)]
        found = joined([*begun, *(share[number] for number in range(3) for share in shares)])
        assert_same(found, first(stream, 12 * stopped + 30))

    def test_too_many_ranks(self, train: TokenSplit) -> None:
        before = set(threading.enumerate())
        with pytest.raises(UserError, match="--batch_size is 3 for 4 processes: give 4 or more"):
            TokenLoader(train, TOKENIZER, LENGTH, SEED, 3, rank=0, ranks=4)
        assert set(threading.enumerate()) == before

    def test_threads_end_with_close(self, train: TokenSplit) -> None:
        before = set(threading.enumerate())
        loader = TokenLoader(train, TOKENIZER, LENGTH, SEED, 4, threads=3)
        next(iter(loader))
        assert len(set(threading.enumerate()) - before) == 3
        loader.close()
        assert set(threading.enumerate()) == before


class TestInOrder:
    def test_every_sample_once_without_dropout_at_view_0(self, made: Path, known: dict[str, tuple[str, Any]]) -> None:
        split = open_token_split(str(made), "validation")
        found = list(sequential_tokens(split, TOKENIZER, LENGTH, batch_size=8))
        assert [len(batch.keys) for batch in found] == [8, 8, 5]
        samples, text, codes = joined(found)
        assert [key for key, _ in samples] == keys_of(split)
        assert text.tolist() == [TOKENIZER.encode(known[key][0])[:LENGTH].tolist() for key, _ in samples]
        assert codes.tolist() == [known[key][1][0].ravel().tolist() for key, _ in samples]
        assert sum(batch.truncated for batch in found) == sum(
            TOKENIZER.length(known[key][0]) > LENGTH - 1 for key in keys_of(split)
        )

    @pytest.mark.parametrize(("ranks", "count", "threads"), [(1, 10, 1), (2, None, 3), (3, 11, 2), (8, 3, 2)])
    def test_ranks_take_turns(self, made: Path, ranks: int, count: int | None, threads: int) -> None:
        split = open_token_split(str(made), "validation")
        shares = [
            [
                key
                for batch in sequential_tokens(split, TOKENIZER, LENGTH, count, rank, ranks, threads, 4)
                for key in batch.keys
            ]
            for rank in range(ranks)
        ]
        expected = keys_of(split)[:count]
        assert shares == [expected[rank::ranks] for rank in range(ranks)]

    def test_threads_end_though_it_is_left_early(self, made: Path) -> None:
        before = set(threading.enumerate())
        split = open_token_split(str(made), "validation")
        with closing(sequential_tokens(split, TOKENIZER, LENGTH, batch_size=2)) as found:
            next(found)
        assert set(threading.enumerate()) == before


def keys_of(split: TokenSplit) -> list[str]:
    return [key for shard in split.shards for key in split.rows(shard, ["key"])["key"].to_pylist()]


class TestFaults:
    @pytest.fixture
    def tokens(self, made: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(made, tmp_path / "tokens"))

    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_code_that_the_vocabulary_does_not_have(self, tokens: Path, threads: int) -> None:
        path = tokens / "train/00002.npy"
        body = bytearray(path.read_bytes())
        body[-96 * VIEWS :: 2] = bytes([200] * 48 * VIEWS)  # the last three samples, all views
        path.write_bytes(body)
        split = open_token_split(str(tokens), "train")
        words = r"tokens/train/00002\.npy has the code [\d,]+, by manifest\.json all are below 64: `gesso verify .*$"
        with pytest.raises(UserError, match=words) as told:
            batches(split, 5, threads=threads)
        assert "\n" not in str(told.value)
        assert open_token_split(str(tokens), "train", "quarantine").samples == TRAIN - 10

    def test_a_file_that_has_been_cut_off_meanwhile(self, tokens: Path) -> None:
        split = open_token_split(str(tokens), "train")
        path = tokens / "train/00002.npy"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(UserError, match=r"train/00002\.npy has been cut off since it was opened: `gesso verify"):
            batches(split, 5)

    def test_a_file_that_is_gone(self, tokens: Path) -> None:
        split = open_token_split(str(tokens), "validation")
        (tokens / "validation/00001.npy").unlink()
        with pytest.raises(UserError, match=r"validation/00001\.npy cannot be read \(No such file.*\): `gesso verify"):
            list(sequential_tokens(split, TOKENIZER, LENGTH))

    def test_rows_that_have_changed(self, tokens: Path) -> None:
        split = open_token_split(str(tokens), "validation")
        path = tokens / "validation/00001.parquet"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(UserError, match=r"00001\.parquet differs from manifest\.json in its sha256: `gesso verify"):
            list(sequential_tokens(split, TOKENIZER, LENGTH))


@pytest.fixture
def remote(made: Path) -> Iterator[str]:
    """The same tokens on fsspec's filesystem in memory."""
    yield upload(made, "memory://bucket/tokens")
    fsspec.filesystem("memory").store.clear()


class TestFsspec:
    def test_the_same_stream(self, remote: str, stream: Stream) -> None:
        split = open_token_split(remote, "train", checksums=True)
        assert_same(joined(batches(split, 10, threads=3)), stream)
