"""Random numbers keyed by purpose, seed, epoch and sample: the same on every process, in any order. numpy alone."""

from hashlib import blake2b

import numpy as np


def seed_of(purpose: str, seed: int, number: int, key: str) -> int:
    """A 63-bit hash of purpose, the run's seed, epoch or view number, and the sample's uid."""
    text = f"{purpose}/{seed}/{number}/{key}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def random_of(purpose: str, seed: int, number: int, key: str) -> np.random.Generator:
    """A generator with that seed."""
    return np.random.default_rng(seed_of(purpose, seed, number, key))
