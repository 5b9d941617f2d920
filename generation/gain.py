"""The gain of re-ranking: the expected best score among N candidates, against N (DALL-E paper, figure 6). numpy.

For each caption all subsets of N of its n candidates count alike: the value is exact, not drawn.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gesso import storage

Scores = npt.NDArray[np.floating]


class Gain(NamedTuple):
    """The best score among N candidates: its mean over captions, and the standard error of that mean."""

    candidates: list[int]  # N
    best: list[float]
    error: list[float]  # 0 for a single caption


def expected_best(scores: Scores) -> Gain:
    """`scores`: (c, n), of n candidates of each of c captions. For N = 1, 2, 4, … and n."""
    ordered = np.sort(np.asarray(scores, np.float64), axis=1)
    captions, n = ordered.shape
    counts = list(powers(n))
    best = np.stack([ordered @ weights(n, count) for count in counts], 1)  # (c, N)
    deviation = best.std(0, ddof=1) if captions > 1 else np.zeros(len(counts))
    return Gain(counts, best.mean(0).tolist(), (deviation / captions**0.5).tolist())


def powers(n: int) -> Iterator[int]:
    """1, 2, 4, … below n, and n."""
    count = 1
    while count < n:
        yield count
        count *= 2
    yield n


def weights(n: int, count: int) -> npt.NDArray[np.float64]:
    """How likely the k-th smallest of n is the best of `count` of them, (n,): C(k - 1, count - 1) / C(n, count).

    From the largest down, each is (k + 1 - count) / k of the one above it, so that nothing overflows.
    """
    above = np.arange(n - 1, 0, -1)  # k
    ratios = np.maximum(above + 1 - count, 0) / above
    return np.cumprod([count / n, *ratios])[::-1]


def draw(gain: Gain, path: str, ranker: str) -> None:
    """Writes the curve as a PNG: the score by `ranker` against N, the band one standard error to both sides."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    best, error = np.array(gain.best), np.array(gain.error)
    axes.fill_between(gain.candidates, best - error, best + error, alpha=0.2, linewidth=0)
    axes.plot(gain.candidates, best, marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks(gain.candidates, [str(count) for count in gain.candidates])
    axes.set_xlabel("candidates N")
    axes.set_ylabel(f"best score of N, by {ranker}")
    axes.grid(alpha=0.3)
    with storage.write_whole(path) as stream:
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
