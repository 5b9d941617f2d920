"""A person's decision on an overlap, decision.json: a threshold, and verdicts on single pairs that override it.

    judged pair     its verdict counts, whatever the threshold
    other pair      a duplicate where similarity ≥ threshold

Duplicate pairs, at any rank, decide which training samples are dropped and which references are left out.
Without a name it is a draft, kept in decision.draft.json until somebody decides; nothing is dropped by a draft.
Similarities are float32 and thresholds float64: both are compared as float64, here and on the page.
"""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gesso import storage
from gesso.dedup.overlap import Overlap
from gesso.errors import UserError

Json = dict[str, Any]
Mask = npt.NDArray[np.bool_]

DECISION, DRAFT = "decision.json", "decision.draft.json"
KIND, DRAFT_KIND = "decision", "decision_draft"
FORMAT = 1
DUPLICATE, DIFFERENT = "duplicate", "different"
VERDICTS = (DUPLICATE, DIFFERENT)
SEPARATOR = "\0"  # joins the keys of a pair; no file name contains it
Z = 1.959963984540054  # standard normal quantile of 0.975: two-sided intervals of 95%
FIELDS: dict[str, Any] = {
    "threshold": (int, float),
    "overrides": list,
    "who": str,
    "when": str,
    "model": dict,
    "matches_sha256": str,
}


OVERRIDE_FIELDS = ("reference_key", "uid", "verdict")  # in decision.json


class Override(NamedTuple):
    """A person's verdict on one pair."""

    reference_key: str
    key: str  # of the training sample
    verdict: str  # `duplicate` or `different`


@dataclass(frozen=True)
class Decision:
    """The decision, by whom and when (ISO-8601 in UTC), on which matches. Overrides are sorted, one for each pair."""

    threshold: float  # cosine similarity from -1 to 1
    overrides: tuple[Override, ...]
    who: str  # empty: a draft
    when: str
    model: Json
    matches_sha256: str
    views: int = 1  # of each reference

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise UserError(f"the threshold is {self.threshold}: give a cosine similarity from -1 to 1")
        verdicts = sorted({item.verdict for item in self.overrides} - set(VERDICTS))
        if verdicts:
            raise UserError(f"a verdict is {verdicts[0]!r}: give one of {', '.join(VERDICTS)}")
        pairs = [item[:2] for item in self.overrides]
        repeated = next((one for one, other in pairwise(pairs) if one == other), None)
        if repeated:
            raise UserError(f"there are two verdicts on {repeated[0]!r} and {repeated[1]!r}: keep one")
        assert pairs == sorted(pairs), "overrides are not sorted"

    @property
    def is_draft(self) -> bool:
        return not self.who.strip()


class Duplicates(NamedTuple):
    """The consequences of a decision."""

    pairs: Mask  # (rows of the matches,): is the pair a duplicate?
    samples: list[str]  # keys of the training samples to drop, sorted
    references: list[str]  # keys of the references to leave out, sorted


class Share(NamedTuple):
    """`hits` of `total`, and the 95% interval of the proportion (Wilson's score interval)."""

    hits: int
    total: int
    low: float
    high: float


class Judged(NamedTuple):
    """How the threshold alone agrees with the pairs that were judged."""

    precision: Share  # duplicates among the judged pairs at or over the threshold
    misses: Share  # pairs under the threshold among the judged duplicates


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def with_threshold(overlap: Overlap, old: Decision | None, threshold: float, who: str) -> Decision:
    """The old verdicts with a new threshold, decided now; the old decision where nothing changes. Raises UserError."""
    if old and (old.threshold, old.who) == (threshold, who):
        return named(old)
    overrides = old.overrides if old else ()
    return named(Decision(threshold, overrides, who, now(), overlap.model, overlap.sha256, overlap.views))


def named(decision: Decision) -> Decision:
    """The decision itself. Raises UserError for a draft."""
    if decision.is_draft:
        raise UserError("the name of who decided is missing: give one")
    return decision


def to_json(decision: Decision) -> Json:
    return {
        "format": FORMAT,
        "kind": DRAFT_KIND if decision.is_draft else KIND,
        "threshold": decision.threshold,
        "overrides": [dict(zip(OVERRIDE_FIELDS, item, strict=True)) for item in decision.overrides],
        "who": decision.who,
        "when": decision.when,
        "model": decision.model,
        "matches_sha256": decision.matches_sha256,
        "views": decision.views,
    }


def from_json(value: Any, source: str, kind: str = KIND) -> Decision:
    """Raises UserError, which names `source`, where the value is not a decision, or a draft, as `kind` says."""
    if not isinstance(value, dict) or value.get("kind") != kind or value.get("format") != FORMAT:
        raise UserError(f"{source} is not a {kind} of format {FORMAT}: give a decision.json that `gesso review` wrote")
    for name, kinds in FIELDS.items():
        if not isinstance(value.get(name), kinds) or isinstance(value[name], bool):
            raise UserError(f"{source}: {name} is {value.get(name)!r}: give a decision.json that `gesso review` wrote")
    views = value.get("views", 1)  # a decision of before there were several does not tell
    try:
        overrides = tuple(sorted(parse_override(item) for item in value["overrides"]))
        rest = {name: value[name] for name in ("who", "when", "model", "matches_sha256")}
        made = Decision(threshold=float(value["threshold"]), overrides=overrides, views=views, **rest)
        return named(made) if kind == KIND else made
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def parse_override(value: Any) -> Override:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in OVERRIDE_FIELDS):
        raise UserError(f"a verdict is {value!r}: give strings for {', '.join(OVERRIDE_FIELDS)}")
    return Override(*(value[name] for name in OVERRIDE_FIELDS))


