"""The predicted layout of weights files against files that Keras wrote, dataset by dataset."""

import inspect
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import numpy as np
import pytest
from keras.src import api_export
from keras.src.saving import saving_lib

from graftwork.architecture import variables
from graftwork.architecture.layer import Layer, parse
from graftwork.architecture.layout import Group, Layout, layout, name_tree
from graftwork.architecture.variables import children, class_names, own_variables
from graftwork.errors import StoreError
from graftwork.tensor import Role

pytestmark = pytest.mark.keras

L = keras.layers

AUTOMATIC = {"softmax", "dropout", "string_lookup", *(variables.snake_case(n) for n in class_names() if "Random" in n)}
AUTOMATIC |= {"solarization", "auto_contrast", "equalization"}
"""Layers that a layer makes inside itself without naming them: Keras numbers them through the whole session."""


@dataclass(frozen=True)
class Saved:
    root: Layer
    groups: dict[str, Group]
    recorded: dict[str, Any]  # path -> what Keras stored: its variable, or an array

    @property
    def layout(self) -> Layout:
        return layout(self.root)

    def weights(self) -> dict[str, Any]:
        """Return what was recorded, without the state of training."""
        return {path: value for path, value in self.recorded.items() if not _is_training(path)}


def _is_training(path: str) -> bool:
    return any(part in ("optimizer", "metrics") for part in path.split("/"))


def read(path: Path) -> tuple[Layer, dict[str, Group]]:
    with zipfile.ZipFile(path) as archive:
        root = parse(json.loads(archive.read("config.json")))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            return root, dict(_groups(file))


def _groups(file: h5py.File) -> Iterator[tuple[str, Group]]:
    found: list[tuple[str, Group]] = []

    def visit(path: str, item: Any) -> None:
        if path.rpartition("/")[2] == "vars":
            kinds = {key: (data.shape, _dtype(data)) for key, data in item.items()}
            found.append((path[:-4].rstrip("/"), Group(item.attrs.get("name"), kinds)))

    file.visititems(visit)
    yield from found


def _dtype(data: h5py.Dataset) -> str:
    return data.attrs.get("dtype", data.dtype.name)


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[keras.Model], Saved]:
    def save(model: keras.Model) -> Saved:
        recorded: dict[str, Any] = {}
        write = saving_lib.H5IOStore.__setitem__

        def record(self: Any, key: str, value: Any) -> None:
            write(self, key, value)
            recorded["/".join(part for part in (self._h5_entry_path, "vars", key) if part)] = value

        with monkeypatch.context() as patch:
            patch.setattr(saving_lib.H5IOStore, "__setitem__", record)
            model.save(tmp_path / "model.keras")
        return Saved(*read(tmp_path / "model.keras"), recorded)

    return save


def on(layer: Any, *shapes: tuple[int | None, ...], dtype: str | None = None, batch: int | None = None) -> keras.Model:
    """Return a model that calls a layer on inputs of these shapes."""
    inputs = [keras.Input(shape, dtype=dtype, batch_size=batch) for shape in shapes]
    return keras.Model(inputs, layer(*inputs))


def on_list(layer: Any, *shapes: tuple[int | None, ...]) -> keras.Model:
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(inputs))


def frozen(model: keras.Model) -> keras.Model:
    model.layers[-1].trainable = False
    return model


def check(model: keras.Model, saved: Saved) -> None:
    planned = saved.layout
    weights = saved.weights()
    assert [v.path for v in planned.variables] == list(weights)
    assert not planned.unknown
    trainable = {id(variable) for variable in model.trainable_variables}
    for variable in planned.variables:
        kept = weights[variable.path]
        if isinstance(kept, keras.Variable):
            assert variable.name.rpartition("/")[2] == kept.name
            assert variable.trainable == (id(kept) in trainable), variable.name
        if variable.same_as:
            np.testing.assert_array_equal(np.asarray(weights[variable.same_as]), np.asarray(kept))
    assert len({v.name for v in planned.variables}) == len(planned.variables)
    check_groups(planned, saved)
    check_tree(planned, saved)


def check_groups(planned: Layout, saved: Saved) -> None:
    groups = {path: group for path, group in saved.groups.items() if not _is_training(path)}
    assert set(planned.groups) == set(groups)
    for path, chain in planned.groups.items():
        last = chain.rpartition("/")[2].partition("@")[0]
        if path and last not in AUTOMATIC:
            assert last == groups[path].name


