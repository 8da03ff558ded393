"""What was made of SavedModels or frozen graphs, beside its parts: both run in a fresh process on the same inputs, and are compared."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import StoreError
from graftwork.models.difference import Difference, compare
from graftwork.models.fresh import REFERENCE, answer_of
from graftwork.models.savedmodel import served
from graftwork.stores.files import brief
from graftwork.stores.saved_program import Port

Arrays = Mapping[str, NDArray[Any]]

WAYS = {"session": "in a session", "load": "as TensorFlow 2 loads it"}
"""How a SavedModel is run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a part.

    Attributes:
        part: Its label.
        signature: What is called.
        feeds: What each input is given: an input of the result (None and its name), or an output of an earlier step (its number and name).
    """

    part: str
    signature: str
    feeds: Mapping[str, tuple[int | None, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A signature of the result, and how its parts do the same one by one.

    Attributes:
        inputs: What it takes.
        steps: The calls.
        expected: Makes of what the steps gave what the signature should give.
        exact: Whether it must be met to the last bit; else within `REFERENCE` of the largest entry.
        batches: Sizes of the first axis that may be what parts ask for.
    """

    inputs: Mapping[str, Port]
    steps: Sequence[Step]
    expected: Callable[[Sequence[Arrays]], Arrays]
    exact: bool = True
    batches: Sequence[int] = ()


def check(
    result: Path,
    parts: Mapping[str, Mapping[str, Any]],
    flows: Mapping[str, Flow],
    examples: Path | None = None,
    frozen: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Make sure that a SavedModel does what its parts do one by one.

    Args:
        result: The SavedModel.
        parts: What the fresh process has to know of each part (see `savedmodel` and `graph`).
        flows: What to compare, by signature of the result.
        examples: An ``.npz`` file with inputs by their names, or by ``signature/input``; by default random ones.
        frozen: What the process has to know of the result (see `graph`) where it is no SavedModel.

    Returns:
        What was found, one sentence each.

    Raises:
        StoreError: If something does not load or run, or the results differ.
    """
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        place, ways = Path(folder), ["session"] if frozen else list(WAYS)
        job = {
            "result": frozen or savedmodel(result, ("serve",)),
            "ways": ways,
            "parts": parts,
            "examples": str(examples.absolute()) if examples is not None else None,
            "flows": {name: _described(flow) for name, flow in flows.items()},
        }
        (place / served.JOB).write_text(json.dumps(job))
        answer = answer_of(served.__file__, place, result)
        if "error" in answer:
            raise StoreError(_failure(answer))
        with np.load(place / served.OUTPUTS) as stored:
            arrays = {tuple(key): stored[str(i)] for i, key in enumerate(answer["arrays"])}
    said: dict[str, list[str]] = {}
    for name, flow in flows.items():
        found = {way: _by_step(arrays, name, way) for way in ways}
        said.setdefault(_compared(name, flow, found, random=answer["random"][name]), []).append(name)
    return tuple(f"{', '.join(names)}: {what}" for what, names in said.items())


def _by_step(arrays: Mapping[tuple[str, ...], NDArray[Any]], name: str, way: str) -> dict[str, dict[str, NDArray[Any]]]:
    """Return what was computed for a signature in one way, by number of the step (or `served.RESULT`) and output."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for (flow, how, step, output), values in arrays.items():
        if (flow, how) == (name, way):
            found.setdefault(step, {})[output] = values
    return found


def savedmodel(path: Path, tags: Sequence[str]) -> dict[str, Any]:
    """Return what the fresh process has to know of a SavedModel."""
    return {"path": str(path.absolute()), "tags": list(tags)}


def graph(path: Path, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """Return what the fresh process has to know of a frozen graph: its file, and which tensors are called what."""
    return {"graph": str(path.absolute()), "inputs": dict(inputs), "outputs": dict(outputs)}


def _described(flow: Flow) -> dict[str, Any]:
    return {
        "inputs": {
            key: {"dtype": port.dtype, "shape": None if port.shape is None else list(port.shape)}
            for key, port in flow.inputs.items()
        },
        "batches": sorted(set(flow.batches)),
        "steps": [{"part": step.part, "signature": step.signature, "feeds": step.feeds} for step in flow.steps],
    }


def _failure(answer: Mapping[str, Any]) -> str:
    said = brief(Exception(answer["error"]))
    where = answer.get("at", "starting")
    advice = "; give inputs that they can work on (examples=FILE.npz)" if where.startswith("running the parts") else ""
    return f"in a fresh process, {where} failed: {said}{advice}"


def _compared(name: str, flow: Flow, found: Mapping[str, Mapping[str, Arrays]], *, random: bool) -> str:
    """Return what was found for a signature, run in several ways."""
    worst, empty = Difference(agrees=True), set[str]()
    for way, steps in found.items():
        expected = flow.expected([steps.get(str(number), {}) for number in range(len(flow.steps))])
        result = steps.get(served.RESULT, {})
        if random:
            far = compare(
                *({key: np.zeros_like(v) for key, v in side.items()} for side in (result, expected)), exact=True
            )
        else:
            far = compare(result, expected, exact=flow.exact, rtol=REFERENCE)
        if not far.agrees:
            raise StoreError(
                f"signature {name!r} of the result, run {WAYS[way]}, does not give what its parts give one by one: {far}"
            )
        worst = max(worst, far, key=lambda each: each.relative)
        empty |= {key for key, values in expected.items() if values.dtype.kind in "fc" and np.isnan(values).all()}
    if random:
        return "its parts give something else each time, so that only shapes and dtypes were compared"
    return (
        f"run in a fresh process, {' and '.join(WAYS[way] for way in found)}, it gives what its parts give one by one "
        + (f"within {worst.relative:.1g} of the largest entry" if worst.absolute else "to the last bit")
        + (f"; {', '.join(sorted(empty))} is NaN everywhere, which says nothing" if empty else "")
    )
