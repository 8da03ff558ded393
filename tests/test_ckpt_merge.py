"""The union of checkpoints: names and objects, conflicts, TensorFlow's own restoring, and sources that nothing harms."""

import errno
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tf_files
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from test_store_tf_checkpoint import build_keras, fitted, optimizer_variables
from tf_files import GRAPH, entry, field, masked, put, table, text_tensor

import graftwork as gw
from graftwork.errors import MismatchError, OutputError, StoreError
from graftwork.stores import open_store, ordered_code
from graftwork.stores.tf_protos import rest_of
from graftwork.testing import random_bits, read_raw

merge = gw.checkpoints.merge


def by_names(folder, **models):
    """Write checkpoints by names; return their paths."""
    return [tf_files.checkpoint(folder / f"{label}.index", arrays) for label, arrays in models.items()]


def same(found, wanted):
    """Assert that two models have the same tensors, bit for bit."""
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        assert found[name].tobytes() == values.tobytes()


def contents_of(folder):
    """Return a digest of every file below a folder."""
    return {p: hashlib.sha256(p.read_bytes()).digest() for p in sorted(folder.rglob("*")) if p.is_file()}


# Names ---------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["w", "v", "a/w", "a/b/kernel", "a", "..", "x.y", "b:0", "a\0b", "/w"])
ARRAYS = st.dictionaries(
    NAMES,
    st.builds(
        random_bits,
        st.sampled_from(["float32", "bfloat16", "int8", "bool", "complex64"]),
        st.lists(st.integers(0, 3), max_size=3),
        st.integers(0, 3),
    ),
    min_size=1,
)


@given(models=st.lists(ARRAYS, min_size=1, max_size=4), policy=st.sampled_from(["error", "first", "last", "equal"]))
@settings(deadline=None, max_examples=60)
def test_a_union_by_names_is_that_of_dictionaries(tmp_path_factory, models, policy):
    """Whatever there is, under every policy; what is refused is refused for a reason, and leaves nothing."""
    folder = tmp_path_factory.mktemp("union")
    paths = by_names(folder, **{f"m{k}": arrays for k, arrays in enumerate(models)})
    wanted, clash, differs = {}, set(), set()
    for arrays in models if policy == "last" else models[::-1]:
        wanted |= arrays
    for (_, a), (_, b) in itertools.combinations(enumerate(models), 2):
        clash |= a.keys() & b.keys()
        differs |= {
            n
            for n in a.keys() & b.keys()
            if (a[n].dtype, a[n].shape) != (b[n].dtype, b[n].shape) or a[n].tobytes() != b[n].tobytes()
        }
    before = contents_of(folder)
    refused = clash if policy == "error" else differs if policy == "equal" else set()
    if refused:
        with pytest.raises(MismatchError, match=r"m[0-3]") as caught:
            merge(paths, output=folder / "out", on_conflict=policy)
        assert {n for n in NAMES_ALL if any(repr(n) in reason for reason in caught.value.reasons)} == refused
        assert contents_of(folder) == before
    else:
        same(tf_files.checkpoint_of(merge(paths, output=folder / "out", on_conflict=policy)), wanted)
        assert {p: d for p, d in contents_of(folder).items() if p in before} == before


NAMES_ALL = ["w", "v", "a/w", "a/b/kernel", "a", "..", "x.y", "b:0", "a\0b", "/w"]


