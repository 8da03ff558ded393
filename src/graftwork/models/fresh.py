"""Saved models in a fresh process: do they load there without graftwork and without anybody's classes, and predict the same?"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.architecture.layer import walk
from graftwork.errors import GraftworkError, StoreError
from graftwork.models import alone
from graftwork.models.difference import Difference, called, compare, leaves_of
from graftwork.models.lazy import keras
from graftwork.stores import open_store
from graftwork.stores.files import brief

SECONDS = 600
"""A fresh process that loads a model gets this long."""

RELOADED = 1e-6
"""How far, as a fraction of an output's largest entry, a reloaded model may be from the live one where the last bits differ."""

REFERENCE = 1e-5
"""How far it may be from the reference."""


def load_in_fresh_process(
    path: Path, *, imports: Sequence[str] = (), custom: Sequence[str] = (), seconds: float = SECONDS
) -> dict[str, Any]:
    """Return what Keras says of a model that it loads in a process of its own.

    Code in the file (Lambda layers) is not run: Keras's safe mode stays on.

    Args:
        path: A file that Keras can load.
        imports: Modules of graftwork that make known the classes that do not come with Keras.
        custom: Files and modules of the user's that do.
        seconds: How long it may take.

    Returns:
        Its ``class``, ``name``, ``parameters``, the shapes of its ``inputs`` and ``outputs``, and the version of ``keras``.

    Raises:
        StoreError: If it does not load, with the reason.
    """
    found: dict[str, Any] = _ask(path, None, imports, custom, seconds)[0]["loaded"]
    return found


def predict_in_fresh_process(
    path: Path, inputs: Any, *, imports: Sequence[str] = (), custom: Sequence[str] = (), seconds: float = SECONDS
) -> Any:
    """Return what a saved model makes of inputs in a process of its own: eagerly, in inference mode, on the processor.

    The process has the caller's Keras backend, no graftwork and no custom objects but those named, and code in the file is not run.

    Args:
        path: A file that Keras can load.
        inputs: Arrays, in the structure that the model takes.
        imports: Modules of graftwork that make known the classes that do not come with Keras.
        custom: Files and modules of the user's that do.
        seconds: How long it may take.

    Returns:
        Arrays in the structure that the model gives; text as bytes, bfloat16 and float8 as float32.

    Raises:
        StoreError: If it does not load or does not predict, with the reason.
    """
    answer, leaves = _ask(path, inputs, imports, custom, seconds)
    return alone.unpack(answer["outputs"], leaves)


def predict(model: Any, inputs: Any) -> Any:
    """Return what a live model makes of inputs, as `predict_in_fresh_process` does of a saved one; its states stay as they are.

    Raises:
        StoreError: If it does not predict.
    """
    try:
        with _states_kept(model):
            return alone.predict(model, inputs)
    except Exception as error:  # of any layer, also the user's own
        raise StoreError(f"model {model.name!r} cannot predict on these inputs: {brief(error)}") from error


def self_check(
    path: Path,
    model: Any,
    inputs: Any,
    reference: Callable[[Any], Any] | None = None,
    *,
    exact: bool = False,
    imports: Sequence[str] = (),
    custom: Sequence[str] = (),
    seconds: float = SECONDS,
) -> str:
    """Make sure that a saved model is the model it was made from, by what they predict.

    Args:
        path: The file.
        model: The live model that was saved there.
        inputs: Arrays, in the structure that it takes.
        reference: Returns what the outputs should be, computed another way (the members of a composition, one by one).
        exact: Whether the reference must be met exactly; else within `REFERENCE` of the largest entry.
        imports: Modules of graftwork that make known the classes that do not come with Keras.
        custom: Files and modules of the user's that do.
        seconds: How long the fresh process may take.

    Returns:
        What was found, as a sentence.

    Raises:
        StoreError: If the file does not load in a fresh process, or predicts something else.
    """
    found = predict_in_fresh_process(path, inputs, imports=imports, custom=custom, seconds=seconds)
    live = predict(model, inputs)
    reloaded = compare(found, live, rtol=RELOADED)
    if not reloaded.agrees:
        again = compare(predict(model, inputs), live)
        why = "; the live model itself does not predict the same twice" if not again.agrees else ""
        raise StoreError(
            f"{path.name}, reloaded in a fresh process, does not predict what the model does: {reloaded}{why}"
        )
    note = "reloaded in a fresh process, it predicts " + (
        "the same to the last bit"
        if not reloaded.absolute
        else f"the same within {reloaded.relative:.1g} of the largest entry"
    )
    if reference is not None:
        with _states_kept(model):
            expected = _in_inference(reference, inputs)
        note += _checked(path, compare(found, expected, exact=exact, rtol=REFERENCE))
    unknown = [called(name) for name, values in leaves_of(live) if values.dtype.kind in "fc" and np.isnan(values).any()]
    return note + (f"; NaN in {', '.join(unknown)}, which says nothing" if unknown else "")


@contextlib.contextmanager
def _states_kept(model: Any) -> Iterator[None]:
    """Give stateful recurrent layers, which go on from where their last call ended, the states back that they have now."""
    stateful = [each for each in model._flatten_layers() if isinstance(each, keras.layers.RNN) and each.stateful]
    states = [
        (state, keras.ops.convert_to_numpy(state)) for each in stateful for state in keras.tree.flatten(each.states)
    ]
    try:
        yield
    finally:
        for state, value in states:
            state.assign(value)


