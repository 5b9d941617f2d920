"""The tools that people have read what gesso writes, as it is."""

from collections import Counter
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from gesso import cli
from gesso.dataset import shards
from gesso.dataset.schemas import RANGE_FIELDS, plan_schema
from gesso.dataset.shards import Outcome
from tests.datasets import picture, write_dataset

PLACES = {field.name for field in RANGE_FIELDS}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_dataset(tmp_path_factory.mktemp("raw")))


@pytest.fixture(scope="module")
def kept(output: Path) -> dict[str, str]:
    """Captions of the kept samples by key, from the rows."""
    rows = pd.concat([pd.read_parquet(output / f"0000{index}.parquet") for index in (0, 1)])
    rows = rows[rows["status"] == "success"]
    return dict(zip(rows["key"], rows["caption"], strict=True))


@pytest.fixture(scope="module")
def clean(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the shards."""
    clean = tmp_path_factory.mktemp("export") / "clean"
    flags = ("--validation_size", "6", "--shard_size", "9")
    assert cli.main(["export", "--shards", str(output), "--output", str(clean), *flags]) == 0
    return clean


@pytest.fixture(scope="module")
def splits(clean: Path) -> dict[str, dict[str, str]]:
    """Captions by key of each split of the export, from the rows, in their order."""
    tables = {
        split: pd.concat(map(pd.read_parquet, sorted((clean / split).glob("*.parquet"))))
        for split in ("train", "validation")
    }
    return {split: dict(zip(rows["key"], rows["caption"], strict=True)) for split, rows in tables.items()}


def test_webdataset(output: Path, kept: dict[str, str]) -> None:
    urls = [str(output / "00000.tar"), str(output / "00001.tar")]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert {sample["__key__"]: sample["txt"] for sample in samples} == kept
    assert [sample["__key__"] for sample in samples] == list(kept)
    assert {sample["jpg"].mode for sample in samples} == {"RGB"}
    assert {(sample["json"]["width"], sample["json"]["height"]) for sample in samples} == {(40, 30)}


def test_hugging_face_datasets(
    output: Path, kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    files = {"train": [str(output / "00000.tar"), str(output / "00001.tar")]}
    loaded = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    assert dict(zip(loaded["__key__"], loaded["txt"], strict=True)) == kept
    assert isinstance(loaded[0]["jpg"], Image.Image)
    assert loaded[0]["json"]["licence"] == "CC0-1.0"


def test_hugging_face_datasets_where_the_first_samples_have_nulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` takes the types of KEY.json from five samples; what they lack it must not refuse later."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    values = {
        "note": pa.array([None] * 6 + ["text"] * 4),
        "n": pa.array([1, *[None] * 5, *range(4)]),
        "similarity": pa.array([float("nan")] * 6 + [0.5] * 4),
        "boxes": pa.array([[]] * 6 + [[[0.5]]] * 4),
        "seen": pa.array([None] * 6 + [{"at": 5, "by": "me"}] * 4),
    }
    extra = tuple(pa.field(name, column.type) for name, column in values.items())
    rows = [
        {
            "key": f"{n:032x}",
            "url": f"http://a.example/{n}",
            "caption": "a dog",
            "original_caption": "a dog!" if n else None,
        }
        for n in range(10)
    ]
    planned = pa.RecordBatch.from_pylist(rows, plan_schema())
    plan = pa.RecordBatch.from_arrays([*planned.columns, *values.values()], schema=plan_schema(extra))
    kept = Outcome({"status": "success", "reason": None, "width": 40, "height": 30}, picture(0))
    shards.write_shard(str(tmp_path), 0, [plan], lambda at: kept, extra)
    loaded = datasets.load_dataset(
        "webdataset", data_files={"train": [f"{tmp_path}/00000.tar"]}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["original_caption"] for row in loaded["json"]] == [None, *["a dog!"] * 9]
    assert [row["n"] for row in loaded["json"]] == values["n"].to_pylist()


def test_a_collection_loads_by_its_card(
    output: Path, kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field of the rows has its type, though KEY.json lacks what is null."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset(str(output), split="train", cache_dir=str(tmp_path))
    assert dict(zip(loaded["__key__"], loaded["txt"], strict=True)) == kept
    assert isinstance(loaded[0]["jpg"], Image.Image)
    assert list(loaded.features["json"]) == pq.read_schema(output / "00000.parquet").names
    assert loaded[0]["json"]["original_caption"] is None
    assert datasets.Features.from_arrow_schema(pq.read_schema(output / "00000.parquet")) == loaded.features["json"]


def test_a_recursive_look_finds_samples_and_rows_alone(output: Path) -> None:
    """The collection holds plans and thumbnails, too; pathlib and DuckDB look into hidden folders."""
    assert sorted(path.parent.name for path in output.rglob("*0.*")).count("rejected") == 1
    assert {path.parent for ending in ("tar", "parquet") for path in output.rglob(f"*.{ending}")} == {output}
    assert duckdb.sql(f"select count(*) from '{output}/**/*.parquet'").fetchall() == [(40,)]


def test_pandas(output: Path) -> None:
    rows = pd.read_parquet(output / "00001.parquet")
    assert Counter(rows["status"]) == Counter(success=12, failed_to_download=4, failed_to_resize=2, rejected=2)
    assert rows["key"].is_monotonic_increasing
    assert set(rows.loc[rows["reason"] == "aspect_ratio", "original_width"]) == {400}


def test_duckdb(output: Path) -> None:
    query = (
        f"select coalesce(reason, status) as ended, count(*) from '{output}/*.parquet' group by ended order by ended"
    )
    assert duckdb.sql(query).fetchall() == [
        ("aspect_ratio", 4),
        ("caption_too_short", 4),
        ("http_404", 4),
        ("success", 24),
        ("timeout", 4),
    ]


class TestExport:
    """What `gesso export` writes, by the card's own configuration."""

    def test_webdataset(self, clean: Path, splits: dict[str, dict[str, str]], kept: dict[str, str]) -> None:
        for split, captions in splits.items():
            urls = sorted(map(str, (clean / split).glob("*.tar")))
            samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
            assert [sample["__key__"] for sample in samples] == list(captions)
            assert {sample["__key__"]: sample["txt"] for sample in samples} == captions
            assert {sample["jpg"].mode for sample in samples} == {"RGB"}
        assert {**splits["train"], **splits["validation"]} == kept

    def test_hugging_face_datasets(
        self, clean: Path, splits: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        import datasets

        loaded = datasets.load_dataset(str(clean), cache_dir=str(tmp_path))
        assert {split: dict(zip(rows["__key__"], rows["txt"], strict=True)) for split, rows in loaded.items()} == splits
        assert isinstance(loaded["validation"][0]["jpg"], Image.Image)
        own = [name for name in pq.read_schema(clean / "train/00000.parquet").names if name not in PLACES]
        assert list(loaded["train"].features["json"]) == own

    def test_hugging_faces_card_data(self, clean: Path) -> None:
        from huggingface_hub import DatasetCard

        card = DatasetCard.load(clean / "README.md").data
        assert (card.license, card.task_categories, card.size_categories) == ("cc0-1.0", ["text-to-image"], ["n<1K"])

    def test_duckdb_at_random(self, clean: Path) -> None:
        """A body by its offset, and nothing before it."""
        query = f"select caption, caption_offset, caption_bytes from '{clean}/train/00000.parquet' offset 3 limit 1"
        caption, offset, size = duckdb.sql(query).fetchall()[0]
        with (clean / "train/00000.tar").open("rb") as tar:
            tar.seek(offset)
            assert tar.read(size).decode() == caption
