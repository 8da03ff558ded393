"""Graphs inside models: addresses, unfolding, and where they can be cut."""

import keras
import numpy as np
import pytest
from composed import same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers as kl

from graftwork.compose import Member, get
from graftwork.compose.addresses import calls, tap
from graftwork.compose.cuts import clean_cuts, cut
from graftwork.compose.graph import Graph, inline, is_graph
from graftwork.compose.naming import Names
from graftwork.compose.ports import inputs
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.copying import copy_model

pytestmark = pytest.mark.keras


@pytest.fixture
def nested():
    """A tower in a model in a model; the tower is called twice, an LSTM gives three tensors."""
    tower = keras.Sequential([keras.Input((4,)), kl.Dense(4, name="dense"), kl.ReLU(name="act")], name="tower")
    x = keras.Input((4,), name="x")
    middle = keras.Model(x, kl.Add(name="add")([tower(x), x]), name="middle")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    joint = kl.Concatenate(name="cat")([middle(a), middle(b, training=False)])
    out, state, _ = kl.LSTM(3, return_state=True, name="lstm")(kl.Reshape((2, 4), name="grid")(joint * 2.0))
    return keras.Model({"a": a, "b": b}, {"out": out, "state": kl.Dense(3, name="dense")(state)}, name="outer")


# Addresses --------------------------------------------------------------------------------------------------------------


def test_addresses_name_layers_calls_outputs_and_what_is_nested(nested):
    lstm = nested.get_layer("lstm")
    middle = nested.get_layer("middle")
    first, second = (
        node for node in middle._inbound_nodes if any(node in ns for ns in nested._nodes_by_depth.values())
    )

    assert tap(nested, "cat").tensor is nested.get_layer("cat").output
    assert tap(nested, "lstm[1]").tensor is lstm.output[1]
    assert tap(nested, "middle#2").tensor is second.outputs[0]
    deep = tap(nested, "middle#1/tower/dense")
    assert deep.tensor is middle.get_layer("tower").get_layer("dense").output
    assert [node.operation.name for node in deep.within] == ["middle", "tower"] and deep.within[0] is first


def test_an_exact_name_wins_over_the_grammar():
    x = keras.Input((2,), name="x")
    y = kl.Dense(2, name="d")(x)
    z = kl.Dense(2, name="d#2")(kl.Dense(2, name="d[0]")(y))
    model = keras.Model(x, z)

    for name in ("d", "d#2", "d[0]"):
        assert tap(model, name).tensor is model.get_layer(name).output
    assert tap(model, "d#2#1[0]").tensor is z


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("dens", UnknownNameError, "did you mean 'dense'?"),
        ("add", UnknownNameError, "'middle/add'"),
        ("act", UnknownNameError, "'middle/tower/act'"),
        ("middle/dence", UnknownNameError, "layer of 'middle'"),
        ("middle", OptionError, "on a (middle#1), on b (middle#2)"),
        ("middle/add", OptionError, "'middle' is called 2 times"),
        ("middle#3", OptionError, "is called 2 times"),
        ("cat#2", OptionError, "is called once"),
        ("lstm", OptionError, "lstm[0] to lstm[2]"),
        ("lstm[3]", OptionError, "gives 3 tensors"),
        ("cat/x", OptionError, "has no layers inside"),
        ("lstm/lstm_cell", OptionError, "code of its own"),
    ],
)
def test_what_is_not_one_tensor_is_refused(nested, address, error, said):
    with pytest.raises(error) as refusal:
        tap(nested, address)
    assert said in str(refusal.value)


def test_a_layer_stands_for_all_its_calls_where_layers_are_meant(nested):
    assert len(calls(nested, "middle/tower/act")) == 2
    assert len(calls(nested, "middle#2/tower/act")) == 1
    assert len(calls(nested, "middle#2")) == 1


def test_models_that_are_code_cannot_be_looked_into():
    class Own(keras.Model):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.inside = kl.Dense(2, name="inside")

        def call(self, x):
            return self.inside(x)

    class Doubling(keras.Model):  # a graph is in it, but calling it does more than run that
        def call(self, x):
            return super().call(x) * 2.0

    x = keras.Input((2,))
    with pytest.raises(OptionError, match="code of its own"):
        tap(keras.Model(x, Own(name="own")(x)), "own/inside")
    with pytest.raises(OptionError, match="code of its own"):
        tap(Own(name="own"), "inside")
    with pytest.raises(OptionError, match="its input is not known"):
        tap(keras.Sequential([kl.Dense(2, name="d")]), "d")
    assert not is_graph(Doubling(x, kl.Dense(2)(x)))


# Unfolding --------------------------------------------------------------------------------------------------------------


