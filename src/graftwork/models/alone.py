"""Load a model with Keras alone, say what it is, and predict: the script that `graftwork.models.fresh` runs in a process of its own.

Nothing of graftwork is imported here, so that what loads here loads everywhere; only a model with a SavedModel inside needs its layer,
and one with classes of the user's own needs the files or modules that define them, which are run here as well.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

JOB, INPUTS, ANSWER, OUTPUTS = "job.json", "inputs.npz", "answer.json", "outputs.npz"
"""Files in the directory that two processes talk through."""

MAX_MESSAGE = 20_000
"""Characters of a message that are handed on; Keras repeats whole configurations in its own."""


def pack(structure: Any, leaves: list[Any]) -> Any:
    """Return a structure of lists, tuples and dictionaries as JSON.

    Args:
        structure: The structure; what is none of these is a leaf, and None is nothing.
        leaves: Leaves are added to its end; the JSON has their positions.
    """
    if structure is None:
        return None
    if isinstance(structure, dict):
        return {"dict": [[str(key), pack(value, leaves)] for key, value in structure.items()]}
    if isinstance(structure, list | tuple):
        return {"tuple" if isinstance(structure, tuple) else "list": [pack(value, leaves) for value in structure]}
    leaves.append(structure)
    return len(leaves) - 1


def unpack(packed: Any, leaves: list[Any]) -> Any:
    """Return the structure that `pack` was given, with these leaves."""
    if packed is None:
        return None
    if isinstance(packed, int):
        return leaves[packed]
    ((kind, items),) = packed.items()
    if kind == "dict":
        return {key: unpack(value, leaves) for key, value in items}
    return (tuple if kind == "tuple" else list)(unpack(value, leaves) for value in items)


def mapped(function: Any, structure: Any) -> Any:
    """Return a structure with a function's results in the place of its leaves."""
    leaves: list[Any] = []
    packed = pack(structure, leaves)
    return unpack(packed, [function(leaf) for leaf in leaves])


def predict(model: Any, inputs: Any) -> Any:
    """Return what a live model makes of arrays, eagerly and in inference mode, on the processor.

    Args:
        model: A Keras model.
        inputs: Arrays, in the structure that the model takes.

    Returns:
        Arrays in the structure that the model gives; text as bytes, bfloat16 and float8 as float32.
    """
    import keras

    with keras.device("cpu:0"):
        return mapped(array, model(mapped(tensor, inputs), training=False))


def tensor(values: Any) -> Any:
    """Return an array as a tensor; Keras itself makes none of text."""
    values = np.asarray(values)
    if values.dtype.kind not in "USO":
        import keras

        return keras.ops.convert_to_tensor(values)
    import tensorflow as tf

    return tf.constant(values.tolist(), tf.string, shape=values.shape)


def array(value: Any) -> Any:
    """Return a tensor as an array of a dtype that NumPy itself knows."""
    if not isinstance(value, np.ndarray):
        import keras

        value = keras.ops.convert_to_numpy(value)
    found = np.asarray(value)
    if found.dtype.kind in "OU":
        return np.array([text.encode() if isinstance(text, str) else text for text in found.ravel()], "S").reshape(
            found.shape
        )
    # dtypes that a package has added to NumPy: an .npz file does not hold them, and float32 has all their values
    return found.astype(np.float32) if found.dtype.isbuiltin == 2 else found


def _do(folder: Path, answer: dict[str, Any]) -> None:
    """Do the job, adding to the answer what is known so far."""
    import keras

    job = json.loads((folder / JOB).read_text())
    for module in job.get("imports", ()):
        importlib.import_module(module)
    custom = {}
    if job["custom"]:
        sys.path += [place for place in job["search"] if place not in sys.path]
        custom = importlib.import_module("graftwork.models.custom").known(job["custom"])
    model = keras.saving.load_model(job["path"], custom_objects=custom, compile=False)
    answer["loaded"] = {
        "class": type(model).__name__,
        "name": model.name,
        "parameters": model.count_params(),
        "inputs": [str(tuple(x.shape)) for x in getattr(model, "inputs", None) or []],
        "outputs": [str(tuple(x.shape)) for x in getattr(model, "outputs", None) or []],
        "keras": keras.__version__,
    }
    if "inputs" in job:
        with np.load(folder / INPUTS) as stored:
            given = [stored[f"arr_{i}"] for i in range(len(stored))]
        leaves: list[Any] = []
        answer["outputs"] = pack(predict(model, unpack(job["inputs"], given)), leaves)
        np.savez(folder / OUTPUTS, *leaves)


def main(folder: Path) -> None:
    """Do the job in a directory and leave the answer there."""
    answer: dict[str, Any] = {}
    try:
        _do(folder, answer)
    except Exception as error:  # whatever it is, the one who asked tells the user
        answer["error"] = f"{type(error).__name__}: {error}"[-MAX_MESSAGE:]
    (folder / ANSWER).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
