"""The stream of batches: the same pixels whoever prepares them and wherever it goes on; what damage looks like."""

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
import webdataset as wds

from gesso import images
from gesso.errors import UserError
from gesso.training.data.batches import Pending
from gesso.training.data.loader import Batch, Loader, Workers, sequential_batches
from gesso.training.data.order import Places, State
from gesso.training.data.randomness import random_of
from gesso.training.data.split import Split, open_split
from gesso.training.data.views import centre_view, dvae_view
from tests.exports import caption, picture, upload, write_export

SIZE, SEED, TRAIN = 32, 7, 50


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "clean"
    return Path(write_export(folder, (TRAIN, 21), shard_size=10, pictures=small))


def small(number: int) -> bytes:
    return picture(number, side=48 + number % 16)


@pytest.fixture(scope="module")
def train(made: Path) -> Split:
    return open_split(str(made), "train")


@pytest.fixture(scope="module")
def bodies(made: Path) -> dict[str, bytes]:
    """Each sample's JPEG by its key, from what was exported."""
    tables = [pq.read_table(path, columns=["key", "caption"]) for path in sorted(made.glob("*/*.parquet"))]
    numbers = {caption(number): number for number in range(TRAIN + 21)}
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["key"]: small(numbers[row["caption"]]) for row in rows}


def batches(split: Split, count: int, batch_size: int = 12, **how: Any) -> list[Batch]:
    with closing(Loader(split, SIZE, SEED, batch_size, window=20, **how)) as loader:
        return list(islice(loader, count))


def joined(found: list[Batch]) -> tuple[list[tuple[str, int]], torch.Tensor]:
    """Key and epoch of each sample, and all pixels."""
    samples = [sample for batch in found for sample in zip(batch.keys, batch.epochs, strict=True)]
    return samples, torch.cat([batch.pixels for batch in found])


@pytest.fixture(scope="module")
def stream(train: Split) -> tuple[list[tuple[str, int]], torch.Tensor]:
    """Two epochs and a little more, as one thread of one process prepares it."""
    return joined(batches(train, 10, threads=1))