def test_a_model_laid_flat_computes_the_same_to_the_last_bit(nested):
    values = {key: np.random.default_rng(i).normal(size=(5, 4)).astype("float32") for i, key in enumerate("ab")}
    model = copy_model(nested)
    given = {key: keras.Input((4,), name=key) for key in "ab"}

    flat = keras.Model(given, inline(model, given, Names(), "m"))

    assert [layer.name for layer in flat.layers if layer.weights] == ["m_middle_tower_dense", "m_lstm", "m_dense"]
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    assert flat.count_params() == nested.count_params()
    same(list(flat(values).values()), list(nested(values).values()))


def test_opening_one_call_of_a_model_opens_all_so_that_no_layer_stands_in_two_places(nested):
    graph = Graph(copy_model(nested), [tap(copy_model(nested), "cat")])
    assert [step.label for step in graph.steps].count("middle") == 2

    model = copy_model(nested)
    graph = Graph(model, [tap(model, "middle#1/add")])
    labels = [graph.label(key) for step in graph.steps for key in step.gives]
    assert "middle#2/add" in labels and "middle#1/tower" in labels and "middle#1" not in labels


def test_a_model_beside_one_that_is_opened_is_opened_too_if_they_share_layers():
    x = keras.Input((3,), name="x")
    inner = keras.Model(x, kl.Dense(3, name="dense")(x), name="inner")
    y = keras.Input((3,), name="y")
    wrapped = keras.Model(y, inner(y), name="wrapped")
    z = keras.Input((3,), name="z")
    model = keras.Model(z, kl.Add(name="sum")([inner(z), wrapped(z)]), name="model")

    graph = Graph(model, [tap(model, "inner/dense")])

    assert {graph.label(step.gives[0]) for step in graph.steps} == {"z", "inner/dense", "wrapped/inner/dense", "sum"}


def test_mobilenet_twice_in_one_graph():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=4)
    image = keras.Input((32, 32, 3), name="image")
    names = Names(["image"])
    outs = []
    for prefix in ("first", "second"):
        own = copy_model(model)
        outs += inline(own, dict.fromkeys(inputs(own), image), names, prefix).values()

    both = keras.Model(image, outs)

    values = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype("float32")
    same(both(values), [model(values)] * 2)
    assert len(both.layers) == 2 * (len(model.layers) - 1) + 1


def test_what_trains_in_a_nested_model_trains_when_it_is_laid_flat():
    x = keras.Input((3,), name="x")
    inner = keras.Model(x, kl.Dense(2, name="second")(kl.Dense(3, name="first")(x)), name="inner")
    inner.trainable = False
    inner.get_layer("second").trainable = True  # Keras trains it: only flags of layers count inside another model
    y = keras.Input((3,), name="y")
    model = copy_model(keras.Model(y, inner(y)))
    assert [v.shape for v in model.trainable_variables] == [(3, 2), (2,)]

    flat = keras.Model(y, inline(model, {"y": y}, Names(), "m"))

    assert [v.shape for v in flat.trainable_variables] == [(3, 2), (2,)]


def test_what_a_model_does_to_its_input_is_done_where_it_is_opened():
    x = keras.Input((3, 1), name="x", dtype="float16")
    inner = keras.Model(x, kl.Flatten(name="flat")(x), name="inner")
    y = keras.Input((3,), name="y")
    model = copy_model(keras.Model(y, kl.Dense(2, name="dense")(inner(y))))
    values = np.asarray([[1 / 3, 2e-9, 7.7]], "float32")

    flat = keras.Model(y, inline(model, {"y": y}, Names(), "m"))

    same(list(flat(values).values()), [model(values)])


# Cuts -------------------------------------------------------------------------------------------------------------------

KINDS = st.sampled_from(["dense", "shared", "relu", "add", "add", "cat"])


@st.composite
def networks(draw):
    """Return layers as (name, kind, parents) in order, the inputs first, and the names of the outputs."""
    layers = [(f"in{i}", "input", ()) for i in range(draw(st.integers(1, 2)))]
    width4 = [name for name, _, _ in layers]
    for i in range(draw(st.integers(2, 8))):
        kind = draw(KINDS)
        near = st.sampled_from(width4[-3:])  # long chains with short detours have cuts; all to all has none
        parents = (draw(near), draw(near)) if kind in ("add", "cat") else (draw(near),)
        name = f"shared#{sum(k == 'shared' for _, k, _ in layers) + 1}" if kind == "shared" else f"{kind}{i}"
        layers.append((name, kind, parents))
        if kind == "cat":
            layers.append((name := f"narrow{i}", "dense", (f"cat{i}",)))
        width4.append(name)
    inner = [name for name in width4 if not name.startswith("in")]
    return layers, [*(name for name in inner[:-1] if draw(st.integers(0, 9)) == 0), inner[-1]]


