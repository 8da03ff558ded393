"""Example inputs for a model: random, the same for the same seed, and such that its layers can do something with them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import OptionError
from graftwork.models.lazy import keras

SIZES = ((7, 64), (64, 128), (128, 224), (224, 512))
"""Sizes of free dimensions of sequences and of images, tried in turn until one is large enough for the model."""

WORDS = ("cat", "dog", "bird", "fish")
"""Text for a model that has no vocabulary."""

PASSING = frozenset(
    {
        *("Cast", "Copy", "Identity", "ExpandDims", "Flatten", "Permute", "Reshape", "Squeeze", "Transpose"),
        *("Concatenate", "GetItem", "RepeatVector", "Stack", "Tile"),
    }
)
"""Classes of layers and operations that give on the values they get."""


def inputs_for(model: Any, *, batch: int = 2, seed: int = 0, dynamic: int | None = None) -> Any:
    """Return example inputs in the structure that a model takes.

    Floats are normal, ``uint8`` is uniform, other integers are 0 or 1; integers that are looked up (in an embedding, as categories) and
    text that a vocabulary knows are drawn from what is there. A size that the model fixes, the batch's included, is kept.

    Args:
        model: A Functional model, or a Sequential that has been built.
        batch: Samples, where the model leaves it free.
        seed: Another seed, other values.
        dynamic: The size of every other dimension that is left free; by default one that is large enough.

    Raises:
        OptionError: If the model does not say what it takes, or no size that was tried is large enough for it.
    """
    graph = _graph(model)
    if graph is None:
        raise OptionError(
            f"{type(model).__name__} {model.name!r} does not say what it takes, so no example inputs can be made; give inputs"
        )
    tensors = graph.inputs
    batch = next((t.shape[0] for t in tensors if t.shape and t.shape[0] is not None), batch)
    shapes = _shapes(graph, batch, dynamic)
    arrays = [
        _values(graph, t, s, np.random.default_rng([seed, i]))
        for i, (t, s) in enumerate(zip(tensors, shapes, strict=True))
    ]
    return keras.tree.pack_sequence_as(graph._inputs_struct, arrays)


def _graph(model: Any) -> Any:
    """Return the Functional that a model is or, being Sequential, holds; None for others."""
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_inputs_struct") else None


def _shapes(graph: Any, batch: int, dynamic: int | None) -> list[tuple[int, ...]]:
    """Return the shapes of a model's inputs with nothing left free."""
    free = any(size is None for tensor in graph.inputs for size in tensor.shape[1:])
    tried = SIZES if dynamic is None else ((dynamic, dynamic),)
    for sizes in tried:
        shapes = [
            tuple(size or (batch if axis == 0 else sizes[len(t.shape) == 4]) for axis, size in enumerate(t.shape))
            for t in graph.inputs
        ]
        if not free or _fits(graph, shapes):
            return shapes
    raise OptionError(
        f"no example inputs for model {graph.name!r}: of the sizes {', '.join(map(str, sorted({n for pair in tried for n in pair})))} none "
        "fits where it leaves a dimension free; say which does, or give inputs"
    )


def _fits(graph: Any, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether a model can work on inputs of these shapes, which is found out without values."""
    given = [keras.KerasTensor(shape, t.dtype) for shape, t in zip(shapes, graph.inputs, strict=True)]
    try:
        found = graph.compute_output_spec(keras.tree.pack_sequence_as(graph._inputs_struct, given))
    except Exception:  # layers, also the user's own, refuse a size in any way they like
        return False
    return all(size != 0 for tensor in keras.tree.flatten(found) for size in tensor.shape)


def _values(graph: Any, tensor: Any, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    readers = list(_readers(graph, tensor))
    if tensor.dtype == "string":
        return _text(readers, shape, rng)
    if tensor.dtype == "bool":
        return rng.random(shape) < 0.5
    if "int" in tensor.dtype:
        return _integers(readers, tensor.dtype, shape, rng)
    # NumPy does not know bfloat16 and float8; Keras casts
    dtype = tensor.dtype if tensor.dtype in ("float16", "float64") else "float32"
    return rng.standard_normal(shape).astype(dtype)


def _integers(readers: Sequence[Any], dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    words = _vocabulary(readers)
    if words:
        return rng.choice(np.array(words), shape).astype(dtype)
    counts = [count for reader in readers if (count := _categories(reader))]
    if not counts:
        return rng.integers(0, 256 if dtype == "uint8" else 2, shape).astype(dtype)
    padded = any(getattr(reader, "mask_zero", False) for reader in readers) and min(counts) > 1
    return rng.integers(int(padded), min(*counts, np.iinfo(dtype).max + 1), shape).astype(dtype)


def _text(readers: Sequence[Any], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    words = _vocabulary(readers) or list(WORDS)
    several = any(type(reader).__name__ == "TextVectorization" for reader in readers)
    drawn = rng.choice(np.array(words, dtype=str), (*shape, 3 if several else 1))
    return np.array([" ".join(row) for row in drawn.reshape(-1, drawn.shape[-1])]).reshape(shape)


def _categories(reader: Any) -> int | None:
    """Return how many integers a layer or operation tells apart, counted from 0; None for one that does not look them up."""
    if type(reader).__name__ == "StringLookup":
        return int(reader.vocabulary_size())  # of one that is inverted
    found = getattr(reader, "input_dim", None) if isinstance(reader, keras.layers.Embedding) else None
    found = found or getattr(
        reader, {"CategoryEncoding": "num_tokens", "OneHot": "num_classes"}.get(type(reader).__name__, ""), None
    )
    return int(found) if found else None


def _vocabulary(readers: Sequence[Any]) -> list[Any]:
    """Return what all lookups of an input know, or what the first one does."""
    found = [
        list(reader.get_vocabulary(include_special_tokens=False))
        for reader in readers
        if type(reader).__name__ in ("StringLookup", "IntegerLookup", "TextVectorization")
        and not getattr(reader, "invert", False)
    ]
    if not found:
        return []
    return [word for word in found[0] if all(word in other for other in found)] or found[0]


def _readers(graph: Any, tensor: Any) -> Iterator[Any]:
    """Yield the layers and operations that do something with an input's values, in nested models as well."""
    nodes = [node for depth in graph._nodes_by_depth.values() for node in depth]
    seen, waiting = {id(tensor)}, [tensor]
    while waiting:
        current = waiting.pop()
        for node in nodes:
            place = next((i for i, t in enumerate(node.input_tensors) if t is current), None)
            if place is None:
                continue
            inner = _graph(node.operation)
            operation = (
                node.operation.layer if isinstance(node.operation, keras.layers.TimeDistributed) else node.operation
            )
            if inner is not None:
                yield from _readers(inner, inner.inputs[place])
            elif type(operation).__name__ in PASSING:
                new = [t for t in keras.tree.flatten(node.outputs) if id(t) not in seen]
                seen.update(map(id, new))
                waiting += new
            else:
                yield operation
