"""A person's decision on an overlap, decision.json: a threshold, and verdicts on single pairs that outweigh it.

    judged pair     its verdict holds, whatever the threshold
    other pair      a duplicate where similarity ≥ threshold
    from these      the training samples to drop (of any duplicate pair, at any rank)
                    the references to leave out (those with a duplicate pair)

Similarities are float32 and thresholds float64: both are compared as float64, here as on the page.
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

DECISION = "decision.json"
KIND = "decision"
FORMAT = 1
DUPLICATE, DIFFERENT = "duplicate", "different"
VERDICTS = (DUPLICATE, DIFFERENT)
BETWEEN = "\0"  # a pair's two keys as one text; no file name holds it
Z = 1.959963984540054  # standard normal quantile of 0.975: two-sided intervals of 95%
FIELDS: dict[str, Any] = {
    "threshold": (int, float),
    "overrides": list,
    "who": str,
    "when": str,
    "model": dict,
    "matches_sha256": str,
}


class Override(NamedTuple):
    """A person's verdict on one pair: `duplicate` or `different`."""

    reference_key: str
    uid: str
    verdict: str


@dataclass(frozen=True)
class Decision:
    """What was decided, by whom and when (ISO-8601 in UTC), on which matches. Overrides are sorted, one a pair."""

    threshold: float  # cosine similarity from -1 to 1
    overrides: tuple[Override, ...]
    who: str
    when: str
    model: Json
    matches_sha256: str

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise UserError(f"the threshold is {self.threshold}: give a cosine similarity from -1 to 1")
        if not self.who.strip():
            raise UserError("nobody is named as the one who decided: give a name")
        verdicts = sorted({item.verdict for item in self.overrides} - set(VERDICTS))
        if verdicts:
            raise UserError(f"a verdict is {verdicts[0]!r}: give one of {', '.join(VERDICTS)}")
        pairs = [item[:2] for item in self.overrides]
        twice = next((one for one, other in pairwise(pairs) if one == other), None)
        if twice:
            raise UserError(f"two verdicts stand on {twice[0]!r} and {twice[1]!r}: leave one")
        assert pairs == sorted(pairs), "overrides are not sorted"


class Duplicates(NamedTuple):
    """What follows from a decision."""

    pairs: Mask  # a row of the matches: is it a duplicate?
    uids: list[str]  # training samples to drop, sorted
    references: list[str]  # reference keys to leave out, sorted


class Share(NamedTuple):
    """`hits` of `total`, and the interval of 95% of the share behind them (Wilson's score interval)."""

    hits: int
    total: int
    low: float
    high: float


class Judged(NamedTuple):
    """How the threshold alone agrees with the pairs that were judged."""

    precision: Share  # judged duplicates among the judged pairs at or over the threshold
    misses: Share  # judged duplicates under the threshold among all judged duplicates


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def with_threshold(overlap: Overlap, old: Decision | None, threshold: float, who: str) -> Decision:
    """A threshold with the verdicts that there are, decided now; the old decision where it says the same."""
    if old and (old.threshold, old.who) == (threshold, who):
        return old
    return Decision(threshold, old.overrides if old else (), who, now(), overlap.model, overlap.sha256)


def to_json(decision: Decision) -> Json:
    return {
        "format": FORMAT,
        "kind": KIND,
        "threshold": decision.threshold,
        "overrides": [item._asdict() for item in decision.overrides],
        "who": decision.who,
        "when": decision.when,
        "model": decision.model,
        "matches_sha256": decision.matches_sha256,
    }