@given(models=st.lists(ARRAYS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=25)
def test_sources_under_prefixes_never_meet(tmp_path_factory, models):
    """The same names, and even the same file twice, below prefixes of their own."""
    folder = tmp_path_factory.mktemp("scopes")
    paths = by_names(folder, **{f"m{k}": arrays for k, arrays in enumerate(models)})
    scope = {f"m{k}": f"p{k}/deep" for k in range(len(models))}
    out = merge([*paths, paths[0]], output=folder / "out", scope=scope | {"m0#2": "again/"})
    wanted = {f"p{k}/deep/{n}": v for k, arrays in enumerate(models) for n, v in arrays.items()}
    same(tf_files.checkpoint_of(out), wanted | {f"again/{n}": v for n, v in models[0].items()})


@pytest.mark.parametrize("prefix", ["", "/", "a//b", "../a", "/a", "a/./b", "a\0"])
def test_what_is_no_prefix_is_refused(tmp_path, prefix):
    """So is one of a checkpoint that is not there."""
    (path,) = by_names(tmp_path, a={"w": np.ones(2, np.float32)})
    with pytest.raises(gw.GraftworkError, match="no prefix"):
        merge([path], output=tmp_path / "out", scope={"a": prefix})
    with pytest.raises(gw.GraftworkError, match="did you mean 'a'"):
        merge([path], output=tmp_path / "out", scope={"aa": "x/"})


def test_the_same_values_in_other_forms_are_equal(tmp_path):
    """By CRCs, by bytes where a tensor was partitioned or is no checkpoint's; a difference in one bit is one."""
    values = random_bits("float32", (1000, 3000), 1)
    parts = [((0, 400), (0, 3000)), ((400, 1000), (0, 3000))]
    slices = [tuple((a, b - a) for a, b in box) for box in parts]
    entries, data = {b"": tf_files.header(), b"w": entry(1, values.shape, 0, 0, 0, slices=slices)}, b""
    for (rows, _), part in zip(parts, slices, strict=True):
        piece = values[slice(*rows)].tobytes()
        entries[ordered_code.part_key(b"w", part)] = entry(
            1, (rows[1] - rows[0], 3000), len(data), len(piece), masked(piece)
        )
        data += piece
    paths = [
        *by_names(tmp_path, a={"w": values}, b={"w": values, "v": np.ones(2, np.float32)}),
        put(tmp_path / "parts.index", table(entries), [data]),
        tmp_path / "s.safetensors",
    ]
    save_file({"w": values}, paths[-1])
    found = tf_files.checkpoint_of(merge(paths, output=tmp_path / "out", on_conflict="equal"))
    same(found, {"w": values, "v": np.ones(2, np.float32)})
    merge(paths, output=tmp_path / "out.safetensors", on_conflict="equal")
    same(load_file(tmp_path / "out.safetensors"), found)
    values.view(np.uint32)[-1, -1] ^= 1
    paths[0] = by_names(tmp_path, a={"w": values})[0]
    for other in paths[1:]:
        with pytest.raises(MismatchError, match="'w' has other values in a than in"):
            merge([paths[0], other], output=tmp_path / "no", on_conflict="equal")


def test_the_same_file_twice_is_itself_and_said(tmp_path):
    """Also under another name."""
    (path,) = by_names(tmp_path, a={"w": np.ones(2, np.float32)})
    (tmp_path / "link.index").symlink_to(path)
    (tmp_path / "link.data-00000-of-00001").symlink_to(tmp_path / "a.data-00000-of-00001")
    for other in (path, tmp_path / "link.index"):
        notes = []
        out = merge([path, other], output=tmp_path / "out", on_conflict="equal", overwrite=True, report=notes)
        same(tf_files.checkpoint_of(out), {"w": np.ones(2, np.float32)})
        assert any("are the same file" in note for note in notes)


def test_a_refusal_names_conflicts_and_sources_and_counts_the_rest(tmp_path):
    """And says what to do; the plan refuses as the work does."""
    arrays = {f"layer/{k}": np.full(2, k, np.float32) for k in range(9)}
    paths = by_names(tmp_path, left=arrays, right=arrays)
    for call in (
        merge,
        lambda *a, **k: gw.plan(
            {
                "models": {"left": str(paths[0]), "right": str(paths[1])},
                "steps": {"u": {"ckpt_merge": {"models": ["left", "right"]}}},
            }
        ),
    ):
        with pytest.raises(MismatchError) as caught:
            call(paths, output=tmp_path / "out")
        text = str(caught.value)
        assert "'layer/0' is in left and in right" in text and "and 6 more" in text and "--scope" in text
        assert len(caught.value.reasons) == 9


def scalar(value, dtype=np.float32):
    return np.array(value, dtype)


def test_what_a_graph_has_once_follows_its_own_policy(tmp_path):
    """Decays of Adam and the step: refused with both values where they differ, else as asked; weights are no part of it."""
    a = {
        "w": np.ones(2, np.float32),
        "beta1_power": scalar(0.5),
        "beta2_power": scalar(0.9),
        "global_step": scalar(7, np.int64),
    }
    b = {
        "v": np.ones(2, np.float32),
        "beta1_power": scalar(0.25),
        "beta2_power": scalar(0.9),
        "global_step": scalar(9, np.int64),
    }
    paths = by_names(tmp_path, a=a, b=b)
    with pytest.raises(MismatchError, match=r"'beta1_power'.* 0\.5 in a and 0\.25 in b.*--bookkeeping"):
        merge(paths, output=tmp_path / "no")
    for policy, wanted in {
        "first": b | a,
        "last": a | b,
        "separate": b
        | a
        | {"beta1_power_1": scalar(0.25), "beta2_power_1": scalar(0.9), "global_step_1": scalar(9, np.int64)},
    }.items():
        same(tf_files.checkpoint_of(merge(paths, output=tmp_path / policy, bookkeeping=policy)), wanted)
    equal = by_names(tmp_path, c=b | {"u": a["w"]}, d=b | {"x": a["w"]})
    with pytest.raises(MismatchError, match="'v' is in c and in d"):
        merge(equal, output=tmp_path / "no")
    third = by_names(tmp_path, e={"y": a["w"], "beta1_power": scalar(0.125), "beta1_power_1": scalar(2)})
    found = tf_files.checkpoint_of(
        merge([*paths, *third], output=tmp_path / "three", bookkeeping="separate", on_conflict="first")
    )
    powers = {n: float(v) for n, v in found.items() if n.startswith("beta1")}
    assert sorted(powers.values()) == [0.125, 0.25, 0.5, 2] and powers["beta1_power"] == 0.5


def test_slots_go_with_their_variables(tmp_path):
    """A variable of one source never gets the slots of another's."""
    a = {"w": np.ones(2, np.float32), "u": np.ones(2, np.float32)}
    b = {
        "w": np.zeros(2, np.float32),
        "w/Adam": np.zeros(2, np.float32),
        "w/Adam_1": np.zeros(2, np.float32),
        "v": np.ones(1, np.float32),
        "v/Adam": np.ones(1, np.float32),
    }
    paths = by_names(tmp_path, a=a, b=b)
    report = []
    first = tf_files.checkpoint_of(merge(paths, output=tmp_path / "first", on_conflict="first", report=report))
    same(first, {**a, "v": b["v"], "v/Adam": b["v/Adam"]})
    assert any("2 slots of optimizers are left out" in note for note in report)
    same(tf_files.checkpoint_of(merge(paths, output=tmp_path / "last", on_conflict="last")), a | b)


def test_texts_are_united_and_compared(tmp_path):
    """Byte for byte; partitioned ones and ones under a prefix too."""
    for label, words in {"a": [b"red", b"green"], "b": [b"red", b"green"], "c": [b"blue", b""]}.items():
        stored, crc = text_tensor(words)
        part, part_crc = text_tensor(words[:1])
        slices = [((0, 1),)]
        key = ordered_code.part_key(b"parted", slices[0])
        value = np.ones(2, np.float32).tobytes()
        put(
            tmp_path / f"{label}.index",
            table(
                {
                    b"": tf_files.header(),
                    b"vocabulary": entry(7, (2,), 8, len(stored), crc),
                    b"parted": entry(7, (1,), 0, 0, 0, slices=slices),
                    key: entry(7, (1,), 8 + len(stored), len(part), part_crc),
                    label.encode(): entry(1, (2,), 0, 8, masked(value)),
                }
            ),
            [value + stored + part],
        )
    out = merge(
        [tmp_path / "a", tmp_path / "b", tmp_path / "c"],
        output=tmp_path / "out",
        on_conflict="equal",
        scope={"c": "x/"},
    )
    with open_store(out) as reader, open_store(tmp_path / "c.index") as c:
        reader.check()
        assert set(reader.header.assets) == {"vocabulary", "parted", "x/vocabulary", "x/parted"}
        for name, digest in c.header.assets.items():
            assert reader.header.assets[f"x/{name}"] == digest
        assert reader.header.assets["vocabulary"] != digest
    with pytest.raises(MismatchError, match=r"'(vocabulary|parted)' has other values in a than in c"):
        merge([tmp_path / "a", tmp_path / "c"], output=tmp_path / "no", on_conflict="equal")


def test_checkpoints_of_objects_and_of_names_do_not_mix(tmp_path):
    """The refusal says the way out, and that way works."""
    objects = with_graph(
        tmp_path / "o.index",
        {KEY.format("a"): np.ones(2, np.float32)},
        node([(1, "a")]) + node([], [("mine", KEY.format("a"))]),
    )
    (names,) = by_names(tmp_path, n={"w": np.ones(2, np.float32)})
    with pytest.raises(MismatchError, match="convert o to safetensors"):
        merge([names, objects], output=tmp_path / "no")
    gw.convert(objects, tmp_path / "o.safetensors")
    out = merge([names, tmp_path / "o.safetensors"], output=tmp_path / "out")
    assert set(tf_files.checkpoint_of(out)) == {"w", "mine"}


def test_a_recipe_unites_and_goes_on(tmp_path):
    """The union of what other steps made, and its use in a further step; the plan says where each tensor is from."""
    paths = by_names(
        tmp_path, a={"w": np.ones(2, np.float32)}, b={"v": np.zeros(2, np.float32)}, c={"w": np.full(2, 3, np.float32)}
    )
    recipe = {
        "models": {p.stem: str(p) for p in paths},
        "steps": {
            "mean": {"merge": {"method": "linear", "models": ["a", "c"]}},
            "all": {"ckpt_merge": {"models": ["mean", "b", "c"], "on_conflict": "first", "scope": {"c": "old/"}}},
            "again": {"ckpt_merge": {"models": ["all", "mean"], "on_conflict": "equal"}},
        },
        "outputs": {"again": str(tmp_path / "out.index")},
    }
    rows = {report.step: report for report in gw.plan(recipe)}["all"].tables["union"]
    assert [(r["tensor"], r["from"]) for r in rows] == [("w", "mean"), ("v", "b"), ("old/w", "c")]
    gw.run(recipe)
    found = tf_files.checkpoint_of(tmp_path / "out.index")
    assert {n: v[0] for n, v in found.items()} == {"w": 2, "v": 0, "old/w": 3}


# Objects -------------------------------------------------------------------------------------------------------------

KEY = "{}/.ATTRIBUTES/VARIABLE_VALUE"


def node(children=(), attributes=(), slots=(), rest=b""):
    """One object of a graph."""
    message = b"".join(field(1, field(1, n) + field(2, name)) for n, name in children)
    message += b"".join(
        field(2, field(1, "VARIABLE_VALUE") + (field(2, full) if full else b"") + field(3, key))
        for full, key in attributes
    )
    message += b"".join(field(3, field(1, a) + field(2, s) + field(3, b)) for a, s, b in slots)
    return field(1, message + rest)


def with_graph(path, arrays, graph):
    """Write a checkpoint with an object graph."""
    entries, (data,) = tf_files.parts_of(arrays)
    stored, crc = text_tensor([graph])
    entries[GRAPH.encode()] = entry(7, (), len(data), len(stored), crc)
    return put(path, table(entries), [data + stored])


@st.composite
def graphs(draw):
    """A random graph: cycles, shared objects, unreachable ones, an optimizer with slots, values here and there."""
    count = draw(st.integers(2, 8))
    numbers = st.integers(0, count - 1)
    names = st.sampled_from("abcd")
    children = [draw(st.dictionaries(names, numbers, max_size=3)) for _ in range(count)]
    values = [draw(st.booleans()) for _ in range(count)]
    slots: list[list[tuple[int, str, int]]] = [[] for _ in range(count)]
    if draw(st.booleans()):
        slots[draw(st.integers(1, count - 1))] = [
            (v, "m", h)
            for v, h in draw(st.dictionaries(numbers.filter(bool), numbers.filter(bool), max_size=2)).items()
        ]
    seed = draw(st.integers(0, 2))
    return children, values, slots, seed


def written(path, graph):
    """Write a random graph; keys are numbers of objects, as they may be."""
    children, values, slots, seed = graph
    message = b"".join(
        node(
            [(n, name) for name, n in c.items()],
            [("", KEY.format(f"{path.stem}{k}"))] if v and k else [],
            s,
            rest=field(5, field(1, 1)),
        )
        for k, (c, v, s) in enumerate(zip(children, values, slots, strict=True))
    )
    arrays = {KEY.format(f"{path.stem}{k}"): np.array([k, seed], np.int32) for k, v in enumerate(values) if v and k}
    assume(arrays)
    return with_graph(path, arrays, message)


def seen(path, depth=4):
    """Return what a program that restores a checkpoint sees: for each way along names its value, and those of slots along two ways."""
    arrays = checkpoint_with_graph(path)
    nodes = arrays.pop(GRAPH)
    ways = {(): 0}
    for _ in range(depth):
        ways |= {(*way, name): child for way, n in ways.items() for child, name in nodes[n].children}
    value = {w: tuple(arrays[a.key].tolist() for a in nodes[n].attributes) for w, n in ways.items()}
    slots = {}
    for way, n in ways.items():
        for variable, name, holder in nodes[n].slots:
            for other, m in ways.items():
                if m == variable and len(way) < 3 and len(other) < 3:
                    slots[way, other, name] = tuple(arrays[a.key].tolist() for a in nodes[holder].attributes)
    return value, slots, sorted(v.tolist() for v in arrays.values())


def checkpoint_with_graph(path):
    """Return all arrays of a checkpoint, and its parsed graph."""
    with open_store(path) as reader:
        reader.check()
        found = {reader.key(n): read_raw(reader, n) for n in reader.specs()}
        return {**found, GRAPH: reader.nodes}


@given(first=graphs(), second=graphs())
@settings(deadline=None, max_examples=150)
def test_every_way_leads_to_the_same_value_as_before(tmp_path_factory, first, second):
    """Below prefixes, whatever the graphs: nothing is lost, and slots stay with their variables."""
    folder = tmp_path_factory.mktemp("graphs")
    paths = [written(folder / "one.index", first), written(folder / "two.index", second)]
    scopes = {"one": ("x",), "two": ("y", "z")}
    out = merge(paths, output=folder / "out", scope={k: "/".join(v) for k, v in scopes.items()})
    values, slots, everything = seen(out, 5)
    before = [seen(path, 3) for path in paths]
    for scope, (theirs, their_slots, _) in zip(scopes.values(), before, strict=True):
        for way, value in theirs.items():
            assert values[(*scope, *way)] == value
        for (a, b, name), value in their_slots.items():
            if len(a) + len(scope) < 3 and len(b) + len(scope) < 3:
                assert slots[(*scope, *a), (*scope, *b), name] == value
    assert everything == sorted(v for _, _, found in before for v in found)


@given(first=graphs(), second=graphs(), policy=st.sampled_from(["error", "first", "last", "equal"]))
@settings(deadline=None, max_examples=200)
def test_a_union_of_objects_takes_all_of_a_name_from_one_source(tmp_path_factory, first, second, policy):
    """Or refuses. What a way that leads through no conflict meets is the source's own."""
    folder = tmp_path_factory.mktemp("graphs")
    paths = [written(folder / "one.index", first), written(folder / "two.index", second)]
    clash = {name for name in first[0][0] if name in second[0][0] and (first[0][0][name] or second[0][0][name])}
    try:
        out = merge(paths, output=folder / "out", on_conflict=policy)
    except MismatchError:
        assert clash
        return
    assert policy != "error" or not clash
    values, _, everything = seen(out, 3)
    for k, path in enumerate(paths):
        wins = policy != "last" if k == 0 else policy == "last"
        theirs, _, numbers = seen(path, 3)
        graph = (first, second)[k][0]
        if not clash:
            assert all(number in everything for number in numbers)
        for way, value in theirs.items():
            if way and way[0] in clash and not wins:
                continue
            n, through_root = 0, False
            for name in way:
                n = graph[n][name]
                through_root |= n == 0
            if not through_root and (not clash or wins or policy == "equal"):
                assert values[way] == value


@given(graph=graphs())
@settings(deadline=None, max_examples=50)
def test_a_checkpoint_of_objects_with_itself_is_itself(tmp_path_factory, graph):
    """Its graph too, with what we do not know of it. Some way leads to every object, as in what TensorFlow writes."""
    children = graph[0]
    reached = {0}
    for _ in children:
        reached |= {n for k in reached for n in children[k].values()}
    children[0].update({f"z{k}": k for k in range(len(children)) if k not in reached})
    folder = tmp_path_factory.mktemp("graphs")
    path = written(folder / "one.index", graph)
    for sources in ([path], [path, path], [path, path, path]):
        out = merge(sources, output=folder / "out", on_conflict="equal", overwrite=True)
        before, after = checkpoint_with_graph(path), checkpoint_with_graph(out)
        found, wanted = (
            [(n.children, n.attributes, n.slots, rest_of(n)) for n in arrays.pop(GRAPH)] for arrays in (after, before)
        )
        assert found == wanted
        same(after, before)


def leaf(name, key=None):
    return node([], [(name, KEY.format(key or name))])


def test_an_optimizer_follows_the_model_that_is_taken(tmp_path):
    """What is kept of a source refers to what took the place of what is not, if that has the same form; else it is refused."""
    one = node([(1, "model")]) + node([(2, "w")]) + leaf("w", "model/w")
    two = node([(1, "model"), (3, "optimizer")]) + node([(2, "w")]) + leaf("w", "model/w")
    two += node([(2, "0")], [], [(2, "m", 4)]) + leaf("m", "model/w/.SLOT/m")
    arrays = {KEY.format("model/w"): np.ones(2, np.float32)}
    slot = {KEY.format("model/w/.SLOT/m"): np.full(2, 5, np.float32)}
    a = with_graph(tmp_path / "a.index", arrays, one)
    b = with_graph(tmp_path / "b.index", {KEY.format("model/w"): np.zeros(2, np.float32)} | slot, two)
    out = checkpoint_with_graph(merge([a, b], output=tmp_path / "out", on_conflict="first"))
    nodes = out.pop(GRAPH)
    root = {name: n for n, name in nodes[0].children}
    (w,) = [n for n, name in nodes[root["model"]].children]
    assert nodes[root["optimizer"]].children == ((w, "0"),)
    ((variable, _, holder),) = nodes[root["optimizer"]].slots
    assert variable == w
    assert out[nodes[w].attributes[0].key].view(np.float32).tolist() == [1, 1]
    assert out[nodes[holder].attributes[0].key].view(np.float32).tolist() == [5, 5]
    other = with_graph(tmp_path / "c.index", {KEY.format("model/w"): np.ones(3, np.float32)}, one)
    with pytest.raises(MismatchError, match=r"what is kept of b refers to .*float32 \(2,\), but c has float32 \(3,\)"):
        merge([other, b], output=tmp_path / "no", on_conflict="first")
    without = with_graph(
        tmp_path / "d.index",
        {KEY.format("model/v"): np.ones(2, np.float32)},
        one.replace(b"model/w", b"model/v").replace(b"\x12\x01w", b"\x12\x01v"),
    )
    with pytest.raises(MismatchError, match="what is kept of b refers to 'model/w"):
        merge([without, b], output=tmp_path / "no", on_conflict="first")


@pytest.mark.parametrize(
    ("second", "scope", "said"),
    [
        (node([(0, "a")]), {}, "leads back to the root"),
        (node([(1, "x"), (1, "a")]) + leaf("k"), {"one": "a/b"}, "is also a scope"),
        (node([(1, "a"), (2, "a")]) + leaf("k") + leaf("l"), {}, "refers to two others"),
        (
            node([(1, "c")]) + node([], [("k", KEY.format("k"))], rest=field(4, field(1, "saver"))),
            {"two": "x"},
            "registered saver",
        ),
        (node([(1, "b")]) + node([], [("", KEY.format("same"))]), {}, "both keep values under the key"),
    ],
)
def test_graphs_that_cannot_be_one_are_refused(tmp_path, second, scope, said):
    """With the reason."""
    one = with_graph(
        tmp_path / "one.index", {KEY.format("same"): np.ones(2, np.float32)}, node([(1, "a")]) + leaf("mine", "same")
    )
    arrays = {KEY.format(k): np.zeros(2, np.float32) for k in ("k", "l", "same")}
    two = with_graph(tmp_path / "two.index", arrays, second)
    with pytest.raises(MismatchError, match=said):
        merge([one, two], output=tmp_path / "no", scope=scope)


# TensorFlow ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    """TensorFlow, in tests that are marked for it."""
    import tensorflow

    return tensorflow


def built(tf, which):
    """Make the variables of graphs of TensorFlow 1; return what trains them."""
    v1, trains = tf.compat.v1, []
    for name in which:
        rows = v1.get_variable(f"{name}/rows", (10, 4), partitioner=v1.fixed_size_partitioner(3))
        kernel = v1.get_variable(f"{name}/kernel", (4, 2))
        v1.get_variable(f"{name}/words", initializer=tf.constant(["a", "", name]))
        loss = tf.reduce_sum(tf.matmul(tf.convert_to_tensor(rows), kernel) ** 2)
        trains.append(loss)
    return trains


@pytest.mark.keras
def test_graphs_of_tensorflow_1_are_united_and_restored_by_its_saver(tf, tmp_path):
    """With the slots of Adam, into one graph with one optimizer, and into one with two, whose powers are separate."""
    v1, arrays = tf.compat.v1, {}
    for steps, name in ((2, "a"), (5, "b")):
        with tf.Graph().as_default(), v1.Session() as session:
            (loss,) = built(tf, [name])
            train = v1.train.AdamOptimizer().minimize(loss, v1.train.get_or_create_global_step())
            session.run(v1.global_variables_initializer())
            for _ in range(steps):
                session.run(train)
            v1.train.Saver(sharded=name == "b").save(session, str(tmp_path / name))
            arrays[name] = {v.op.name: session.run(v) for v in v1.global_variables()}
    before = contents_of(tmp_path)
    with pytest.raises(MismatchError, match=r"'beta1_power', which optimizers share"):
        merge([tmp_path / "a", tmp_path / "b"], output=tmp_path / "no")
    merge([tmp_path / "a", tmp_path / "b"], output=tmp_path / "one", bookkeeping="last")
    merge([tmp_path / "a", tmp_path / "b"], output=tmp_path / "two", bookkeeping="separate")
    assert {p: d for p, d in contents_of(tmp_path).items() if p in before} == before
    for target, optimizers in (("one", 1), ("two", 2)):
        with tf.Graph().as_default(), v1.Session() as session:
            losses = built(tf, ["a", "b"])
            for loss in losses if optimizers == 2 else [losses[0] + losses[1]]:
                v1.train.AdamOptimizer().minimize(loss)
            v1.train.Saver().restore(session, str(tmp_path / target))
            found = {v.op.name: session.run(v) for v in v1.global_variables()}
        wanted = {n: v for name in "ab" for n, v in arrays[name].items() if n != "global_step"}
        if optimizers == 2:
            wanted |= {p: arrays["a"][p] for p in ("beta1_power", "beta2_power")}
            wanted |= {f"{p}_1": arrays["b"][p] for p in ("beta1_power", "beta2_power")}
        assert set(found) == set(wanted)
        for name, values in wanted.items():
            assert found[name].tobytes() == values.tobytes() or found[name].tolist() == values.tolist()


def trained(keras, seed):
    """Return a small model after some steps of training, and the values of everything that is saved of it."""
    return fitted(keras, seed, build_keras)


def values_of(model):
    return [np.asarray(v) for v in (*model.weights, *optimizer_variables(model))]


@pytest.mark.keras
@pytest.mark.parametrize("version", ["keras", "tf_keras"])
def test_object_checkpoints_are_united_and_restored(tf, tmp_path, version):
    """`Checkpoint(a=…)` and `Checkpoint(b=…)` as `Checkpoint(a=…, b=…)`; two of one form below prefixes; slots of optimizers too."""
    keras = pytest.importorskip(version)
    models = [trained(keras, seed) for seed in range(2)]
    checkpoint = tf.train.Checkpoint
    for k, (name, model) in enumerate(zip("ab", models, strict=True)):
        saved = checkpoint(**{name: model, f"{name}_optimizer": model.optimizer})
        for _ in range(k + 1):
            path = saved.save(str(tmp_path / name))
        assert path.endswith(f"{name}-{k + 1}")
        checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / f"{name}{name}"))
    before = contents_of(tmp_path)

    (tmp_path / "out").mkdir()
    merge([tmp_path / "a-1", tmp_path / "b-2"], output=tmp_path / "out" / "ab")
    fresh = [trained(keras, seed) for seed in (5, 6)]
    united = checkpoint(a=fresh[0], b=fresh[1], a_optimizer=fresh[0].optimizer, b_optimizer=fresh[1].optimizer)
    united.restore(tf.train.latest_checkpoint(str(tmp_path / "out"))).assert_consumed()
    assert int(united.save_counter) == 2
    for new, old in zip(fresh, models, strict=True):
        for a, b in zip(values_of(new), values_of(old), strict=True):
            np.testing.assert_array_equal(a, b)

    both = [tmp_path / "aa-1", tmp_path / "bb-1"]
    with pytest.raises(MismatchError, match="'model' is in aa-1 and in bb-1"):
        merge(both, output=tmp_path / "out" / "no")
    out = merge(both, output=tmp_path / "out" / "scoped", scope={"aa-1": "a/", "bb-1": "deep/b"})
    fresh = [trained(keras, seed) for seed in (7, 8)]
    parts = [checkpoint(model=model, optimizer=model.optimizer) for model in fresh]
    checkpoint(a=parts[0], deep=checkpoint(b=parts[1])).restore(str(out).removesuffix(".index")).assert_consumed()
    for new, old in zip(fresh, models, strict=True):
        for a, b in zip(values_of(new), values_of(old), strict=True):
            np.testing.assert_array_equal(a, b)

    plain = build_keras(keras)
    plain.set_weights(models[1].get_weights())
    for k, other in enumerate(
        (plain, models[1])
    ):  # one that was compiled leads to its optimizer, which then is taken with it
        weights = checkpoint(model=other).save(str(tmp_path / f"weights{k}"))
        out = merge([tmp_path / "aa-1", weights], output=tmp_path / "out" / f"exchanged{k}", on_conflict="last")
        new = trained(keras, 4)
        checkpoint(model=new, optimizer=new.optimizer).restore(str(out).removesuffix(".index")).assert_consumed()
        wanted = [*models[1].weights, *optimizer_variables(models[k])]
        for a, b in zip(values_of(new), wanted, strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))
    before = contents_of(tmp_path)

    for policy, winner in (("first", models[0]), ("last", models[1])):
        out = merge(both, output=tmp_path / "out" / policy, on_conflict=policy)
        new = trained(keras, 9)
        checkpoint(model=new, optimizer=new.optimizer).restore(str(out).removesuffix(".index")).assert_consumed()
        for a, b in zip(values_of(new), values_of(winner), strict=True):
            np.testing.assert_array_equal(a, b)
    assert {p: d for p, d in contents_of(tmp_path).items() if p in before} == before


