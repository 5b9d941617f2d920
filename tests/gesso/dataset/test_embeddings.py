"""A directory of embeddings: what it holds, block by block, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gesso.dataset import embeddings
from gesso.dataset.embeddings import Block, Slice, chunks, open_embeddings, read_ahead, read_pictures
from gesso.errors import UserError
from tests.embeddings import clustered, write_embeddings

VECTORS = clustered(10, 8, 0)
KEYS = [f"key{number}" for number in range(10)]


def write(folder: Path, **more: Any) -> str:
    return write_embeddings(folder, VECTORS, KEYS, [4, 0, 6], **more)


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_it_holds(tmp_path: Path) -> None:
    opened = open_embeddings(write(tmp_path) + "/")
    assert opened.blocks == (Block(0, 4), Block(2, 6))
    assert (opened.samples, opened.dimension, opened.path) == (10, 8, str(tmp_path))
    np.testing.assert_array_equal(opened.vectors(Block(2, 6)), VECTORS[4:])
    assert opened.metadata(Block(2, 6), ["key", "shard"]).to_pydict() == {"key": KEYS[4:], "shard": [2] * 6}
    assert opened.keys().tolist() == [key.encode() for key in KEYS]


def test_portions_cut_large_blocks_and_put_small_ones_side_by_side() -> None:
    a, b, c = Block(0, 5), Block(1, 1), Block(2, 4)
    assert list(chunks([a, b, c], 3)) == [
        [Slice(a, 0, 3)],
        [Slice(a, 3, 5), Slice(b, 0, 1)],
        [Slice(c, 0, 3)],
        [Slice(c, 3, 4)],
    ]
    assert list(chunks([a, b, c], 10)) == [[Slice(a, 0, 5), Slice(b, 0, 1), Slice(c, 0, 4)]]
    assert list(chunks([])) == []


def test_pictures_of_portions(tmp_path: Path) -> None:
    hashes = [None if number == 5 else f"{number + (15 << 60):016x}" for number in range(10)]
    opened = open_embeddings(write(tmp_path, phash=hashes))
    read = list(read_ahead(opened, list(chunks(opened.blocks, 3))))
    vectors, keys, shards, phash, hashed, views = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    np.testing.assert_array_equal(vectors, VECTORS.astype(np.float32))
    assert keys.tolist() == [key.encode() for key in KEYS]
    assert shards.tolist() == 4 * [0] + 6 * [2]
    assert views.tolist() == 10 * [0]
    assert hashed.tolist() == [number != 5 for number in range(10)]
    assert phash.tolist() == [0 if number == 5 else number + (15 << 60) for number in range(10)]


class TestViews:
    """Several rows of a sample, side by side."""

    def test_samples_and_rows(self, tmp_path: Path) -> None:
        opened = open_embeddings(write_embeddings(tmp_path, clustered(60, 8, 0), KEYS, [4, 0, 6], views=6))
        assert (opened.views, opened.samples, opened.blocks) == (6, 10, (Block(0, 24), Block(2, 36)))
        assert opened.keys().tolist() == [key.encode() for key in KEYS]
        assert opened.metadata(Block(0, 24), ["view"])["view"].to_pylist() == 4 * list(range(6))

    def test_pictures_of_chunks_that_cut_a_sample(self, tmp_path: Path) -> None:
        opened = open_embeddings(write_embeddings(tmp_path, clustered(60, 8, 0), KEYS, [4, 0, 6], views=6))
        read = list(read_ahead(opened, list(chunks(opened.blocks, 7))))
        assert np.concatenate([part.views for part in read]).tolist() == 10 * list(range(6))
        whole = [part.select(part.views == 0) for part in read]
        np.testing.assert_array_equal(np.concatenate([part.vectors for part in whole]), clustered(60, 8, 0)[::6])
        assert np.concatenate([part.keys for part in whole]).tolist() == [key.encode() for key in KEYS]

    def test_of_before_there_were_several(self, tmp_path: Path) -> None:
        """Rows without the column: each is a whole picture."""
        folder = Path(write(tmp_path))
        for name in ("metadata/metadata_00000.parquet", "metadata/metadata_00002.parquet"):
            pq.write_table(pq.read_table(folder / name).drop_columns(["view"]), folder / name)
        manifest = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["shards"]:
            for name, told in entry["files"].items():
                told["bytes"] = (folder / name).stat().st_size
        edit(folder, shards=manifest["shards"], settings={"precision": "fp32"})
        opened = open_embeddings(str(folder))
        read = read_pictures(opened, embeddings.all_rows(opened))
        assert (opened.views, opened.samples, read.views.tolist()) == (1, 10, 10 * [0])


def test_a_folders_pictures_have_no_shard(tmp_path: Path) -> None:
    opened = open_embeddings(write(tmp_path, kind="images"))
    assert read_pictures(opened, embeddings.all_rows(opened)).shards.tolist() == 10 * [embeddings.NO_SHARD]


class TestRefusals:
    """One line that shows the value and the way out."""

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"none holds no embeddings: give the --output of a `gesso embed`"):
            open_embeddings(str(tmp_path / "none"))

    def test_not_finished(self, tmp_path: Path) -> None:
        write(tmp_path)
        (tmp_path / "manifest.json").rename(tmp_path / "plan.json")
        with pytest.raises(UserError, match="is not finished: run its `gesso embed` again"):
            open_embeddings(str(tmp_path))

    @pytest.mark.parametrize(("kind", "told"), [({"kind": "matches"}, "matches"), ({"kind": "shards"}, "shards")])
    def test_something_else(self, tmp_path: Path, kind: dict[str, str], told: str) -> None:
        write(tmp_path)
        edit(tmp_path, **kind)
        with pytest.raises(UserError, match=f"holds {told}, not embeddings"):
            open_embeddings(str(tmp_path))

    def test_a_manifest_that_is_cut_off(self, tmp_path: Path) -> None:
        write(tmp_path)
        (tmp_path / "manifest.json").write_text('{"kind": "embe')
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            open_embeddings(str(tmp_path))

    @pytest.mark.parametrize("name", ["img_emb/img_emb_00002.npy", "metadata/metadata_00000.parquet"])
    def test_a_file_that_is_missing_or_cut_off(self, tmp_path: Path, name: str) -> None:
        path = Path(write(tmp_path)) / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match=rf"{name} is damaged \([\d,]+ bytes, [\d,]+ expected\): run `gesso embed`"):
            open_embeddings(str(tmp_path))
        path.unlink()
        with pytest.raises(UserError, match=rf"{name} is damaged \(it is missing\)"):
            open_embeddings(str(tmp_path))

    def test_bytes_that_are_no_array(self, tmp_path: Path) -> None:
        opened = open_embeddings(write(tmp_path))
        for name in ("img_emb/img_emb_00000.npy", "metadata/metadata_00000.parquet"):
            (tmp_path / name).write_bytes(b"\0" * (tmp_path / name).stat().st_size)
        with pytest.raises(UserError, match=r"img_emb_00000\.npy is damaged"):
            opened.vectors(Block(0, 4))
        with pytest.raises(UserError, match=r"metadata_00000\.parquet is damaged"):
            opened.metadata(Block(0, 4), ["key"])

    def test_another_shape_than_the_manifest_says(self, tmp_path: Path) -> None:
        opened = open_embeddings(write(tmp_path))
        with pytest.raises(UserError, match=r"float16 \(4, 8\) in the place of float16 \(3, 8\)"):
            opened.vectors(Block(0, 3))
        with pytest.raises(UserError, match=r"4 rows of \['key'\], 3 of \['key'\] expected"):
            opened.metadata(Block(0, 3), ["key"])

    @pytest.mark.parametrize("value", [0.0, 0.9, 3.0, np.nan, np.inf])
    def test_rows_that_are_no_unit_vectors(self, tmp_path: Path, value: float) -> None:
        vectors = VECTORS.copy()
        vectors[6] = [value, 0, 0, 0, 0, 0, 0, 0]
        opened = open_embeddings(write_embeddings(tmp_path, vectors, KEYS, [4, 6]))
        with pytest.raises(UserError, match=r"img_emb_00001\.npy is damaged \(row 2 has norm "):
            read_pictures(opened, embeddings.all_rows(opened))

    @pytest.mark.parametrize("phash", ["12", "g" * 16])
    def test_hashes_of_another_form(self, tmp_path: Path, phash: str) -> None:
        opened = open_embeddings(write(tmp_path, phash=[phash, *9 * [None]]))
        with pytest.raises(UserError, match="a phash is no 16 hex digits"):
            read_pictures(opened, embeddings.all_rows(opened))

    def test_another_model(self, tmp_path: Path) -> None:
        one, same = (open_embeddings(write(tmp_path / name)) for name in ("one", "same"))
        other = open_embeddings(write(tmp_path / "other", model={"name": "ViT-B-32", "pretrained": "x"}))
        embeddings.check_comparable(one, same)
        with pytest.raises(
            UserError, match=r"different models \(name 'test' and 'ViT-B-32'; pretrained None and 'x'\)"
        ):
            embeddings.check_comparable(one, other)

    def test_another_dimension(self, tmp_path: Path) -> None:
        one = open_embeddings(write(tmp_path / "one"))
        other = open_embeddings(write_embeddings(tmp_path / "other", clustered(3, 16, 0), KEYS[:3], [3]))
        with pytest.raises(UserError, match=r"different models \(dimension 8 and 16\)"):
            embeddings.check_comparable(one, other)
