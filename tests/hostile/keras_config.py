"""Faults of Keras configurations: JSON that is well-formed and says something that cannot be."""

import base64
import marshal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.corpus import Outcome
from hostile.valid import functional, input_layer, layer, node, sequential, text

Json = Any
MARKER = "executed"
"""A file of this name beside the model means that something in the model was run."""


@dataclass(frozen=True)
class Fault:
    """A configuration and what opening a model with it must end in."""

    make: Callable[[Path], Json]
    outcome: Outcome


FAULTS: dict[str, Fault] = {}


def _keep(outcome: Outcome) -> Callable[[Callable[[Path], Json]], Callable[[Path], Json]]:
    def keep(make: Callable[[Path], Json]) -> Callable[[Path], Json]:
        FAULTS[make.__name__.replace("_", "-")] = Fault(make, outcome)
        return make

    return keep


refused, harmless, tolerated = (_keep(o) for o in (Outcome.REFUSED, Outcome.HARMLESS, Outcome.TOLERATED))


def config_text(value: Json) -> bytes:
    """Return JSON text of a value, or a value that is text already."""
    return value if isinstance(value, bytes) else text(value)


@refused
def config_is_null(folder: Path) -> Json:
    return {**sequential(), "config": None}


@refused
def config_is_text(folder: Path) -> Json:
    return {**sequential(), "config": "sequential"}


@refused
def class_name_is_missing(folder: Path) -> Json:
    return {k: v for k, v in sequential().items() if k != "class_name"}


@refused
def class_name_is_a_list(folder: Path) -> Json:
    return {**sequential(), "class_name": ["Sequential"]}


