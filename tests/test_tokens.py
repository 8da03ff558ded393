"""Numbers of words that no Embedding knows are refused: Keras fails, wraps around from the end, or gives zeros, as the device has it."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import graftwork as gw
from graftwork.errors import DataError
from graftwork.training.tokens import Known, vocabularies

pytestmark = pytest.mark.keras

X = np.arange(40).reshape(8, 5) % 9
Y = np.arange(8) % 2


def reader(words: int, name: str) -> keras.Model:
    """A classifier of texts, with its Embedding in a nested model and BatchNormalization behind it."""
    inner = keras.Input((5,), dtype="int32")
    encoder = keras.Model(inner, kl.Embedding(words, 3, name="words")(inner), name="encoder")
    given = keras.Input((5,), dtype="int32", name="text")
    x = kl.BatchNormalization()(encoder(given))
    return keras.Model(given, kl.Dense(2, "softmax")(kl.GlobalAveragePooling1D()(x)), name=name)


VERBS = {
    "evaluate": lambda model, x: gw.evaluate([model], (x, Y), timed=False),
    "evaluate a stream": lambda model, x: gw.evaluate([model], lambda: iter([(x, Y)]), timed=False),
    "finetune": lambda model, x: gw.finetune(model, data=(x, Y), epochs=1),
    "finetune in every epoch": lambda model, x: gw.finetune(model, data=(x, Y), epochs=1, cache=False),
    "finetune on a stream": lambda model, x: gw.finetune(model, data=lambda: iter([(x, Y)]), head=2, epochs=1),
    "teach": lambda model, x: gw.distill([model], reader(99, "student"), data=(x, Y), epochs=1),
    "learn": lambda model, x: gw.distill([reader(99, "teacher")], model, data=(x, Y), epochs=1),
    "learn from a stream": lambda model, x: gw.distill(
        [reader(99, "teacher")], model, data=lambda: iter([(x, Y)]), epochs=1
    ),
    "teach with a stream": lambda model, x: gw.distill(
        [model], reader(99, "student"), data=lambda: iter([(x, Y)]), epochs=1
    ),
    "forget": lambda model, x: gw.finetune(model, data=(X, Y), old=(x, Y), epochs=1),
    "fisher": lambda model, x: gw.fisher(model, (x, Y)),
    "gram": lambda model, x: gw.gram(model, x),
    "gram of a stream": lambda model, x: gw.gram(model, lambda: iter([(x, Y)])),
    "recalibrate": lambda model, x: gw.recalibrate(model, x),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_no_embedding_knows_is_refused(verb):
    """Too large and below zero, with the sample; what is known is evaluated as ever."""
    model = reader(9, "model")
    for wrong in (9, -1):
        x = X.copy()
        x[6, 2] = wrong
        with pytest.raises(
            DataError,
            match=rf"sample 6 of the data is {wrong}, and Embedding 'words' knows 9.*: expected whole numbers",
        ):
            VERBS[verb](model, x)
    if verb.startswith("evaluate") or verb == "recalibrate":
        assert VERBS[verb](model, X) is not None


def test_the_smallest_vocabulary_counts():
    """An input may go into several Embeddings, and into other layers; what is computed from it first is not looked at."""
    given, other = keras.Input((5,), name="text"), keras.Input((5,), name="other")
    both = [kl.Embedding(30, 2)(given), kl.Embedding(20, 2, name="small")(given), kl.Embedding(3, 2)(other % 3)]
    model = keras.Model([given, other], kl.Concatenate()(both))
    assert vocabularies(model) == {"text": Known("small", 20)}
