"""Makes the small models that docs and command-line tests work on; run as a script, the `.keras` files, into the directory in its argument.

No model is trained: fine-tunes are a base plus fixed noise, which is all that merging needs to know of them.
"""

import subprocess
import sys
from pathlib import Path

from llamas import make_llama

NAMES = (
    "pretrained",
    "birds",
    "flowers",
    "cats",
    "tanh",
    "wide",
    "renamed",
    "fitted",
    "norms_a",
    "norms_b",
    "twin_a",
    "twin_b",
)


def make_small_models(folder: Path) -> Path:
    """Return the directory with every file of `NAMES`, made by Keras in a process of its own, and three of Hugging Face's directories."""
    for seed, name in enumerate(("base", "chat", "code")):
        make_llama(folder / f"llama-{name}", seed=seed)
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def _make(folder: Path) -> None:
    import keras
    import numpy as np
    from keras import layers

    def classifier(names: tuple[str, str, str] = ("stem", "body", "head"), activation: str = "relu", units: int = 10):
        stem, body, head = names
        x = image = keras.Input((16, 16, 3), name="image" if names[0] == "stem" else None)
        x = layers.Conv2D(8, 3, activation=activation, name=stem)(x)
        x = layers.Conv2D(16, 3, activation="relu", name=body)(x)
        x = layers.GlobalAveragePooling2D(name="pool" if names[0] == "stem" else None)(x)
        return keras.Model(image, layers.Dense(units, activation="softmax", name=head)(x), name="classifier")

    def normalised():
        x = image = keras.Input((16, 16, 3), name="image")
        x = layers.Conv2D(8, 3, name="stem")(x)
        x = layers.BatchNormalization(name="norm")(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.Model(image, layers.Dense(10, name="head")(x), name="normalised")

    def twin(first: str, second: str):
        pixels = keras.Input((8,), name="pixels")
        branches = {"left": layers.Dense(4, name="left")(pixels), "right": layers.Dense(6, name="right")(pixels)}
        x = layers.Concatenate(name="both")([branches[first], branches[second]])
        return keras.Model(pixels, layers.Dense(3, name="head")(x), name="twin")

    def filled(model, seed: int, around=None, far: float = 0.05):
        rng = np.random.default_rng(seed)
        starts = around.get_weights() if around is not None else [np.zeros(w.shape) for w in model.get_weights()]
        model.set_weights(
            [
                np.abs(s + far * rng.standard_normal(s.shape))
                if "variance" in v.name
                else s + far * rng.standard_normal(s.shape)
                for s, v in zip(starts, model.weights, strict=True)
            ]
        )
        return model

    base = filled(classifier(), 0, far=0.2)
    models = {
        "pretrained": base,
        "birds": filled(classifier(), 1, base),
        "flowers": filled(classifier(), 2, base),
        "cats": filled(classifier(), 3, base),
        "tanh": filled(classifier(activation="tanh"), 4),
        "wide": filled(classifier(units=100), 5),
        "renamed": filled(classifier(("conv2d_7", "conv2d_8", "dense_3")), 6, base),
        "fitted": filled(classifier(), 7, base),
        "norms_a": filled(normalised(), 8, far=0.2),
        "norms_b": filled(normalised(), 9, far=0.2),
        "twin_a": filled(twin("left", "right"), 10),
        "twin_b": filled(twin("right", "left"), 11),
    }
    models["fitted"].compile("adam", "sparse_categorical_crossentropy")
    models["fitted"].optimizer.build(models["fitted"].trainable_variables)
    assert tuple(models) == NAMES
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 16, 16, 3)).astype("float32")
    np.savez(folder / "train.npz", x=images, y=np.arange(60) % 10)


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