def read(path: str, overlap: Overlap, kind: str = KIND) -> Decision:
    """The decision in a file, or the draft. Raises UserError where there is none, or it was made on other matches."""
    try:
        value = storage.read_json(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give another file") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): give a decision.json that `gesso review` wrote") from error
    return checked(from_json(value, path, kind), overlap, path)


def read_latest(overlap: Overlap) -> Decision | None:
    """The draft, which is later than any decision, else the decision, if any. Raises UserError as `read` does."""
    for name, kind in ((DRAFT, DRAFT_KIND), (DECISION, KIND)):
        path = storage.join(overlap.path, name)
        if storage.exists(path):
            return read(path, overlap, kind)
    return None


def save(overlap: Overlap, decision: Decision) -> str:
    """Writes the file of a draft or a decision, which ends the draft; returns its path."""
    draft = storage.join(overlap.path, DRAFT)
    path = draft if decision.is_draft else storage.join(overlap.path, DECISION)
    write(path, decision)
    if path != draft and storage.exists(draft):
        storage.remove(draft)
    return path


def checked(decision: Decision, overlap: Overlap, source: str) -> Decision:
    """The decision itself. Raises UserError where it was made for another model, on other views or other matches."""
    if decision.model != overlap.model:
        theirs, ours = (json.dumps(model, sort_keys=True) for model in (decision.model, overlap.model))
        raise UserError(f"{source} was made for the model {theirs}, but {overlap.path} is of {ours}: decide again")
    if decision.views != overlap.views:
        raise UserError(
            f"{source} was made on references in {decision.views} views, but {overlap.path} has {overlap.views}: "
            "decide again"
        )
    if decision.matches_sha256 != overlap.sha256:
        raise UserError(
            f"{source} was made on other matches (sha256 {decision.matches_sha256[:12]}…) than those of "
            f"{overlap.path} ({overlap.sha256[:12]}…): decide again"
        )
    unknown = [
        item for item, row in zip(decision.overrides, rows_of(overlap.matches, decision), strict=True) if row < 0
    ]
    if unknown:
        raise UserError(
            f"{source} judges the pair {unknown[0][0]!r} and {unknown[0][1]!r}, which is not in {overlap.path}"
        )
    return decision


def write(path: str, decision: Decision) -> None:
    storage.write_json(path, to_json(decision))


def duplicates(matches: pa.Table, decision: Decision) -> Duplicates:
    """The duplicate pairs, and which samples and references they drop and leave out."""
    mask = similarities(matches) >= decision.threshold
    rows = rows_of(matches, decision)
    mask[rows] = is_duplicate(decision)
    samples, references = (pc.unique(matches[name].filter(pa.array(mask))) for name in ("uid", "reference_key"))
    return Duplicates(mask, sorted(samples.to_pylist()), sorted(references.to_pylist()))


def judged(matches: pa.Table, decision: Decision) -> Judged:
    """Precision and misses of the threshold among the judged pairs, which are not a random sample."""
    over = similarities(matches)[rows_of(matches, decision)] >= decision.threshold
    duplicate = is_duplicate(decision)
    return Judged(
        precision=share(int((over & duplicate).sum()), int(over.sum())),
        misses=share(int((~over & duplicate).sum()), int(duplicate.sum())),
    )


def similarities(matches: pa.Table) -> npt.NDArray[np.float64]:
    return matches["similarity"].to_numpy().astype(np.float64)


def rows_of(matches: pa.Table, decision: Decision) -> npt.NDArray[np.int64]:
    """The row of each override's pair; -1 where it is not in the matches."""
    found = np.full(len(decision.overrides), -1, np.int64)
    wanted = pa.array([item.reference_key + SEPARATOR + item.key for item in decision.overrides], pa.string())
    candidates = np.flatnonzero(
        pc.is_in(matches["uid"], value_set=pa.array([item.key for item in decision.overrides], pa.string()))
    )
    some = matches.select(["reference_key", "uid"]).take(pa.array(candidates))
    positions = pc.index_in(
        pc.binary_join_element_wise(some["reference_key"], some["uid"], SEPARATOR), value_set=wanted
    )
    known = positions.is_valid().to_numpy()
    found[positions.drop_null().to_numpy()] = candidates[known]
    return found


def is_duplicate(decision: Decision) -> Mask:
    return np.array([item.verdict == DUPLICATE for item in decision.overrides], dtype=np.bool_)


def share(hits: int, total: int) -> Share:
    """With Wilson's score interval (1927), which is valid for few hits or misses, too; [0, 1] where total is 0."""
    if not total:
        return Share(0, 0, 0.0, 1.0)
    part, weight = hits / total, Z * Z / total
    middle = (part + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(part * (1 - part) / total + weight / (4 * total))
    return Share(hits, total, max(0.0, middle - half), min(1.0, middle + half))
