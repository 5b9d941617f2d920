"""The first threshold that the page proposes, and why: Otsu's where the similarities part, else a benchmark's. No Beam.

Otsu (1979) parts the similarities of the references' nearest samples into two groups so that as much as possible of
their variance lies between the groups. That share tells whether there are two groups at all: cutting one normal
distribution in two gives 64%, a uniform one 75%.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gesso.dedup.overlap import Overlap

FEWEST = 10  # references in each of the two groups
PARTED = 0.8  # share of the variance between two groups that are apart
SHIPPED_SHA256 = "7d43522ab0803b91056810bba4c164c432dfcc4c9f3bdd4182211e1d2afc0e2a"  # weights/detector.safetensors


class Benchmark(NamedTuple):
    """What was measured of the shipped detector at 0.1% false positives: docs/benchmarks.md."""

    threshold: float
    found: int  # %


BENCHMARK = {1: Benchmark(0.745, 97), 6: Benchmark(0.760, 99), 15: Benchmark(0.762, 99)}  # by views of a reference


class Suggestion(NamedTuple):
    """A threshold, None where there is too little to suggest one, and the reason, one sentence."""

    threshold: float | None
    reason: str

    def __str__(self) -> str:
        value = "none" if self.threshold is None else f"{self.threshold:g}"
        return f"suggested threshold: {value}. {self.reason}"


class Parts(NamedTuple):
    """Sorted similarities in two groups."""

    under: int  # how many are in the lower group
    low: float  # the highest of the lower group
    high: float  # the lowest of the upper group
    share: float  # of the variance, between the groups


def suggest(overlap: Overlap) -> Suggestion:
    """The threshold for these matches: where the references part, else what the shipped detector was measured at."""
    matches = overlap.matches
    nearest = np.sort(matches["similarity"].filter(pc.equal(matches["rank"], 1)).to_numpy().astype(np.float64))
    if len(nearest) < 2 * FEWEST:
        return from_benchmark(overlap, f"{len(nearest):,} references are too few to see where they part.")
    parts = otsu(nearest)
    over = len(nearest) - parts.under
    if parts.share < PARTED or min(over, parts.under) < FEWEST:
        why = f"{parts.share:.0%} of the variance lies between the {parts.under:,} and {over:,} of Otsu's threshold"
        return from_benchmark(overlap, f"The {len(nearest):,} references do not part into two groups ({why}).")
    groups = f"{over:,} have a sample at {parts.high:.3f} or more, {parts.under:,} only up to {parts.low:.3f}"
    reason = f"Where the references part (Otsu): {groups}; {parts.share:.0%} of the variance lies between them."
    return Suggestion(round((parts.low + parts.high) / 2, 2), reason)


def from_benchmark(overlap: Overlap, why: str) -> Suggestion:
    """For matches of the shipped detector the threshold of its benchmark, for others none."""
    if overlap.model.get("sha256") != SHIPPED_SHA256:
        return Suggestion(None, why)
    measured = BENCHMARK[overlap.views]
    in_views = f" in {overlap.views} views of each reference" if overlap.views > 1 else ""
    text = f"the shipped detector found {measured.found}% of altered copies here{in_views}, at 0.1% false matches"
    return Suggestion(measured.threshold, f"{why} In its benchmark {text}.")


def otsu(ordered: npt.NDArray[np.float64]) -> Parts:
    """The two groups of two or more ascending values with the most variance between them."""
    total, under = len(ordered), np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    means = sums[:-1] / under, (sums[-1] - sums[:-1]) / (total - under)
    between = under * (total - under) / total**2 * (means[1] - means[0]) ** 2
    at = int(np.argmax(between))
    share = between[at] / ordered.var() if ordered[0] < ordered[-1] else 0.0
    return Parts(at + 1, float(ordered[at]), float(ordered[at + 1]), float(share))