def check_tree(planned: Layout, saved: Saved) -> None:
    """Without the configuration every name is right or a number; with it, every name is right."""
    names = name_tree(saved.groups)
    assert len({name for name, _ in names.values()}) == len(names)
    together = name_tree(saved.groups, planned)
    for variable in planned.variables:
        chain, _, leaf = names[variable.path][0].rpartition("/")
        if "_lookup_layer" not in variable.path:  # whose name is automatic
            assert chain == variable.name.rpartition("/")[0]
        assert leaf in (variable.name.rpartition("/")[2], variable.path.rpartition("/")[2])
        assert together[variable.path] == (variable.name, variable.role)


SEQUENCE = (5, 4)
IMAGE = (8, 8, 2)
VOLUME = (4, 4, 4, 2)
NAMES: dict[str, Any] = {"vocabulary": ["a", "b"], "output_mode": "tf_idf", "idf_weights": [1.0, 2.0]}


def _adapted_normalization() -> keras.Model:
    layer = L.Normalization()
    layer.adapt(np.arange(12.0).reshape(3, 4))
    return on(layer, (4,))


def _adapted_text() -> keras.Model:
    layer = L.TextVectorization(output_mode="tf_idf")
    layer.adapt(["a b c", "c d"])
    return on(layer, (1,), dtype="string")


