"""SavedModels and frozen graphs, built with TensorFlow itself: of TensorFlow 1, Keras 2, Keras 3 and plain modules."""

import contextlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import function

v1 = tf.compat.v1
SERVING = "serving_default"


@contextlib.contextmanager
def old_control_flow():
    """Build loops as TensorFlow 1 did: of Enter, Merge, Switch and Exit."""
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        v1.enable_control_flow_v2()


def text_model(path: Path, words, kernel, *, resource=False, listed=True, loop=True):
    """A TensorFlow 1 model: words are looked up in a file, and give their rows of a kernel times four, by an old loop or at once.

    Variables are of the old kind unless `resource`; without `listed`, no collection says that they are there.
    """
    vocabulary = path.with_name(f"{path.name}_words") / "words.txt"
    vocabulary.parent.mkdir()
    vocabulary.write_text("\n".join(words) + "\n")
    with old_control_flow(), tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        text = v1.placeholder(tf.string, [None], name="text")
        file = tf.constant(str(vocabulary), name="file")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, file)
        lines = tf.lookup.TextFileInitializer(file, *WHOLE_LINES, value_index_offset=1)  # the first word is 1
        table = v1.lookup.StaticHashTable(lines, 1)
        kernel = v1.get_variable("dense/kernel", initializer=np.asarray(kernel, np.float32), use_resource=resource)
        calls = v1.get_variable("calls", initializer=np.zeros((), np.int64), trainable=False, use_resource=resource)
        v1.get_variable("started", initializer=3.0, collections=["local_variables"], use_resource=resource)
        rows = tf.gather(kernel, table.lookup(text) - 1)
        if loop:
            _, rows = v1.while_loop(lambda i, _: i < 2, lambda i, rows: (i + 1, rows * 2), [0, rows], name="loop")
        else:
            rows *= 4.0
        v1.train.AdamOptimizer().minimize(tf.reduce_sum(rows), global_step=calls)
        session.run([v1.global_variables_initializer(), v1.local_variables_initializer(), v1.tables_initializer()])
        session.run(rows, {text: words})
        builder = v1.saved_model.Builder(str(path))
        signature = v1.saved_model.predict_signature_def({"text": text}, {"features": rows})
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {SERVING: signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.group(v1.tables_initializer(), v1.local_variables_initializer()),
        )
        builder.save()
    vocabulary.unlink()
    if not listed:
        edit(
            path,
            lambda meta: [meta.collection_def.pop(key) for key in ("variables", "trainable_variables", "train_op")],
        )
    return path


WHOLE_LINES = (tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)


def edit(path: Path, change):
    """Change the only graph of a SavedModel."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    file = path / "saved_model.pb"
    program = SavedModel.FromString(file.read_bytes())
    change(program.meta_graphs[0])
    file.write_bytes(program.SerializeToString())


def hub_module(path: Path, kernel):
    """A module as TensorFlow Hub has them: a graph without tags beside one for training, a signature of its own name, parted variables."""
    with old_control_flow(), tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None, len(kernel)], name="x")
        parted = v1.fixed_size_partitioner(2)
        parts = v1.get_variable("w", np.shape(kernel), use_resource=False, partitioner=parted)
        filled = [part.assign(rows) for part, rows in zip(parts, np.array_split(kernel, 2), strict=True)]
        whole = tf.convert_to_tensor(parts)
        y = x @ whole
        y = v1.cond(tf.reduce_sum(y) > 0, lambda: y + whole[0], lambda: y - whole[0])
        session.run(v1.global_variables_initializer())
        session.run(filled)
        builder = v1.saved_model.Builder(str(path))
        signature = v1.saved_model.predict_signature_def({"default": x}, {"default": y})
        builder.add_meta_graph_and_variables(session, [], {"default": signature})
        builder.add_meta_graph(["train"], {"default": signature})
        builder.save()
    return path


def keras3(path: Path, seed=0, classes=4, activation="softmax"):
    """An export of Keras 3, from three features to classes."""
    keras.utils.set_random_seed(seed)
    features = keras.Input((3,), name="features")
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(5, activation="relu")(features))
    model = keras.Model(features, keras.layers.Dense(classes, activation=activation)(hidden))
    model.export(path, verbose=False)
    return path


def keras2(path: Path, seed=0):
    """A model that Keras 2 saved with its optimizer and metrics, of the same kind."""
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    features = tf_keras.Input((3,), name="features")
    hidden = tf_keras.layers.BatchNormalization()(tf_keras.layers.Dense(5)(features))
    model = tf_keras.Model(features, tf_keras.layers.Dense(4, activation="softmax", name="classes")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(np.ones((4, 3), np.float32), np.zeros(4), verbose=0)
    model.save(path)
    return path


class Module(tf.Module):
    """Scores of features with a gradient of their own, and words in a table that can be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(np.arange(12).reshape(3, 4) / 12, dtype=tf.float32, name="kernel")
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(["cat", "dog"], [4, 5])

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="features")])
    def score(self, features):
        """Give probabilities."""
        return {"classes": tf.nn.softmax(_tenfold(features @ self.kernel))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def look(self, words):
        """Give numbers of words."""
        return {"numbers": self.table.lookup(words)}


@tf.custom_gradient
def _tenfold(x):
    """Change nothing, and let ten times the gradient through."""
    return tf.identity(x), lambda upstream: 10 * upstream


def module(path: Path):
    """A module with two signatures."""
    made = Module()
    tf.saved_model.save(made, str(path), signatures={SERVING: made.score, "look": made.look})
    return path


def functions(path: Path, **made):
    """Save functions, each as a signature."""
    root = tf.Module()
    for name, one in made.items():
        setattr(root, name, one)
    tf.saved_model.save(root, str(path), signatures=made)
    return path


def frozen(path: Path, scale: float, words=("cat", "dog")):
    """A frozen graph: ``y = act(x * scale) + row + 1`` of a loop, a function called act, and a table called words.

    All of these have the same names in every graph and do something else in each.
    """
    with old_control_flow(), tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        word = v1.placeholder(tf.string, [], name="word")
        factor = v1.get_variable("factor", initializer=np.float32(scale), use_resource=False)

        @function.Defun(tf.float32, func_name="act")
        def act(value):
            return tf.nn.relu(value) * scale

        _, tripled = v1.while_loop(
            lambda i, _: i < 2, lambda i, value: (i + 1, value * factor), [0, act(x)], name="loop"
        )
        keys = tf.constant(list(words), name="keys")
        values = tf.constant(np.arange(1, 1 + len(words), dtype=np.float32), name="values")
        table = v1.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1.0)
        with tf.control_dependencies([x]):
            row = tf.add(table.lookup(word), 1.0, name="scope/row")
        y = tf.add(tripled, row, name="y")
        session.run(v1.global_variables_initializer())
        init = tf.group(v1.tables_initializer(), name="init_all_tables")
        definition = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [y.op.name, init.name])
    path.write_bytes(definition.SerializeToString())
    return path


def frozen_by_hand(x, word, scale, words=("cat", "dog")):
    """What such a graph gives."""
    number = words.index(word) + 1 if word in words else -1
    return (np.maximum(x, 0) * np.float32(scale)) * np.float32(scale) ** 2 + (number + 1)