@pytest.mark.keras
def test_modules_with_tables_are_united_and_restored(tf, tmp_path):
    """Tables, texts, unnamed variables, objects that refer to each other, and one table that both have."""

    class Module(tf.Module):
        def __init__(self, value, words):
            super().__init__()
            self.w, self.v = tf.Variable(tf.fill((3, 3), value)), tf.Variable(tf.fill((3,), value))
            self.words = tf.Variable(words)
            self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
            self.table.insert(words, list(range(len(words))))
            self.me = self

    checkpoint = tf.train.Checkpoint
    saved = {"a.b": Module(1.0, ["x", "y"]), "c": Module(2.0, ["", "z" * 300])}
    shared = Module(3.0, ["s"])
    for k, (name, module) in enumerate(saved.items()):
        checkpoint(**{name: module, "shared": shared}).write(str(tmp_path / str(k)))
    out = merge([tmp_path / "0", tmp_path / "1"], output=tmp_path / "out", on_conflict="equal")
    fresh = {name: Module(0.0, ["?", "?"]) for name in saved} | {"shared": Module(0.0, ["?"])}
    checkpoint(**fresh).read(str(tmp_path / "out")).assert_consumed()
    for name, module in (saved | {"shared": shared}).items():
        assert fresh[name].w.numpy().tolist() == module.w.numpy().tolist()
        assert fresh[name].words.numpy().tolist() == module.words.numpy().tolist()
        theirs, mine = (
            sorted(zip(*(x.numpy().tolist() for x in m.table.export()), strict=True)) for m in (module, fresh[name])
        )
        assert theirs == mine
    assert len([a for a in gw.inspect(out).assets if "table-keys" in a]) == 3
    shared.table.insert(["s"], [7])
    checkpoint(c=saved["c"], shared=shared).write(str(tmp_path / "2"))
    with pytest.raises(MismatchError, match=r"shared/table.* has other values in 0 than in 2"):
        merge([tmp_path / "0", tmp_path / "2"], output=tmp_path / "no", on_conflict="equal")


