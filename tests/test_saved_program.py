"""SavedModels read without TensorFlow: what they say, and what damaged and hostile ones are answered."""

import subprocess
import sys
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.errors import GraftworkError, OptionError, StoreError, UnknownNameError
from graftwork.stores.saved_program import read_frozen, read_program
from graftwork.stores.saved_tensors import insides
from graftwork.stores.tf_program import Node
from graftwork.stores.tf_protos import field

FLOAT = field(5, field(1, "T") + field(2, field(6, 1)))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """SavedModels of every origin and a frozen graph, by name."""
    servables = pytest.importorskip("tests.servables")
    folder = tmp_path_factory.mktemp("originals")
    return {
        "keras3": servables.keras3(folder / "keras3"),
        "keras2": servables.keras2(folder / "keras2"),
        "module": servables.module(folder / "module"),
        "tf1": servables.text_model(folder / "tf1", ["a", "b", "c"], [[1.0], [2.0], [3.0]], loop=False),
        "frozen": servables.frozen(folder / "frozen.pb", 2.0),
    }


@pytest.mark.parametrize("name", ["keras3", "keras2", "module", "tf1"])
def test_a_program_says_what_tensorflow_reads_in_it(originals, name):
    """Signatures, nodes, functions, operations, assets and objects are those of TensorFlow's own classes."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    program = read_program(originals[name])
    (meta,) = SavedModel.FromString((originals[name] / "saved_model.pb").read_bytes()).meta_graphs
    theirs = {key: found for key, found in meta.signature_def.items() if key != "__saved_model_init_op"}
    assert set(program.signatures) == set(theirs)
    for key, found in theirs.items():
        for ours, ports in (
            (program.signatures[key].inputs, found.inputs),
            (program.signatures[key].outputs, found.outputs),
        ):
            assert {k: p.tensor for k, p in ours.items()} == {k: p.name for k, p in ports.items()}
            shapes = {k: tuple(None if d.size < 0 else d.size for d in p.tensor_shape.dim) for k, p in ports.items()}
            assert {k: p.shape for k, p in ours.items()} == shapes
    assert [(n.name, n.op, list(n.inputs)) for n in program.graph.nodes] == [
        (n.name, n.op, list(n.input)) for n in meta.graph_def.node
    ]
    for function in meta.graph_def.library.function:
        ours = program.graph.functions[function.signature.name]
        assert [n.name for n in ours.nodes] == [n.name for n in function.node_def]
        assert dict(ours.results) == dict(function.ret)
    assert set(program.ops) == {op.name for op in meta.meta_info_def.stripped_op_list.op}
    assert len(program.objects) == len(meta.object_graph_def.nodes)
    assert [o.identifier for o in program.objects] == [n.user_object.identifier for n in meta.object_graph_def.nodes]
    assert program.version == meta.meta_info_def.tensorflow_version
    assert program.tags == ("serve",)


def test_what_belongs_to_a_program_is_told(originals):
    """Variables, tables, assets and configurations, of TensorFlow 1 and 2."""
    tf1 = read_program(originals["tf1"])
    assert tf1.of_tf1
    assert [asset.filename for asset in tf1.assets] == ["words.txt"]
    assert [(table.keys, table.values) for table in tf1.tables()] == [("string", "int64")]
    assert {v.name: v.trainable for v in tf1.variables() if "kernel" in v.name and "/Adam" not in v.name} == {
        "dense/kernel": True
    }
    assert not tf1.outside_files()
    module = read_program(originals["module"])
    assert [(v.name, v.shape, v.trainable) for v in module.variables()] == [("kernel", (3, 4), True)]
    assert not module.keras
    assert "_tf_keras_network" in {node.identifier for node in read_program(originals["keras2"]).keras}


def test_a_frozen_graph_is_read(originals):
    """Its nodes are there; what is no graph is refused."""
    graph = read_frozen(originals["frozen"]).graph
    assert {"x", "y", "word", "scope/row"} <= {node.name for node in graph.nodes}
    with pytest.raises(StoreError, match="not a graph"):
        read_frozen(originals["keras3"] / "variables" / "variables.index")


def test_tensors_inside_go_from_inputs_to_outputs(originals):
    """Every layer's result is listed, with its shape; constants, variables and what saves and restores are not."""
    program = read_program(originals["keras2"])
    found = insides(program, program.signature("serving_default"))
    names = list(found.tensors)
    assert found.find("classes/Softmax", "it").shape == (None, 4)
    assert found.find("classes", "it").output == "classes"
    assert [t.output for t in found.tensors.values()][-1] == "classes"
    assert not any(word in name for name in names for word in ("ReadVariableOp", "Save", "Restore", "serving_default"))
    assert found.needed(names[:1]) == ("features",)
    with pytest.raises(UnknownNameError, match="classes/Softmax"):
        found.find("classes/Softmx", "it")