@refused
def layers_are_an_object(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"] = {"0": config["config"]["layers"][0]}
    return config


@refused
def layers_are_text(folder: Path) -> Json:
    return sequential(["dense", "batch_normalization", "dense_1"])


@refused
def layers_are_null(folder: Path) -> Json:
    return sequential([None, None])


@refused
def layers_hold_lists(folder: Path) -> Json:
    return sequential([[input_layer()], [layer("Dense", "dense", units=4)]])


@refused
def two_layers_of_one_name(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][2]["config"]["name"] = inside["layers"][2]["name"] = "dense"

    return functional(edit)


@tolerated
def two_layers_of_one_name_in_a_chain(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"][3]["config"]["name"] = "dense"
    return config


@tolerated
def names_are_numbers(folder: Path) -> Json:
    config = sequential()
    for i, item in enumerate(config["config"]["layers"]):
        item["config"]["name"] = i
    return config


@tolerated
def names_are_missing(folder: Path) -> Json:
    config = sequential()
    for item in config["config"]["layers"]:
        del item["config"]["name"]
    return config


@tolerated
def names_climb(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"][1]["config"]["name"] = "../../../etc/passwd"
    return config


@tolerated
def names_are_half_of_a_character(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"][1]["config"]["name"] = "\ud800"
    return config


@tolerated
def names_of_a_megabyte(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"][1]["config"]["name"] = "n" * 1_000_000
    return config


@tolerated
def class_name_of_a_megabyte(folder: Path) -> Json:
    return {**sequential(), "class_name": "n" * 1_000_000}


@tolerated
def units_are_not_a_number(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"][1]["config"]["units"] = float("nan")
    return config


@tolerated
def units_are_infinite(folder: Path) -> Json:
    return text(sequential()).replace(b'"units": 4', b'"units": 1e400')


@tolerated
def units_are_ten_to_the_thousand(folder: Path) -> Json:
    return text(sequential()).replace(b'"units": 4', b'"units": 1' + b"0" * 1000)


@tolerated
def shapes_are_absurd(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"][0]["config"]["batch_shape"] = [-1, 2**70, "eight", None, [], {}]
    config["config"]["layers"][1]["build_config"] = {"input_shape": {"a": float("inf")}}
    config["config"]["layers"][2]["build_config"] = [1, 2]
    return config


@tolerated
def options_are_absurd(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"][1]["config"] |= {"units": "four", "use_bias": "yes", "dtype": 4, "trainable": []}
    config["config"]["layers"][2]["config"] |= {"axis": {"a": 1}, "scale": None, "center": [], "dtype": {"config": 3}}
    config["config"]["layers"][3]["config"] = {"name": "dense_1"}
    return config


@refused
def layer_feeds_itself(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][1]["inbound_nodes"] = [node("dense")]

    return functional(edit)


@refused
def layers_in_a_cycle(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][1]["inbound_nodes"] = [node("dense_1")]

    return functional(edit)


@refused
def call_on_a_missing_layer(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][2]["inbound_nodes"] = [node("nobody")]

    return functional(edit)


@refused
def call_on_a_missing_call(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][2]["inbound_nodes"] = [node("dense", 10**15)]

    return functional(edit)


@refused
def call_on_a_negative_call(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][2]["inbound_nodes"] = [node("dense", -1)]

    return functional(edit)


@refused
def output_of_a_missing_layer(folder: Path) -> Json:
    return functional(lambda inside: inside.update(output_layers=[["nobody", 0, 0]]))


@refused
def input_of_a_missing_layer(folder: Path) -> Json:
    return functional(lambda inside: inside.update(input_layers=[["nobody", 0, 0]]))


@refused
def outputs_are_a_number(folder: Path) -> Json:
    return functional(lambda inside: inside.update(output_layers=17))


@refused
def history_is_short(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][1]["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["input_layer"]

    return functional(edit)


@refused
def history_is_fractional(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][1]["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["input_layer", 0.5, 0]

    return functional(edit)


@refused
def nodes_are_an_object(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][1]["inbound_nodes"] = {"0": 1}

    return functional(edit)


@tolerated
def nodes_are_numbers(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        inside["layers"][1]["inbound_nodes"] = [1, 2, 3]

    return functional(edit)


@refused
def arguments_three_hundred_deep(folder: Path) -> Json:
    def edit(inside: dict[str, Json]) -> None:
        value: Json = inside["layers"][1]["inbound_nodes"][0]["args"]
        for _ in range(300):
            value = [value]
        inside["layers"][1]["inbound_nodes"][0]["args"] = value

    return functional(edit)


@refused
def a_hundred_models_in_models(folder: Path) -> Json:
    model = sequential()
    for i in range(100):
        model = sequential([input_layer(), model], name=f"model_{i}")
    return model


@tolerated
def hundreds_of_models_side_by_side(folder: Path) -> Json:
    models = [sequential([input_layer()], name=f"model_{i}") for i in range(300)]
    config = sequential()
    config["config"]["layers"] += models
    return config


@tolerated
def wrappers_in_wrappers(folder: Path) -> Json:
    held = layer("Dense", "held", units=4)
    for i in range(200):
        held = layer("TimeDistributed", f"time_{i}", layer=held)
    config = sequential()
    config["config"]["layers"].append(held)
    return config


@tolerated
def ten_thousand_layers(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"] += [layer("Dropout", f"dropout_{i}", rate=0.5) for i in range(10_000)]
    return config


@tolerated
def weights_that_no_layer_has(folder: Path) -> Json:
    return sequential([input_layer(), layer("Flatten", "flatten")])


@tolerated
def ten_thousand_layers_of_one_name(folder: Path) -> Json:
    config = sequential()
    config["config"]["layers"] += [layer("Dropout", "dropout", rate=0.5) for _ in range(10_000)]
    return config


def _lambda(folder: Path) -> dict[str, Json]:
    code = compile(f"open({str(folder / MARKER)!r}, 'w')", "<lambda>", "eval")
    raw = base64.b64encode(marshal.dumps(code)).decode()
    config = {"code": raw, "defaults": None, "closure": None}
    return layer("Lambda", "lambda", function={"class_name": "__lambda__", "config": config}, arguments={})


@harmless
def lambda_that_would_run(folder: Path) -> Json:
    """Code that leaves a file behind when it is loaded and called; reading needs neither."""
    config = sequential()
    config["config"]["layers"].append(_lambda(folder))
    return config


@tolerated
def lambda_of_garbage(folder: Path) -> Json:
    """Code that is not."""
    made = _lambda(folder)
    made["config"]["function"]["config"]["code"] = "!!!"
    config = sequential()
    config["config"]["layers"].append(made)
    return config


@harmless
def layer_that_is_a_system_call(folder: Path) -> Json:
    """A class that is a function of the standard library."""
    made = layer("system", "system", command=f"touch {folder / MARKER}")
    made |= {"module": "os", "registered_name": "os>system"}
    config = sequential()
    config["config"]["layers"].append(made)
    return config


@harmless
def initializer_that_is_a_system_call(folder: Path) -> Json:
    """An option that is a call of a function of the standard library."""
    config = sequential()
    config["config"]["layers"][1]["config"]["kernel_initializer"] = {
        "module": "subprocess",
        "class_name": "getoutput",
        "config": {"cmd": f"touch {folder / MARKER}"},
        "registered_name": None,
    }
    return config


@tolerated
def numpy_with_a_pickle_inside(folder: Path) -> Json:
    """``__numpy__`` and ``__bytes__`` values that hold a pickle."""
    raw = base64.b64encode(pickle_that_would_run(folder)).decode()
    config = sequential()
    config["config"]["layers"][1]["config"]["values"] = {
        "class_name": "__numpy__",
        "config": {"value": raw, "dtype": "O"},
    }
    return config


def pickle_that_would_run(folder: Path) -> bytes:
    """Return a pickle that leaves a file behind when it is loaded."""
    command = f"touch {folder / MARKER}"
    return b"cposix\nsystem\n(S'" + command.encode() + b"'\ntR."
