"""Making compositions in tests: from copies of live models and, as a plan does, from their skeletons; both must come out the same."""

import json
import tempfile
from pathlib import Path

import keras
import numpy as np

from graftwork.compose import Composed, Member, get
from graftwork.models.copying import copy_model
from graftwork.models.skeleton import skeleton, weightless


def compose(verb, *models, classes=None, **options) -> Composed:
    """Return what a verb makes of copies of live models; its dry run must say the same.

    Args:
        verb: The verb, or its word with its options.
        *models: Live models, called a, b and so on; or one dictionary of them by name.
        classes: Names of members' classes as known from their sources, by member.
        **options: Of the verb, where it is a word.
    """
    verb = get(verb)(**options) if isinstance(verb, str) else verb
    named = models[0] if isinstance(models[0], dict) else dict(zip("abcdef", models, strict=False))
    known = classes or {}

    def members(made):
        return [Member(name=name, model=made(model), classes=known.get(name)) for name, model in named.items()]

    with weightless():
        planned = verb.compose(members(skeleton))
    made = verb.compose(members(copy_model))
    assert (planned.notes, planned.tables, planned.classes) == (made.notes, made.tables, made.classes)
    assert list(planned.more) == list(made.more)
    for one, other in zip([planned.model, *planned.more.values()], [made.model, *made.more.values()], strict=True):
        assert config(one) == config(other)
        assert [(tuple(v.shape), v.dtype) for v in one.weights] == [(tuple(v.shape), v.dtype) for v in other.weights]
    return made


def config(model):
    """Return a model's configuration as text."""
    return json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True, default=str)


def reloaded(model):
    """Return a model saved and loaded with nothing but Keras's own classes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return keras.saving.load_model(path)


def same(one, other):
    """Assert that two structures of tensors are equal to the last bit, keys included, NaN for NaN."""
    keras.tree.assert_same_structure(one, other)
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def check(made, *values):
    """Assert that a composition gives what its reference says, before and after it is saved, and return its model."""
    assert made.exact
    again = reloaded(made.model)
    for value in values:
        out = made.model(value)
        same(made.reference(value), out)
        same(again(value), out)
    return made.model
