"""Chains: what one model gives goes into the next, by name, through nothing that was not asked for."""

import keras
import numpy as np
import pytest
from composed import compose, reloaded, same
from keras import layers as kl

import graftwork as gw
from graftwork.compose.verbs.chain import Chain

pytestmark = pytest.mark.keras


def dense(name, size, units, activation=None):
    return keras.Sequential([keras.Input((size,)), kl.Dense(units, activation)], name=name)


def two_faced(name="two"):
    """Two inputs and two outputs, all dictionaries."""
    left, right = keras.Input((4,), name="l"), keras.Input((3,), name="r")
    both = kl.Concatenate()([left, right])
    outputs = {"sum": kl.Dense(2)(both), "text": kl.Dense(5)(right)}
    return keras.Model({"left": left, "right": right}, outputs, name=name)


def taker(name="taker"):
    """Inputs of the same names as `two_faced` gives, in another order, as a list."""
    text, total = keras.Input((5,), name="text"), keras.Input((2,), name="sum")
    return keras.Model([text, total], kl.Dense(3)(kl.Concatenate()([text, total])), name=name)


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_three_models_in_a_row():
    """The chain gives what the models give one after the other, to the last bit, also after loading, also in one graph."""
    models = {"a": dense("a", 8, 6), "b": dense("b", 6, 4, "relu"), "c": dense("c", 4, 3, "softmax")}
    x = values(5, 8)
    expected = models["c"](models["b"](models["a"](x)))
    for inline in (False, True):
        made = compose(Chain(inline=inline), models)
        same(made.model(x), expected)
        same(made.reference(x), expected)
        assert made.exact
        same(reloaded(made.model)(x), expected)
        nested = [layer.name for layer in made.model.layers if isinstance(layer, keras.Model)]
        assert nested == ([] if inline else ["a", "b", "c"])


def test_the_same_model_twice_in_one_graph():
    """MobileNetV2's layers stand twice in one graph under names of their own, with nothing changed."""
    image = keras.applications.MobileNetV2(input_shape=(32, 32, 3), weights=None, include_top=False, alpha=0.35)
    back = keras.Sequential([keras.Input((1, 1, 1280)), kl.UpSampling2D(32), kl.Conv2D(3, 1)], name="back")
    made = compose(Chain(inline=True), {"first": image, "back": back, "second": image})
    x = values(2, 32, 32, 3)
    same(made.model(x), image(back(image(x))))
    names = [layer.name for layer in made.model.layers]
    assert len(set(names)) == len(names) and {"first_Conv1", "second_Conv1"} <= set(names)


def test_ports_meet_by_name_not_by_place():
    """Outputs of one go to inputs of the same name of the other, whatever the order and structure; the rest stays."""
    a, b = two_faced(), taker()
    made = compose(Chain(), {"a": a, "b": b})
    given = {"left": values(2, 4), "right": values(2, 3, seed=1)}
    middle = a(given)
    same(made.model(given), b([middle["text"], middle["sum"]]))
    same(reloaded(made.model)(given), made.model(given))


def test_connect_says_what_names_do_not():
    """An input takes any output of any earlier model, or becomes an input of the result."""
    a, b, c = dense("a", 4, 2), dense("b", 2, 5), taker("c")
    with pytest.raises(gw.MismatchError, match=r"nothing is called 'text'.*connect=\{\"c\.text\": \"b\.dense"):
        compose(Chain(), {"a": a, "b": b, "c": c})
    made = compose(Chain(connect={"c.text": "b", "c.sum": "a"}), {"a": a, "b": b, "c": c})
    x = values(3, 4)
    same(made.model(x), c([b(a(x)), a(x)]))
    made = compose(Chain(connect={"c.text": "b", "c.sum": "input"}), {"a": a, "b": b, "c": c})
    ports = {next(iter(gw.check("chain", [a, b, c], connect={"c.text": "b", "c.sum": "input"}).inputs))["name"]: x}
    total = values(3, 2, seed=1)
    same(made.model({**ports, "sum": total}), c([b(a(x)), keras.ops.convert_to_tensor(total)]))
    with pytest.raises(gw.UnknownNameError, match=r"c\.tex"):
        compose(Chain(connect={"c.tex": "b"}), {"a": a, "b": b, "c": c})
    with pytest.raises(gw.OptionError, match="comes after"):
        compose(Chain(connect={"b": "c"}), {"a": a, "b": b, "c": taker("c")})


def test_an_output_that_nobody_takes_is_said():
    """What the result drops is said by name."""
    head = dense("head", 2, 2)
    made = compose(Chain(connect={"head": "a.sum"}), {"a": two_faced(), "head": head})
    assert any("'text'" in note and "nothing takes" in note for note in made.notes)


