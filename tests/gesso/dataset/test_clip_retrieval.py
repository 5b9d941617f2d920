"""Directories that clip-retrieval wrote itself: blocks, vectors, keys, metadata, what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gesso.dataset import clip_retrieval, embeddings
from gesso.dataset.embeddings import UNIT_TOLERANCE, Block, all_rows, check_comparable, open_embeddings, read_pictures
from gesso.errors import UserError
from tests.embeddings import clustered, write_clip_retrieval, write_embeddings

VECTORS = clustered(5, 8, 0)
KEYS = [f"00000000{number}" for number in range(5)]


def halves(**more: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Two blocks of 2 and 3 rows, as of webdataset."""
    return [(VECTORS[rows], {"image_path": KEYS[rows], **more}) for rows in (slice(2), slice(2, 5))]


@pytest.mark.parametrize("digits", [1, 2, 5])
def test_what_it_holds(tmp_path: Path, digits: int) -> None:
    opened = open_embeddings(write_clip_retrieval(tmp_path, halves(), digits))
    assert (opened.foreign, opened.samples, opened.dimension) == (True, 5, 8)
    assert opened.blocks == (Block(0, 2), Block(1, 3))
    pictures = read_pictures(opened, all_rows(opened))
    np.testing.assert_array_equal(pictures.vectors, VECTORS.astype(np.float32))
    assert pictures.keys.tolist() == [key.encode() for key in KEYS]
    assert pictures.shards.tolist() == 5 * [embeddings.NO_SHARD]
    assert not pictures.hashed.any()


def test_a_copy_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    one, copy = (open_embeddings(write_clip_retrieval(tmp_path / name, halves())) for name in ("one", "copy"))
    other = open_embeddings(write_clip_retrieval(tmp_path / "other", halves()[:1]))
    assert one.sha256 == copy.sha256 != other.sha256
    write_clip_retrieval(tmp_path / "copy", [(-vectors, columns) for vectors, columns in halves()])
    assert open_embeddings(str(tmp_path / "copy")).sha256 != one.sha256  # the same names and sizes, of another model


@pytest.mark.parametrize("dimension", [1, 8, 3072])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_vectors_of_any_norm_become_unit_vectors_of_float16(dimension: int, kind: type) -> None:
    raw = (np.random.default_rng(0).standard_normal((1030, dimension)) + 1e-3).astype(kind)
    found = clip_retrieval.unit(raw, UNIT_TOLERANCE)
    wide = raw.astype(np.float64)
    expected = (wide / np.sqrt((wide * wide).sum(1, keepdims=True))).astype(np.float16)
    near = np.abs((wide * wide).sum(1) - 1) <= UNIT_TOLERANCE
    exact = ~near if kind is np.float16 else np.ones(len(raw), np.bool_)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[exact], expected[exact], rtol=2**-10, atol=2**-24)
    np.testing.assert_array_equal(found, found.astype(np.float16))
    assert (np.abs((found.astype(float) ** 2).sum(1) - 1) <= UNIT_TOLERANCE).all()


def test_float16_of_unit_norm_stays_bit_for_bit() -> None:
    np.testing.assert_array_equal(clip_retrieval.unit(VECTORS, UNIT_TOLERANCE), VECTORS.astype(np.float32))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_that_float32_cannot_square(scale: float) -> None:
    raw = np.array([[3, 4]], np.float32) * np.float32(scale)
    np.testing.assert_array_equal(clip_retrieval.unit(raw, UNIT_TOLERANCE), np.array([[0.6, 0.8]], np.float16))


def test_vectors_without_a_direction_are_zeros_and_counted() -> None:
    raw = np.array([[1, 0], [np.nan, 1], [0, 0], [np.inf, 0], [0, -0.0], [0, 2]], np.float32)
    expected = [[1, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 1]]
    assert clip_retrieval.unit(raw, UNIT_TOLERANCE).tolist() == expected
    assert clip_retrieval.left_out(raw) == Counter(vector_not_finite=2, vector_zero=2)


@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        ({"image_path": ["000000001", "a/b"]}, ["000000001", "a/b"]),  # webdataset's keys
        ({"image_path": ["/coco/val2014/COCO_1.jpg", "x/2.b.BMP"]}, ["COCO_1", "2.b"]),  # files
        ({"image_path": ["p", "q"], "key": ["k", None]}, ["k", "q"]),
        ({"image_path": ["01", "02"], "key": [1, 2]}, ["01", "02"]),  # pandas made numbers of them
        ({"key": ["a", "b"]}, ["a", "b"]),
    ],
)
def test_keys(tmp_path: Path, columns: dict[str, Any], keys: list[str]) -> None:
    opened = open_embeddings(write_clip_retrieval(tmp_path, [(VECTORS[:2], columns)]))
    assert opened.keys().tolist() == [key.encode() for key in keys]


