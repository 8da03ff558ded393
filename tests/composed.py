"""Making compositions in tests: from skeletons and from copies, which must agree."""

import json
import tempfile
from pathlib import Path

import keras
import numpy as np

from graftwork.compose import Member, get
from graftwork.models.copying import copy_model
from graftwork.models.skeleton import skeleton, weightless


def compose(kind, *models, called="ab", **options):
    """Compose copies of live models, once from their skeletons as a plan does; both must come out the same."""
    verb = get(kind)(**options)
    with weightless():
        planned = verb.compose([Member(name=name, model=skeleton(m)) for name, m in zip(called, models, strict=False)])
    made = verb.compose([Member(name=name, model=copy_model(m)) for name, m in zip(called, models, strict=False)])
    assert planned.notes == made.notes
    for one, other in [(planned.model, made.model), *((planned.more[key], made.more[key]) for key in made.more)]:
        assert config(one) == config(other)
    return made


def config(model):
    return json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True, default=str)


def reloaded(model):
    """Return a model after saving and loading it with nothing but Keras's own classes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return keras.saving.load_model(path)


def same(one, other):
    """Assert that two structures of tensors are equal to the last bit, keys included."""
    keras.tree.assert_same_structure(one, other)
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def check(made, *values):
    """Assert that a composition gives what its reference says, before and after it is saved."""
    assert made.exact
    for value in values:
        out = made.model(value)
        same(made.reference(value), out)
        same(reloaded(made.model)(value), out)
    return made.model