@pytest.mark.parametrize(
    ("giver", "taker_", "spec", "advice"),
    [
        ((6, 6, 5), (5,), "gap", "gap"),
        ((6, 6, 5), (180,), "flatten", "flatten"),
        ((6, 6, 5), (7,), ["gap", "dense"], r"\[gap, dense\]"),
        ((6, 6, 5), (12, 12, 5), "resize", "resize"),
        ((7,), (9,), "dense", "dense"),
        ((7,), (9,), "pad", "dense"),
        ((7, 4), (9, 4), "pad", "pad"),
        ((7,), (9,), {"Dense": {"units": 9, "use_bias": False}}, "dense"),
    ],
)
def test_ready_made_adapters(giver, taker_, spec, advice):
    """Without an adapter both shapes are named and the one that fits is; with it the chain works."""
    a = keras.Sequential([keras.Input(giver), kl.Activation("linear")], name="a")
    b = keras.Sequential([keras.Input(taker_), kl.Activation("linear")], name="b")
    with pytest.raises(gw.MismatchError, match=rf"\(None, .*\(None, .*the adapter {advice} would fit"):
        compose(Chain(), {"a": a, "b": b})
    made = compose(Chain(adapters={("a", "b"): spec}), {"a": a, "b": b})
    x = values(2, *giver)
    found = np.asarray(made.model(x))
    assert found.shape == (2, *taker_)
    if spec == "gap":
        np.testing.assert_allclose(found, x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    if spec == "flatten":
        np.testing.assert_array_equal(found, x.reshape(2, -1))
    if spec == "pad":
        np.testing.assert_array_equal(found[tuple(slice(n) for n in x.shape)], x)
        assert found.sum() == pytest.approx(x.sum(), rel=1e-5, abs=1e-5)
    if "dense" in str(spec).lower():
        assert any("untrained parameters" in note for note in made.notes)


def test_numbers_are_not_cast_in_silence():
    """Floating point does not go into whole numbers; two floating-point widths do, and that is said; text never."""
    whole = keras.Sequential([keras.Input((3,), dtype="int32"), kl.Embedding(5, 2)], name="whole")
    with pytest.raises(gw.MismatchError, match=r"float32.*int32.*cast would fit"):
        compose(Chain(), {"a": dense("a", 4, 3), "whole": whole})
    made = compose(Chain(adapters={"a:whole": "cast"}), {"a": dense("a", 4, 3), "whole": whole})
    assert made.model(values(2, 4)).shape == (2, 3, 2)
    text = keras.Sequential([keras.Input((3,), dtype="string"), kl.StringLookup(vocabulary=["x"])], name="text")
    with pytest.raises(gw.MismatchError, match="texts and numbers"):
        compose(Chain(), {"a": dense("a", 4, 3), "text": text})
    half = keras.Sequential([keras.Input((4,)), kl.Dense(3, dtype="mixed_float16")], name="half")
    made = compose(Chain(), {"half": half, "b": dense("b", 3, 2)})
    assert any("float16 is cast to float32" in note for note in made.notes)
    assert made.model.output.dtype == "float32"


def test_no_axis_is_squeezed_and_no_width_broadcast():
    """(n, 10, 1) does not pass for (n, 10), nor 1 for 10."""
    column = keras.Sequential([keras.Input((10, 1)), kl.Activation("linear")], name="column")
    with pytest.raises(gw.MismatchError):
        compose(Chain(), {"column": column, "b": dense("b", 10, 2)})
    with pytest.raises(gw.MismatchError):
        compose(Chain(), {"one": dense("one", 4, 1), "b": dense("b", 10, 2)})


def test_dynamic_sizes_pass_through():
    """A size that is not fixed stays so."""
    a = keras.Sequential([keras.Input((None, None, 3)), kl.Conv2D(4, 3, padding="same")], name="a")
    b = keras.Sequential([keras.Input((None, None, 4)), kl.Conv2D(2, 1)], name="b")
    made = compose(Chain(), {"a": a, "b": b})
    assert made.model.output_shape == (None, None, None, 2)
    same(made.model(values(1, 5, 7, 3)), b(a(values(1, 5, 7, 3))))


def test_masks_travel_along():
    """What an Embedding masks stays masked in the model behind it, as if both were one model."""
    whole = keras.Sequential([keras.Input((6,), dtype="int32"), kl.Embedding(9, 4, mask_zero=True), kl.LSTM(3)])
    front = keras.Sequential([keras.Input((6,), dtype="int32"), kl.Embedding(9, 4, mask_zero=True)], name="front")
    back = keras.Sequential([keras.Input((6, 4)), kl.LSTM(3)], name="back")
    front.set_weights(whole.layers[0].get_weights())
    back.set_weights(whole.layers[1].get_weights())
    tokens = np.array([[3, 1, 4, 0, 0, 0], [2, 7, 1, 8, 2, 8]], "int32")
    made = compose(Chain(), {"front": front, "back": back})
    same(made.model(tokens), whole(tokens))
    same(made.reference(tokens), whole(tokens))


def test_words_that_are_wrong():
    """Slips are refused with the words that are known."""
    a, b = dense("a", 4, 3), dense("b", 5, 2)
    with pytest.raises(gw.UnknownNameError, match="pair of models"):
        compose(Chain(adapters={"a:b": "dense", "a:c": "dense"}), {"a": a, "b": b})
    with pytest.raises(gw.UnknownNameError, match="did you mean 'Dense'"):
        compose(Chain(adapters={"a:b": "Dens"}), {"a": a, "b": b})
    used = kl.Dense(5)
    used.build((None, 3))
    with pytest.raises(gw.OptionError, match="has weights already"):
        compose(Chain(adapters={"a:b": used}), {"a": a, "b": b})
    with pytest.raises(gw.OptionError, match="at least two"):
        compose(Chain(), {"a": a})
    unbuilt = keras.Sequential([kl.Dense(3)], name="unbuilt")
    with pytest.raises(gw.OptionError, match="does not say what its inputs are"):
        compose(Chain(), {"a": a, "unbuilt": unbuilt})
