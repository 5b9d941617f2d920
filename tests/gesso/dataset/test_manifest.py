"""The directory of a dataset: which shards are committed, the funnel, the manifest, refusals."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from gesso.dataset import manifest
from gesso.errors import UserError
from tests.datasets import write_dataset, write_shard


def test_a_shard_counts_when_its_marker_and_its_files_are_there(tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 5, 10, finished=False)
    assert list(manifest.committed(output)) == [0, 1, 2, 3, 4]
    (tmp_path / "00001_stats.json").unlink()
    (tmp_path / "00002.tar").write_bytes(b"")
    (tmp_path / "rejected/00003.thumbnails").unlink()
    assert list(manifest.committed(output)) == [0, 4]
    assert list(manifest.committed(output, frozenset({0}))) == [4]


def test_the_manifest_adds_up(tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 2, 20)
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["funnel"] == {
        "rows_read": 42,
        "success": 24,
        "repeat_pair": 2,
        "aspect_ratio": 4,
        "caption_too_short": 4,
        "http_404": 4,
        "timeout": 4,
    }
    assert sum(written["funnel"].values()) == 84
    assert written["samples"] == 24
    assert [(shard["index"], shard["count"], shard["successes"]) for shard in written["shards"]] == [
        (0, 20, 12),
        (1, 20, 12),
    ]
    markers = manifest.committed(output)
    assert [shard["files"] for shard in written["shards"]] == [markers[0]["files"], markers[1]["files"]]


def test_the_manifest_does_not_know_the_clock(tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 1, 10)
    before = (tmp_path / "manifest.json").read_bytes()
    marker = json.loads((tmp_path / "00000_stats.json").read_text())
    (tmp_path / "00000_stats.json").write_text(json.dumps({**marker, "start_time": 5.0, "duration": 9.0}))
    manifest.finish(output)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_finish_refuses_while_a_shard_is_missing(tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 3, 10, finished=False)
    (tmp_path / "00001.parquet").unlink()
    with pytest.raises(RuntimeError, match=re.escape("shards [1] are not committed")):
        manifest.finish(output)
    write_shard(output, 1, 10)
    manifest.finish(output)
    assert (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_damaged_marker_commits_nothing_and_a_damaged_plan_is_told(text: str, tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 2, 10)
    (tmp_path / "00001_stats.json").write_text(text, "latin-1")
    assert list(manifest.committed(output)) == [0]
    (tmp_path / "plan.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match=r"plan\.json is damaged: bring it back, or give another --output"):
        manifest.read_plan(output)


def test_finish_sweeps_what_killed_runs_left(tmp_path: Path) -> None:
    output = write_dataset(tmp_path, 1, 10, finished=False)
    (tmp_path / "00000.tar.tmp-0123456789ab").write_bytes(b"half")
    (tmp_path / ".progress").mkdir()
    (tmp_path / ".progress/00000.json.tmp-0123456789ab").write_bytes(b"half")
    (tmp_path / "rejected/00000.thumbnails.tmp-0123456789ab").write_bytes(b"half")
    manifest.finish(output)
    assert [str(path) for path in tmp_path.rglob("*.tmp-*")] == []


def test_notes_of_shards_under_way(tmp_path: Path) -> None:
    (tmp_path / ".progress").mkdir()
    (tmp_path / ".progress/00000.json").write_text('{"success": 3}')
    (tmp_path / ".progress/00001.json").write_text('{"success": 5, "http_404": 1}')
    assert manifest.progress_counts(str(tmp_path), frozenset({0})) == [Counter(success=5, http_404=1)]


def test_changed_settings_are_shown(tmp_path: Path) -> None:
    table = {"path": "a.csv", "bytes": 9}
    plan = {"settings": {"image_size": 384, "english": True}, "input": [table]}
    manifest.check_settings(plan, plan, "raw")
    record = {"settings": {"image_size": 256, "english": True}, "input": [{**table, "bytes": 10}]}
    with pytest.raises(UserError) as error:
        manifest.check_settings(plan, record, "raw")
    assert str(error.value) == (
        "raw was begun with other settings: image_size was 384, is 256; input: a.csv is not the same file "
        "(9 bytes then, 10 now); give the old ones to go on, or another --output to begin anew"
    )


def test_tables_are_the_same_by_name_size_and_hash() -> None:
    new = [{"name": "a.csv", "bytes": 9, "ends_sha256": "ab"}, {"name": "b.csv", "bytes": 5, "ends_sha256": "cd"}]
    former = [{"path": "x/b.csv", "bytes": 5}, {"path": "a.csv", "bytes": 9}]
    assert manifest.same_tables(new[::-1], new)
    assert manifest.same_tables(former, new)
    assert not manifest.same_tables(former[:1], new)
    assert not manifest.same_tables([{**former[0], "bytes": 6}, former[1]], new)
    assert not manifest.same_tables([{**new[0], "ends_sha256": "ef"}, new[1]], new)
    assert not manifest.same_tables([{"path": "raw", "kind": "shards"}], [{"path": "raw", "kind": "shards"}])


def test_an_unfinished_plan_makes_room_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/00007.plan").write_bytes(b"half a plan")
    (tmp_path / "plan.json.tmp-0123456789ab").write_bytes(b"{")
    manifest.clear_unfinished_plan(str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["plan"]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already holds notes\.txt"):
        manifest.clear_unfinished_plan(str(tmp_path))
