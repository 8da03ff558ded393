"""A signature of a SavedModel as a function of tensors, or the part of it that leads to tensors inside."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.models.savedmodel.agreement import loaded
from graftwork.models.savedmodel.gradients import Gradients
from graftwork.models.savedmodel.legacy import OLD, prepared
from graftwork.models.savedmodel.tables import tables_of
from graftwork.stores.files import brief
from graftwork.stores.saved_program import Program, read_program
from graftwork.stores.tf_inlining import Flat
from graftwork.stores.tf_program import Graph, Op, split_reference

Run = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Takes tensors by the names of inputs, and gives tensors by the keys that were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A tensor that is asked of a signature.

    Attributes:
        tensor: What it is called inside, as `graftwork.stores.saved_tensors` calls it.
        output: Which output of the signature it is; empty for none.
        shape: Its shape, as far as it is known; TensorFlow loses those that come from tables.
    """

    tensor: str
    output: str = ""
    shape: tuple[int | None, ...] | None = None


class Running:
    """A SavedModel in TensorFlow, and what is asked of it; its variables live as long as this object.

    Args:
        path: The directory, whose files must stay.
        signature: Which signature.
        inputs: The names of the inputs that will be given.
        wanted: What is asked for, by the key under which it is given.

    Attributes:
        trunk: What holds variables, tables and assets, for TensorFlow to save again.
        run: The function.

    Raises:
        StoreError: If TensorFlow cannot load it, or has no such tensor.
    """

    run: Run

    def __init__(self, path: Path, signature: str, inputs: Sequence[str], wanted: Mapping[str, Wanted]) -> None:
        import tensorflow as tf

        program = read_program(path)
        names = [each.tensor for each in wanted.values()]
        model = _graph(program, names) if program.of_tf1 else loaded(path)
        function = model.signatures[signature]
        for variable in function.variables:
            variable._trainable = False  # else every tape computes gradients for them, which nobody asks for
        self.trunk = tf.Module()
        self.trunk.model = model
        own = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
        given = zip(sorted(function.structured_input_signature[1].items()), own, strict=True)
        places = {tensor.op.name: (key, spec) for (key, spec), tensor in given if key in inputs}
        self.trunk.tables = []
        try:
            if program.of_tf1:
                tables = tables_of(program, model, names)
                self.trunk.tables = list(tables.values())
                self.run, self._specs = _pruned(model, places, tables, wanted, path.name)
            elif all(each.output for each in wanted.values()) and len(places) == len(own):
                self._specs = {key: function.structured_outputs[each.output] for key, each in wanted.items()}
                self.run = lambda given: _picked(function(**given), wanted)
            else:
                self.run, self._specs = _cut(function, places, {}, wanted, path.name)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"TensorFlow cannot cut {path.name} at {_names(wanted)}: {brief(error)}") from error

    def specs(self, keys: Iterable[str]) -> Iterator[tuple[tuple[int | None, ...] | None, str]]:
        """Yield shape and type of what is asked for; None for a shape with any number of axes."""
        for key in keys:
            spec = self._specs[key]
            yield (tuple(spec.shape) if spec.shape.rank is not None else None), spec.dtype.name


def _graph(program: Program, names: Iterable[str]) -> Any:
    """Return a graph of TensorFlow 1, rewritten with variables that can be saved again, where that can be done and has the tensors."""
    if any(node.op in OLD for node in program.graph.nodes):
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder, contextlib.suppress(StoreError):
            model = loaded(prepared(program.path, program.tags, Path(folder) / "prepared"))
            kept = {node.name for node in model.graph.as_graph_def().node}
            if all(split_reference(_outermost(name, kept))[0] in kept for name in names):
                return model
    return loaded(program.path)


def _names(wanted: Mapping[str, Wanted]) -> str:
    return ", ".join(repr(each.tensor) for each in wanted.values())


def _picked(found: Mapping[str, Any], wanted: Mapping[str, Wanted]) -> dict[str, Any]:
    return {key: found[each.output] for key, each in wanted.items()}


