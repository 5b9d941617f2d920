"""What a decision says, what follows from it, and which files are none."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup import decision, overlap
from gesso.dedup.decision import Decision, Override, Share
from gesso.dedup.overlap import Overlap
from gesso.errors import UserError
from tests.reviews import MODEL, write_tiny

SHA256 = "cd" * 32
PAIRS = [  # reference, rank, training sample, similarity
    ("a", 1, "s1", 0.9),
    ("a", 2, "s2", 0.8),
    ("b", 1, "s2", 0.7),
    ("b", 2, "s3", 0.5),
    ("c", 1, "s4", 0.25),
]


def matches(pairs: list[tuple[str, int, str, float]] = PAIRS) -> pa.Table:
    rows = [
        {
            "reference_key": key,
            "rank": rank,
            "uid": sample,
            "similarity": similarity,
            "shard": 0,
            "phash_distance": None,
            "reference_view": 0,
        }
        for key, rank, sample, similarity in pairs
    ]
    return pa.Table.from_pylist(rows, pa.schema(MATCH_FIELDS))


def found(table: pa.Table | None = None) -> Overlap:
    manifest = {"model": MODEL, "files": {"matches.parquet": {"sha256": SHA256}}}
    return Overlap("data/overlap", manifest, matches() if table is None else table)


def decided(threshold: float, *overrides: tuple[str, str, str]) -> Decision:
    sorted_ones = tuple(sorted(Override(*item) for item in overrides))
    return Decision(threshold, sorted_ones, "Ada", "2026-11-24T12:00:00+00:00", MODEL, SHA256)


def as_json(**changes: Any) -> dict[str, Any]:
    return {**decision.to_json(decided(0.75, ("a", "s2", "different"))), **changes}


class TestDuplicates:
    def test_at_the_threshold_and_over(self) -> None:
        result = decision.duplicates(matches(), decided(0.5))
        assert result.pairs.tolist() == [True, True, True, True, False]
        assert result.samples == ["s1", "s2", "s3"]
        assert result.references == ["a", "b"]

    def test_similarities_are_compared_as_float64(self) -> None:
        table = matches([("a", 1, "s1", 0.9)])  # stands in the table as 0.89999998
        assert decision.duplicates(table, decided(0.9)).samples == []
        assert decision.duplicates(table, decided(float(np.float32(0.9)))).samples == ["s1"]

    def test_a_verdict_outweighs_the_threshold(self) -> None:
        result = decision.duplicates(matches(), decided(0.75, ("a", "s1", "different"), ("c", "s4", "duplicate")))
        assert result.pairs.tolist() == [False, True, False, False, True]
        assert result.samples == ["s2", "s4"]
        assert result.references == ["a", "c"]

    def test_a_verdict_is_of_one_pair(self) -> None:
        result = decision.duplicates(matches(), decided(0.75, ("a", "s2", "different")))
        assert (result.samples, result.references) == (["s1"], ["a"])
        result = decision.duplicates(matches(), decided(0.95, ("b", "s2", "duplicate")))
        assert (result.samples, result.references) == (["s2"], ["b"])

    def test_of_no_pair(self) -> None:
        result = decision.duplicates(matches([]), decided(0.5))
        assert (result.pairs.tolist(), result.samples, result.references) == ([], [], [])

    def test_many_at_random_as_one_by_one(self) -> None:
        random = np.random.default_rng(3)
        pairs = [(f"r{n // 4:03d}", n % 4 + 1, f"s{random.integers(90)}-{n % 4}", random.random()) for n in range(400)]
        table = matches(pairs)
        chosen = {pairs[n][0] + pairs[n][2]: pairs[n] for n in random.integers(0, 400, 60)}.values()
        verdicts = {(key, sample): bool(random.integers(2)) for key, _, sample, _ in chosen}
        words = {True: "duplicate", False: "different"}
        result = decision.duplicates(table, decided(0.6, *((*pair, words[said]) for pair, said in verdicts.items())))
        expected = [
            verdicts.get((row["reference_key"], row["uid"]), row["similarity"] >= 0.6) for row in table.to_pylist()
        ]
        assert result.pairs.tolist() == expected
        kept = [row for row, is_one in zip(table.to_pylist(), expected, strict=True) if is_one]
        assert result.samples == sorted({row["uid"] for row in kept})
        assert result.references == sorted({row["reference_key"] for row in kept})


class TestJudged:
    def test_precision_and_misses(self) -> None:
        verdicts = (
            ("a", "s1", "duplicate"),
            ("a", "s2", "different"),
            ("b", "s2", "duplicate"),
            ("c", "s4", "different"),
        )
        result = decision.judged(matches(), decided(0.75, *verdicts))
        assert (result.precision.hits, result.precision.total) == (1, 2)
        assert (result.misses.hits, result.misses.total) == (1, 2)

    def test_of_none(self) -> None:
        assert decision.judged(matches(), decided(0.5)) == (Share(0, 0, 0.0, 1.0), Share(0, 0, 0.0, 1.0))

    @pytest.mark.parametrize(
        ("hits", "total", "low", "high"),
        # Newcombe 1998, table I, method 3 (Wilson's score without continuity correction).
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
    )
    def test_wilsons_interval(self, hits: int, total: int, low: float, high: float) -> None:
        result = decision.share(hits, total)
        assert (round(result.low, 4), round(result.high, 4)) == (low, high)

    def test_all_hits(self) -> None:
        assert round(decision.share(10, 10).high, 12) == 1


class TestFile:
    def test_written_and_read(self, tmp_path: Path) -> None:
        path = str(tmp_path / "decision.json")
        made = decided(0.8125, ("c", "s4", "duplicate"), ("a", "s2", "different"))
        decision.write(path, made)
        assert decision.read(path, found()) == made
        assert json.loads(Path(path).read_text()) == {
            "format": 1,
            "kind": "decision",
            "threshold": 0.8125,
            "overrides": [
                {"reference_key": "a", "uid": "s2", "verdict": "different"},
                {"reference_key": "c", "uid": "s4", "verdict": "duplicate"},
            ],
            "who": "Ada",
            "when": "2026-11-24T12:00:00+00:00",
            "model": MODEL,
            "matches_sha256": SHA256,
            "views": 1,
        }

    def test_one_of_before_there_were_views(self) -> None:
        value = as_json()
        del value["views"]
        assert decision.from_json(value, "x.json") == decided(0.75, ("a", "s2", "different"))

    def test_verdicts_in_any_order(self) -> None:
        verdicts = as_json()["overrides"] + [{"reference_key": "a", "uid": "s1", "verdict": "duplicate"}]
        read = decision.from_json(as_json(overrides=verdicts), "x.json")
        assert [item.key for item in read.overrides] == ["s1", "s2"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kind": "matches"}, "x.json is not a decision of format 1: give a decision.json"),
            ({"format": 2}, "x.json is not a decision of format 1"),
            ({"threshold": "0.8"}, "x.json: threshold is '0.8'"),
            ({"threshold": True}, "x.json: threshold is True"),
            ({"threshold": 1.5}, "x.json: the threshold is 1.5: give a cosine similarity from -1 to 1"),
            ({"threshold": float("nan")}, "x.json: the threshold is nan"),
            ({"who": " "}, "x.json: the name of who decided is missing: give one"),
            ({"when": None}, "x.json: when is None"),
            ({"overrides": {}}, "x.json: overrides is {}"),
            ({"overrides": ["a"]}, "x.json: a verdict is 'a': give strings for reference_key, uid, verdict"),
            ({"overrides": [{"reference_key": "a", "uid": "s1", "verdict": "same"}]}, "x.json: a verdict is 'same'"),
        ],
    )
    def test_no_decision(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError) as raised:
            decision.from_json(as_json(**changes), "x.json")
        assert str(raised.value).startswith(message)
        assert "\n" not in str(raised.value)

    def test_two_verdicts_on_a_pair(self) -> None:
        verdicts = [{"reference_key": "a", "uid": "s1", "verdict": word} for word in ("different", "duplicate")]
        with pytest.raises(UserError, match="there are two verdicts on 'a' and 's1'"):
            decision.from_json(as_json(overrides=verdicts), "x.json")

    def test_no_object(self) -> None:
        with pytest.raises(UserError, match="is not a decision"):
            decision.from_json([1], "x.json")

    def test_no_json(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("{")
        with pytest.raises(UserError, match=r"x.json is not JSON \("):
            decision.read(str(tmp_path / "x.json"), found())

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"cannot be read .No such file"):
            decision.read(str(tmp_path / "x.json"), found())


class TestOtherMatches:
    def test_of_another_model(self) -> None:
        other = replace(decided(0.5), model={**MODEL, "name": "ViT-B-32"})
        with pytest.raises(UserError, match=r'x.json was made for the model .*"ViT-B-32".*: decide again'):
            decision.checked(other, found(), "x.json")

    def test_on_other_views(self) -> None:
        with pytest.raises(
            UserError, match=r"x.json was made on references in 6 views, but data/overlap has 1: decide"
        ):
            decision.checked(replace(decided(0.5), views=6), found(), "x.json")

    def test_of_other_matches(self) -> None:
        with pytest.raises(UserError, match=r"made on other matches .sha256 efefefefefef…. than those of data/overlap"):
            decision.checked(replace(decided(0.5), matches_sha256="ef" * 32), found(), "x.json")

    def test_of_a_pair_that_is_not_there(self) -> None:
        with pytest.raises(UserError, match=r"x.json judges the pair 'b' and 's1', which is not in data/overlap"):
            decision.checked(decided(0.5, ("a", "s1", "duplicate"), ("b", "s1", "duplicate")), found(), "x.json")


class TestWithThreshold:
    def test_the_first(self) -> None:
        made = decision.with_threshold(found(), None, 0.83, "Ada")
        assert (made.threshold, made.overrides, made.who, made.model, made.matches_sha256) == (
            0.83,
            (),
            "Ada",
            MODEL,
            SHA256,
        )

    def test_on_the_views_of_the_matches(self) -> None:
        manifest = {**found().manifest, "reference": {"views": 15}}
        assert decision.with_threshold(found()._replace(manifest=manifest), None, 0.83, "Ada").views == 15

    def test_keeps_the_verdicts(self) -> None:
        old = decided(0.5, ("a", "s2", "different"))
        assert decision.with_threshold(found(), old, 0.6, "Bob").overrides == old.overrides

    def test_without_a_name(self) -> None:
        with pytest.raises(UserError, match="the name of who decided is missing: give one"):
            decision.with_threshold(found(), None, 0.6, " ")

    def test_nothing_new(self) -> None:
        old = decided(0.5, ("a", "s2", "different"))
        assert decision.with_threshold(found(), old, 0.5, "Ada") is old


class TestOverlap:
    def test_reads_what_a_match_has_written(self, tmp_path: Path) -> None:
        read = overlap.read(write_tiny(tmp_path))
        assert read.model == MODEL
        assert read.matches.num_rows == 48
        assert read.matches.schema.names == [field.name for field in MATCH_FIELDS]

    def test_views(self, tmp_path: Path) -> None:
        read = overlap.read(write_tiny(tmp_path, views=6))
        assert read.views == 6
        assert read.matches["reference_view"].to_pylist() == [(n // 4 + n % 4) % 6 for n in range(48)]

    def test_matches_of_before_there_were_views(self, tmp_path: Path) -> None:
        folder = Path(write_tiny(tmp_path))
        now = overlap.read(str(folder))
        pq.write_table(now.matches.drop_columns(["reference_view"]), folder / "matches.parquet")
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["reference"]["views"]
        body = (folder / "matches.parquet").read_bytes()
        manifest["files"]["matches.parquet"]["sha256"] = hashlib.sha256(body).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        read = overlap.read(str(folder))
        assert (read.views, read.matches) == (1, now.matches)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no finished matches: give the --output of a finished `gesso match`"):
            overlap.read(str(tmp_path))

    def test_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_text('{"kind": "embeddings"}')
        with pytest.raises(UserError, match="holds embeddings, not matches"):
            overlap.read(str(tmp_path))

    def test_other_bytes_than_the_manifests(self, tmp_path: Path) -> None:
        path = Path(write_tiny(tmp_path)) / "matches.parquet"
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(UserError, match=r"matches.parquet differs from its manifest.json: run `gesso match`"):
            overlap.read(str(path.parent))

    def test_matches_are_gone(self, tmp_path: Path) -> None:
        path = Path(write_tiny(tmp_path)) / "matches.parquet"
        path.unlink()
        with pytest.raises(UserError, match=r"matches.parquet cannot be read .No such file"):
            overlap.read(str(path.parent))