def _in_inference(reference: Callable[[Any], Any], inputs: Any) -> Any:
    """Return what a reference gives where layers are told that nothing is trained, as `predict` tells them.

    Layers such as RandomFlip are in training mode where nobody says anything. Inside a layer that is told, all others are.
    """
    said = []

    class Inference(keras.Layer):  # type: ignore[misc]
        """Calls the reference in its own mode."""

        def call(self, nothing: Any, training: bool | None = None) -> Any:
            """Return the argument."""
            said.append(reference(alone.mapped(alone.tensor, inputs)))
            return nothing

    Inference(autocast=False)(np.zeros(1, np.float32), training=False)
    return said[0]


def _checked(path: Path, far: Difference) -> str:
    if not far.agrees:
        raise StoreError(f"{path.name} does not predict what its members give one by one: {far}")
    return ", and what its members give one by one " + (
        f"within {far.relative:.1g} of the largest entry" if far.absolute else "exactly"
    )


def _ask(
    path: Path, inputs: Any, imports: Sequence[str], custom: Sequence[str], seconds: float
) -> tuple[dict[str, Any], list[Any]]:
    """Return the answer of a fresh process, and the arrays that belong to it."""
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        place = Path(folder)
        job: dict[str, Any] = {"path": str(path.absolute()), "imports": list(imports), "custom": list(custom)}
        job["search"] = sys.path if custom else []
        if inputs is not None:
            given: list[Any] = []
            job["inputs"] = alone.pack(inputs, given)
            np.savez(place / alone.INPUTS, *map(alone.array, given))
        (place / alone.JOB).write_text(json.dumps(job))
        answer = answer_of(alone.__file__, place, path, seconds)
        if "error" in answer:
            what = "predict" if "loaded" in answer else "load"
            raise StoreError(f"{path.name} does not {what} in a fresh process: {_reason(path, answer['error'])}")
        if inputs is None:
            return answer, []
        with np.load(place / alone.OUTPUTS) as stored:
            return answer, [stored[f"arr_{i}"] for i in range(len(stored))]


def answer_of(script: str, place: Path, path: Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Run a script in a process of its own and return the answer that it leaves.

    Args:
        script: Its file; it imports nothing of graftwork.
        place: The directory that it is given, where the job lies and the answer will.
        path: What the job is about, for messages.
        seconds: How long it may take.

    Raises:
        StoreError: If it takes longer, or ends without an answer.
    """
    # -P: a file beside the script or in the working directory must not stand in for a module
    command = [sys.executable, "-P", script, str(place)]
    try:
        done = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise StoreError(f"loading {path.name} in a fresh process took more than {seconds:g} seconds") from None
    except OSError as error:
        raise StoreError(f"no process to load {path.name} in could be started: {error.strerror or error}") from error
    try:
        answer: dict[str, Any] = json.loads((place / alone.ANSWER).read_text())
    except (OSError, ValueError):
        status, said = done.returncode, brief(Exception(done.stderr.strip().rpartition("\n")[2]))
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise StoreError(f"the process that loaded {path.name} {ended}{f': {said}' if said else ''}") from None
    return answer


def _environment() -> dict[str, str]:
    """Return the caller's environment and backend, on the processor: a caller may have taken all memory of an accelerator."""
    found = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if "keras" in sys.modules:
        found["KERAS_BACKEND"] = sys.modules["keras"].config.backend()
    return found


def _reason(path: Path, message: str) -> str:
    """Return why Keras refused, in words that tell what to do about it."""
    unknown = re.search(r"Could not locate (class|function) '([^']+)'", message)
    if unknown:
        kind, name = unknown.groups()
        if _is_of_keras2(path, name):
            return "Keras 2 wrote it, in a way that Keras 3 does not read; gw.load rebuilds it, and what it gives can be saved"
        where = _named(path, name.rpartition(">")[2])
        return (
            f"the {kind} {name!r}{f' of layer {where}' if where else ''} does not come with Keras; name the Python file that "
            "defines it (--custom-objects, custom_objects=), or replace it by Keras's own layers and operations"
        )
    if "`Lambda` layer" in message:
        return f"Lambda layer {_named(path, 'Lambda')} holds Python code, which is not run; use Keras's own layers and operations instead"
    return brief(Exception(message.rpartition("Exception encountered: ")[2]))


def _is_of_keras2(path: Path, class_name: str) -> bool:
    """Return whether Keras 2 wrote a file, and a class in it is one of its own, as far as that can be found out."""
    try:
        with open_store(path) as reader:
            root, kind = reader.header.architecture, reader.header.config_kind
    except GraftworkError:
        return False
    layers = (root, *(layer for _, layer in walk(root))) if root is not None and kind == "keras2" else ()
    return any(layer.class_name == class_name and layer.is_builtin for layer in layers)


def _named(path: Path, class_name: str) -> str:
    """Return the names of the layers of a class in a file, as far as they can be found out."""
    try:
        with open_store(path) as reader:
            layers = walk(reader.header.architecture) if reader.header.architecture is not None else iter(())
            return ", ".join(repr(name) for name, layer in layers if layer.class_name == class_name)
    except GraftworkError:
        return ""