def test_metadata_that_is_there_and_that_is_not(tmp_path: Path) -> None:
    columns = {
        "image_path": ["/coco/1.jpg", "2"],
        "caption": ["a dog", None],
        "width": [384.0, None],
        "height": ["tall", "wide"],
        "phash": ["0" * 15 + "f", "not a hash"],
    }
    opened = open_embeddings(write_clip_retrieval(tmp_path, [(VECTORS[:2], columns)]))
    wanted = ["key", "image_path", "shard", "caption", "url", "width", "height", "phash"]
    assert opened.metadata(Block(0, 2), wanted).to_pylist() == [
        dict(zip(wanted, ["1", "coco/1.jpg", None, "a dog", None, 384, None, "0" * 15 + "f"], strict=True)),
        dict(zip(wanted, ["2", "2", None, None, None, None, None, None], strict=True)),
    ]
    assert opened.metadata(Block(0, 2), ["caption"]).schema.field("caption").type == pa.string()


def test_models_that_nothing_tells(tmp_path: Path) -> None:
    one, same = (open_embeddings(write_clip_retrieval(tmp_path / name, halves())) for name in ("one", "same"))
    ours = open_embeddings(write_embeddings(tmp_path / "ours", VECTORS, KEYS, [5], model={"name": "ViT-B-32"}))
    other = open_embeddings(write_embeddings(tmp_path / "other", clustered(3, 16, 0), KEYS[:3], [3]))
    check_comparable(one, same)
    check_comparable(one, ours)
    assert embeddings.common_model(one, ours) == embeddings.common_model(ours, one) == ours.model
    taken = (
        f"{tmp_path}/one does not tell its model, taken to be ViT-B-32, as of the other side: both have 8 dimensions"
    )
    assert embeddings.assumption(ours, one) == taken
    assert embeddings.assumption(one, same).endswith(
        f"one and {tmp_path}/same do not tell their models, taken to be one and the same: both have 8 dimensions"
    )
    assert embeddings.assumption(ours, ours) == ""
    with pytest.raises(UserError, match=r"are of different models \(dimension 8 and 16\): embed both"):
        check_comparable(one, other)


class TestRefusals:
    """One line that shows the value and the way out."""

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.zeros(2, np.float32), r"float32 \(2,\) in the place of float16 or float32 \(n, d\)"),
            (np.zeros((2, 8), np.int8), r"int8 \(2, 8\) in the place of"),
            (np.zeros((2, 0), np.float32), r"float32 \(2, 0\) in the place of"),
        ],
    )
    def test_arrays_of_another_form(self, tmp_path: Path, vectors: Any, message: str) -> None:
        path = write_clip_retrieval(tmp_path, [(vectors, {"image_path": ["a", "b"]})])
        with pytest.raises(UserError, match=rf"img_emb_0\.npy is damaged \({message}"):
            open_embeddings(path)

    def test_a_file_that_is_cut_off(self, tmp_path: Path) -> None:
        path = Path(write_clip_retrieval(tmp_path, halves())) / "img_emb/img_emb_1.npy"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            UserError, match=r"img_emb_1\.npy is damaged \(175 bytes, 176 expected\): make it anew with"
        ):
            open_embeddings(str(tmp_path))

    def test_blocks_of_two_dimensions(self, tmp_path: Path) -> None:
        blocks = [*halves(), (clustered(1, 16, 0), {"image_path": ["x"]})]
        with pytest.raises(UserError, match=r"img_emb/img_emb_2\.npy has 16 dimensions, others 8: remove it"):
            open_embeddings(write_clip_retrieval(tmp_path, blocks))

    def test_a_block_without_metadata(self, tmp_path: Path) -> None:
        write_clip_retrieval(tmp_path, halves())
        (tmp_path / "metadata/metadata_1.parquet").unlink()
        with pytest.raises(UserError, match=r"img_emb_1\.npy has no metadata/metadata_1\.parquet beside it"):
            open_embeddings(str(tmp_path))

    def test_two_files_of_one_number(self, tmp_path: Path) -> None:
        write_clip_retrieval(tmp_path, halves())
        write_clip_retrieval(tmp_path, halves(), 2)
        with pytest.raises(UserError, match=r"both of one number: remove one"):
            open_embeddings(str(tmp_path))

    def test_metadata_of_another_number_of_rows(self, tmp_path: Path) -> None:
        opened = open_embeddings(write_clip_retrieval(tmp_path, [(VECTORS, {"image_path": ["a"]})]))
        with pytest.raises(UserError, match=r"metadata_0\.parquet is damaged \(1 rows of \['key'\], 5 of \['key'\]"):
            opened.keys()

    def test_a_row_without_a_key(self, tmp_path: Path) -> None:
        opened = open_embeddings(write_clip_retrieval(tmp_path, [(VECTORS[:2], {"image_path": ["a", None]})]))
        with pytest.raises(UserError, match="row 1 has neither key nor image_path"):
            opened.keys()
