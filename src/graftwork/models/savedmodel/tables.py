"""Lookup tables of a graph of TensorFlow 1, made again as objects of TensorFlow 2, which a SavedModel made of it can contain.

In TensorFlow 1 a table is a node, and another node fills it when a session begins; TensorFlow 2, which loads such a graph, fills the table
and forgets how it did. Only an object says how it is filled once more.
"""

from collections.abc import Iterable
from typing import Any

from graftwork.stores.saved_program import Program
from graftwork.stores.tf_program import Node, split_reference

TABLE, FROM_FILE, FROM_VALUES = (
    "HashTableV2",
    "InitializeTableFromTextFileV2",
    ("InitializeTableV2", "LookupTableImportV2"),
)


def tables_of(program: Program, model: Any, tensors: Iterable[str]) -> dict[str, Any]:
    """Return the tables of a graph as objects, by the nodes that make them; such as cannot be made again are left out.

    Args:
        program: The program.
        model: What TensorFlow made of it.
        tensors: What is asked of it; only tables that this needs are returned.
    """
    needed = {node.name for node in program.needed(split_reference(tensor)[0] for tensor in tensors)}
    nodes = {node.name: node for node in program.graph.nodes}
    assets = {split_reference(a.tensor)[0]: str(program.path / "assets" / a.filename) for a in program.assets}
    found = {}
    for node in nodes.values():
        if node.op == FROM_FILE or node.op in FROM_VALUES:
            table, *given = (split_reference(reference)[0] for reference in node.inputs)
            if table in needed and nodes[table].op == TABLE:
                content = (
                    _from_file(node, nodes[table], assets.get(given[0]))
                    if node.op == FROM_FILE
                    else _from_values(node, model)
                )
                if content is not None:
                    found[table] = _table(content)
    return found


def _from_file(node: Node, table: Node, path: str | None) -> Any:
    """Return what fills a table from a file; None for a file that is no asset."""
    import tensorflow as tf

    def number(key: str, otherwise: int) -> int:
        found = node.attrs[key].number() if key in node.attrs else None
        return otherwise if found is None else found

    if path is None:
        return None
    places = [number(key, 0) for key in ("key_index", "value_index")]
    kinds = [tf.as_dtype(table.type(key)) for key in ("key_dtype", "value_dtype")]
    return tf.lookup.TextFileInitializer(
        path,
        kinds[0],
        places[0],
        kinds[1],
        places[1],
        vocab_size=number("vocab_size", -1) if number("vocab_size", -1) > 0 else None,
        delimiter=(node.attrs["delimiter"].text() if "delimiter" in node.attrs else "") or "\t",
        value_index_offset=number("offset", 0),
    )


def _from_values(node: Node, model: Any) -> Any:
    import tensorflow as tf

    references = [reference if ":" in reference else f"{reference}:0" for reference in node.inputs[1:3]]
    keys, values = model.prune([], references)()
    return tf.lookup.KeyValueTensorInitializer(keys, values)


def _table(content: Any) -> Any:
    import tensorflow as tf

    default = tf.constant("" if content.value_dtype == tf.string else 0, content.value_dtype)
    return tf.lookup.StaticHashTable(content, default)