def _pruned(
    model: Any,
    places: Mapping[str, tuple[str, Any]],
    tables: Mapping[str, Any],
    wanted: Mapping[str, Wanted],
    where: str,
) -> tuple[Run, Any]:
    """Return the part of a graph of TensorFlow 1 that leads from inputs and tables to tensors, and what the results are; see `_cut`."""
    nodes = {node.name for node in model.graph.as_graph_def().node}
    fetches = [_outermost(each.tensor, nodes) for each in wanted.values()]
    handles = [table.resource_handle for table in tables.values()]
    function = model.prune([f"{node}:0" for node in (*places, *tables)], list(dict.fromkeys(fetches)))
    if any(split_reference(each.tensor)[0] not in nodes for each in wanted.values()):
        return _cut(function, places, dict(zip(tables, handles, strict=True)), wanted, where)
    order = list(dict.fromkeys(fetches))

    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        found = function(*(given[key] for key, _ in places.values()), *handles)
        return {key: found[order.index(fetch)] for key, fetch in zip(wanted, fetches, strict=True)}

    return run, {
        key: function.structured_outputs[order.index(fetch)] for key, fetch in zip(wanted, fetches, strict=True)
    }


def _outermost(name: str, nodes: set[str]) -> str:
    """Return the tensor of a graph that one is or lies in."""
    node, rest = split_reference(name)
    if node in nodes:
        return f"{node}:{rest or 0}"
    parts = node.split("/")
    return next((f"{call}:0" for k in range(len(parts), 0, -1) if (call := "/".join(parts[:k])) in nodes), f"{node}:0")


def _cut(
    function: Any,
    places: Mapping[str, tuple[str, Any]],
    tables: Mapping[str, Any],
    wanted: Mapping[str, Wanted],
    where: str,
) -> tuple[Run, Any]:
    """Return the part of a function that leads from its inputs to tensors inside, and what the results are.

    Args:
        function: The function, whose variables are handed to the part.
        places: Name, shape and type of each input, by the node that stands for it.
        tables: What stands for tables, by the nodes that make them.
        wanted: The tensors.
        where: What messages call the SavedModel.
    """
    import tensorflow as tf

    whole = function.graph.as_graph_def()
    flat = Flat(Graph.parse(whole.SerializeToString()), _described, where)
    references = {key: flat.resolve(each.tensor) for key, each in wanted.items()}
    gradients = Gradients(flat, flat.ancestors(references.values()))
    nodes = flat.ancestors([*references.values(), *gradients.needed])
    known = {node.name for node in nodes}
    captures = (tensor.op.name for tensor in function.graph.internal_captures)
    handles = {**dict(zip(captures, function.captured_inputs, strict=True)), **tables}
    graph = tf.compat.v1.GraphDef(versions=whole.versions, library=whole.library)
    for node in nodes:
        if node.name not in handles and node.name not in places:
            attrs = gradients.renamed(node)
            graph.node.append(tf.compat.v1.NodeDef.FromString(replace(node, attrs=attrs).encode()))
    signature = {key: tf.TensorSpec(spec.shape, spec.dtype) for key, spec in places.values()}

    @tf.function(input_signature=[signature], autograph=False)  # type: ignore[untyped-decorator]
    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        here = tf.compat.v1.get_default_graph()
        for variable in function.variables:
            here.watch_variable(variable)  # so that whoever exports this finds them
        fed = {f"{node}:0": here.capture(handle) for node, handle in handles.items() if node in known}
        fed |= {f"{node}:0": given[key] for node, (key, _) in places.items() if node in known}
        elements = [_full(reference) for reference in (*references.values(), *gradients.needed)]
        imported = tf.graph_util.import_graph_def(graph, input_map=fed, return_elements=elements, name="")
        found = imported[: len(references)]
        gradients.tensors.update(zip(gradients.needed, imported[len(references) :], strict=True))
        for tensor, each in zip(found, wanted.values(), strict=True):
            tensor.set_shape(each.shape)
        return dict(zip(wanted, found, strict=True))

    specs = run.get_concrete_function().structured_outputs  # whatever is wrong is wrong now
    return lambda given: run(dict(given)), specs


def _full(reference: str) -> str:
    return reference if ":" in reference else f"{reference}:0"


def _described(name: str) -> Op | None:
    from tensorflow.python.framework import op_def_registry

    found = op_def_registry.get(name)
    return Op.parse(found.SerializeToString()) if found is not None else None