# Harm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, after):
    """Writes fail from some moment on."""
    paths = by_names(tmp_path, **{m: {f"{m}{k}": np.ones(50_000, np.float32) for k in range(3)} for m in "ab"})
    before, left = contents_of(tmp_path), [after]

    def failing(real):
        def write(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        return write

    monkeypatch.setattr(os, "pwrite", failing(os.pwrite))
    monkeypatch.setattr(os, "pwritev", failing(os.pwritev))
    with pytest.raises(gw.GraftworkError, match="No space left"):
        merge(paths, output=tmp_path / "out")
    assert contents_of(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in before}


def test_a_missing_data_file_is_said_and_nothing_is_moved(tmp_path):
    """Where TensorFlow's own tool has renamed the others away by then."""
    a = tf_files.checkpoint(tmp_path / "a.index", {f"a{k}": np.ones(9, np.float32) for k in range(3)})
    b = tf_files.checkpoint(tmp_path / "b.index", {f"b{k}": np.ones(9, np.float32) for k in range(3)}, shards=3)
    (tmp_path / "b.data-00001-of-00003").unlink()
    before = contents_of(tmp_path)
    with pytest.raises(StoreError, match=r"b\.data-00001-of-00003, which is not there"):
        merge([a, b], output=tmp_path / "out")
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("target", ["a", "a.index", "b", "link"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_that_is_a_source_is_refused(tmp_path, target, overwrite):
    """However it is spelled."""
    paths = by_names(tmp_path, a={"w": np.ones(2, np.float32)}, b={"v": np.ones(2, np.float32)})
    (tmp_path / "link.index").symlink_to(paths[0])
    before = contents_of(tmp_path)
    with pytest.raises(OutputError):
        merge(paths, output=tmp_path / target, overwrite=overwrite)
    assert contents_of(tmp_path) == before


def test_another_file_system_is_as_good(tmp_path):
    """Where TensorFlow's own tool says `Invalid cross-device link`."""
    away = Path("/dev/shm")
    if not away.is_dir() or away.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    paths = by_names(tmp_path, a={"w": np.ones(2, np.float32)}, b={"v": np.ones(2, np.float32)})
    folder = away / f"graftwork-test-{os.getpid()}"
    folder.mkdir()
    try:
        out = merge(paths, output=folder / "out")
        same(tf_files.checkpoint_of(out), {"w": np.ones(2, np.float32), "v": np.ones(2, np.float32)})
        back = merge([out], output=tmp_path / "back")
        same(tf_files.checkpoint_of(back), tf_files.checkpoint_of(out))
    finally:
        shutil.rmtree(folder)


def test_a_target_inside_a_source_is_refused(tmp_path):
    """Of a source that is a directory of its own."""
    (tmp_path / "model" / "variables").mkdir(parents=True)
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"")
    tf_files.checkpoint(tmp_path / "model" / "variables" / "variables.index", {"w": np.ones(2, np.float32)})
    (path,) = by_names(tmp_path, a={"v": np.ones(2, np.float32)})
    before = contents_of(tmp_path)
    for target in ("model/out", "model/variables/out", "model/variables/variables"):
        with pytest.raises(OutputError):
            merge([path, tmp_path / "model"], output=tmp_path / target, overwrite=True)
    assert contents_of(tmp_path) == before
    out = merge([path, tmp_path / "model"], output=tmp_path / "out")
    assert set(tf_files.checkpoint_of(out)) == {"v", "w"}


STEPS = """
import os, signal, sys
from pathlib import Path
import graftwork as gw
merge = gw.checkpoints.merge
*sources, folder = sys.argv[1:]
left, real = 0, Path.rename

def rename(*arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

Path.rename = rename
for left in range(20):
    target = Path(folder, str(left), "model")
    pid = os.fork()
    if not pid:
        merge(sources, output=target, overwrite=True, threads=1)
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
print(left)
"""


@pytest.mark.parametrize("replaces", [False, True])
def test_a_merge_killed_while_its_files_take_their_names_harms_nothing(tmp_path, replaces):
    """Before each of the renames: no index, or one with all that it needs; what was replaced is still there; the next merge works."""
    arrays = {m: {m: random_bits("float32", (3000,), k)} for k, m in enumerate("ab")}
    (tmp_path / "sources").mkdir()
    paths = by_names(tmp_path / "sources", **arrays)
    old = {"old": np.ones(5, np.float32)}
    for k in range(20):
        (tmp_path / "out" / str(k)).mkdir(parents=True)
        if replaces:
            tf_files.checkpoint(tmp_path / "out" / str(k) / "model.index", old)
    before = contents_of(tmp_path / "sources")
    done = subprocess.run(
        [sys.executable, "-c", STEPS, *paths, tmp_path / "out"], check=True, stdout=subprocess.PIPE, text=True
    )
    assert int(done.stdout) == (5 if replaces else 3)
    wanted = arrays["a"] | arrays["b"]
    for k in range(int(done.stdout) + 1):
        folder = tmp_path / "out" / str(k)
        if (folder / "model.index").exists():
            same(tf_files.checkpoint_of(folder / "model.index"), old if replaces and k == 0 else wanted)
        else:
            assert not (folder / "checkpoint").exists()
            aside = {p.name: p.read_bytes() for p in folder.glob(".model*-old/*")} | {
                p.name: p.read_bytes() for p in folder.glob("model*")
            }
            assert replaces is any(b"old" in data for data in aside.values())
        same(tf_files.checkpoint_of(merge(paths, output=folder / "model", overwrite=True)), wanted)
    assert contents_of(tmp_path / "sources") == before


MERGES = """
import os, signal, sys, time
import graftwork as gw
merge = gw.checkpoints.merge
for delay in sys.stdin:
    pid = os.fork()
    if not pid:
        merge(sys.argv[1:-1], output=sys.argv[-1], overwrite=True)
        os._exit(0)
    if delay.strip():
        time.sleep(float(delay))
        os.kill(pid, signal.SIGKILL)  # if it was done, nobody else has its number before it is waited for
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def kill_at_random(folder, megabytes, moments, seed=0):
    """Merge two checkpoints and kill it at random moments; return how often there was a result, and what merges took.

    Sources are the same after each, the result is complete or not there, and a merge over what is left works.
    """
    size = megabytes * 2**20 // 64
    paths = by_names(folder, **{m: {f"{m}/{k}": random_bits("float32", (size,), k) for k in range(8)} for m in "ab"})
    wanted = {n: masked(v.tobytes()) for path in paths for n, v in tf_files.checkpoint_of(path).items()}
    before = {p: masked(p.read_bytes()) for p in sorted(folder.iterdir())}
    (folder / "out").mkdir()
    target = folder / "out" / "model.index"
    process = subprocess.Popen(
        [sys.executable, "-c", MERGES, *map(str, paths), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None

    def run(delay=None):
        """Merge, or kill it after some seconds; return what it took."""
        begin = time.perf_counter()
        print(delay or "", file=process.stdin, flush=True)
        status = int(process.stdout.readline())
        assert status in ((0,) if delay is None else (0, signal.SIGKILL))
        return time.perf_counter() - begin

    drawn = random.Random(seed)
    complete, seconds = 0, []
    for moment in range(moments):
        if moment % 5 == 0:
            seconds.append(run())
            assert {n: masked(v.tobytes()) for n, v in tf_files.checkpoint_of(target).items()} == wanted
        shutil.rmtree(folder / "out")
        (folder / "out").mkdir()
        run(drawn.uniform(0, seconds[-1]))
        assert {p: masked(p.read_bytes()) for p in sorted(folder.iterdir()) if p.is_file()} == before
        if target.exists():
            complete += 1
            assert {n: masked(v.tobytes()) for n, v in tf_files.checkpoint_of(target).items()} == wanted
        else:
            assert not (folder / "out" / "checkpoint").exists()
    run()
    assert {n: masked(v.tobytes()) for n, v in tf_files.checkpoint_of(target).items()} == wanted
    process.stdin.close()
    assert process.wait() == 0
    return complete, seconds


def test_a_killed_merge_harms_nothing(tmp_path):
    """SIGKILL at random moments of the time that a merge takes: the result is absent or complete."""
    kill_at_random(tmp_path, megabytes=16, moments=8)
