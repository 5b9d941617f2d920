"""Counts of records by reason: summed by Beam, and reported as its metrics."""

from collections import Counter
from collections.abc import Iterable

from apache_beam.metrics import Metrics

NAMESPACE = "gesso"
COUNTS = "counts"

Counts = dict[str, int]  # Beam's coders turn a Counter into a dict


def count(counts: Counts) -> None:
    """Adds to Beam's counters of the same names; each name must be counted in one step only."""
    for name, number in counts.items():
        Metrics.counter(NAMESPACE, name).inc(number)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of many counts: associative and commutative, a Beam combine."""
    result = Counter[str]()
    for item in counts:
        result.update(item)
    return dict(result)
