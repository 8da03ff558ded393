"""Run SavedModels and frozen graphs one by one, and what was made of them: the script that `graftwork.models.savedmodel.beside` runs in a
process of its own.

Nothing of graftwork is imported here. Every part runs in a session of its own, as model servers run it, so that no part can lend another
its tables or variables, and so does the result; then all of them run as TensorFlow 2 loads them. Graph optimisation is off, which may round
otherwise in a joined graph than in its parts.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

JOB, ANSWER, OUTPUTS = "job.json", "answer.json", "outputs.npz"
"""Files in the directory that two processes talk through."""

RESULT = "result"
"""What stands in the place of the number of a step."""

SIZES = (7, 64, 128, 224, 3)
"""Sizes of free dimensions, tried in turn until the parts can do something with them; the first axis is the batch."""

WORDS = ("cat", "dog", "bird", "fish")
"""Text, beside what the graphs and files of the parts know."""

MAX_WORDS = 10_000

Run = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""Runs a signature on arrays by name."""


def main(folder: Path) -> None:
    """Do the job in a directory and leave the answer there."""
    answer: dict[str, Any] = {}
    try:
        _do(folder, answer)
    except Exception as error:  # whatever TensorFlow raises is part of the answer
        answer["error"] = f"{type(error).__name__}: {error}"[:20_000]
    (folder / ANSWER).write_text(json.dumps(answer))


def _do(folder: Path, answer: dict[str, Any]) -> None:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    job = json.loads((folder / JOB).read_text())
    answer["at"] = "reading the examples"
    examples = dict(np.load(job["examples"])) if job["examples"] else {}
    arrays: dict[tuple[str, str, str, str], Any] = {}
    given: dict[str, dict[str, Any]] = {}
    answer["random"] = {}
    for way in job["ways"]:
        runs: dict[str, Run] = {}
        words = set(WORDS)
        for name, part in job["parts"].items():
            answer["at"] = f"loading {name} ({way})"
            runs[name], known = _opened(part, way)
            words |= known
        for flow, what in job["flows"].items():
            answer["at"] = f"running the parts of {flow!r} ({way})"
            if flow not in given:
                own = {name: examples.get(f"{flow}/{name}", examples.get(name)) for name in what["inputs"]}
                given[flow] = _fitting(what, runs, own, sorted(words))
            made, again = (_stepped(what, runs, given[flow]) for _ in range(2))
            answer["random"].setdefault(flow, not all(_same(a, b) for a, b in zip(made, again, strict=True)))
            for step, outputs in enumerate(made):
                arrays |= {(flow, way, str(step), output): _plain(value) for output, value in outputs.items()}
        runs.clear()
        answer["at"] = f"loading the result ({way})"
        run, _ = _opened(job["result"], way)
        for flow in job["flows"]:
            answer["at"] = f"running {flow!r} of the result ({way})"
            found = run(flow, given[flow])
            arrays |= {(flow, way, RESULT, output): _plain(value) for output, value in found.items()}
    np.savez(folder / OUTPUTS, **{str(i): value for i, value in enumerate(arrays.values())})
    answer["arrays"] = list(arrays)


def _opened(part: Mapping[str, Any], way: str) -> tuple[Run, set[str]]:
    """Load something; return what runs it, and words that it may know."""
    if "graph" in part:
        return _frozen(part)
    return _session(part) if way == "session" else _loaded(part)


def _session(part: Mapping[str, Any]) -> tuple[Run, set[str]]:
    """Load a SavedModel in a session of its own."""
    import tensorflow as tf

    v1 = tf.compat.v1
    session, graph = _fresh_session()
    with graph.as_default():
        meta = v1.saved_model.load(session, part["tags"], part["path"])

    def run(signature: str, given: Mapping[str, Any]) -> dict[str, Any]:
        ports = meta.signature_def[signature]
        fetched = {name: info.name for name, info in ports.outputs.items()}
        fed = {ports.inputs[name].name: value for name, value in given.items()}
        found: dict[str, Any] = session.run(fetched, fed)
        return found

    return run, {*_constants(graph.as_graph_def()), *_lines(Path(part["path"]))}


