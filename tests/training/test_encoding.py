"""A shard as captions and codes: which crops are encoded, in which order, what is left out, what is refused."""

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gesso.errors import UserError
from gesso.training import encoding
from gesso.training.data.randomness import random_of
from gesso.training.data.samples import decode
from gesso.training.data.split import Split, open_split
from gesso.training.data.views import prior_view
from gesso.training.dvae.settings import DvaeConfig
from gesso.training.encode_settings import EncodeSettings, cores
from tests.dvaes import Plain
from tests.exports import picture, write_export

SETTINGS = EncodeSettings(views=3, seed=5, batch_size=4, threads=2, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """Encoding leaves torch with one thread for each forward pass."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_export(tmp_path_factory.mktemp("clean"), (24, 6), 10))


@pytest.fixture(scope="module")
def split(data: Path) -> Split:
    return open_split(str(data), "train")


def encode(split: Split, output: Path, settings: EncodeSettings = SETTINGS, shard: int = 0, dvae: Any = None) -> Any:
    given: Any = dvae or Plain()
    return encoding.encode_shard(split, split.shards[shard], given, settings, str(output))


def codes_of(output: Path, shard: int = 0) -> Any:
    return np.load(output / f"train/{shard:05d}.npy")


def rows_of(output: Path, shard: int = 0) -> list[dict[str, str]]:
    return pq.read_table(output / f"train/{shard:05d}.parquet").to_pylist()


def samples(data: Path, shard: int = 0) -> list[tuple[str, bytes, str]]:
    """Key, picture and caption of each sample, as tar itself tells."""
    with tarfile.open(data / f"train/{shard:05d}.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    keys = [name.removesuffix(".jpg") for name in found if name.endswith(".jpg")]
    return [(key, found[f"{key}.jpg"], found[f"{key}.txt"].decode()) for key in keys]


class TestCodes:
    def test_they_are_those_of_listing_2_s_crops(self, data: Path, split: Split, tmp_path: Path) -> None:
        encode(split, tmp_path, shard=1)
        expected = [
            [
                prior_view(decode(body, 32), 32, random_of("encode", 5, view, key))[::8, ::8, 0].astype(int) * 256
                for view in range(3)
            ]
            for key, body, _ in samples(data, 1)
        ]
        codes = codes_of(tmp_path, 1)
        assert (codes.shape, codes.dtype) == ((split.shards[1].count, 3, 4, 4), np.uint16)
        np.testing.assert_array_equal(codes, expected)
        assert codes.max() > 1 << 15  # no code was cut at 16 bits with a sign

    def test_rows_are_keys_and_captions_in_the_order_of_the_tar(self, data: Path, split: Split, tmp_path: Path) -> None:
        encode(split, tmp_path)
        assert rows_of(tmp_path) == [{"key": key, "caption": caption} for key, _, caption in samples(data)]

    def test_views_and_seeds_have_crops_of_their_own(self, split: Split, tmp_path: Path) -> None:
        encode(split, tmp_path / "one")
        encode(split, tmp_path / "other", EncodeSettings(views=3, seed=6, device="cpu"))
        one, other = codes_of(tmp_path / "one"), codes_of(tmp_path / "other")
        assert (one[:, 0] != one[:, 1]).any()
        assert (one != other).any()

    def test_more_views_leave_the_first_as_they_are(self, split: Split, tmp_path: Path) -> None:
        encode(split, tmp_path / "one")
        encode(split, tmp_path / "more", EncodeSettings(views=5, seed=5, device="cpu"))
        np.testing.assert_array_equal(codes_of(tmp_path / "one"), codes_of(tmp_path / "more")[:, :3])

    @pytest.mark.parametrize(("threads", "size"), [(1, 4), (5, 4), (2, 1), (3, 100)])
    def test_threads_and_batches_change_no_byte(self, threads: int, size: int, split: Split, tmp_path: Path) -> None:
        encode(split, tmp_path / "one")
        encode(split, tmp_path / "other", EncodeSettings(3, 5, size, threads, "cpu"))
        for name in ("00000.npy", "00000.parquet"):
            assert (tmp_path / "one/train" / name).read_bytes() == (tmp_path / "other/train" / name).read_bytes()

    def test_batches_are_cut_at_the_same_places(self, split: Split, tmp_path: Path) -> None:
        """Whatever the threads: what a picture comes to may depend on what stands beside it in its batch."""
        cuts = []
        for threads in (1, 3):
            dvae = Plain()
            encode(split, tmp_path / str(threads), EncodeSettings(3, 5, 4, threads, "cpu"), dvae=dvae)
            cuts.append(sorted(dvae.batches))
        full, rest = divmod(split.shards[0].count, 4)
        assert cuts == [sorted([12] * full + [3 * rest] * bool(rest))] * 2

    def test_on_a_cpu_a_forward_pass_uses_one_core(self, split: Split, tmp_path: Path) -> None:
        class Counting(Plain):
            def encode(self, pixels: torch.Tensor) -> torch.Tensor:
                self.batches.append(torch.get_num_threads())
                return super().encode(pixels)

        torch.set_num_threads(2)
        dvae = Counting()
        encode(split, tmp_path, dvae=dvae)
        assert set(dvae.batches[::2]) == {1}


class TestMarker:
    def test_what_it_tells(self, split: Split, tmp_path: Path) -> None:
        marker = encode(split, tmp_path)
        count = split.shards[0].count
        assert json.loads((tmp_path / "train/00000_stats.json").read_text()) == marker
        names = ("count", "successes", "status_dict", "rejected", "device")
        assert [marker[name] for name in names] == [count, count, {"success": count}, [], "cpu"]
        assert marker["duration"] == marker["end_time"] - marker["start_time"] >= 0
        assert marker["files"] == {
            name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name in ("00000.npy", "00000.parquet")
            for body in [(tmp_path / "train" / name).read_bytes()]
        }
        found = sorted(os.listdir(tmp_path / "train"))
        assert found == ["00000.npy", "00000.parquet", "00000_stats.json"]

    def test_what_does_not_decode_or_is_too_small_is_left_out_and_told(self, tmp_path: Path) -> None:
        data = Path(write_export(tmp_path / "clean", (12, 2), 20, lambda n: picture(n, 24 if n % 4 == 0 else 96)))
        split = open_split(str(data), "train")
        small = [key for key, body, _ in samples(data) if min(decode(body, 999).shape[:2]) < 32]
        others = [key for key, _, _ in samples(data) if key not in small]
        overwrite(data, others[0], lambda body: bytes(len(body)))
        overwrite(data, others[1], lambda body: body[: len(body) // 2] + bytes(len(body) - len(body) // 2))
        marker = encode(split, tmp_path / "out")
        reasons = {"not_an_image": 1, "too_small": len(small), "undecodable": 1}
        assert marker["status_dict"] == {**reasons, "success": len(others) - 2}
        assert (marker["count"], marker["successes"]) == (split.shards[0].count, len(others) - 2)
        told = {row["key"]: row["reason"] for row in marker["rejected"]}
        assert told == {others[0]: "not_an_image", others[1]: "undecodable", **dict.fromkeys(small, "too_small")}
        assert all(row["message"] for row in marker["rejected"])
        assert [row["key"] for row in rows_of(tmp_path / "out")] == others[2:]
        assert len(codes_of(tmp_path / "out")) == len(others) - 2

    def test_a_shard_of_which_nothing_is_left(self, tmp_path: Path) -> None:
        data = write_export(tmp_path / "clean", (6, 2), 10, lambda n: picture(n, 24))
        marker = encode(open_split(data, "train"), tmp_path / "out")
        assert marker["status_dict"] == {"too_small": 6}
        assert codes_of(tmp_path / "out").shape == (0, 3, 4, 4)
        assert rows_of(tmp_path / "out") == []


def overwrite(data: Path, key: str, change: Any) -> None:
    """Changes a picture's bytes in its tar, which keeps its size."""
    path = data / "train/00000.tar"
    with tarfile.open(path) as tar:
        member = tar.getmember(f"{key}.jpg")
        body = tar.extractfile(member).read()  # type: ignore[union-attr]
    with path.open("r+b") as stream:
        stream.seek(member.offset_data)
        stream.write(change(body))


class TestRefusals:
    def test_a_tar_that_ends_within_a_sample(self, tmp_path: Path) -> None:
        data = Path(write_export(tmp_path / "clean", (6, 2)))
        split = open_split(str(data), "train")
        key, body, _ = samples(data)[3]
        whole = (data / "train/00000.tar").read_bytes()
        (data / "train/00000.tar").write_bytes(whole[: whole.index(body) + 100])
        with pytest.raises(UserError, match=rf"train/00000\.tar ends within sample {key}: `gesso verify"):
            encode(split, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_tar_that_is_gone(self, tmp_path: Path) -> None:
        data = Path(write_export(tmp_path / "clean", (6, 2)))
        split = open_split(str(data), "train")
        (data / "train/00000.tar").unlink()
        with pytest.raises(UserError, match=r"train/00000\.tar cannot be read .*No such file"):
            encode(split, tmp_path / "out")

    def test_a_full_disk(self, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The disk takes the codes and has no room for the rows: nothing is committed, nothing half-written is left."""

        class Full(pq.ParquetWriter):
            def write_batch(self, batch: Any) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(pq, "ParquetWriter", Full)
        with pytest.raises(
            UserError, match=r"train cannot be written \(No space left on device\): run the command again"
        ):
            encode(split, tmp_path)
        assert os.listdir(tmp_path / "train") == []

    def test_codes_of_more_than_16_bits(self) -> None:
        encoding.check_fits(Plain(DvaeConfig(image_size=32, vocabulary=65_536)))  # type: ignore[arg-type]
        with pytest.raises(UserError, match="has 65,537 codes, and grids hold codes of 16 bits"):
            encoding.check_fits(Plain(DvaeConfig(image_size=32, vocabulary=65_537)))  # type: ignore[arg-type]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_a_gpu_that_is_not_there(self) -> None:
        assert encoding.device_of("auto").type == encoding.device_of("cpu").type == "cpu"
        with pytest.raises(UserError, match="--device is cuda: there is no CUDA device here, give cpu"):
            encoding.device_of("cuda")

    @pytest.mark.parametrize(
        ("field", "value", "what"),
        [
            ("views", 0, "--views is 0: give 1 or more"),
            ("batch_size", 0, "--batch_size is 0"),
            ("threads", 0, "--threads is 0"),
            ("seed", -1, "--seed is -1: give 0 or more"),
            ("device", "tpu", "--device is 'tpu': give one of auto, cpu, cuda"),
        ],
    )
    def test_settings(self, field: str, value: object, what: str) -> None:
        with pytest.raises(UserError, match=what):
            EncodeSettings(**{field: value})  # type: ignore[arg-type]


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert EncodeSettings().threads == cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cores() == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert cores() == 8