CASES: dict[str, list[Callable[[], keras.Model]]] = {
    "Dense": [
        lambda: on(L.Dense(3), (4,)),
        lambda: on(L.Dense(3, use_bias=False, dtype="mixed_bfloat16"), (4,)),
        lambda: on(L.Dense(3, dtype="bfloat16"), (4,)),
        lambda: on(L.Dense(3, trainable=False), (4,)),
        *[
            lambda policy=policy, bias=bias: on(L.Dense(16, use_bias=bias, dtype=f"{policy}_from_float32"), (16,))
            for policy in ("int8", "int4/-1", "int4/4", "float8", "gptq/4/-1", "gptq/8/4", "awq/4/4")
            for bias in (True, False)
        ],
    ],
    "EinsumDense": [
        lambda: on(L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), SEQUENCE),
        lambda: on(L.EinsumDense("abc,cd->abd", (None, 3)), SEQUENCE),
        *[
            lambda policy=policy: on(
                L.EinsumDense("ab,bc->ac", 16, bias_axes="c", dtype=f"{policy}_from_float32"), (16,)
            )
            for policy in ("int8", "int4/-1", "int4/4", "float8", "gptq/4/-1", "awq/4/4")
        ],
    ],
    "Embedding": [
        lambda: on(L.Embedding(5, 4), (3,), dtype="int32"),
        *[
            lambda policy=policy: on(L.Embedding(5, 16, dtype=f"{policy}_from_float32"), (3,), dtype="int32")
            for policy in ("int8", "int4/-1", "int4/4")
        ],
    ],
    "ReversibleEmbedding": [
        lambda tie=tie, policy=policy: on(
            L.ReversibleEmbedding(5, 16, tie_weights=tie, dtype=policy), (3,), dtype="int32"
        )
        for tie in (True, False)
        for policy in ("float32", "int8_from_float32", "int4/-1_from_float32", "int4/4_from_float32")
    ],
    **{
        name: [lambda cls=cls, shape=shape, bias=bias: on(cls(2, 2, use_bias=bias), shape) for bias in (True, False)]
        for name, cls, shape in [
            ("Conv1D", L.Conv1D, SEQUENCE),
            ("Conv2D", L.Conv2D, IMAGE),
            ("Conv3D", L.Conv3D, VOLUME),
            ("Conv1DTranspose", L.Conv1DTranspose, SEQUENCE),
            ("Conv2DTranspose", L.Conv2DTranspose, IMAGE),
            ("Conv3DTranspose", L.Conv3DTranspose, VOLUME),
            ("SeparableConv1D", L.SeparableConv1D, SEQUENCE),
            ("SeparableConv2D", L.SeparableConv2D, IMAGE),
        ]
    },
    "DepthwiseConv1D": [lambda bias=bias: on(L.DepthwiseConv1D(2, use_bias=bias), SEQUENCE) for bias in (True, False)],
    "DepthwiseConv2D": [lambda bias=bias: on(L.DepthwiseConv2D(2, use_bias=bias), IMAGE) for bias in (True, False)],
    **{
        name: [
            lambda cls=cls, shape=shape, args=args: on(cls(*args), shape),
            lambda cls=cls, shape=shape, args=args: on(cls(*args, use_bias=False, dropout=0.1, seed=1), shape),
            lambda cls=cls, shape=shape, args=args: on(L.Bidirectional(cls(*args), name="bi"), shape),
            lambda cls=cls, shape=shape, args=args: on(
                L.Bidirectional(cls(*args, name="a"), backward_layer=cls(*args, name="b", go_backwards=True)), shape
            ),
            lambda cls=cls, shape=shape, args=args: on(cls(*args, stateful=True), shape, batch=2),
        ]
        for name, cls, shape, args in [
            ("LSTM", L.LSTM, SEQUENCE, (3,)),
            ("GRU", L.GRU, SEQUENCE, (3,)),
            ("SimpleRNN", L.SimpleRNN, SEQUENCE, (3,)),
            ("ConvLSTM1D", L.ConvLSTM1D, (3, 4, 2), (2, 2)),
            ("ConvLSTM2D", L.ConvLSTM2D, (3, 4, 4, 2), (2, 2)),
            ("ConvLSTM3D", L.ConvLSTM3D, (3, 4, 4, 4, 2), (2, 2)),
        ]
    },
    "Bidirectional": [
        lambda: on(L.Bidirectional(L.RNN([L.LSTMCell(3), L.LSTMCell(3)]), name="bi"), SEQUENCE),
        lambda: frozen(on(L.Bidirectional(L.LSTM(3), name="bi"), SEQUENCE)),
    ],
    "RNN": [lambda: on(L.RNN(L.GRUCell(3, reset_after=False)), SEQUENCE), lambda: on(L.RNN(L.LSTMCell(3)), SEQUENCE)],
    "StackedRNNCells": [
        lambda: on(L.RNN([L.LSTMCell(3), L.SimpleRNNCell(2, use_bias=False), L.LSTMCell(3)]), SEQUENCE),
        lambda: on(L.RNN([L.GRUCell(3, name="same"), L.GRUCell(2, name="same")], name="rnn"), SEQUENCE),
    ],
    "TimeDistributed": [
        lambda: on(L.TimeDistributed(L.Dense(3, name="x"), name="td"), SEQUENCE),
        lambda: on(
            L.TimeDistributed(keras.Sequential([keras.Input((4,)), L.Dense(2), L.BatchNormalization()])), SEQUENCE
        ),
        lambda: on(L.TimeDistributed(on(L.Dense(2), (4,))), SEQUENCE),
        lambda: on(L.TimeDistributed(L.TimeDistributed(L.Dense(2))), (2, 3, 4)),
    ],
    "Wrapper": [lambda: on(L.TimeDistributed(L.Dense(2)), SEQUENCE)],
    "SpectralNormalization": [
        lambda: on(L.SpectralNormalization(L.Dense(3)), (4,)),
        lambda: on(L.SpectralNormalization(L.Conv2D(3, 2, use_bias=False)), IMAGE),
        lambda: on(L.SpectralNormalization(L.Embedding(5, 3)), (4,), dtype="int32"),
        lambda: frozen(on(L.SpectralNormalization(L.Dense(3)), (4,))),
        lambda: on(L.SpectralNormalization(L.Dense(3, trainable=False)), (4,)),
    ],
    "BatchNormalization": [
        lambda options=options: on(L.BatchNormalization(**options), (4,))
        for options in (
            {},
            {"scale": False},
            {"center": False},
            {"scale": False, "center": False},
            {"renorm": True},
            {"renorm": True, "scale": False},
            {"synchronized": True},
        )
    ],
    "LayerNormalization": [
        lambda scale=scale, center=center: on(L.LayerNormalization(scale=scale, center=center), (4,))
        for scale in (True, False)
        for center in (True, False)
    ],
    "GroupNormalization": [
        lambda scale=scale, center=center: on(L.GroupNormalization(2, scale=scale, center=center), (4,))
        for scale in (True, False)
        for center in (True, False)
    ],
    "RMSNormalization": [lambda: on(L.RMSNormalization(), (4,))],
    "Normalization": [
        lambda: on(L.Normalization(), (4,)),
        lambda: on(L.Normalization(mean=1.0, variance=2.0), (4,)),
        _adapted_normalization,
    ],
    "PReLU": [lambda: on(L.PReLU(), IMAGE), lambda: on(L.PReLU(shared_axes=[1, 2]), IMAGE)],
    "Attention": [
        lambda options=options: on_list(L.Attention(**options), SEQUENCE, SEQUENCE)
        for options in ({}, {"use_scale": True}, {"score_mode": "concat"}, {"use_scale": True, "score_mode": "concat"})
    ],
    "AdditiveAttention": [
        lambda scale=scale: on_list(L.AdditiveAttention(use_scale=scale), SEQUENCE, SEQUENCE) for scale in (True, False)
    ],
    "MultiHeadAttention": [
        lambda options=options: on(L.MultiHeadAttention(2, 4, name="mha", **options), SEQUENCE, SEQUENCE)
        for options in (
            {},
            {"use_bias": False},
            {"dropout": 0.1, "output_shape": 3},
            {"use_gate": True, "value_dim": 3},
            {"dtype": "int8_from_float32"},
            {"dtype": "float8_from_float32"},
        )
    ]
    + [lambda: frozen(on(L.MultiHeadAttention(2, 4), SEQUENCE, SEQUENCE))],
    "GroupQueryAttention": [
        lambda options=options: on(L.GroupQueryAttention(4, 4, 2, **options), SEQUENCE, SEQUENCE)
        for options in ({}, {"use_bias": False, "use_gate": True}, {"dropout": 0.1})
    ],
    "STFTSpectrogram": [
        lambda mode=mode: on(L.STFTSpectrogram(mode, frame_length=16, frame_step=8), (100, 1))
        for mode in ("log", "real", "imag")
    ],
    "StringLookup": [
        lambda: on(L.StringLookup(vocabulary=["a", "b"]), (1,), dtype="string"),
        lambda: on(L.StringLookup(**NAMES), (1,), dtype="string"),
    ],
    "IntegerLookup": [
        lambda: on(L.IntegerLookup(vocabulary=[3, 4]), (1,), dtype="int64"),
        lambda: on(
            L.IntegerLookup(vocabulary=[3, 4], output_mode="tf_idf", idf_weights=[1.0, 2.0]), (1,), dtype="int64"
        ),
    ],
    "TextVectorization": [
        lambda: on(L.TextVectorization(vocabulary=["a", "b"]), (1,), dtype="string"),
        lambda: on(L.TextVectorization(**NAMES), (1,), dtype="string"),
        _adapted_text,
    ],
    "Discretization": [lambda: on(L.Discretization(bin_boundaries=[1.0, 2.0]), (1,))],
    "Hashing": [lambda: on(L.Hashing(3), (1,), dtype="string")],
    "Pipeline": [lambda: on(L.Pipeline([L.RandomFlip(), L.RandomFlip(), L.Normalization()], name="p"), IMAGE)],
    "RandAugment": [lambda: on(L.RandAugment(), (8, 8, 3))],
    "AugMix": [lambda: on(L.AugMix(), (8, 8, 3)), lambda: on(L.AugMix(all_ops=False), (8, 8, 3))],
}

