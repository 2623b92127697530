"""Randomness keyed by what it is for: a draw depends on (seed, purpose, indices) and on nothing that ran before.

So a resumed run, another number of workers or another order of calls draws the same values.
"""

import hashlib

import numpy as np


def _entropy(seed: int, keys: tuple[int | str, ...]) -> list[int]:
    words = [seed]
    for key in keys:
        text = isinstance(key, str)
        words.append(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little") if text else key)
    return words


def rng(seed: int, *keys: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose, for example `rng(seed, "patch", step)`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_entropy(seed, keys))))
