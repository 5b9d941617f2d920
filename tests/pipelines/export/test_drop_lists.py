"""Drop lists: what each kind drops, which reason counts, which are refused."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso.dedup.decision import Override
from gesso.errors import UserError
from gesso.pipelines.export import drop_lists
from tests.overlaps import MODEL, WHEN, WHO, decide, write_overlap, write_repeats

SHARDS = "/data/raw"
SOURCE = {"kind": "shards", "path": SHARDS, "sha256": "5" * 64}
PAIRS = [("coco1", "a", 0.9), ("coco1", "b", 0.7), ("coco2", "c", 0.8), ("coco3", "a", 0.4)]


def dropped(*paths: str | Path) -> dict[str, str]:
    """Reasons by key, of all the lists together."""
    table = drop_lists.union([drop_lists.read(str(path), SOURCE) for path in paths])
    assert table["uid"].to_pylist() == sorted(table["uid"].to_pylist())
    return dict(zip(table["uid"].to_pylist(), table["reason"].to_pylist(), strict=True))


def refused(path: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        drop_lists.read(str(path), SOURCE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestOverlap:
    def test_the_decision_drops_and_leaves_out(self, tmp_path: Path) -> None:
        path = write_overlap(tmp_path / "overlap", SHARDS, PAIRS)
        decide(path, 0.75, [Override("coco1", "b", "duplicate"), Override("coco2", "c", "different")])
        assert dropped(path) == {"a": "overlap", "b": "overlap"}
        overlap = drop_lists.read(path, SOURCE).overlap
        assert overlap is not None
        assert overlap["leave_out"] == ["coco1"]
        assert (overlap["threshold"], overlap["who"], overlap["when"], overlap["model"]) == (0.75, WHO, WHEN, MODEL)
        assert (overlap["references"], overlap["pairs"], overlap["duplicates"], overlap["judged"]) == (3, 4, 2, 2)

    def test_without_a_decision(self, tmp_path: Path) -> None:
        path = write_overlap(tmp_path / "overlap", SHARDS, PAIRS)
        assert f"has no decision.json: run `gesso review {path}`" in refused(path)

    def test_with_a_draft_alone(self, tmp_path: Path) -> None:
        path = write_overlap(tmp_path / "overlap", SHARDS, PAIRS)
        decide(path, 0.75, who="")
        (tmp_path / "overlap/decision.json").rename(tmp_path / "overlap/decision.draft.json")
        assert f"has no decision.json, only a draft without a name: run `gesso review {path}`" in refused(path)

    def test_a_decision_for_another_model(self, tmp_path: Path) -> None:
        path = write_overlap(tmp_path / "overlap", SHARDS, PAIRS)
        decide(path, 0.75, model={**MODEL, "sha256": "b" * 64})
        assert "was made for the model" in refused(path)

    def test_a_decision_on_other_matches(self, tmp_path: Path) -> None:
        path = write_overlap(tmp_path / "overlap", SHARDS, PAIRS)
        decide(path, 0.75, matches_sha256="0" * 64)
        assert "was made on other matches" in refused(path)

    def test_embeddings_of_other_shards(self, tmp_path: Path) -> None:
        path = write_overlap(tmp_path / "overlap", "/data/older", PAIRS)
        decide(path, 0.75)
        assert "was made for the shards in /data/older, not for --shards /data/raw" in refused(path)

    def test_a_linked_directory_is_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "raw").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "raw")
        path = write_overlap(tmp_path / "overlap", str(tmp_path / "raw"), PAIRS)
        decide(path, 0.75)
        assert drop_lists.read(path, {**SOURCE, "path": str(tmp_path / "link")}).input_record["kind"] == "overlap"


class TestRepeats:
    def test_both_lists(self, tmp_path: Path) -> None:
        path = write_repeats(tmp_path / "repeats", SHARDS, ["b", "a"], ["c", "a"])
        assert dropped(path) == {"a": "repeat_exact", "b": "repeat_exact", "c": "repeat_near"}

    def test_near_ones_need_not_be_there(self, tmp_path: Path) -> None:
        assert dropped(write_repeats(tmp_path / "repeats", SHARDS, ["a"])) == {"a": "repeat_exact"}

    def test_repeats_of_other_shards(self, tmp_path: Path) -> None:
        assert "not for --shards" in refused(write_repeats(tmp_path / "repeats", "/data/older", ["a"]))

    def test_a_list_that_was_changed(self, tmp_path: Path) -> None:
        path = write_repeats(tmp_path / "repeats", SHARDS, ["a"])
        pq.write_table(pa.table({"uid": ["z"]}), f"{path}/exact.parquet")
        assert "differs from its manifest.json: run `gesso repeats` again" in refused(path)


class TestLists:
    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("b\n\na\r\nb\n")
        assert dropped(tmp_path / "mine.txt") == {"a": "listed", "b": "listed"}

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
    @pytest.mark.parametrize("column", ["uid", "key"])
    def test_parquet(self, tmp_path: Path, column: str, kind: pa.DataType) -> None:
        pq.write_table(pa.table({"n": [1, 2], column: pa.array(["b", "a"], kind)}), tmp_path / "mine.parquet")
        assert dropped(tmp_path / "mine.parquet") == {"a": "listed", "b": "listed"}

    def test_an_empty_list(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("")
        assert dropped(tmp_path / "mine.txt") == {}

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"PAR1 and no more", "is not a complete parquet file"),
            (b"\xff\xfe\x00", "is neither parquet nor text"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, body: bytes, message: str) -> None:
        (tmp_path / "mine").write_bytes(body)
        assert message in refused(tmp_path / "mine")

    def test_missing(self, tmp_path: Path) -> None:
        assert "cannot be read (No such file or directory)" in refused(tmp_path / "none.txt")

    def test_another_column(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"id": ["a"]}), tmp_path / "mine.parquet")
        assert "has no column key, but id: rename the column of keys to key" in refused(tmp_path / "mine.parquet")

    def test_numbers(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"uid": [1]}), tmp_path / "mine.parquet")
        assert "its column uid is int64" in refused(tmp_path / "mine.parquet")


def test_the_first_list_gives_the_reason(tmp_path: Path) -> None:
    repeats = write_repeats(tmp_path / "repeats", SHARDS, ["a", "d"])
    overlap = write_overlap(tmp_path / "overlap", SHARDS, PAIRS)
    decide(overlap, 0.75)
    (tmp_path / "mine.txt").write_text("d\ne")
    assert dropped(repeats, overlap, tmp_path / "mine.txt") == {
        "a": "repeat_exact",
        "c": "overlap",
        "d": "repeat_exact",
        "e": "listed",
    }
    assert dropped(tmp_path / "mine.txt", overlap, repeats) == {
        "a": "overlap",
        "c": "overlap",
        "d": "listed",
        "e": "listed",
    }


@pytest.mark.parametrize("manifest", [{"kind": "embeddings"}, {"shards": []}])
def test_a_directory_of_another_kind(tmp_path: Path, manifest: dict[str, object]) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert "give the --output of `gesso match` or `gesso repeats`, or a file of keys" in refused(tmp_path)


def test_an_unfinished_directory(tmp_path: Path) -> None:
    assert "holds no finished overlap or repeats" in refused(tmp_path)


def test_a_reader_looks_at_its_range_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("b\nc\nx")
    path = str(tmp_path / "dropped.parquet")
    drop_lists.write(drop_lists.union([drop_lists.read(str(tmp_path / "mine.txt"), SOURCE)]), path)
    found = drop_lists.reasons_of(pa.array(["d", "b", "a", "c"]), path)
    assert found.to_pylist() == [None, "listed", None, "listed"]