FOREIGN = {"TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
"""Layers that hold another library's program: nobody knows their insides."""

CELLS = {"LSTMCell", "GRUCell", "SimpleRNNCell", "ConvLSTMCell"}
KERAS2 = {"SyncBatchNormalization", "LocallyConnected1D", "LocallyConnected2D"}


def layer_classes() -> list[type]:
    found = {item for item in vars(L).values() if inspect.isclass(item) and issubclass(item, L.Layer)}
    return sorted(found, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", layer_classes(), ids=lambda cls: cls.__name__)
def test_every_class_of_keras_is_known(cls: type) -> None:
    name = api_export.get_name_from_symbol(cls).rpartition(".")[2]
    if name in FOREIGN:
        assert own_variables(Layer(name="x", class_name=name, module="keras.layers")) is None
        return
    assert name in class_names()
    if name in variables._WITHOUT:
        sources = "".join(inspect.getsource(c) for c in cls.__mro__ if c.__module__.startswith("keras.src.layers."))
        base = inspect.getsource(L.Layer)
        assert "add_weight(" not in sources.replace(base, "")
    else:
        assert name in CASES or name in CELLS


def test_every_row_of_the_table_is_tried() -> None:
    assert class_names() - variables._WITHOUT - CELLS - KERAS2 <= set(CASES)


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, makers in CASES.items() for number in range(len(makers))]
)
def test_layer_is_laid_out_as_keras_saves_it(name: str, number: int, save: Callable[[keras.Model], Saved]) -> None:
    model = CASES[name][number]()
    check(model, save(model))


# Models of several layers -------------------------------------------------------------------------------------------


def _nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4), L.Dense(4, name="x"), L.BatchNormalization()], name="enc")
    branch = on(L.Dense(4, name="x"), (4,))
    inputs = keras.Input((4,))
    summed = L.Add()([inner(inputs), branch(inputs)]) + 1.0
    return keras.Model(inputs, L.Dense(2)(L.Add()([summed, inputs])), name="outer")


def _compiled_inside() -> keras.Model:
    base = keras.Sequential([keras.Input((4,)), L.Dense(2)], name="base")
    base.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    base.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(2, name="head")(base(inputs)))
    model.compile(keras.optimizers.SGD(momentum=0.5), "mse", metrics=["mae"], run_eagerly=True)
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    return model


def _frozen() -> keras.Model:
    model = _nested()
    model.get_layer("enc").trainable = False
    return model


def _frozen_but_one() -> keras.Model:
    model = _frozen()
    model.get_layer("enc").get_layer("x").trainable = True
    return model


