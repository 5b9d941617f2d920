"""Inception Score of a set of class logits, and each picture's influence on it. numpy alone, float64.

The mean over 10 random splits of exp(mean KL(p(y|x) ‖ p(y))), p(y) the mean of the split (Salimans et al., arXiv
1606.03498). The logits leave out the classifier's bias, as those of the authors' graph do. n pictures, c classes.
"""

import numpy as np

from gesso.evaluation.bootstrap import Estimate, Floats

SPLITS = 10


def inception_score(logits: Floats, seed: int) -> Estimate:
    """Of logits (n, c), n ≥ 10, in splits of a random order: with the same seed those of torch-fidelity."""
    count = len(logits)
    order = np.random.RandomState(seed).permutation(count)
    influences, scores = np.zeros(count), []
    for number in range(SPLITS):
        chosen = order[number * count // SPLITS : (number + 1) * count // SPLITS]
        divergences = divergence(logits[chosen])
        scores.append(np.exp(divergences.mean()))
        influences[chosen] = (divergences - divergences.mean()) * scores[-1] * count / (SPLITS * len(chosen))
    return Estimate(float(np.mean(scores)), (influences,))


def divergence(logits: Floats) -> Floats:
    """KL of each picture's class distribution from their mean, in nats, (n,)."""
    logs = logits - logits.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    told = np.exp(logs)
    return np.asarray((told * (logs - np.log(told.mean(0)))).sum(1))
