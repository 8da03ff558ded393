"""SavedModels of TensorFlow 1, brought to where TensorFlow 2 can save them again.

TensorFlow 2 loads the graph of a TensorFlow 1 SavedModel, and what it saves of it again is silently broken where variables are of the old
kind (``VariableV2``, whose values travel as references): they are never restored. So the graph is rewritten before it is loaded: every such
variable becomes a resource, every use of it a read, every assignment an assignment to the resource. What only training needs is left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.stores.saved_program import PROGRAM

OLD = ("Variable", "VariableV2")
"""Operations that hold a variable of the old kind."""

ASSIGNMENTS = {"Assign": "AssignVariableOp", "AssignAdd": "AssignAddVariableOp", "AssignSub": "AssignSubVariableOp"}
"""Operations that change one, and what does the same to a resource."""

VARIABLES = ("variables", "local_variables", "trainable_variables", "model_variables", "moving_average_variables")
"""Collections that say which variables there are."""

STARTING = ("saved_model_main_op", "legacy_init_op", "table_initializer")
"""Collections of what runs when a model is loaded."""

ASSETS = ("asset_filepaths", "saved_model_assets")
"""Collections of files that belong to a model."""

INIT = "__saved_model_init_op"
"""The signature that says the same, of newer versions."""


def prepared(path: Path, tags: Sequence[str], folder: Path) -> Path:
    """Return a directory from which TensorFlow 2 loads a SavedModel of TensorFlow 1 in full.

    Args:
        path: Where the SavedModel lies.
        tags: Which of its graphs.
        folder: Where to put the program, with links to variables and assets; there is nothing yet.

    Raises:
        StoreError: If the graph does with a variable of the old kind what there is no resource operation for.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    program = SavedModel.FromString((path / PROGRAM).read_bytes())
    for meta in list(program.meta_graphs):
        if list(meta.meta_info_def.tags) != list(tags):
            program.meta_graphs.remove(meta)
    _Rewriting(program.meta_graphs[0], path).run()
    folder.mkdir()
    (folder / PROGRAM).write_bytes(program.SerializeToString())
    for name in ("variables", "assets"):
        if (path / name).is_dir():
            (folder / name).symlink_to((path / name).absolute(), target_is_directory=True)
    return folder


def operation(name: str) -> str:
    """Return the operation that an input (``x``, ``x:1`` or ``^x``) comes from."""
    return name.removeprefix("^").partition(":")[0]