def _lora() -> keras.Model:
    model = on(L.Dense(3), (4,))
    model.layers[-1].enable_lora(2)
    return model


MODELS: dict[str, Callable[[], keras.Model]] = {
    "nested": _nested,
    "compiled inside": _compiled_inside,
    "frozen": _frozen,
    "sequential": lambda: keras.Sequential([keras.Input((4,)), L.Dense(2), L.Dropout(0.1), L.Dense(2)]),
    "sequential of sequential": lambda: keras.Sequential(
        [keras.Input((4,)), keras.Sequential([L.Dense(2)]), keras.Sequential([L.Dense(2)])]
    ),
    "lora": _lora,
    "mobilenet": lambda: keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=3),
    "efficientnet": lambda: keras.applications.EfficientNetB0(input_shape=(32, 32, 3), weights=None, classes=3),
    "resnet": lambda: keras.applications.ResNet50(input_shape=(32, 32, 3), weights=None, classes=3),
    "transfer": lambda: on(
        keras.Sequential([keras.applications.MobileNetV2((32, 32, 3), weights=None, include_top=False), L.Flatten()]),
        (32, 32, 3),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_is_laid_out_as_keras_saves_it(name: str, save: Callable[[keras.Model], Saved]) -> None:
    model = MODELS[name]()
    check(model, save(model))


def test_a_frozen_model_freezes_what_is_inside(save: Callable[[keras.Model], Saved]) -> None:
    trainable = {v.name for v in save(_frozen_but_one()).layout.variables if v.trainable}
    assert "enc/x/kernel" not in trainable
    assert any(name.endswith("kernel") for name in trainable)


def test_a_layer_that_says_it_is_frozen_counts_as_frozen(save: Callable[[keras.Model], Saved]) -> None:
    """Keras 3.15 trains the projections of an attention layer that was made with ``trainable=False``: not meant so."""
    model = on(L.MultiHeadAttention(2, 4, trainable=False), SEQUENCE, SEQUENCE)
    assert model.trainable_variables
    assert not any(v.trainable for v in save(model).layout.variables)


def test_chain_of_layer_names_is_the_canonical_name(save: Callable[[keras.Model], Saved]) -> None:
    inputs = keras.Input((5, 4))
    encoder = keras.Sequential([keras.Input((4,)), L.Dense(4, name="x")], name="enc")
    hidden = L.TimeDistributed(encoder, name="td")(inputs)
    hidden = L.MultiHeadAttention(2, 2, name="mha")(hidden, hidden)
    model = keras.Model(inputs, L.Bidirectional(L.LSTM(2), name="bi")(hidden), name="root")
    names = [v.name for v in save(model).layout.variables]
    assert names[0] == "td/enc/x/kernel"
    assert "mha/query/kernel" in names
    assert names[-1].startswith("bi/forward_lstm")
    assert names[-1].endswith("/lstm_cell/bias")


def test_shared_layer_is_listed_at_every_place_and_stored_at_the_first(save: Callable[[keras.Model], Saved]) -> None:
    shared = L.Dense(4, name="shared")
    first = keras.Sequential([keras.Input((4,)), shared], name="first")
    second = on(shared, (4,))
    inputs = keras.Input((4,))
    saved = save(keras.Model(inputs, [first(inputs), second(inputs)]))
    paths = [v.path for v in saved.layout.variables]
    assert paths[:2] == list(saved.recorded)
    assert paths[2:] == [f"layers/functional/layers/dense/vars/{k}" for k in (0, 1)]


class Doubled(keras.Layer):
    def build(self, shape: Any) -> None:
        self.inner = L.Dense(shape[-1], name="inner")
        self.inner.build(shape)
        self.factor = self.add_weight(name="factor")
        self.steps = self.add_weight(name="steps", dtype="int32", trainable=False)

    def call(self, x: Any) -> Any:
        return self.inner(x) * self.factor


class Named(keras.Model):
    pass


def test_subclass_made_of_inputs_and_outputs_is_a_graph(save: Callable[[keras.Model], Saved]) -> None:
    inner_inputs, inputs = keras.Input((4,)), keras.Input((4,))
    inner = Named(inner_inputs, L.Dense(2, name="d")(inner_inputs), name="inner")
    model = Named(inputs, inner(inputs))
    saved = save(model)
    check(model, saved)
    assert saved.layout.variables[0].path == "layers/named/layers/dense/vars/0"


def test_subclassed_model_is_unknown_altogether(save: Callable[[keras.Model], Saved]) -> None:
    class Own(keras.Model):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.first = L.Dense(2, name="first")
            self.blocks = [L.Dense(2, name="a"), L.Dense(2, name="b")]

        def call(self, x: Any) -> Any:
            return self.blocks[1](self.blocks[0](self.first(x)))

    model = Own()
    model(np.ones((1, 4)))
    saved = save(model)
    assert saved.layout.unknown == ("",)
    assert [name for name, _ in name_tree(saved.groups, saved.layout).values()] == [
        *("a/kernel", "a/bias", "b/kernel", "b/bias"),
        *("first/0", "first/1"),
    ]


def test_custom_layer_is_unknown_and_named_by_number(save: Callable[[keras.Model], Saved]) -> None:
    saved = save(keras.Sequential([keras.Input((4,)), Doubled(name="mine"), L.Dense(2, name="head")]))
    planned = saved.layout
    assert planned.unknown == ("layers/doubled",)
    assert [v.name for v in planned.variables] == ["head/kernel", "head/bias"]
    names = dict(name_tree(saved.groups, planned).values())
    assert names == {
        "mine/0": Role.WEIGHT,
        "mine/1": Role.COUNTER,
        "mine/inner/0": Role.WEIGHT,
        "mine/inner/1": Role.WEIGHT,
        "head/kernel": Role.WEIGHT,
        "head/bias": Role.WEIGHT,
    }


@keras.saving.register_keras_serializable()
class Dense(keras.Layer):
    pass


def test_custom_class_called_like_a_builtin_one_is_unknown(save: Callable[[keras.Model], Saved]) -> None:
    assert save(keras.Sequential([keras.Input((4,)), Dense()])).layout.unknown == ("layers/dense",)


# Keras 2 ------------------------------------------------------------------------------------------------------------


def _adapted(layer: Any, values: Any) -> Any:
    layer.adapt(values)
    return layer


KERAS2_CASES: dict[str, Callable[[Any], Any]] = {
    "MultiHeadAttention": lambda T: (T.MultiHeadAttention(2, 4, dropout=0.1, name="mha"), [SEQUENCE, SEQUENCE]),
    "Bidirectional": lambda T: (T.Bidirectional(T.LSTM(2, use_bias=False), name="bi"), [SEQUENCE]),
    "Bidirectional GRU": lambda T: (
        T.Bidirectional(T.GRU(2), backward_layer=T.GRU(2, go_backwards=True, name="back"), name="bi"),
        [SEQUENCE],
    ),
    "StackedRNNCells": lambda T: (T.RNN([T.LSTMCell(2), T.GRUCell(2), T.LSTMCell(2)]), [SEQUENCE]),
    "SimpleRNN": lambda T: (T.SimpleRNN(2), [SEQUENCE]),
    "ConvLSTM2D": lambda T: (T.ConvLSTM2D(2, 2), [(3, 4, 4, 1)]),
    "TimeDistributed": lambda T: (T.TimeDistributed(T.Dense(2)), [SEQUENCE]),
    "BatchNormalization": lambda T: (T.BatchNormalization(scale=False), [(4,)]),
    "SyncBatchNormalization": lambda T: (T.BatchNormalization(synchronized=True), [(4,)]),
    "LayerNormalization": lambda T: (T.LayerNormalization(), [(4,)]),
    "GroupNormalization": lambda T: (T.GroupNormalization(2, center=False), [(4,)]),
    "Normalization": lambda T: (T.Normalization(), [(4,)]),
    "DepthwiseConv2D": lambda T: (T.DepthwiseConv2D(2), [IMAGE]),
    "SeparableConv2D": lambda T: (T.SeparableConv2D(2, 2), [IMAGE]),
    "Conv2DTranspose": lambda T: (T.Conv2DTranspose(2, 2), [IMAGE]),
    "LocallyConnected1D": lambda T: (T.LocallyConnected1D(2, 2), [SEQUENCE]),
    "LocallyConnected2D": lambda T: (T.LocallyConnected2D(2, 2, use_bias=False), [IMAGE]),
    "EinsumDense": lambda T: (T.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), [SEQUENCE]),
    "PReLU": lambda T: (T.PReLU(), [IMAGE]),
    "ThresholdedReLU": lambda T: (T.ThresholdedReLU(), [IMAGE]),
    "Discretization": lambda T: (_adapted(T.Discretization(num_bins=3), np.arange(9.0)), [(1,)]),
    "Attention": lambda T: (T.Attention(use_scale=True, score_mode="concat"), [SEQUENCE, SEQUENCE]),
    "AdditiveAttention": lambda T: (T.AdditiveAttention(), [SEQUENCE, SEQUENCE]),
}