def _frozen(part: Mapping[str, Any]) -> tuple[Run, set[str]]:
    """Load a graph without variables in a session of its own."""
    import tensorflow as tf

    session, graph = _fresh_session()
    definition = tf.compat.v1.GraphDef.FromString(Path(part["graph"]).read_bytes())
    with graph.as_default():
        tf.graph_util.import_graph_def(definition, name="")
    session.run(part["init"])

    def run(_: str, given: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = session.run(
            part["outputs"], {part["inputs"][name]: value for name, value in given.items()}
        )
        return found

    return run, set(_constants(definition))


def _fresh_session() -> tuple[Any, Any]:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    graph = tf.Graph()
    return tf.compat.v1.Session(graph=graph, config=config), graph


def _loaded(part: Mapping[str, Any]) -> tuple[Run, set[str]]:
    """Load a SavedModel as TensorFlow 2 does."""
    import tensorflow as tf

    model = tf.saved_model.load(part["path"], tags=part["tags"])  # its variables are gone once it is

    def run(signature: str, given: Mapping[str, Any]) -> dict[str, Any]:
        function = model.signatures[signature]
        specs = function.structured_input_signature[1]
        words = {name: name if name in specs else _word(name) for name in given}
        tensors = {words[name]: tf.constant(value, specs[words[name]].dtype) for name, value in given.items()}
        return {name: tensor.numpy() for name, tensor in function(**tensors).items()}

    return run, set()


def _word(name: str) -> str:
    """Return a name as TensorFlow 2 spells it as an argument."""
    word = "".join(letter if letter.isalnum() else "_" for letter in name)
    return word if word[:1].isalpha() else f"arg_{word}"


def _constants(graph: Any) -> Iterator[str]:
    """Yield the text that a graph holds: words of its tables are among it."""
    import tensorflow as tf

    nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
    for node in nodes:
        if node.op == "Const" and node.attr["dtype"].type == tf.string.as_datatype_enum:
            values = tf.make_ndarray(node.attr["value"].tensor)
            if values.ndim and values.size <= MAX_WORDS:
                yield from (value.decode(errors="ignore") for value in values.ravel() if len(value) < 40)


def _lines(path: Path) -> Iterator[str]:
    """Yield the first lines of the files that a SavedModel brings along: of vocabularies, words."""
    for file in sorted((path / "assets").glob("*")) if (path / "assets").is_dir() else ():
        with file.open("rb") as lines:
            yield from (line.decode(errors="ignore").strip() for line in itertools.islice(lines, 100) if len(line) < 40)


def _fitting(
    flow: Mapping[str, Any], runs: Mapping[str, Run], examples: Mapping[str, Any], words: Sequence[str]
) -> dict[str, Any]:
    """Return the first inputs that the parts can do something with."""
    first: Exception | None = None
    for batch, size, texts in itertools.product((2, *flow["batches"]), SIZES, (words, [""])):
        given = {
            name: _values(port, batch, size, texts, np.random.default_rng([0, i]))
            if examples[name] is None
            else examples[name]
            for i, (name, port) in enumerate(flow["inputs"].items())
        }
        try:
            _stepped(flow, runs, given)
        except Exception as error:  # of any operation
            first = first or error
        else:
            return given
    assert first is not None
    raise first


def _values(port: Mapping[str, Any], batch: int, size: int, words: Sequence[str], rng: np.random.Generator) -> Any:
    axes = port["shape"] if port["shape"] is not None else [None, None]
    shape = [(batch if axis == 0 else size) if length is None else length for axis, length in enumerate(axes)]
    dtype = port["dtype"]
    if dtype == "string":
        return rng.choice(np.array(words, dtype=object), shape)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if "int" in dtype:
        return rng.integers(0, 256 if dtype == "uint8" else 2, shape).astype(dtype)
    import tensorflow as tf

    return rng.standard_normal(shape).astype(tf.as_dtype(dtype).as_numpy_dtype)


def _stepped(flow: Mapping[str, Any], runs: Mapping[str, Run], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run the parts one after the other."""
    made: list[dict[str, Any]] = []
    for step in flow["steps"]:
        fed = {port: given[source] if at is None else made[at][source] for port, (at, source) in step["feeds"].items()}
        made.append(runs[step["part"]](step["signature"], fed))
    return made


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(_plain(value).tobytes() == _plain(b[name]).tobytes() for name, value in a.items())


def _plain(value: Any) -> Any:
    """Return a value as an array of a dtype that a file of NumPy holds."""
    found = np.asarray(value)
    if found.dtype.kind in "OU":
        texts = [text.encode() if isinstance(text, str) else bytes(text) for text in found.ravel()]
        return np.array(texts, "S").reshape(found.shape)
    return found.astype(np.float32) if found.dtype.isbuiltin == 2 else found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