def from_json(value: Any, source: str) -> Decision:
    """Raises UserError, naming `source`, where the value is no decision."""
    if not isinstance(value, dict) or value.get("kind") != KIND or value.get("format") != FORMAT:
        raise UserError(
            f"{source} is no decision of format {FORMAT}: give a decision.json that `gesso review` has written"
        )
    for name, kinds in FIELDS.items():
        if not isinstance(value.get(name), kinds) or isinstance(value[name], bool):
            raise UserError(
                f"{source}: {name} is {value.get(name)!r}: give a decision.json that `gesso review` has written"
            )
    try:
        overrides = tuple(sorted(override(item) for item in value["overrides"]))
        rest = {name: value[name] for name in ("who", "when", "model", "matches_sha256")}
        return Decision(threshold=float(value["threshold"]), overrides=overrides, **rest)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def override(value: Any) -> Override:
    names = Override._fields
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in names):
        raise UserError(f"a verdict is {value!r}: give texts for {', '.join(names)}")
    return Override(*(value[name] for name in names))


def read(path: str, overlap: Overlap) -> Decision:
    """The decision of a file, if it is one on these matches. Raises UserError."""
    try:
        value = storage.read_json(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give another file") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): give a decision.json that `gesso review` has written") from error
    return checked(from_json(value, path), overlap, path)


def checked(decision: Decision, overlap: Overlap, source: str) -> Decision:
    """The decision itself. Raises UserError where it was made for another model, or on other pairs."""
    if decision.model != overlap.model:
        theirs, ours = (json.dumps(model, sort_keys=True) for model in (decision.model, overlap.model))
        raise UserError(f"{source} was decided for the model {theirs}, but {overlap.path} is of {ours}: decide anew")
    if decision.matches_sha256 != overlap.sha256:
        raise UserError(
            f"{source} was decided on other matches (sha256 {decision.matches_sha256[:12]}…) than those of "
            f"{overlap.path} ({overlap.sha256[:12]}…): decide anew"
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
    """Which rows of the matches are duplicates, and what that drops and leaves out."""
    mask = similarities(matches) >= decision.threshold
    rows = rows_of(matches, decision)
    mask[rows] = is_duplicate(decision)
    uids, references = (pc.unique(matches[name].filter(pa.array(mask))) for name in ("uid", "reference_key"))
    return Duplicates(mask, sorted(uids.to_pylist()), sorted(references.to_pylist()))


def judged(matches: pa.Table, decision: Decision) -> Judged:
    """Precision and misses of the threshold among the pairs that were judged, which are no random sample."""
    over = similarities(matches)[rows_of(matches, decision)] >= decision.threshold
    duplicate = is_duplicate(decision)
    return Judged(
        precision=share(int((over & duplicate).sum()), int(over.sum())),
        misses=share(int((~over & duplicate).sum()), int(duplicate.sum())),
    )


def similarities(matches: pa.Table) -> npt.NDArray[np.float64]:
    return matches["similarity"].to_numpy().astype(np.float64)


def rows_of(matches: pa.Table, decision: Decision) -> npt.NDArray[np.int64]:
    """The row of each override's pair; -1 where the matches do not hold it."""
    found = np.full(len(decision.overrides), -1, np.int64)
    wanted = pa.array([item.reference_key + BETWEEN + item.uid for item in decision.overrides], pa.string())
    candidates = np.flatnonzero(
        pc.is_in(matches["uid"], value_set=pa.array([item.uid for item in decision.overrides], pa.string()))
    )
    some = matches.select(["reference_key", "uid"]).take(pa.array(candidates))
    places = pc.index_in(pc.binary_join_element_wise(some["reference_key"], some["uid"], BETWEEN), value_set=wanted)
    known = places.is_valid().to_numpy()
    found[places.drop_null().to_numpy()] = candidates[known]
    return found


def is_duplicate(decision: Decision) -> Mask:
    return np.array([item.verdict == DUPLICATE for item in decision.overrides], dtype=np.bool_)


def share(hits: int, total: int) -> Share:
    """Wilson's score interval (1927), which stays within [0, 1] and holds where few or all are hits; [0, 1] of none."""
    if not total:
        return Share(0, 0, 0.0, 1.0)
    part, weight = hits / total, Z * Z / total
    middle = (part + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(part * (1 - part) / total + weight / (4 * total))
    return Share(hits, total, max(0.0, middle - half), min(1.0, middle + half))