def keras2_names(model: Any, path: Path) -> tuple[Layout, dict[str, Group], dict[str, str]]:
    """Save a Keras 2 model whose variables hold numbers of their own; return each path's variable by its number."""
    owner: dict[float, str] = {}
    for number, variable in enumerate(model.weights):
        owner[number + 1.0] = variable.name.partition(":")[0].rpartition("/")[2]
        variable.assign(np.full(variable.numpy().shape, number + 1, variable.dtype.as_numpy_dtype))
    model.save(path)
    root, groups = read(path)
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        stored = {
            f"{group}/vars/{key}": owner[float(np.asarray(file[f"{group}/vars/{key}"]).flat[0])]
            for group, content in groups.items()
            for key in content.variables
            if not _is_training(group)
        }
    return layout(root, keras2=True), groups, stored


@pytest.mark.parametrize("name", KERAS2_CASES)
def test_keras2_layer_is_laid_out_as_keras2_saves_it(name: str, tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    layer, shapes = KERAS2_CASES[name](tf_keras.layers)
    inputs = [tf_keras.Input(shape) for shape in shapes]
    listed = "Attention" in name and name != "MultiHeadAttention"
    check_keras2(tf_keras.Model(inputs, layer(inputs) if listed else layer(*inputs)), tmp_path / "model.keras")


def check_keras2(model: Any, path: Path) -> None:
    planned, groups, stored = keras2_names(model, path)
    renamed = {"depthwise_kernel": "kernel"} if "depthwise_conv2d" in "".join(stored) else {}
    assert {v.path: v.name.rpartition("/")[2] for v in planned.variables} == {
        path: renamed.get(name, name) for path, name in stored.items()
    }
    assert set(planned.groups) == {path for path in groups if not _is_training(path)}
    assert not planned.unknown
    together = name_tree(groups, planned)
    assert {v.path: (v.name, v.role) for v in planned.variables}.items() <= together.items()
    assert all(role is Role.OPTIMIZER for path, (_, role) in together.items() if _is_training(path))


def test_keras2_model_is_laid_out_as_keras2_saves_it(tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    T = tf_keras.layers
    base = tf_keras.Sequential([tf_keras.Input((4,)), T.Dense(2), T.BatchNormalization()], name="base")
    base.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    base.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    inputs = tf_keras.Input((4,))
    head = T.Dense(2, name="head")
    model = tf_keras.Model(inputs, head(head(base(inputs)) + 1.0))
    model.compile("adam", "mse", metrics=["mae", "accuracy"], run_eagerly=True)
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    check_keras2(model, tmp_path / "model.keras")
    names = name_tree(read(tmp_path / "model.keras")[1])
    assert names["optimizer/vars/0"] == ("optimizer/iteration", Role.OPTIMIZER)
    assert names["optimizer/vars/1"] == ("optimizer/1", Role.OPTIMIZER)
    assert names["metrics/mean/vars/0"] == ("metrics/mean/0", Role.OPTIMIZER)
    assert names["layers/dense/vars/0"] == ("dense/kernel", Role.WEIGHT)


def test_keras2_application_is_laid_out_as_keras2_saves_it(tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    check_keras2(tf_keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=3), tmp_path / "model.keras")


# Files without a configuration --------------------------------------------------------------------------------------


def group(*shapes: tuple[int, ...], name: str | None = "x", dtype: str = "float32") -> Group:
    return Group(name, {str(key): (shape, dtype) for key, shape in enumerate(shapes)})


def leaves(path: str, *shapes: tuple[int, ...], **options: Any) -> list[str]:
    names = name_tree({"": Group("root", {}), path: group(*shapes, **options)})
    return [name.removeprefix("x/") for name, _ in names.values()]


def test_variables_are_named_where_class_and_number_leave_no_doubt() -> None:
    assert leaves("layers/dense_3", (4, 2)) == ["kernel"]
    assert leaves("layers/dense", (4, 2), (2,)) == ["kernel", "bias"]
    assert leaves("layers/batch_normalization_1", *[(4,)] * 4) == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert leaves("layers/batch_normalization", *[(4,)] * 2) == ["moving_mean", "moving_variance"]
    assert leaves("layers/separable_conv2d", (2, 2, 3, 1), (1, 1, 3, 4)) == ["depthwise_kernel", "pointwise_kernel"]
    assert leaves("layers/lstm/cell", (4, 8), (2, 8), (8,)) == ["kernel", "recurrent_kernel", "bias"]


def test_variables_keep_their_number_where_there_is_doubt() -> None:
    assert leaves("layers/layer_normalization", (4,)) == ["0"]
    assert leaves("layers/batch_normalization", *[(4,)] * 3) == ["0", "moving_mean", "moving_variance"]
    assert leaves("layers/rnn/cell", (4, 8), (3, 7), (9,)) == ["0", "1", "2"]
    assert leaves("layers/transformer_block", (4, 8)) == ["0"]
    assert leaves("layers/dense", (4, 2), (2,), (3,), (5,)) == ["0", "1", "2", "3"]


def test_codes_of_a_quantized_layer_are_seen_by_their_dtype() -> None:
    kinds = {"0": ((4, 2), "int8"), "1": ((2,), "float32")}
    names = name_tree({"": Group("root", {}), "layers/dense": Group("d", kinds)})
    assert list(names.values()) == [("d/kernel", Role.QUANTIZED), ("d/kernel_scale", Role.QUANTIZED)]


def test_optimizers_beside_the_one_of_compile_are_no_weights() -> None:
    """Told by name, step and learning rate (which a schedule replaces) together: a layer may be called Adam."""
    step, rate, moment = ((), "int64"), ((), "float32"), ((4, 2), "float32")
    for name, kinds, role in (
        ("adam_3", (step, rate, moment, moment), Role.COUNTER),
        ("sgd", (step, moment), Role.COUNTER),
        ("loss_scale_optimizer", (step, rate), Role.COUNTER),
        ("adam", (moment, moment), Role.WEIGHT),
        ("mine", (step, rate, moment), Role.WEIGHT),
    ):
        group = Group(name, {str(key): kind for key, kind in enumerate(kinds)})
        roles = [role for _, role in name_tree({"": Group("gan", {}), "g_opt": group}).values()]
        assert roles[-1] == role, name


def test_quantization_that_the_configuration_hides_is_seen(save: Callable[[keras.Model], Saved]) -> None:
    """``model.quantize`` reaches the projections of an attention layer, whose configuration goes on to say float32."""
    model = on(L.MultiHeadAttention(2, 4, name="mha"), SEQUENCE, SEQUENCE)
    model.quantize("int8")
    saved = save(model)
    names = name_tree(saved.groups, saved.layout)
    assert names["layers/multi_head_attention/query_dense/vars/0"] == ("mha/query/kernel", Role.QUANTIZED)
    assert names["layers/multi_head_attention/query_dense/vars/1"] == ("mha/query/bias", Role.WEIGHT)
    assert names["layers/multi_head_attention/query_dense/vars/2"] == ("mha/query/kernel_scale", Role.QUANTIZED)


def test_colliding_layer_names_get_their_keys() -> None:
    names = name_tree(
        {
            "": Group("root", {}),
            "blocks/my_block": Group("same", {}),
            "blocks/my_block/dense": group((2, 2), name="d"),
            "blocks/my_block_1": Group("same", {}),
            "blocks/my_block_1/dense": group((2, 2), name="d"),
        }
    )
    assert [name for name, _ in names.values()] == ["same@my_block/d/kernel", "same@my_block_1/d/kernel"]


def test_slashes_in_names_do_not_make_two_tensors_one() -> None:
    names = name_tree(
        {
            "": Group(None, {}),
            "layers/dense": group((2, 2), name="a/b"),
            "layers/sequential": Group("a", {}),
            "layers/sequential/layers/dense": group((2, 2), name="b"),
        }
    )
    assert len({name for name, _ in names.values()}) == 2


def test_training_state_keeps_its_place(save: Callable[[keras.Model], Saved]) -> None:
    saved = save(_compiled_inside())
    names = {path: pair for path, pair in name_tree(saved.groups).items() if pair[1] is Role.OPTIMIZER}
    assert set(names) == {path for path in saved.recorded if _is_training(path)}
    assert names["optimizer/vars/0"][0] == "optimizer/iteration"
    assert names["optimizer/vars/1"][0] == "optimizer/learning_rate"
    assert names["optimizer/vars/2"][0] == "optimizer/2"
    assert names["layers/sequential/optimizer/vars/0"][0] == "base/optimizer/iteration"


def test_layers_nested_without_end_are_refused() -> None:
    config: dict[str, Any] = {"class_name": "Dense", "config": {"name": "d"}}
    for _ in range(80):
        config = {"class_name": "TimeDistributed", "config": {"name": "t", "layer": config}}
    with pytest.raises(StoreError, match="nest more than 64"):
        layout(parse(config))


@pytest.mark.parametrize("value", [None, 3, [], {}, {"class_name": 1}, {"class_name": "Dense", "config": []}])
def test_wrappers_around_nonsense_are_unknown(value: Any) -> None:
    for class_name, option in [("TimeDistributed", "layer"), ("Bidirectional", "layer"), ("RNN", "cell")]:
        layer = Layer(name="w", class_name=class_name, module="keras.layers", config={option: value})
        assert children(layer) is None
        assert layout(layer).unknown == ("",)