def test_an_end_of_a_name_that_several_have_is_refused(originals):
    """Which of them is meant is for the user to say."""
    program = read_program(originals["keras2"])
    with pytest.raises(StoreError, match=r"\d tensors inside signature .* end in 'BiasAdd'"):
        insides(program, program.signature("serving_default")).find("BiasAdd", "it")


def test_reading_loads_neither_tensorflow_nor_keras(originals):
    """Also the listing of tensors, and what a bridge would give."""
    code = (
        "import sys, graftwork as gw\n"
        f"gw.savedmodel.ls({str(originals['keras2'])!r}, tensors=True)\n"
        "print([name for name in ('tensorflow', 'keras', 'tf_keras') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# By hand ---------------------------------------------------------------------------------------------------------------


def node(name, op, *inputs, calls=""):
    """A node, which may call a function."""
    attrs = field(5, field(1, "f") + field(2, field(10, field(1, calls)))) if calls else FLOAT
    return field(1, name) + field(2, op) + b"".join(field(3, i) for i in inputs) + attrs


def function(name, *nodes, result):
    """A function from ``x`` to ``y``."""
    signature = field(1, name) + field(2, field(1, "x") + field(3, 1)) + field(3, field(1, "y") + field(3, 1))
    return field(1, signature) + b"".join(field(3, n) for n in nodes) + field(4, field(1, "y") + field(2, result))


def call_op():
    """The description of calls."""
    many = (
        field(1, "PartitionedCall")
        + field(2, field(1, "args") + field(6, "Tin"))
        + field(3, field(1, "output") + field(6, "Tout"))
    )
    relu = (
        field(1, "Relu")
        + field(2, field(1, "features") + field(4, "T"))
        + field(3, field(1, "activations") + field(4, "T"))
    )
    return field(2, field(1, many) + field(1, relu))


def program(tmp_path, nodes, functions=(), *, output="y:0", assets=(), extra=b""):
    """A SavedModel written by hand."""
    graph = b"".join(field(1, n) for n in nodes) + field(2, b"".join(field(1, f) for f in functions))
    ports = (("x", 1, "x:0"), ("y", 2, output))
    infos = [field(which, field(1, key) + field(2, field(1, tensor) + field(2, 1))) for key, which, tensor in ports]
    signature = field(1, "serving_default") + field(2, b"".join(infos))
    files = b"".join(field(6, field(1, field(1, "a:0")) + field(2, name)) for name in assets)
    meta = field(1, call_op() + field(4, "serve")) + field(2, graph) + field(5, signature) + files + extra
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "saved_model.pb").write_bytes(field(1, 1) + field(2, meta))
    return tmp_path


def listed(path):
    """Read a program and its tensors."""
    found = read_program(path)
    return insides(found, found.signature("serving_default"))


X = node("x", "Placeholder")


def test_functions_stand_where_they_are_called(tmp_path):
    """Names are those of calls and nodes; what a call gives is what the node inside gives; a call can hand its argument through."""
    inner = function("inner", node("relu", "Relu", "x"), result="relu:activations:0")
    through = function("through", result="x")
    outer = function(
        "outer",
        node("second", "PartitionedCall", "first:output:0", calls="inner"),
        node("first", "PartitionedCall", "x", calls="inner"),
        node("same", "PartitionedCall", "second:output:0", calls="through"),
        result="same:output:0",
    )
    found = listed(program(tmp_path, [X, node("y", "PartitionedCall", "x", calls="outer")], [inner, through, outer]))
    assert list(found.tensors) == ["y/second/relu", "y/first/relu"]
    assert found.tensors["y/second/relu"].output == "y"
    assert found.flat.nodes["y/second/relu"].inputs == ("y/first/relu",)
    assert found.flat.nodes["y/first/relu"].inputs == ("x",)


