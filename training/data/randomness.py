"""Random numbers that depend on what they are for, never on who draws them or when. numpy alone."""

from hashlib import blake2b

import numpy as np


def seed_of(purpose: str, seed: int, number: int, key: str) -> int:
    """63 bits of (purpose, run's seed, epoch or view, sample's uid): the same on every machine and process."""
    text = f"{purpose}/{seed}/{number}/{key}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def random_of(purpose: str, seed: int, number: int, key: str) -> np.random.Generator:
    return np.random.default_rng(seed_of(purpose, seed, number, key))
