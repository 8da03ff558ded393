"""Making compositions in tests: from live models and, the same again, from skeletons."""

from pathlib import Path

import numpy as np

from graftwork.compose import Composed, Member
from graftwork.models import copying, skeleton


def compose(verb, models, classes=None) -> Composed:
    """Return what a verb makes of models by name; its dry run must say the same.

    Args:
        verb: The verb.
        models: Live models by name, which are copied.
        classes: Names of members' classes as known from their sources, by member.
    """
    known = classes or {}
    made = verb.compose(
        [
            Member(name=name, model=copying.copy_model(model, name), classes=known.get(name))
            for name, model in models.items()
        ]
    )
    with skeleton.weightless():
        dry = verb.compose(
            [
                Member(name=name, model=skeleton.skeleton(model, name=name), classes=known.get(name))
                for name, model in models.items()
            ]
        )
    assert dry.model.output_shape == made.model.output_shape
    assert dry.model.input_shape == made.model.input_shape
    assert [(tuple(v.shape), v.dtype) for v in dry.model.weights] == [
        (tuple(v.shape), v.dtype) for v in made.model.weights
    ]
    assert (dry.notes, dry.tables, dry.classes) == (made.notes, made.tables, made.classes)
    return made


def reloaded(model, folder: Path):
    """Return a model saved and loaded with nothing but Keras."""
    import keras

    path = folder / "reloaded.keras"
    model.save(path)
    return keras.saving.load_model(path)


def same(a, b) -> bool:
    """Return whether structures of arrays are equal to the last bit, NaN for NaN."""
    import keras

    flat = [keras.tree.flatten(each) for each in (a, b)]
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in zip(*flat, strict=True))
