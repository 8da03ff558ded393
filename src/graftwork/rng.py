"""Random numbers that depend on what they are for, not on when they are drawn.

Every (seed, tensor name, model) has a *key*: the 8 bytes of ``blake2b`` (little-endian, personalised ``graftwork-rng-1``) over the UTF-8
text ``"<seed>:<model>:<name>"``, seed and model written in decimal. Every key has a stream, one number for every element of the
tensor in row-major order::

    u(j) = mix(key + (j + 1) · 0x9E3779B97F4A7C15)  mod 2⁶⁴
    mix(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31

which is the (j + 1)-th output of SplitMix64 seeded with the key (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"). Since u(j) needs no u(j - 1), blocks can be drawn in any order by any thread, and a mask is the same whatever
the block size. An element is kept with probability p iff ``u(j) >> 11 < p · 2⁵³``.
"""

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

INCREMENT = 0x9E3779B97F4A7C15
"""What SplitMix64 adds to its state at every step: 2⁶⁴ divided by the golden ratio, made odd."""


def key(seed: int, name: str, model: int) -> np.uint64:
    """Return the key of one model's random stream for the tensor `name`; `model` counts from 0."""
    text = f"{seed}:{model}:{name}".encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"graftwork-rng-1").digest(), "little"))


def stream(key: np.uint64, start: int, size: int) -> NDArray[np.uint64]:
    """Return u(start) … u(start + size - 1) of a key; the compiled loops draw the same numbers without storing them."""
    steps = np.arange(start + 1, start + size + 1, dtype=np.uint64)
    z = np.uint64(key) + steps * np.uint64(INCREMENT)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[Any] = z ^ (z >> np.uint64(31))
    return mixed


def bound(probability: float) -> np.uint64:
    """Return the least integer that ``u >> 11`` must stay below to be kept with a probability in [0, 1]."""
    return np.uint64(math.ceil(probability * 2.0**53))
