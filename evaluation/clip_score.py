"""CLIP score: how well pictures match their captions, by a contrastive model. numpy alone.

The mean of max(100 · cosine, 0) over pictures (Hessel et al., arXiv 2104.08718, at the scale of torchmetrics).
"""

import numpy as np

from gesso.evaluation.bootstrap import Estimate, Floats


def clip_score(cosines: Floats) -> Estimate:
    """Of the cosine similarities of each picture and its caption, (n,)."""
    scores = 100 * np.maximum(cosines, 0)
    return Estimate(float(scores.mean()), (scores - scores.mean(),))