class _Rewriting:
    """The rewriting of one graph.

    Args:
        meta: The meta graph, which is changed.
        path: The SavedModel, for messages.
    """

    def __init__(self, meta: Any, path: Path) -> None:
        self.meta, self.path = meta, path
        self.nodes = {node.name: node for node in meta.graph_def.node}
        self.old = {name for name, node in self.nodes.items() if node.op in OLD}
        self.made: list[Any] = []

    def run(self) -> None:
        """Rewrite the graph."""
        if self.old:
            self._leave_out()
            for node in list(self.nodes.values()):
                self._rewrite(node)
            for name in self.old & set(self.nodes):
                self._become_resource(self.nodes[name])
        self._list_variables()
        kept = [*self.nodes.values(), *self.made]
        for node in kept if self.old else ():
            node.attr.pop("_class", None)  # it asks for the device of what may have been left out
        del self.meta.graph_def.node[:]
        self.meta.graph_def.node.extend(kept)

    def _leave_out(self) -> None:
        """Keep what signatures, initialisation, saving and restoring need."""
        kept: set[str] = set()
        waiting = [operation(name) for name in self._roots()]
        while waiting:
            name = waiting.pop()
            if name in kept or name not in self.nodes:
                continue
            kept.add(name)
            waiting += map(operation, self.nodes[name].input)
        self.nodes = {name: node for name, node in self.nodes.items() if name in kept}
        for key in [key for key in self.meta.collection_def if key not in (*VARIABLES, *STARTING, *ASSETS)]:
            del self.meta.collection_def[key]

    def _roots(self) -> Iterator[str]:
        for signature in self.meta.signature_def.values():
            for info in (*signature.inputs.values(), *signature.outputs.values()):
                yield from _tensors(info)
        saver = self.meta.saver_def
        yield from (saver.filename_tensor_name, saver.save_tensor_name, saver.restore_op_name)
        for key in (*STARTING, *ASSETS):
            yield from self.meta.collection_def[key].node_list.value if key in self.meta.collection_def else ()
        for asset in self.meta.asset_file_def:
            yield asset.tensor_info.name
        for variable in self._listed():
            yield from (variable.variable_name, variable.initializer_name, variable.snapshot_name)

    def _listed(self) -> Iterator[Any]:
        from tensorflow.core.framework.variable_pb2 import VariableDef

        for key in VARIABLES:
            if key in self.meta.collection_def:
                for message in self.meta.collection_def[key].bytes_list.value:
                    yield VariableDef.FromString(message)

    def _rewrite(self, node: Any) -> None:
        """Let a node read, or assign to, the resources that the variables among its inputs become."""
        places = [i for i, name in enumerate(node.input) if not name.startswith("^") and operation(name) in self.old]
        if not places:
            return
        if node.op in ASSIGNMENTS and places[0] == 0:
            self._refuse_uses_of_result(node)
            dtype = node.attr["T"].type
            _become(node, ASSIGNMENTS[node.op], "validate_shape" if node.op == "Assign" else None, dtype=dtype)
            node.input[0] = operation(node.input[0])
            places = places[1:]
        elif node.op == "IsVariableInitialized":
            _become(node, "VarIsInitializedOp")
            node.input[0] = operation(node.input[0])
            places = []
        elif node.op == "Identity":
            _become(node, "ReadVariableOp", dtype=node.attr["T"].type)
            node.input[0] = operation(node.input[0])
            places = []
        for place in places:
            self._refuse_reference(node, place)
            node.input[place] = self._read(node, place)

    def _read(self, node: Any, place: int) -> str:
        """Add an operation that reads the variable of an input."""
        from tensorflow.core.framework.node_def_pb2 import NodeDef

        variable = operation(node.input[place])
        name = f"{node.name}/read_{place}"
        while name in self.nodes:
            name += "_"
        controls = [each for each in node.input if each.startswith("^")]
        read = NodeDef(name=name, op="ReadVariableOp", input=[variable, *controls], device=node.device)
        read.attr["dtype"].type = self.nodes[variable].attr["dtype"].type
        self.made.append(read)
        return name

    def _become_resource(self, node: Any) -> None:
        if not node.attr["shared_name"].s:
            node.attr["shared_name"].s = node.name.encode()
        _become(node, "VarHandleOp", "shape", "shared_name", "container", dtype=node.attr["dtype"].type)

    def _list_variables(self) -> None:
        """Say of every variable that it is one: TensorFlow restores a graph's variables, and saves those that a collection lists."""
        from tensorflow.core.framework.node_def_pb2 import NodeDef
        from tensorflow.core.framework.variable_pb2 import VariableDef

        for key in VARIABLES:
            if key in self.meta.collection_def:
                values = self.meta.collection_def[key].bytes_list.value
                listed = [VariableDef.FromString(message) for message in values]
                del values[:]
                for variable in listed:
                    variable.is_resource |= operation(variable.variable_name) in self.old
                    values.append(variable.SerializeToString())
        known = {operation(variable.variable_name) for variable in self._listed()}
        for name, node in list(self.nodes.items()):
            if node.op == "VarHandleOp" and name not in known:
                nothing = NodeDef(name=f"{name}/graftwork_no_initializer", op="NoOp")
                read = NodeDef(name=f"{name}/graftwork_value", op="ReadVariableOp", input=[name])
                read.attr["dtype"].type = node.attr["dtype"].type
                self.made += [nothing, read]
                variable = VariableDef(
                    variable_name=f"{name}:0",
                    initializer_name=nothing.name,
                    snapshot_name=f"{read.name}:0",
                    is_resource=True,
                    trainable=False,
                )
                self.meta.collection_def["variables"].bytes_list.value.append(variable.SerializeToString())

    def _refuse_reference(self, node: Any, place: int) -> None:
        """Refuse an operation that wants the reference itself."""
        from tensorflow.python.framework import op_def_registry

        definition = op_def_registry.get(node.op)
        if definition is not None and any(argument.is_ref for argument in definition.input_arg):
            raise StoreError(
                f"the graph of {self.path} changes the variable {operation(node.input[place])!r} by {node.op} ({node.name!r}), for which "
                "there is no rewriting; export it once more with TensorFlow 2, or with use_resource=True"
            )

    def _refuse_uses_of_result(self, node: Any) -> None:
        """Refuse an assignment whose result is used: a reference again."""
        users = (other for other in self.nodes.values() if node.name in (n.removesuffix(":0") for n in other.input))
        user = next(users, None)
        if user is not None:
            raise StoreError(
                f"the graph of {self.path} uses what the assignment {node.name!r} gives ({user.name!r} does), for which there is no "
                "rewriting; export it once more with TensorFlow 2, or with use_resource=True"
            )


def _become(node: Any, op: str, *kept: str | None, dtype: int | None = None) -> None:
    """Make a node another operation, with some attributes of what it was."""
    attributes = {name: node.attr[name].SerializeToString() for name in kept if name and name in node.attr}
    node.op = op
    node.attr.clear()
    for name, message in attributes.items():
        node.attr[name].ParseFromString(message)
    if dtype is not None:
        node.attr["dtype"].type = dtype


def _tensors(info: Any) -> Iterable[str]:
    """Return the names of the tensors that a signature's port consists of."""
    if info.WhichOneof("encoding") == "coo_sparse":
        sparse = info.coo_sparse
        return (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    if info.WhichOneof("encoding") == "composite_tensor":
        return tuple(name for part in info.composite_tensor.components for name in _tensors(part))
    return (info.name,)
