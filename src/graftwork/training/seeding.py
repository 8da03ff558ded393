"""The states of random layers, fixed by a seed: a model that was loaded has others each time."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from graftwork import rng
from graftwork.models.configuration import layers_of


def seed_layers(model: Any, seed: int) -> None:
    """Give the random layers of a model (Dropout, noise, augmentation) states that a seed fixes.

    Args:
        model: A model that nobody else holds.
        seed: The seed.
    """
    for place, layer in enumerate(layers_of(model)):
        for number, generator in enumerate(layer._seed_generators):
            key = int(rng.key(seed, f"state {place} {number}", 0))
            generator.state.assign(np.array([key & 0xFFFFFFFF, key >> 32], np.uint32).astype(generator.state.dtype))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let new layers draw the same initial weights for the same seed; the generators that others use are left as they were.

    Args:
        seed: The seed.
    """
    kept = random.getstate()
    random.seed(seed)  # Keras's initializers and random layers take their seeds from here
    try:
        yield
    finally:
        random.setstate(kept)
