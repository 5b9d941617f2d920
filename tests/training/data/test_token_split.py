"""A split of tokens by the manifest: what its codes are; damage told by the shard's name, refused or left out."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from gesso.errors import UserError
from gesso.training.data.split import open_split
from gesso.training.data.token_split import TokenSplit, open_token_split
from gesso.training.dvae.settings import DvaeConfig
from gesso.training.encode_settings import EncodeSettings
from tests.dvaes import Plain
from tests.exports import upload, write_export
from tests.tokens import encode_export, write_tokens

OUT = "`gesso train prior` leaves such shards out with --damaged quarantine"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_tokens(tmp_path_factory.mktemp("made") / "tokens", (24, 8), shard_size=10))


@pytest.fixture
def tokens(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(made, tmp_path / "tokens"))


def rewrite(tokens: Path, change: Callable[[Any], None]) -> None:
    path = tokens / "manifest.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def replace_codes(tokens: Path, body: bytes, name: str = "00002.npy") -> None:
    """Another file of codes, and a manifest that lists it."""
    (tokens / "train" / name).write_bytes(body)
    entry = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}

    def change(told: Any) -> None:
        (shard,) = (shard for shard in told["shards"] if shard["split"] == "train" and name in shard["files"])
        shard["files"][name] = entry

    rewrite(tokens, change)


def npy(codes: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, codes, version)
    return stream.getvalue()


class TestOpen:
    @pytest.mark.parametrize("checksums", [False, True])
    def test_the_manifests_shards(self, made: Path, checksums: bool) -> None:
        train, validation = (open_token_split(str(made), name, checksums=checksums) for name in ("train", "validation"))
        assert (train.counts, validation.counts) == ([10, 0, 10, 4], [8])
        assert (train.vocabulary, train.views, train.grid, train.dvae) == (
            64,
            3,
            4,
            {"kind": "uniform", "path": "dvae"},
        )
        assert train.file(train.shards[2]) == f"{made}/train/00002.npy"

    def test_what_it_is(self, made: Path) -> None:
        assert open_token_split(f"{made}/", "train").identity() == {
            "path": str(made),
            "split": "train",
            "manifest_sha256": hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest(),
            "samples": 24,
            "shards": 4,
            "quarantined": [],
        }

    def test_what_an_encoding_of_an_export_writes(self, tmp_path: Path) -> None:
        """Pictures that the dVAE could not take are not among the samples."""
        export = write_export(tmp_path / "clean", (12, 4), shard_size=5)
        dvae = Plain(DvaeConfig(image_size=32, vocabulary=1 << 16))
        encode_export(export, tmp_path / "tokens", dvae, EncodeSettings(views=2, device="cpu"))
        found = open_token_split(str(tmp_path / "tokens"), "train", checksums=True)
        assert (found.vocabulary, found.views, found.grid, found.dvae) == (
            1 << 16,
            2,
            4,
            {"kind": "plain", "path": "dvae"},
        )
        assert found.counts == open_split(export, "train").counts
        for shard in found.shards:
            expected = np.load(tmp_path / f"tokens/train/{shard.index:05d}.npy")
            np.testing.assert_array_equal(found.codes(shard), expected)

    def test_samples_that_were_left_out_do_not_count(self, tokens: Path) -> None:
        rewrite(tokens, lambda told: [shard.update(count=99) for shard in told["shards"]])
        assert open_token_split(str(tokens), "train").samples == 24

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"tokens holds no manifest\.json: give the --output of a `gesso encode`$"):
            open_token_split(str(tmp_path / "tokens"), "train")

    def test_unfinished(self, tokens: Path) -> None:
        (tokens / "manifest.json").unlink()
        with pytest.raises(UserError, match=r"tokens is not finished: run its `gesso encode` again, it continues$"):
            open_token_split(str(tokens), "train")

    def test_an_export_is_none_and_the_other_way_round(self, made: Path, tmp_path: Path) -> None:
        export = write_export(tmp_path / "clean", (2, 1))
        with pytest.raises(UserError, match=r"clean holds no tokens: give the --output of a `gesso encode`$"):
            open_token_split(export, "train")
        with pytest.raises(UserError, match=r"tokens is no export: give the --output of a `gesso export`$"):
            open_split(str(made), "train")

    def test_a_damaged_manifest(self, tokens: Path) -> None:
        (tokens / "manifest.json").write_text("{")
        with pytest.raises(UserError, match=r"manifest\.json is not JSON \(Expecting .*\): encode again$"):
            open_token_split(str(tokens), "train")

    @pytest.mark.parametrize("codes", [{}, {"vocabulary": "many", "views": 1, "grid": 2}, None])
    def test_a_manifest_that_does_not_describe_the_codes(self, tokens: Path, codes: Any) -> None:
        rewrite(tokens, lambda told: told.update(codes=codes))
        with pytest.raises(UserError, match=r"manifest\.json does not describe its codes \(.*\): encode again$"):
            open_token_split(str(tokens), "train")

    def test_a_split_without_samples(self, tmp_path: Path) -> None:
        tokens = write_tokens(tmp_path / "tokens", (4, 0))
        words = "has no samples for validation: `gesso encode` writes some for an export that has them$"
        with pytest.raises(UserError, match=words):
            open_token_split(tokens, "validation")


def flip(path: Path) -> None:
    """Another byte at the end, the size as before."""
    body = bytearray(path.read_bytes())
    body[-1] ^= 255
    path.write_bytes(body)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "train/{name} is missing"),
    "cut": (cut, r"train/{name} has [\d,]+ bytes, in manifest.json"),
    "changed": (flip, "train/{name} differs from manifest.json in its sha256"),
}


@pytest.mark.parametrize("name", ["00002.npy", "00002.parquet"])
@pytest.mark.parametrize("kind", DAMAGES)
class TestDamage:
    def test_it_is_refused_by_name(self, tokens: Path, name: str, kind: str) -> None:
        damage, words = DAMAGES[kind]
        damage(tokens / "train" / name)
        out = f": `gesso verify .*tokens` lists all damage, {OUT}$"
        with pytest.raises(UserError, match=f"tokens/{words.format(name=name)}.*{out}"):
            open_token_split(str(tokens), "train", checksums=True)
        assert open_token_split(str(tokens), "validation", checksums=True).samples == 8

    def test_it_is_left_out_and_told(
        self, tokens: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage, words = DAMAGES[kind]
        damage(tokens / "train" / name)
        found = open_token_split(str(tokens), "train", "quarantine")
        assert (found.counts, found.vocabulary) == ([10, 0, 4], 64)
        ((npy, what),) = found.quarantined
        assert npy == "train/00002.npy"
        assert re.match(words.format(name=name), what)
        assert capsys.readouterr().err == f"{tokens}/train/00002.npy is left out with its samples: {what}\n"
        assert found.identity()["quarantined"] == ["train/00002.npy"]


FORMS: dict[str, tuple[bytes, str]] = {
    "another dtype": (npy(np.zeros((10, 3, 4, 4), np.int32)), r"holds int32 \(10, 3, 4, 4\), by manifest.json uint16"),
    "fewer samples": (npy(np.zeros((9, 3, 4, 4), np.uint16)), r"holds uint16 \(9, 3, 4, 4\), by .* \(10, 3, 4, 4\)"),
    "another grid": (npy(np.zeros((10, 3, 2, 8), np.uint16)), r"holds uint16 \(10, 3, 2, 8\)"),
    "fewer views": (npy(np.zeros((10, 48), np.uint16)), r"holds uint16 \(10, 48\)"),
    "columns first": (npy(np.zeros((10, 3, 4, 4), np.uint16, "F")), "is not in C order"),
    "no array": (b"<html>" * 200, "is no array of NumPy"),
    "empty": (b"", "is no array of NumPy"),
    "another version": (npy(np.zeros((10, 3, 4, 4), np.uint16), (2, 0)), "is no array of NumPy .*another version"),
    "too long": (npy(np.zeros((10, 3, 4, 4), np.uint16)) + b"\0", "is not as long as its header says"),
}


@pytest.mark.parametrize("form", FORMS)
class TestCodesOfAnotherForm:
    def test_they_are_refused_when_read(self, tokens: Path, form: str) -> None:
        body, words = FORMS[form]
        replace_codes(tokens, body)
        split = open_token_split(str(tokens), "train")
        for read in (split.codes, split.first_byte):
            with pytest.raises(UserError, match=rf"tokens/train/00002\.npy {words}.*: `gesso verify"):
                read(split.shards[2])

    def test_they_are_refused_or_left_out_when_checked(self, tokens: Path, form: str) -> None:
        body, words = FORMS[form]
        replace_codes(tokens, body)
        with pytest.raises(UserError, match=rf"tokens/train/00002\.npy {words}"):
            open_token_split(str(tokens), "train", checksums=True)
        assert open_token_split(str(tokens), "train", "quarantine").counts == [10, 0, 4]


class TestCodes:
    def test_all_of_a_shard(self, made: Path) -> None:
        split = open_token_split(str(made), "train")
        for shard in split.shards:
            codes = split.codes(shard)
            assert (codes.dtype, codes.shape) == (np.uint16, (shard.count, 3, 4, 4))
            np.testing.assert_array_equal(codes, np.load(made / f"train/{shard.index:05d}.npy"))

    def test_one_that_the_vocabulary_does_not_have(self, tokens: Path) -> None:
        codes = np.load(tokens / "train/00002.npy")
        codes[7, 1, 2, 3] = 64
        replace_codes(tokens, npy(codes))
        split = open_token_split(str(tokens), "train")
        words = r"train/00002\.npy has the code 64, by manifest\.json all are below 64: `gesso verify"
        with pytest.raises(UserError, match=words):
            split.codes(split.shards[2])
        with pytest.raises(UserError, match=words):
            open_token_split(str(tokens), "train", checksums=True)
        assert open_token_split(str(tokens), "train", "quarantine").counts == [10, 0, 4]

    def test_cut_off_since_the_split_was_opened(self, tokens: Path) -> None:
        split = open_token_split(str(tokens), "train")
        cut(tokens / "train/00002.npy")
        with pytest.raises(UserError, match=r"train/00002\.npy has changed since it was opened: `gesso verify"):
            split.codes(split.shards[2])
        (tokens / "train/00003.npy").unlink()
        with pytest.raises(UserError, match=r"00003\.npy cannot be read \(No such file or directory\): `gesso verify"):
            split.codes(split.shards[3])

    def test_on_another_filesystem(self, made: Path) -> None:
        remote = open_token_split(upload(made, "memory://bucket/tokens"), "train", checksums=True)
        local: TokenSplit = open_token_split(str(made), "train")
        for shard in local.shards:
            np.testing.assert_array_equal(remote.codes(shard), local.codes(shard))
        fsspec.filesystem("memory").store.clear()
