"""Values of options by depth, role, layer and name: what they mean, what is refused, and what the schema says of them."""

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import graftwork as gw
from graftwork import methods
from graftwork.errors import GraftworkError, OptionError
from graftwork.methods.options import Gradient, Options, Place, json_schema

AB = ["a", "b"]
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

fractions = st.floats(0, 1)
values = st.lists(fractions, min_size=1, max_size=9)


def at_depths(method, option, value, models=AB):
    """The option of a method at five depths."""
    options = Options(method, {option: value}, models)
    return [getattr(options.for_tensor(Place("w", depth=depth)), option) for depth in DEPTHS]


# ------------------------------------------------------------------------------------------------------------ gradients


def test_gradients_by_hand():
    """Straight lines between values at even distances: two, three, and one alone."""
    assert at_depths("slerp", "t", {"gradient": [0, 1]}) == [0, 0.25, 0.5, 0.75, 1]
    assert at_depths("slerp", "t", {"gradient": [0, 1, 0.5]}) == [0, 0.5, 1, 0.75, 0.5]
    assert at_depths("slerp", "t", {"gradient": [0.3]}) == [0.3] * 5


def test_numbers_that_yaml_takes_for_texts_are_numbers():
    """YAML 1.1 asks for a point and a sign: without them 1e-6 and 1.5e3 are texts. No other text is a number."""
    assert Options("karcher", {"tol": "1e-6"}, AB).for_tensor(Place("w")).tol == 1e-6
    assert at_depths("ties", "weight", ["-1.5e3", {"gradient": ["2E0"]}]) == [(-1500, 2)] * 5
    for text in ("1", "1e", "e5", "1e400"):
        with pytest.raises(OptionError, match="expected a number"):
            Options("linear", {"weight": text}, AB)


def test_gradients_by_model():
    """One for all models, in lists beside numbers, and in mappings, where the default may be one."""
    up, down = {"gradient": [0, 1]}, {"gradient": [8, 4]}

    assert at_depths("ties", "weight", up) == [0, 0.25, 0.5, 0.75, 1]
    assert at_depths("ties", "weight", [up, down]) == [(0, 8), (0.25, 7), (0.5, 6), (0.75, 5), (1, 4)]
    assert at_depths("ties", "weight", [2, down]) == [(2, 8), (2, 7), (2, 6), (2, 5), (2, 4)]
    assert at_depths("ties", "weight", {"b": 3, "default": up}) == [(0, 3), (0.25, 3), (0.5, 3), (0.75, 3), (1, 3)]


def test_gradients_for_some_tensors():
    """In an entry, alone or by model; the depth is that in the whole model."""
    options = Options(
        "ties",
        {"weight": [{"filter": "*/kernel", "value": {"gradient": [0, 1]}}, {"value": [{"gradient": [4, 0]}, 1]}]},
        AB,
    )

    assert options.for_tensor(Place("x/kernel", depth=0.25)).weight == 0.25
    assert options.for_tensor(Place("x/bias", depth=0.25)).weight == (3, 1)


def test_a_model_may_be_called_gradient():
    """Then the word is its name."""
    options = Options("linear", {"weight": {"gradient": 3.0}}, ["gradient"])

    assert options.for_tensor(Place("w")).weight == (3.0,)


@given(value=fractions, count=st.integers(1, 9), depth=fractions)
def test_a_gradient_of_equal_values_is_that_value(value, count, depth):
    """To the last bit, so that a gradient and a number give one and the same result."""
    assert Gradient((value,) * count).at(depth) == value


@given(values=values)
def test_the_ends_of_a_gradient_are_exact(values):
    """The first layer has the first value, the last one the last."""
    gradient = Gradient(tuple(values))

    assert gradient.at(0.0) == values[0]
    assert gradient.at(1.0) == values[-1]


@given(values=values, depth=fractions)
@example(values=[1.0, 0.1], depth=1 - 2.0**-53)
@example(values=[0.1, 1.0], depth=1 - 2.0**-53)
def test_a_gradient_is_made_of_straight_lines(values, depth):
    """As NumPy draws them, and never beyond its values, which the option may have, into numbers that it may not."""
    found = Gradient(tuple(values)).at(depth)

    assert found == pytest.approx(np.interp(depth, np.linspace(0, 1, len(values)), values), rel=1e-12, abs=1e-12)
    assert min(values) <= found <= max(values)


