"""The lines of README's block of Python, run one after the other on a small collection, its export and its tokens."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gesso import cli
from tests.dvaes import write_dvae
from tests.exports import caption, picture, write_raw

DOCS = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/raw, data/clean and data/tokens."""
    folder = tmp_path_factory.mktemp("reading")
    raw, clean, tokens = (str(folder / "data" / name) for name in ("raw", "clean", "tokens"))
    write_raw(raw, 24, lambda number: picture(number) if number % 6 else b"no picture", caption)
    assert cli.main(["export", "--shards", raw, "--output", clean, "--validation_size", "6", "--shard_size", "9"]) == 0
    dvae = write_dvae(folder / "dvae.pt")
    threads = torch.get_num_threads()
    encode = ["encode", "--shards", clean, "--dvae", dvae, "--output", tokens, "--device", "cpu", "--views", "2"]
    assert cli.main(encode) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def names(folder: Path) -> dict[str, Any]:
    """What the lines define."""
    [block] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        exec(compile(block, str(DOCS), "exec"), names)
        names["validation"] = list(names["clean"])
        names["ended"] = dict(names["reasons"].fetchall())
        yield names
        names["tar"].close()


def test_webdataset(names: dict[str, Any]) -> None:
    assert isinstance(names["image"], Image.Image)
    assert names["caption"] == names["fields"]["caption"]


def test_torch(names: dict[str, Any]) -> None:
    assert (names["pixels"].shape, names["pixels"].dtype) == ((4, 3, 256, 256), torch.uint8)
    assert len(names["captions"]) == 4


def test_datasets(names: dict[str, Any]) -> None:
    raw, tars = names["raw"], names["tars"]
    assert len(raw) == len(tars) == 20
    assert sorted(raw["__key__"]) == sorted(tars["__key__"])
    assert isinstance(raw[0]["jpg"], Image.Image)
    assert [row["txt"] for row in names["validation"]] == [row["json"]["caption"] for row in names["validation"]]
    assert len(names["validation"]) == 6


def test_pandas_and_duckdb(names: dict[str, Any]) -> None:
    assert Counter(names["why"].to_dict()) == Counter(success=20, failed_to_resize=4)
    assert names["ended"] == {"kept": 20, "not_an_image": 4}
    assert names["largest"].shape == (3, 3)


def test_one_picture(names: dict[str, Any]) -> None:
    assert names["jpeg"].startswith(b"\xff\xd8\xff")
    assert len(names["jpeg"]) == names["row"].image_bytes


def test_tokens_with_their_codes(names: dict[str, Any]) -> None:
    codes, tokens = names["codes"], names["tokens"]
    assert codes.shape == (len(tokens), 2, 4, 4)
    assert tokens["caption"][0] == names["texts"]["caption"][0]
    assert torch.equal(names["first"], torch.from_numpy(codes[0].astype("int64")))