def test_what_waits_for_a_call_waits_for_all_of_it(tmp_path):
    """Orders to run before others are kept, from outside in and from inside out."""
    inner = function("inner", node("relu", "Relu", "x"), result="relu:activations:0")
    nodes = [
        X,
        node("before", "Relu", "x"),
        node("called", "PartitionedCall", "x", "^before", calls="inner"),
        node("y", "Relu", "x", "^called"),
    ]
    flat = listed(program(tmp_path, nodes, [inner])).flat
    assert {n.name for n in flat.ancestors(["y"])} == {"x", "before", "called/_before", "called/relu", "called", "y"}
    assert "^called/_before" in flat.nodes["called/relu"].inputs


def test_functions_that_call_themselves_are_refused(tmp_path):
    """Directly or not, at once."""
    one = function("one", node("c", "PartitionedCall", "x", calls="two"), result="c:output:0")
    two = function("two", node("c", "PartitionedCall", "x", calls="one"), result="c:output:0")
    with pytest.raises(StoreError, match="more than 200 deep"):
        listed(program(tmp_path, [X, node("y", "PartitionedCall", "x", calls="one")], [one, two]))


def test_functions_that_double_each_other_are_refused_before_they_fill_the_memory(tmp_path):
    """Forty functions, each of which calls the next twice, are a trillion nodes."""
    names = [f"f{i}" for i in range(40)]
    made = [
        function(
            a,
            node("p", "PartitionedCall", "x", calls=b),
            node("q", "PartitionedCall", "p:output:0", calls=b),
            result="q:output:0",
        )
        for a, b in zip(names, [*names[1:], "end"], strict=True)
    ]
    made.append(function("end", node("r", "Relu", "x"), result="r:activations:0"))
    path = program(tmp_path, [X, node("y", "PartitionedCall", "x", calls="f0")], made)
    tracemalloc.start()
    with pytest.raises(StoreError, match="more than 200,000 nodes"):
        listed(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 29


def test_references_that_lead_nowhere_or_in_a_circle_are_refused(tmp_path):
    """A call whose argument is its own result, an input that is not there, two nodes of one name."""
    through = function("through", result="x")
    circle = [X, node("y", "PartitionedCall", "y", calls="through")]
    for nodes, words in (
        (circle, "leads nowhere"),
        ([X, node("y", "Relu", "z")], "leads nowhere"),
        ([X, node("y", "Relu", "x"), node("y", "Relu", "x")], "two nodes of one name"),
    ):
        with pytest.raises(StoreError, match=words):
            listed(program(tmp_path, nodes, [through]))


def test_absurd_numbers_are_refused(tmp_path):
    """A node that claims to have more outputs than any has."""
    many = field(1, "Many") + field(3, field(1, "o") + field(3, 1) + field(5, "N"))
    claim = field(1, "y") + field(2, "Many") + field(3, "x") + field(5, field(1, "N") + field(2, field(3, 1 << 40)))
    path = program(tmp_path, [X, claim], extra=field(1, field(2, field(1, many))))
    with pytest.raises(StoreError, match="claims to have"):
        listed(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", ""])
def test_assets_outside_of_the_directory_are_refused(tmp_path, name):
    """Whatever way they are spelled."""
    with pytest.raises(StoreError, match="outside of its directory"):
        read_program(program(tmp_path / "m", [X, node("y", "Relu", "x")], assets=[name]))


def test_assets_that_are_links_to_elsewhere_or_missing_are_refused(tmp_path):
    """A link is not followed out of the directory."""
    (tmp_path / "secret").write_text("secret")
    path = program(tmp_path / "m", [X, node("y", "Relu", "x")], assets=["words.txt"])
    with pytest.raises(StoreError, match="is not there"):
        read_program(path)
    (path / "assets").mkdir()
    (path / "assets" / "words.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match=r"words\.txt"):
        read_program(path)


def test_files_that_are_read_and_do_not_belong_to_it_are_refused(tmp_path):
    """The path of a vocabulary on somebody's machine."""
    text = field(1, 7) + field(8, "/data/me/words.txt")
    constant = field(1, "file") + field(2, "Const") + field(5, field(1, "value") + field(2, field(8, text)))
    init = node("init", "InitializeTableFromTextFileV2", "table", "file")
    found = read_program(program(tmp_path, [X, node("y", "Relu", "x"), node("table", "HashTableV2"), constant, init]))
    assert found.outside_files() == ("/data/me/words.txt",)
    with pytest.raises(StoreError, match=r"'/data/me/words\.txt', which is not one of its assets"):
        found.refuse_unrunnable()


@pytest.mark.parametrize("op", ["PyFunc", "PyFuncStateless", "EagerPyFunc"])
def test_python_functions_are_named(tmp_path, op):
    """Where they are, also inside functions, and only where a signature runs them if that is asked."""
    inner = function("inner", node("secret", op, "x"), result="secret:output:0")
    unused = node("other", "PartitionedCall", "x", calls="inner")
    found = read_program(program(tmp_path / "a", [X, node("y", "Relu", "x"), unused], [inner]))
    assert found.python_functions() == ("inner/secret",)
    assert found.python_functions("serving_default") == ()
    used = read_program(program(tmp_path / "b", [X, node("y", "PartitionedCall", "x", calls="inner")], [inner]))
    with pytest.raises(StoreError, match="Python function in node 'inner/secret'"):
        used.refuse_unrunnable("serving_default")


def test_other_forms_of_programs_are_refused_by_name(tmp_path):
    """In several pieces, as text, with several graphs, with none, with nothing."""
    for file, words in (("saved_model.cpb", "several pieces"), ("saved_model.pbtxt", "as text")):
        (tmp_path / file).write_bytes(b"x")
        with pytest.raises(StoreError, match=words):
            read_program(tmp_path)
        (tmp_path / file).unlink()
    with pytest.raises(StoreError, match="not a SavedModel"):
        read_program(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(StoreError, match="no graph in it"):
        read_program(tmp_path)
    metas = b"".join(field(2, field(1, field(4, tag))) for tag in ("train", "eval"))
    (tmp_path / "saved_model.pb").write_bytes(metas)
    with pytest.raises(OptionError, match="2 graphs, tagged 'train' and 'eval'"):
        read_program(tmp_path)
    assert read_program(tmp_path, ("eval",)).tags == ("eval",)


# Damaged ---------------------------------------------------------------------------------------------------------------


def survives(path):
    """Read all there is, and return what it took of the processor: nothing but our errors may come out, and soon."""
    begin = time.process_time()
    try:
        found = read_program(path)
        for signature in found.signatures.values():
            insides(found, signature)
        found.variables(), found.tables(), found.python_functions(), found.outside_files()
    except GraftworkError:
        pass
    return time.process_time() - begin


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_programs_never_crash(originals, tmp_path, data):
    """Bytes changed, copied and cut off in real programs."""
    name = data.draw(st.sampled_from(["keras3", "module", "tf1"]))
    whole = (originals[name] / "saved_model.pb").read_bytes()
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(broken) - 1))
        what = data.draw(st.sampled_from(["set", "set", "copy", "end"]))
        if what == "set":
            broken[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x12]))
        elif what == "copy":  # lengths around it stay right, so that what is inside is looked at
            source = data.draw(st.integers(0, len(whole) - 20))
            broken[at : at + 20] = whole[source : source + len(broken[at : at + 20])]
        else:
            del broken[max(at, 10) :]
    (tmp_path / "saved_model.pb").write_bytes(broken)
    assert survives(tmp_path) < 30


def test_programs_cut_short_are_refused(originals, tmp_path):
    """At every one of a hundred places."""
    whole = (originals["keras3"] / "saved_model.pb").read_bytes()
    for end in range(5, len(whole), len(whole) // 100):
        (tmp_path / "saved_model.pb").write_bytes(whole[:end])
        with pytest.raises(StoreError, match="damaged"):
            read_program(tmp_path)


def test_a_node_is_written_as_it_was_read(originals):
    """What TensorFlow imports is what it saved, placements aside."""
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    for _, one in read_program(originals["tf1"]).graph.walk():
        again = Node.parse(NodeDef.FromString(one.encode()).SerializeToString())
        assert (again.name, again.op, again.inputs, set(again.attrs)) == (one.name, one.op, one.inputs, set(one.attrs))