REFUSED_GRADIENTS = [
    ("slerp", {"t": {"gradient": [0, 2]}}, "option 't' of slerp in a gradient is 2; expected a number in [0, 1]"),
    ("slerp", {"t": {"gradient": ["0"]}}, "option 't' of slerp in a gradient is '0'; expected a number in [0, 1]"),
    (
        "slerp",
        {"t": {"gradient": []}},
        "option 't' of slerp has the gradient []; expected a list of numbers from the first layer to the last",
    ),
    (
        "slerp",
        {"t": {"gradient": 0.5}},
        "option 't' of slerp has the gradient 0.5; expected a list of numbers from the first layer to the last",
    ),
    (
        "slerp",
        {"t": {"gradient": [0, 1], "filter": "*"}},
        "option 't' of slerp is a mapping, but it is one value for all models: a number in [0, 1]",
    ),
    (
        "slerp",
        {"t": [{"gradient": [0, 1]}, {"gradient": [1, 0]}]},
        "option 't' of slerp is a list, but it is one value for all models: a number in [0, 1]",
    ),
    (
        "ties",
        {"weight": [{"gradient": [0, 1]}]},
        "option 'weight' of ties has 1 value, but there are 2 models: a, b",
    ),
    (
        "ties",
        {"density": {"a": {"gradient": [0.5, 0]}, "b": 1}},
        "option 'density' of ties in a gradient is 0; expected a number in (0, 1]",
    ),
    (
        "ties",
        {"normalize": {"gradient": [True, False]}},
        "option 'normalize' of ties is a gradient, which needs numbers; expected true or false",
    ),
    (
        "ties",
        {"trim": {"gradient": ["tensor", "model"]}},
        "option 'trim' of ties is a gradient, which needs numbers; expected 'tensor' or 'model'",
    ),
    (
        "swa",
        {"start": {"gradient": [0, 1]}},
        "option 'start' of swa is a gradient, which needs numbers; expected a whole number in [0, inf)",
    ),
]


@pytest.mark.parametrize(("method", "raw", "message"), REFUSED_GRADIENTS, ids=lambda value: str(value)[:40])
def test_gradients_that_make_no_sense_are_refused_at_once(method, raw, message):
    """Each of their values is one that the option could have; between yes and no there is nothing."""
    with pytest.raises(OptionError) as error:
        Options(method, raw, AB)

    assert str(error.value) == message


def test_a_gradient_needs_a_depth():
    """Where it is not known, there is no value; other options do not ask."""
    options = Options("ties", {"density": {"gradient": [0.2, 1]}}, AB)

    with pytest.raises(OptionError, match=r"'density' of ties is a gradient, but how deep 'odd' lies .* is not known"):
        options.for_tensor(Place("odd"))
    assert Options("ties", {"density": 0.2}, AB).for_tensor(Place("odd")).density == 0.2


def test_weights_that_cancel_at_some_depth_are_refused_there():
    """Each is a weight; together they divide by zero in one layer."""
    options = Options("linear", {"weight": [{"gradient": [1, -1]}, 0.5]}, AB)

    assert options.for_tensor(Place("w", depth=0.5)).weight == (0, 0.5)
    with pytest.raises(OptionError, match=r"is -0\.5, 0\.5, which sums to 0"):
        options.for_tensor(Place("w", depth=0.75))


# ------------------------------------------------------------------------------------------- roles, classes and texts


def test_entries_fit_by_everything_they_say():
    """By name, by role, by class of layer, or by all of them; the first that fits counts."""
    options = Options(
        "slerp",
        {
            "t": [
                {"filter": "has:head", "role": "weight", "layer": "Dense", "value": 0.1},
                {"role": "statistic", "value": 0.2},
                {"layer": "Dense", "value": 0.3},
                {"filter": "has:[0]/", "value": 0.4},
                {"filter": "*", "layer": "Conv2D", "value": 0.6},
                {"filter": "*", "value": 0.7},
            ]
        },
        AB,
    )
    found = {
        Place("my_head/kernel", layer="Dense"): 0.1,
        Place("my_head/kernel", role="counter", layer="Dense"): 0.3,
        Place("head/kernel", layer="Dense2"): 0.7,
        Place("head/mean", role="statistic", layer="Dense"): 0.2,
        Place("x[0]/kernel", layer="Conv2D"): 0.4,
        Place("x0/kernel", layer="Conv2D"): 0.6,
        Place("x0/kernel"): 0.7,
    }

    assert {place: options.for_tensor(place).t for place in found} == found


def test_a_text_is_found_as_it_stands():
    """No character of it means anything else, and upper case is not lower case."""
    options = Options("slerp", {"t": [{"filter": "has:a.*", "value": 0.1}, {"value": 0.2}]}, AB)

    assert [options.for_tensor(Place(name)).t for name in ("xa.*y", "a.*", "ab", "A.*")] == [0.1, 0.1, 0.2, 0.2]


def test_entries_for_no_tensor_are_told():
    """As they are written; one for everything is never among them, however little there is."""
    options = Options(
        "slerp",
        {
            "t": [
                {"layer": "Dnse", "value": 0},
                {"filter": "has:q", "role": "seed", "value": 0},
                {"role": "weight", "value": 1},
            ]
        },
        AB,
    )

    assert options.unused_filters([Place("q/kernel", layer="Dense")]) == ["t: layer Dnse", "t: has:q, role seed"]
    assert Options("slerp", {"t": [{"value": 1}]}, AB).unused_filters([]) == []


