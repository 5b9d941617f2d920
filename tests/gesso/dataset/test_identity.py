"""What ties outputs to inputs: paths as hints, records of one content, what differs in words."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gesso.dataset import identity
from gesso.dataset.identity import differing, hint, published, resolve, same

SHARDS = {"kind": "shards", "path": "/old/raw", "manifest_sha256": "a" * 64, "samples": 36}
FOREIGN = {"kind": "shards", "path": "/old/raw", "manifest_sha256": None, "samples": 36}  # of an earlier version


@pytest.mark.parametrize(
    ("path", "output", "told", "shown"),
    [
        ("/data/raw", "/data/overlap", "../raw", "../raw"),
        ("/data/raw/", "/data/a/b/overlap/", "../../../raw", "../../../raw"),
        ("/data/raw", "/data/a/b/c/overlap", "/data/raw", "raw"),
        ("/data/raw/sub", "/data/raw", "sub", "sub"),
        ("/data/raw", "/scratch/overlap", "/data/raw", "raw"),
        ("gs://bucket/raw", "/data/overlap", "gs://bucket/raw", "gs://bucket/raw"),
        ("/data/raw", "gs://bucket/overlap", "/data/raw", "raw"),
        ("file:///data/raw", "/data/overlap", "../raw", "../raw"),
        ("/", "/data/overlap", "/", "/"),
    ],
)
def test_hints(path: str, output: str, told: str, shown: str) -> None:
    assert (hint(path, output), published(path, output)) == (told, shown)


def test_a_hint_leads_back_also_after_a_move(tmp_path: Path) -> None:
    assert resolve("../raw", "/data/overlap") == "/data/raw"
    assert resolve("/data/raw", "/elsewhere") == "/data/raw"
    assert resolve("gs://bucket/raw", "/data") == "gs://bucket/raw"
    (tmp_path / "real/overlap").mkdir(parents=True)
    (tmp_path / "real/raw").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/overlap")
    assert resolve("../raw", str(tmp_path / "link")) == str(tmp_path / "real/raw")


def test_all_paths_of_a_value() -> None:
    value = {"input": [{"path": "/d/raw", "shards": 3}], "embeddings": "/d/e", "shards": "/d/raw", "n": "/d/x"}
    assert identity.with_paths(value, partial(hint, output="/d/out")) == {
        "input": [{"path": "../raw", "shards": 3}],
        "embeddings": "../e",
        "shards": "../raw",
        "n": "/d/x",
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"path": "/new/raw"}, True),
        ({"manifest_sha256": "b" * 64}, False),
        ({"path": "/new/raw", "samples": 37}, False),
        ({"kind": "list"}, False),
    ],
)
def test_a_checksum_decides_where_there_is_one(changes: dict[str, Any], expected: bool) -> None:
    assert same(SHARDS, {**SHARDS, **changes}, "/out") is expected


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"path": "/old/raw"}, True),
        ({"path": "/old/../old/raw/"}, True),
        ({"path": "/new/raw"}, False),
        ({"path": "/old/raw", "samples": 37}, False),
    ],
)
def test_the_path_decides_where_an_earlier_version_told_no_checksum(new: dict[str, Any], expected: bool) -> None:
    assert same(FOREIGN, {**FOREIGN, "files_sha256": "c" * 64, **new}, "/out") is expected


def test_relative_paths_are_those_of_the_output_or_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = {"path": str(tmp_path / "raw")}
    assert same({"path": "../raw"}, new, str(tmp_path / "out"))
    assert same({"path": "raw"}, new, str(tmp_path / "out"))
    assert not same({"path": "other"}, new, str(tmp_path / "out"))


def test_lists_that_one_side_lacks_are_a_difference() -> None:
    exact = {"kind": "repeats", "path": "r", "exact_sha256": "a" * 64}
    assert not same(exact, {**exact, "near_sha256": "b" * 64}, "/out")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ([SHARDS], [{**SHARDS, "path": "/new/raw"}], []),
        (
            [SHARDS],
            [{**SHARDS, "manifest_sha256": "b" * 64, "samples": 1_040}],
            ["/old/raw is not the same shards (36 samples then, 1,040 now)"],
        ),
        (
            [SHARDS],
            [{**SHARDS, "path": "/new/fresh", "manifest_sha256": "b" * 64}],
            [
                "/new/fresh in the place of /old/raw is not the same shards "
                "(manifest_sha256 aaaaaaaaaaaa… then, bbbbbbbbbbbb… now)"
            ],
        ),
        (
            [FOREIGN],
            [{**FOREIGN, "path": "/new/raw", "files_sha256": "c" * 64}],
            ["/new/raw is not the same shards (then in /old/raw, without a checksum to know it by)"],
        ),
        ([SHARDS, {"path": "a", "sha256": "d"}], [SHARDS], ["a was given, now it is not"]),
        ([SHARDS], [SHARDS, {"path": "a", "sha256": "d"}], ["a is given, it was not"]),
        (
            [{"path": "a", "sha256": "d"}, {"path": "b", "sha256": "e"}],
            [{"path": "b", "sha256": "e"}, {"path": "a", "sha256": "d"}],
            ["the same in another order, or more than once"],
        ),
    ],
)
def test_what_differs_in_words(old: list[dict[str, Any]], new: list[dict[str, Any]], words: list[str]) -> None:
    assert differing(old, new, "/out") == words