class TestStream:
    def test_what_a_batch_is(self, train: Split) -> None:
        (first,) = batches(train, 1)
        assert (first.pixels.dtype, first.pixels.shape) == (torch.uint8, (12, SIZE, SIZE, 3))
        assert first.epochs == [0] * 12
        assert first.state == State(SEED, 0, 12)

    def test_every_sample_once_an_epoch(self, train: Split, stream: tuple[list[tuple[str, int]], torch.Tensor]) -> None:
        keys = {key for shard in train.shards for key in train.rows(shard, ["key"])["key"].to_pylist()}
        samples, _ = stream
        assert [epoch for _, epoch in samples] == [0] * TRAIN + [1] * TRAIN + [2] * 20
        assert Counter(samples[: 2 * TRAIN]) == Counter({(key, epoch): 1 for key in keys for epoch in (0, 1)})
        assert [key for key, _ in samples[:TRAIN]] != [key for key, _ in samples[TRAIN : 2 * TRAIN]]

    def test_each_is_listing_1_by_its_own_random_numbers(
        self, stream: tuple[list[tuple[str, int]], torch.Tensor], bodies: dict[str, bytes]
    ) -> None:
        for (key, epoch), pixels in zip(*stream, strict=True):
            whole = images.decode(bodies[key], images.read_header(bodies[key]), round(1.5 * SIZE))
            assert np.array_equal(pixels.numpy(), dvae_view(whole, SIZE, random_of("augment", SEED, epoch, key)))

    def test_another_epoch_has_other_views(self, stream: tuple[list[tuple[str, int]], torch.Tensor]) -> None:
        samples, pixels = stream
        again = samples.index((samples[0][0], 1))
        assert not torch.equal(pixels[0], pixels[again])

    @pytest.mark.parametrize("threads", [2, 3, 8])
    def test_any_number_of_threads(
        self, train: Split, stream: tuple[list[tuple[str, int]], torch.Tensor], threads: int
    ) -> None:
        samples, pixels = joined(batches(train, 10, threads=threads))
        assert samples == stream[0]
        assert torch.equal(pixels, stream[1])

    @pytest.mark.parametrize(("ranks", "batch_size"), [(2, 12), (3, 12), (4, 6)])
    def test_any_number_of_ranks(
        self, train: Split, stream: tuple[list[tuple[str, int]], torch.Tensor], ranks: int, batch_size: int
    ) -> None:
        shares = [batches(train, 8, batch_size, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert [[batch.state for batch in share] for share in shares] == [[b.state for b in shares[0]]] * ranks
        in_turn = [share[number] for number in range(8) for share in shares]
        samples, pixels = joined(in_turn)
        assert samples == stream[0][: 8 * batch_size]
        assert torch.equal(pixels, stream[1][: 8 * batch_size])

    @pytest.mark.parametrize("stopped", [1, 4, 5, 9])
    def test_it_goes_on_where_it_stopped(
        self, train: Split, stream: tuple[list[tuple[str, int]], torch.Tensor], stopped: int
    ) -> None:
        """On two ranks with other threads and another batch size, in an epoch's middle and over its end."""
        begun = batches(train, stopped)
        state = begun[-1].state
        shares = [batches(train, 3, 10, rank=rank, ranks=2, threads=3, state=state) for rank in range(2)]
        samples, pixels = joined([*begun, *(share[number] for number in range(3) for share in shares)])
        assert samples[:120] == stream[0][: len(samples)]
        assert torch.equal(pixels[:120], stream[1][: len(samples)])

    def test_another_seed(self, train: Split, stream: tuple[list[tuple[str, int]], torch.Tensor]) -> None:
        with closing(Loader(train, SIZE, SEED + 1, 12)) as loader:
            assert next(iter(loader)).keys != [key for key, _ in stream[0][:12]]

    def test_a_batch_of_several_epochs(self, train: Split, stream: tuple[list[tuple[str, int]], torch.Tensor]) -> None:
        (first,) = batches(train, 1, 120)
        assert first.state == State(SEED, 2, 20)
        assert torch.equal(first.pixels, stream[1])

    def test_too_many_ranks(self, train: Split) -> None:
        with pytest.raises(UserError, match="--batch_size is 3 for 4 processes: give 4 or more"):
            Loader(train, SIZE, SEED, 3, rank=0, ranks=4)


class TestThreads:
    def test_they_end_with_close(self, train: Split) -> None:
        before = set(threading.enumerate())
        loader = Loader(train, SIZE, SEED, 4, threads=3)
        next(iter(loader))
        assert len(set(threading.enumerate()) - before) == 3
        loader.close()
        assert set(threading.enumerate()) == before

    @pytest.mark.parametrize(("batch_size", "threads", "ahead"), [(32, 1, 2), (32, 2, 2), (8, 2, 8)])
    def test_no_more_is_begun_than_threads_need(
        self, train: Split, monkeypatch: pytest.MonkeyPatch, batch_size: int, threads: int, ahead: int
    ) -> None:
        """Two batches, and where they are small two tasks of sixteen samples for each thread."""
        submitted, submit = list[int](), Workers.submit

        def counted(self: Workers, places: Places, state: State) -> Pending[Batch]:
            submitted.append(len(places.rows))
            return submit(self, places, state)

        monkeypatch.setattr(Workers, "submit", counted)
        with closing(Loader(train, SIZE, SEED, batch_size, threads=threads)) as loader:
            list(islice(loader, 3))
        assert submitted == [batch_size] * (3 + ahead)


class TestInOrder:
    def keys(self, split: Split) -> list[str]:
        return [key for shard in split.shards for key in split.rows(shard, ["key"])["key"].to_pylist()]

    def test_every_sample_once_in_the_manifests_order(self, made: Path, bodies: dict[str, bytes]) -> None:
        split = open_split(str(made), "validation")
        found = list(sequential_batches(split, SIZE, batch_size=8))
        assert [len(keys) for keys, _ in found] == [8, 8, 5]
        assert [key for keys, _ in found for key in keys] == self.keys(split)
        for keys, pixels in found:
            assert pixels.dtype == np.uint8
            whole = [images.decode(bodies[key], images.read_header(bodies[key]), round(1.5 * SIZE)) for key in keys]
            assert np.array_equal(pixels, np.stack([centre_view(each, SIZE) for each in whole]))

    @pytest.mark.parametrize(("ranks", "first", "threads"), [(1, 10, 1), (2, None, 3), (3, 11, 2), (8, 3, 2)])
    def test_ranks_take_turns(self, made: Path, ranks: int, first: int | None, threads: int) -> None:
        split = open_split(str(made), "validation")
        shares = [
            [key for keys, _ in sequential_batches(split, SIZE, first, rank, ranks, threads, 4) for key in keys]
            for rank in range(ranks)
        ]
        expected = self.keys(split)[:first]
        assert shares == [expected[rank::ranks] for rank in range(ranks)]

    def test_threads_end_though_it_is_left_early(self, made: Path) -> None:
        before = set(threading.enumerate())
        with closing(sequential_batches(open_split(str(made), "validation"), SIZE, batch_size=2)) as found:
            next(found)
        assert set(threading.enumerate()) == before


class TestFaults:
    def damaged(self, made: Path, folder: Path, shard: str, row: int, body: bytes) -> tuple[Split, str]:
        """A copy in which other bytes stand in a picture's place; the split as its sizes tell it, and the key."""
        copy = Path(shutil.copytree(made, folder / "clean"))
        told = pq.read_table(copy / f"train/{shard}.parquet").to_pylist()[row]
        with (copy / f"train/{shard}.tar").open("r+b") as tar:
            tar.seek(told["image_offset"])
            tar.write(body[: told["image_bytes"]].ljust(told["image_bytes"], b"\0"))
        return open_split(str(copy), "train"), told["key"]

    @pytest.mark.parametrize("body", [b"<html>", b"", picture(3, 48)[:700]])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_picture_that_does_not_decode(self, made: Path, tmp_path: Path, body: bytes, threads: int) -> None:
        split, key = self.damaged(made, tmp_path, "00001", 2, body)
        words = (
            rf"clean/train/00001\.tar: sample {key} does not decode \(.*\): `gesso verify .*clean` lists .*quarantine"
        )
        with pytest.raises(UserError, match=words) as told:
            batches(split, 5, threads=threads)
        assert "\n" not in str(told.value)
        assert len(open_split(split.path, "train", "quarantine").shards) == len(split.shards) - 1

    def test_what_comes_before_it_is_given(self, made: Path, tmp_path: Path) -> None:
        split, key = self.damaged(made, tmp_path, "00001", 2, b"<html>")
        whole = [batch.keys for batch in batches(open_split(str(made), "train"), 5, 10)]
        bad = next(number for number, keys in enumerate(whole) if key in keys)
        with closing(Loader(split, SIZE, SEED, 10, window=20)) as loader:
            stream = iter(loader)
            assert [next(stream).keys for _ in range(bad)] == whole[:bad]
            with pytest.raises(UserError, match=key):
                next(stream)

    def test_a_picture_that_is_too_small(self, made: Path, train: Split) -> None:
        words = r"train/\d+\.tar: sample [0-9a-f]{32} is \d+×\d+: short side under 56: give a smaller --image_size"
        with closing(Loader(train, 56, SEED, 50)) as loader, pytest.raises(UserError, match=words):
            next(iter(loader))

    def test_while_evaluating(self, made: Path, tmp_path: Path) -> None:
        split, key = self.damaged(made, tmp_path, "00000", 0, b"<html>")
        with pytest.raises(UserError, match=rf"00000\.tar: sample {key} does not decode"):
            list(sequential_batches(split, SIZE))


@pytest.fixture
def remote(made: Path) -> Iterator[str]:
    """The same export on fsspec's filesystem in memory."""
    yield upload(made, "memory://bucket/clean")
    fsspec.filesystem("memory").store.clear()


class TestFsspec:
    def test_the_same_stream(self, remote: str, stream: tuple[list[tuple[str, int]], torch.Tensor]) -> None:
        split = open_split(remote, "train", checksums=True)
        samples, pixels = joined(batches(split, 10, threads=3))
        assert samples == stream[0]
        assert torch.equal(pixels, stream[1])

    def test_the_same_evaluation(self, remote: str, made: Path) -> None:
        found, expected = (
            list(sequential_batches(open_split(path, "validation"), SIZE)) for path in (remote, str(made))
        )
        assert [keys for keys, _ in found] == [keys for keys, _ in expected]
        assert all(np.array_equal(one[1], other[1]) for one, other in zip(found, expected, strict=True))

    def test_damage_is_named(self, remote: str) -> None:
        filesystem = fsspec.filesystem("memory")
        body = bytearray(filesystem.cat_file("/bucket/clean/train/00002.tar"))
        body[1000] ^= 255
        filesystem.pipe_file("/bucket/clean/train/00002.tar", bytes(body))
        filesystem.rm_file("/bucket/clean/train/00000.tar")
        with pytest.raises(UserError, match=r"^memory://bucket/clean/train/00000\.tar is missing: `gesso verify"):
            open_split(remote, "train")
        kept = open_split(remote, "train", "quarantine")
        assert [name for name, _ in kept.quarantined] == ["train/00000.tar", "train/00002.tar"]


class TestWebdataset:
    """Plain webdataset pipelines read the same shards."""

    def test_the_same_samples(self, made: Path, bodies: dict[str, bytes]) -> None:
        urls = sorted(map(str, made.glob("*/*.tar")))
        found = {sample["__key__"]: sample["jpg"] for sample in wds.WebDataset(urls, shardshuffle=False)}
        assert found == bodies

    def test_a_pipeline_of_theirs_with_our_views(
        self, made: Path, train: Split, stream: tuple[list[tuple[str, int]], torch.Tensor]
    ) -> None:
        """Decoded and altered by the same functions, a sample becomes the same pixels."""

        def view(sample: dict[str, Any]) -> tuple[str, torch.Tensor]:
            whole = images.decode(sample["jpg"], images.read_header(sample["jpg"]), round(1.5 * SIZE))
            random = random_of("augment", SEED, 0, sample["__key__"])
            return sample["__key__"], torch.from_numpy(dvae_view(whole, SIZE, random))

        urls = [train.tar(shard) for shard in train.shards]
        pipeline = wds.WebDataset(urls, shardshuffle=False).shuffle(100, seed=1).map(view).batched(16)
        theirs = {key: pixels for keys, batch in pipeline for key, pixels in zip(keys, batch, strict=True)}
        ours = {key: pixels for (key, epoch), pixels in zip(*stream, strict=True) if epoch == 0}
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(torch.as_tensor(theirs[key]), ours[key]) for key in ours)