def built(layers, outputs):
    """Return the Keras model of a network."""
    shared, tensors = kl.Dense(4, activation="tanh", name="shared"), {}
    for name, kind, parents in layers:
        given = [tensors[parent] for parent in parents]
        if kind == "input":
            tensors[name] = keras.Input((4,), name=name)
        elif kind == "shared":
            tensors[name] = shared(*given)
        elif kind in ("add", "cat"):
            tensors[name] = {"add": kl.Add, "cat": kl.Concatenate}[kind](name=name)(given)
        else:
            tensors[name] = {"dense": kl.Dense(4, name=name), "relu": kl.ReLU(name=name)}[kind](*given)
    ins = [tensors[name] for name, kind, _ in layers if kind == "input"]
    return keras.Model(ins, [tensors[name] for name in outputs], name="net")


def reaching(layers, ends):
    """Return which layers lead to some, themselves included, by going through the list from behind."""
    found = set(ends)
    for name, _, parents in reversed(layers):
        if name in found:
            found |= set(parents)
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_a_cut_is_clean_or_refused_with_what_passes_by(network):
    """Clean cuts give a trunk and a head that are the model again; for the others the crossing tensors are those of a search by hand."""
    layers, outputs = network
    keras.backend.clear_session()
    model = built(layers, outputs)
    alive = reaching(layers, outputs)
    kinds = {name: kind for name, kind, _ in layers}
    parents = {name: found for name, _, found in layers}
    once = sum(kind == "shared" and name in alive for name, kind, _ in layers) == 1
    values = [np.random.default_rng(i).normal(size=(3, 4)).astype("float32") for i in range(len(model.inputs))]
    graph = Graph(model)
    clean = []
    # calls of a layer are counted in the graph alone: those that lead nowhere are not in it
    calls = [name for name, kind, _ in layers if kind == "shared" and name in alive]
    spelled = {name: f"shared#{calls.index(name) + 1}" if name in calls else name for name in alive}
    for place in [name for name, _, _ in layers if name in alive]:
        address = "shared" if once and kinds[place] == "shared" else spelled[place]
        before = reaching(layers, [place])
        behind = alive - before
        crossing = {x for x in before - {place} if x in outputs or any(x in parents[y] for y in behind)}
        both = any(kinds[x] == "shared" for x in before) and any(kinds[x] == "shared" for x in behind)
        trivial = not behind or all(kinds[x] == "input" for x in before)

        found = cut(graph, [graph.same(tap(model, address).key)], graph.outputs)
        assert {graph.label(key) for key in found.crossing} == {
            "shared" if once and kinds[x] == "shared" else spelled[x] for x in crossing
        }
        assert found.clean == (not crossing and not both and not trivial)
        split = get("split")(at=address)
        if not found.clean:
            with pytest.raises(MismatchError):
                split.compose([Member(name="net", model=model)])
            continue
        clean.append(address)
        own = built(layers, outputs)
        whole = own(values)
        made = split.compose([Member(name="net", model=own)])
        trunk, head = made.model, made.more["head"]
        more = {name: "input" for name in inputs(head) if name.startswith("in")}
        chain = get("chain")(connect={f"head.{name}": word for name, word in more.items()})
        joined = chain.compose([Member(name="trunk", model=trunk), Member(name="head", model=head)]).model
        given = dict(zip(inputs(model), values, strict=True))
        flat = [given[name] for name in inputs(joined)]
        same(keras.tree.flatten(joined(keras.tree.pack_sequence_as(joined.input, flat))), keras.tree.flatten(whole))
    assert sorted(clean) == sorted(graph.label(key) for key in clean_cuts(graph, graph.outputs))


def test_densenet_can_be_cut_between_its_blocks_layers_and_nowhere_inside():
    model = keras.applications.DenseNet121(weights=None, input_shape=(32, 32, 3), classes=4)
    graph = Graph(model)

    names = [graph.label(key) for key in clean_cuts(graph, graph.outputs)]

    concatenations = [layer.name for layer in model.layers if layer.name.endswith("_concat")]
    assert set(concatenations) < set(names)
    inside = {layer.name for layer in model.layers if "_block" in layer.name} - set(concatenations)
    assert not inside & set(names)
    with pytest.raises(MismatchError) as refusal:
        get("split")(at="conv3_block4_1_conv").compose([Member(name="net", model=model)])
    assert "'conv3_block3_concat' is made before" in str(refusal.value)
    assert "'conv3_block3_concat' before and 'conv3_block4_concat' after" in str(refusal.value)
