"""Drawings of graphs: geometry checked as numbers, contents as XML, hostile configurations refused or drawn."""

import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hostile.keras_config import FAULTS
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.architecture.layer import parse
from graftwork.errors import GraftworkError, OptionError, StoreError, UnknownNameError
from graftwork.report.drawing import draw
from graftwork.report.drawing.diagram import Frozen, Kind, describe
from graftwork.report.drawing.placing import Picture, place
from graftwork.stores import open_store
from graftwork.stores.base import Header

Json = Any
SVG = "{http://www.w3.org/2000/svg}"


# Models, as Keras 3 describes them ----------------------------------------------------------------------------------


def item(class_name: str, name: str, *calls: list[str], shape: Json = (None, 8), **config: Json) -> Json:
    """Return a layer that is called on the given tensors (``layer``, ``layer#call``, ``layer@output``), once for each list."""
    nodes = []
    for sources in calls:
        tensors = []
        for source in sources:
            layer, _, output = source.partition("@")
            layer, _, call = layer.partition("#")
            history = [layer, int(call or 0), int(output or 0)]
            tensors.append(
                {"class_name": "__keras_tensor__", "config": {"shape": list(shape), "keras_history": history}}
            )
        nodes.append({"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {}})
    made = {"module": "keras.layers", "class_name": class_name, "config": {"name": name, "trainable": True, **config}}
    return {**made, "registered_name": None, "name": name, "inbound_nodes": nodes}


def entry(name: str = "x", shape: Json = (None, 8)) -> Json:
    made = item("InputLayer", name, batch_shape=list(shape))
    del made["config"]["trainable"]
    return made


def model(name: str, layers: list[Json], *outputs: str, calls: Json = (), **config: Json) -> Json:
    made = item("Functional", name, *calls, **config)
    made["config"] |= {
        "layers": layers,
        "input_layers": [[x["name"], 0, 0] for x in layers if x["class_name"] == "InputLayer"],
        "output_layers": [[output, 0, 0] for output in outputs or [layers[-1]["name"]]],
    }
    return made


def chain(name: str, count: int, calls: Json = (), **config: Json) -> Json:
    layers = [entry()]
    layers += [item("Dense", f"d{k}", [layers[-1]["name"] if k == 0 else f"d{k - 1}"], units=8) for k in range(count)]
    return model(name, layers, calls=calls, **config)


def residual(blocks: int, calls: Json = ()) -> Json:
    """Conv → BN → ReLU beside a shortcut, again and again, at three resolutions."""
    layers, last = [entry(shape=(None, 64, 64, 16))], "x"
    for k in range(blocks):
        for class_name, name, sources in (
            ("Conv2D", "conv", [last]),
            ("BatchNormalization", "bn", [f"b{k}_conv"]),
            ("ReLU", "relu", [f"b{k}_bn"]),
            ("Add", "add", [last, f"b{k}_relu"]),
        ):
            layers.append(item(class_name, f"b{k}_{name}", sources))
        last = f"b{k}_add"
    for layer in layers:
        for call in layer["inbound_nodes"]:
            for tensor in call["args"][0] if isinstance(call["args"][0], list) else call["args"]:
                block = tensor["config"]["keras_history"][0].partition("_")[0]
                size = 64 if block == "x" else 64 >> (3 * int(block[1:]) // blocks)
                tensor["config"]["shape"] = [None, size, size, 16]
    return model("residual", layers, calls=calls)


def sources_of(layer: Json, use: int | None = None) -> list[str]:
    """Return the tensors that a layer is called on, ``layer#call``, in one use or in all."""
    calls = layer["inbound_nodes"] if use is None else [layer["inbound_nodes"][use]]
    given_ = [call["args"][0] for call in calls]
    tensors = [tensor for each in given_ for tensor in (each if isinstance(each, list) else [each])]
    return [f"{t['config']['keras_history'][0]}#{t['config']['keras_history'][1]}" for t in tensors]


def layers_of(config: Json, path: str = "") -> set[str]:
    found = set()
    for layer in config["config"]["layers"]:
        below = f"{path}{layer['name']}"
        found.add(below)
        if "layers" in layer["config"]:
            found |= layers_of(layer, f"{below}/")
    return found


@st.composite
def models(draw_: st.DrawFn, depth: int = 2, name: str = "model") -> Json:
    """Any acyclic graph of layers and models, with layers that are used twice and several inputs and outputs."""
    inputs = draw_(st.integers(1, 3))
    layers = [entry(f"in{k}") for k in range(inputs)]
    tensors = [layer["name"] for layer in layers]
    for k in range(draw_(st.integers(1, 9))):
        choice = draw_(st.sampled_from(["Dense", "Add", "Add", "twice", "model"] if depth else ["Dense", "Add"]))
        pick = st.sampled_from(tensors)
        if choice == "Dense":
            layers.append(item("Dense", f"l{k}", [draw_(pick)], units=8))
        elif choice == "Add":
            layers.append(item("Add", f"l{k}", draw_(st.lists(pick, min_size=2, max_size=4))))
        elif choice == "twice":
            layers.append(item("Dense", f"l{k}", [draw_(pick)], [draw_(pick)], units=8))
            tensors.append(f"l{k}#1")
        else:
            inner = draw_(models(depth - 1, name=f"l{k}"))
            count = len(inner["config"]["input_layers"])
            tensors += [f"l{k}@{output}" for output in range(1, len(inner["config"]["output_layers"]))]
            layers.append(
                {**inner, "inbound_nodes": item("", "", [draw_(pick) for _ in range(count)])["inbound_nodes"]}
            )
        tensors.append(f"l{k}")
    made = [layer["name"] for layer in layers[inputs:]]
    outputs = draw_(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return model(name, layers, *outputs)


def drawn(config: Json, direction: str = "down", **options: Json) -> Picture:
    return place(describe(parse(config), None, **options), direction)  # type: ignore[arg-type]


def header(config: Json) -> Header:
    return Header(format="keras", architecture=parse(config))


# Laws of every drawing ----------------------------------------------------------------------------------------------


def pictures(picture: Picture):
    yield picture
    for box in picture.boxes:
        if box.inside is not None:
            yield from pictures(box.inside)


def inside_of(box, x: float, y: float) -> bool:
    return box.x + 0.01 < x < box.x + box.width - 0.01 and box.y + 0.01 < y < box.y + box.height - 0.01


def points_along(route, down: bool):
    """Yield points of a line, bends as the cubic curves that they are drawn as."""
    for k, ((ax, ay), (bx, by)) in enumerate(itertools.pairwise(route.points)):
        for t in (0.1, 0.3, 0.5, 0.7, 0.9):
            straight = 3 * t * t - 2 * t**3  # across the flow
            along = 1.5 * t - 1.5 * t * t + t**3 if k % 2 else t
            across = straight if k % 2 else t
            yield (
                (ax + (bx - ax) * across, ay + (by - ay) * along)
                if down
                else (
                    ax + (bx - ax) * along,
                    ay + (by - ay) * across,
                )
            )


def is_on_border(box, x: float, y: float) -> bool:
    across = abs(x - box.x) < 0.1 or abs(x - box.x - box.width) < 0.1
    along = abs(y - box.y) < 0.1 or abs(y - box.y - box.height) < 0.1
    within = box.x - 0.1 <= x <= box.x + box.width + 0.1 and box.y - 0.1 <= y <= box.y + box.height + 0.1
    return within and (across or along)


@settings(deadline=None, max_examples=80)
@given(config=models(), direction=st.sampled_from(["down", "right"]), boxes=st.sampled_from([1, 6, None]))
def test_boxes_do_not_overlap_and_lines_run_through_none(config: Json, direction: str, boxes: int | None):
    """Whatever the graph: boxes apart, clusters around theirs, texts inside, lines from border to border through no box."""
    picture = drawn(config, direction, depth=9, boxes=boxes)

    for each in pictures(picture):
        for a, b in itertools.combinations(each.boxes, 2):
            assert (
                a.x + a.width <= b.x + 0.01
                or b.x + b.width <= a.x + 0.01
                or (a.y + a.height <= b.y + 0.01 or b.y + b.height <= a.y + 0.01)
            ), (a.part.title, b.part.title)
        for route in each.routes:
            if route.source >= 0:
                assert is_on_border(each.boxes[route.source], *route.points[0])
            if route.target >= 0:
                assert is_on_border(each.boxes[route.target], *route.points[-1])
            for x, y in points_along(route, direction == "down"):
                assert not any(inside_of(box, x, y) for box in each.boxes), route
        for box in each.boxes:
            for inner in box.inside.boxes if box.inside else ():
                assert box.x <= inner.x and inner.x + inner.width <= box.x + box.width + 0.01
                assert box.y <= inner.y and inner.y + inner.height <= box.y + box.height + 0.01
            for text in box.texts:
                assert box.x <= text.extent[0] and text.extent[1] <= box.x + box.width, text
                assert box.y < text.y < box.y + box.height


@settings(deadline=None, max_examples=80)
@given(config=models(), boxes=st.sampled_from([1, 3, 8, None]))
def test_every_layer_is_in_one_box_and_every_connection_is_drawn(config: Json, boxes: int | None):
    """Folding loses nothing: boxes divide the layers among them, lines are those of the graph, each box has one way in and out."""
    diagram = describe(parse(config), None, depth=9, boxes=boxes)

    listed = [path for part in diagram.everywhere() for path in part.layers]
    assert set(listed) == layers_of(config)
    calls = {layer["name"]: len(layer["inbound_nodes"]) for layer in config["config"]["layers"]}
    top = [path for part in diagram.parts for path in part.layers]
    assert {name: top.count(name) for name in top} == {name: max(1, count) for name, count in calls.items()}

    owner = {}
    for number, part in enumerate(diagram.parts):
        for name in part.layers:
            owner[f"{name}#{part.use[0] - 1}"] = number
    by_name = {layer["name"]: layer for layer in config["config"]["layers"]}
    wanted = {
        (owner[tensor], owner[f"{layer['name']}#{use}"])
        for layer in by_name.values()
        for use in range(len(layer["inbound_nodes"]))
        for tensor in sources_of(layer, use)
    }
    ends = {number for number, part in enumerate(diagram.parts) if part.kind is Kind.OUTPUT}
    assert {(link.source, link.target) for link in diagram.links if link.target not in ends} == {
        pair for pair in wanted if pair[0] != pair[1]
    }
    assert all(link.source < link.target for link in diagram.links)
    sources = {layer["name"]: {t.split("#")[0] for t in sources_of(layer)} for layer in config["config"]["layers"]}
    for number, part in enumerate(diagram.parts):
        if (
            part.kind is Kind.FOLD
        ):  # entered at its first layer or, where branches begin it, from the layer that they leave
            entered = {owner[tensor] for tensor in sources_of(by_name[part.layers[0]])}
            assert {link.source for link in diagram.links if link.target == number} == entered
            left = [
                name
                for name in part.layers
                if any(name in sources[user] for user in sources if user not in part.layers)
            ]
            left += [name for name, _, _ in config["config"]["output_layers"] if name in part.layers]
            assert set(left) <= {part.layers[-1]}


@settings(deadline=None, max_examples=30)
@given(config=models(), direction=st.sampled_from(["down", "right"]))
def test_it_is_xml_without_anything_from_outside(config: Json, direction: str):
    """A drawing can be opened and shown anywhere: well-formed, and no script, link or reference in it."""
    text = draw(header(config), depth=9, boxes=None, direction=direction)  # type: ignore[arg-type]

    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "style", "rect", "text", "g", "path", "polygon")
    }
    assert "href" not in text and "url(" not in text


# What is shown ------------------------------------------------------------------------------------------------------


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def parts(config: Json, **options: Json) -> dict[str, Any]:
    diagram = describe(parse(config), None, **options)
    return {f"{p.title}{'#2' if p.use[0] == 2 else ''}": p for p in diagram.everywhere() if p.kind is not Kind.OUTPUT}


def test_a_box_says_what_tells_its_layer():
    """Name, class and settings in the box; the tensor's shape on the line."""
    layers = [
        entry(shape=(None, 32, 32, 3)),
        item(
            "Conv2D",
            "c",
            ["x"],
            shape=(None, 32, 32, 3),
            filters=64,
            kernel_size=[3, 3],
            strides=[2, 2],
            activation="relu",
        ),
        item("Flatten", "f", ["c"], shape=(None, 16, 16, 64)),
        item("Dense", "d", ["f"], shape=(None, 16384), units=10, activation="softmax"),
    ]

    told = texts(draw(header(model("m", layers))))

    assert {"c", "Conv2D  64 · 3×3 · / 2 · relu", "Dense  10 units · softmax"} <= set(told)
    assert {"32 × 32 × 3", "16 × 16 × 64", "16384", "10"} <= set(told)  # the last one follows from the units


def test_numbers_are_those_of_the_file(tmp_path: Path):
    """Parameters are counted from the tensors, frozen ones by the configuration."""
    config = model(
        "m",
        [
            entry(),
            item("Dense", "a", ["x"], units=4, use_bias=True, trainable=False),
            item("BatchNormalization", "n", ["a"], shape=(None, 4), center=True, scale=True),
            item("Dense", "b", ["n"], shape=(None, 4), units=2, use_bias=True),
        ],
    )
    shapes = {"dense": [(8, 4), (4,)], "batch_normalization": [(4,)] * 4, "dense_1": [(4, 2), (2,)]}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as h5, zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for (layer, found), name in zip(shapes.items(), "anb", strict=True):
            group = h5.create_group(f"layers/{layer}/vars")
            group.attrs["name"] = name
            for k, shape in enumerate(found):
                group[str(k)] = np.zeros(shape, np.float32)
        h5.close()
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())

    with open_store(tmp_path / "m.keras") as reader:
        told = texts(draw(reader))
        rows = " · ".join(told[1:3])

    assert "62 parameters" in rows and "18 trainable" in rows and "36 frozen" in rows and "8 moving statistics" in rows


def test_frozen_is_inherited_and_summed_up():
    """A layer is frozen with the model around it; a model is partly frozen where some of its layers with weights are."""
    inner = model(
        "inner", [entry(), item("Dense", "p", ["x"]), item("ReLU", "r", ["p"])], calls=[["x"]], trainable=False
    )
    half = [entry(), item("Dense", "q", ["x"], trainable=False), item("Dense", "s", ["q"])]
    config = model("m", [entry(), inner, model("half", half, calls=[["inner"]]), item("Dense", "t", ["half"])])

    found = {name: part.frozen for name, part in parts(config).items()}
    shut = {name: part.frozen for name, part in parts(config, depth=0).items()}
    svg = draw(header(config))

    yes, partly, no = Frozen.YES, Frozen.PARTLY, Frozen.NO
    assert found == {"x": no, "inner": yes, "p": yes, "r": yes, "half": partly, "q": yes, "s": no, "t": no}
    assert shut == {"x": no, "inner": yes, "half": partly, "t": no}
    assert {"frozen", "partly frozen"} <= set(texts(svg))
    assert len(re.findall(r'<rect class="(?:box|cluster) frozen"', svg)) == 5  # inner, p, r, q and the legend


def test_a_shared_layer_is_marked_at_each_use_and_a_shared_model_opened_once():
    """Two uses are two boxes that say so."""
    base = chain("base", 2, calls=[["l"], ["r"]])
    config = model("twins", [entry("l"), entry("r"), base, item("Subtract", "s", ["base", "base#1"])])

    found = parts(config)
    told = texts(draw(header(config)))

    assert found["base"].use == (1, 2) and found["base"].inside is not None
    assert found["base#2"].use == (2, 2) and found["base#2"].inside is None
    assert "use 2 of 2" in told and any(text.endswith("use 1 of 2") for text in told)


def test_members_are_opened_and_closed_by_depth_and_paths():
    """`depth` counts levels, `collapse` and `expand` name exceptions, a name that fits nothing is refused."""
    deep = model("deep", [entry(), chain("core", 3, calls=[["x"]])], calls=[["x"]])
    config = model("m", [entry(), deep, chain("flat", 2, calls=[["deep"]])])

    def opened(**options: Json) -> set[str]:
        return {name for name, part in parts(config, **options).items() if part.inside is not None}

    assert opened(depth=0) == set()
    assert opened() == {"deep", "flat"}
    assert opened(depth=2) == {"deep", "core", "flat"}
    assert opened(depth=2, collapse=["fl*", "deep/core"]) == {"deep"}
    assert opened(depth=0, expand=["deep/core/d1"]) == {"deep", "core"}
    with pytest.raises(UnknownNameError, match="flot"):
        draw(header(config), collapse=["flot"])
    with pytest.raises(UnknownNameError, match="d9"):
        draw(header(config), expand=["flat/d9"])


def test_a_long_network_is_folded_to_stages_then_blocks_then_layers():
    """Three hundred layers are as many boxes as there is room for, at one level of detail; a layer can be asked for."""
    config = residual(75)

    def titles(**options: Json) -> list[tuple[str, str]]:
        found = describe(parse(config), None, **options).parts
        return [(part.title, part.until) for part in found if part.kind not in (Kind.INPUT, Kind.OUTPUT)]

    assert titles(boxes=5) == [("b0_conv", "b24_add"), ("b25_conv", "b49_add"), ("b50_conv", "b74_add")]
    assert titles(boxes=80) == [(f"b{k}_conv", f"b{k}_add") for k in range(75)]
    assert titles(boxes=200)[:2] == [("b0_conv", "b0_relu"), ("b0_add", "")]
    assert len(titles(boxes=None)) == 300
    asked = titles(boxes=5, expand=["b30_bn"])
    assert ("b30_bn", "") in asked and len(asked) < 100


def test_repetitions_are_found_where_no_shape_changes():
    """Twelve blocks of one shape are twelve boxes."""
    layers, last = [entry()], "x"
    for k in range(12):
        layers += [
            item("Dense", f"a{k}", [last]),
            item("Add", f"p{k}", [last, f"a{k}"]),
            item("LayerNormalization", f"n{k}", [f"p{k}"]),
        ]
        last = f"n{k}"
    found = describe(parse(model("m", layers)), None, boxes=14).parts

    assert [(part.title, part.until) for part in found[1:-1]] == [(f"a{k}", f"n{k}") for k in range(12)]


def test_lines_that_need_not_cross_do_not():
    """Four strands that are listed in a scrambled order stay apart."""
    layers = [entry(f"i{k}") for k in range(4)]
    for step, before in (("a", "i"), ("b", "a"), ("c", "b")):
        layers += [item("Dense", f"{step}{k}", [f"{before}{k}"]) for k in random.Random(ord(step)).sample(range(4), 4)]
    picture = drawn(model("strands", layers, "c0", "c1", "c2", "c3"), boxes=None)

    assert all(route.points[0][0] == route.points[-1][0] for route in picture.routes)


def test_branches_that_join_are_put_side_by_side():
    """What is listed crosswise is sorted so that no two lines cross."""
    joins = [
        item("Add", "outer", ["i0", "i3"]),
        item("Add", "inner", ["i1", "i2"]),
        item("Add", "all", ["outer", "inner"]),
    ]
    picture = drawn(model("joins", [*(entry(f"i{k}") for k in range(4)), *joins]))

    ends = sorted((route.points[0][0], route.points[-1][0]) for route in picture.routes[:4])
    assert [end for _, end in ends] == sorted(end for _, end in ends)


@pytest.mark.parametrize("direction", ["down", "right"])
def test_lines_reach_the_input_and_leave_from_the_output_that_they_belong_to(direction: str):
    """Of a member with two inputs and two outputs each line meets its own, though they are given and used crosswise."""
    inside = [entry("p"), entry("q"), item("Dense", "u", ["p"], units=8), item("Dense", "v", ["q"], units=8)]
    member = model("member", inside, "v", "u", calls=[["b", "a"]])
    used = [item("ReLU", "of_u", ["member@1"]), item("ReLU", "of_v", ["member"])]
    picture = drawn(model("m", [entry("a"), entry("b"), member, *used], "of_u", "of_v"), direction)

    at = 0 if direction == "down" else 1
    names = [box.part.title for box in picture.boxes]
    inner = {
        box.part.title: (box.x + box.width / 2, box.y + box.height / 2)[at]
        for box in picture.boxes[names.index("member")].inside.boxes
    }
    found = {(names[r.source], names[r.target]): (r.points[0][at], r.points[-1][at]) for r in picture.routes}
    assert found["b", "member"][1] == pytest.approx(inner["p"]) and found["a", "member"][1] == pytest.approx(inner["q"])
    assert found["member", "of_u"][0] == pytest.approx(inner["u"])
    assert found["member", "of_v"][0] == pytest.approx(inner["v"])


def test_members_stand_side_by_side_however_long_the_ways_to_them():
    """A member behind one more layer does not push the other up the page."""
    members = [chain("a", 9, calls=[["x"]]), chain("b", 9, calls=[["scaled"]])]
    layers = [entry(), item("Resizing", "r", ["x"]), item("Rescaling", "scaled", ["r"]), *members]
    picture = drawn(model("m", [*layers, item("ReLU", "late", ["a"]), item("Average", "mean", ["late", "b"])]))

    a, b = (box for box in picture.boxes if box.inside is not None)
    assert a.y == b.y and (a.x + a.width < b.x or b.x + b.width < a.x)


# Hostile and odd ----------------------------------------------------------------------------------------------------


NAMES = [
    "<script>alert(1)</script>",
    "\"&amp;'",
    "]]>",
    "\x00\x1b[31m",
    "\ud800",
    "\u202egnp.exe",
    "ﷺ" * 50,
    "語" * 500,
    "a/b",
    "",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_is_text_whatever_is_in_it(name: str):
    """A name neither breaks the XML nor its box, and is not interpreted."""
    config = model(
        name, [entry(), item(name or "Dense", name, ["x"], activation=name), chain("m", 1, calls=[[name]])], "m"
    )

    root = ET.fromstring(draw(header(config)).encode())

    assert root.tag == f"{SVG}svg" and not list(root.iter(f"{SVG}script"))
    for box in drawn(config).everywhere():
        assert all(box.x <= text.extent[0] and text.extent[1] <= box.x + box.width for text in box.texts)
    if name.startswith("<"):
        assert any(element.text == name for element in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_hostile_configuration_is_refused_or_drawn(fault: Any, tmp_path: Path):
    """Nothing but our errors comes out, and what is drawn is XML."""
    config = fault.make(tmp_path)
    try:
        svg = draw(header(json.loads(config) if isinstance(config, bytes) else config), depth=99)
    except (GraftworkError, json.JSONDecodeError):
        return
    ET.fromstring(svg.encode())


def test_what_nobody_could_follow_is_refused_in_time():
    """Every layer connected to all before it: a sentence, not a picture of a hundred thousand lines."""
    layers = [entry(), *(item("Add", f"l{k}", ["x", *(f"l{j}" for j in range(k))]) for k in range(400))]

    with pytest.raises(StoreError, match="could not be read"):
        draw(header(model("dense", layers)))


def test_skips_nested_a_thousand_deep_are_folded_without_recursion():
    """The depth of a graph is not the depth of the stack."""
    count = 3_000
    layers = [entry(), item("Dense", "l0", ["x"])]
    for k in range(1, count):
        across = [f"l{count - 1 - k}"] if k > count // 2 else []
        layers.append(item("Add" if across else "Dense", f"l{k}", [f"l{k - 1}", *across]))

    assert len(describe(parse(model("deep", layers)), None, boxes=20).parts) <= 22


def test_a_model_that_hides_its_layers_is_one_box():
    """A subclassed model is drawn as what is known of it."""
    config = {"module": "mine", "class_name": "Mine", "config": {"name": "mine"}, "registered_name": "Mine"}

    assert "its layers are not in the file" in texts(draw(header(config)))


def test_a_source_without_a_configuration_is_refused():
    """Weights alone do not say how layers are connected."""
    with pytest.raises(StoreError, match="no Keras configuration"):
        draw(Header(format="safetensors", files=(Path("w.safetensors"),)))


@pytest.mark.parametrize("options", [{"direction": "up"}, {"depth": -1}, {"boxes": 0}], ids=str)
def test_options_that_make_no_sense_are_refused(options: Json):
    """Options are checked before anything is drawn."""
    with pytest.raises(OptionError):
        draw(header(chain("m", 2)), **options)


def test_the_same_model_gives_the_same_bytes_and_keras_is_not_loaded(tmp_path: Path):
    """Neither the order of sets nor the process shows, and a configuration is enough."""
    inner = {**residual(20), "inbound_nodes": item("", "", ["x"])["inbound_nodes"]}
    (tmp_path / "c.json").write_text(json.dumps(model("m", [entry(shape=(None, 64, 64, 3)), inner])))
    script = """
import json, sys
from graftwork.architecture.layer import parse
from graftwork.report.drawing import draw
from graftwork.stores.base import Header
sys.stdout.write(draw(Header(format="keras", architecture=parse(json.load(open(sys.argv[1]))))))
assert not {"keras", "tensorflow"} & set(sys.modules)
"""
    made = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "c.json")],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert made[0] == made[1] and made[0].startswith(b"<svg")
