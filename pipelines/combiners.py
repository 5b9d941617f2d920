"""Counts of what becomes of records: summed by Beam, and shown as its metrics."""

from collections import Counter
from collections.abc import Iterable

from apache_beam.metrics import Metrics

NAMESPACE = "gesso"
COUNTS = "counts"

Counts = dict[str, int]  # Beam's coders make one of a Counter  # Beam's coders make one of a Counter


def count(counts: Counts) -> None:
    """Adds to Beam's counters of the same names; each name is counted on one step alone."""
    for name, number in counts.items():
        Metrics.counter(NAMESPACE, name).inc(number)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of many counts: associative and commutative, a Beam combine."""
    result = Counter[str]()
    for item in counts:
        result.update(item)
    return dict(result)
