"""The figures of two sides at one radius, from what the models tell of their pictures. numpy alone.

{"value": 27.5, "low": 26.9, "high": 28.1}      the 95% interval by bootstrap; None where a figure cannot be had
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gesso.evaluation.bootstrap import Estimate, Floats, interval
from gesso.evaluation.clip_score import clip_score
from gesso.evaluation.fid import frechet_distance
from gesso.evaluation.inception_score import SPLITS, inception_score
from gesso.evaluation.kid import kernel_distance

Figure = dict[str, float]
Rows = npt.NDArray[np.float32]

NAMES = {"fid": "FID", "inception_score": "Inception Score", "kid": "KID", "clip_score": "CLIP score"}


class Rated(NamedTuple):
    """What is rated: features of both sides, (n, d) and (m, d), and of the generated one what else there is."""

    generated: Rows
    reference: Rows
    classifier: Floats | None  # (classes, d)
    cosines: Rows | None  # (n, 1), with each picture's caption


def measure(rated: Rated, resamples: int, seed: int) -> dict[str, Figure | None]:
    """Each of `NAMES` with its interval. Both sides have two pictures or more."""
    generated, reference = rated.generated.astype(np.float64), rated.reference.astype(np.float64)
    estimates: dict[str, Estimate | None] = {
        "fid": frechet_distance(generated, reference),
        "inception_score": None,
        "kid": kernel_distance(generated, reference),
        "clip_score": None if rated.cosines is None else clip_score(rated.cosines[:, 0].astype(np.float64)),
    }
    if rated.classifier is not None and len(generated) >= SPLITS:
        estimates["inception_score"] = inception_score(generated @ rated.classifier.T, seed)
    return {name: estimate and figure(estimate, resamples, seed) for name, estimate in estimates.items()}


def figure(estimate: Estimate, resamples: int, seed: int) -> Figure:
    low, high = interval(estimate, resamples, seed)
    return {"value": estimate.value, "low": low, "high": high}