REFUSED_ENTRIES = [
    (
        [{"role": "weigth", "value": 1}],
        "the role of option 't' of slerp for tensors 'role weigth' is not known; did you mean 'weight'?",
    ),
    (
        [{"layer": 3, "value": 1}],
        "the layer of option 't' of slerp for tensors 'layer 3' is not a text; write a word",
    ),
    (
        [{"filter": None, "value": 1}],
        "the filter of option 't' of slerp for tensors 'None' is not a text; "
        "write a glob, a regular expression after re:, or a text after has:",
    ),
    (
        [{"filter": "*", "value": 1}, {"layer": "Dense", "value": 1}],
        "entry 2 of option 't' of slerp never counts, since entry 1 matches every tensor; put that one last",
    ),
    (
        [{"layer": "Dense"}],
        "entry 1 of option 't' of slerp has the keys layer; expected value, and filter, role or layer",
    ),
    (
        [{"layer": "Dense", "value": {"gradient": [0, 3]}}],
        "option 't' of slerp for tensors 'layer Dense' in a gradient is 3; expected a number in [0, 1]",
    ),
]


@pytest.mark.parametrize(("entries", "message"), REFUSED_ENTRIES, ids=lambda value: str(value)[:40])
def test_entries_that_make_no_sense_are_refused_at_once(entries, message):
    """With the option, the entry and the key."""
    with pytest.raises(OptionError) as error:
        Options("slerp", {"t": entries}, AB)

    assert str(error.value) == message


# --------------------------------------------------------------------------------------------------------------- schema

NUMBERS = [0.5, {"gradient": [0.25, 1]}]
PER_MODEL = [[0.5, 0.25], [0.5, {"gradient": [0.25, 1]}], {"a": {"gradient": [1]}, "default": 0.5}]


def entries_with(value):
    return [
        [{"value": value}],
        [{"filter": "has:x", "value": value}, {"value": value}],
        [{"filter": "re:x", "role": "statistic", "layer": "Dense", "value": value}],
    ]


@pytest.mark.parametrize("value", NUMBERS + PER_MODEL, ids=str)
def test_the_schema_knows_what_options_take(value):
    """Every form of a value, alone and in entries, is taken by both or, where the option has one value for all models, by neither."""
    for method, option, takes in (("ties", "density", True), ("slerp", "t", value in NUMBERS)):
        schema = json_schema(methods.get(method))
        for written in (value, *entries_with(value)):
            if takes:
                jsonschema.validate({option: written}, schema)
                Options(method, {option: written}, AB)
            else:
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validate({option: written}, schema)
                with pytest.raises(OptionError):
                    Options(method, {option: written}, AB)


@pytest.mark.parametrize(
    "raw",
    [
        {"normalize": {"gradient": [True]}},
        {"density": {"gradient": []}},
        {"density": {"gradient": [2]}},
        {"density": [{"role": "weigth", "value": 1}]},
        {"density": [{"layer": "Dense"}]},
        {"density": [{"layer": 1, "value": 1}]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_options_refuse(raw):
    """An editor marks the slip that the plan would tell."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, json_schema(methods.get("ties")))
    with pytest.raises(OptionError):
        Options("ties", raw, AB)


# ---------------------------------------------------------------------------------------------------------- from files


def test_depth_and_class_are_those_of_the_layers_in_the_file(small_models, tmp_path):
    """Three layers: from all of the first model, over half of each, to all of the second; or by class."""
    sources = {name: tmp_path / f"{name}.safetensors" for name in ("birds", "flowers")}
    for name, path in sources.items():
        gw.convert(small_models / f"{name}.keras", path)
    birds, flowers = (load_file(path) for path in sources.values())
    models = [small_models / "birds.keras", small_models / "flowers.keras"]
    by_depth, by_class = tmp_path / "depth.safetensors", tmp_path / "class.safetensors"

    gw.merge(models, method="linear", weight=[{"gradient": [1, 0]}, {"gradient": [0, 1]}], output=by_depth)
    gw.merge(models, method="linear", weight=[{"layer": "Conv2D", "value": [0, 1]}, {"value": [1, 0]}], output=by_class)

    deep, kind = load_file(by_depth), load_file(by_class)
    assert {name.split("/")[0] for name in deep} == {"stem", "body", "head"}
    for name, merged in deep.items():
        layer = name.split("/")[0]
        share = {"stem": 0, "body": 0.5, "head": 1}[layer]
        np.testing.assert_allclose(merged, (1 - share) * birds[name] + share * flowers[name], rtol=1e-6)
        np.testing.assert_array_equal(kind[name], (birds if layer == "head" else flowers)[name])


def test_a_class_that_no_layer_has_is_a_slip(small_models, tmp_path):
    """Found by the plan, as with names."""
    models = [small_models / "birds.keras", small_models / "flowers.keras"]

    with pytest.raises(GraftworkError, match="layer Conv3D"):
        gw.plan_merge(models, method="linear", weight=[{"layer": "Conv3D", "value": 1}, {"value": 1}])
