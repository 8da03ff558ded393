"""Partial initialisation: names by rules, shapes cut and filled up, every tensor's fate in a table."""

import itertools
import tracemalloc

import numpy as np
import pytest
import tf_files
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from typer.testing import CliRunner

import graftwork as gw
from graftwork import rng
from graftwork.ckpt.fitting import PIECE, Fitted
from graftwork.ckpt.names import chosen, renamed, rule_of
from graftwork.cli.app import app
from graftwork.errors import MismatchError, NonFiniteError, OptionError, OutputError, RecipeError
from graftwork.stores import open_store
from graftwork.stores.base import Header
from graftwork.tensor import TensorSpec
from graftwork.testing import read_raw

# Names ---------------------------------------------------------------------------------------------------------------

NAMES = ["enc/layer/kernel", "enc/layer/bias", "head/kernel", "a.b", "aXb"]


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (["enc/=encoder/"], {"enc/layer/kernel": "encoder/layer/kernel", "enc/layer/bias": "encoder/layer/bias"}),
        (["head/=/"], {"head/kernel": "kernel"}),
        (["/=x/"], {name: f"x/{name}" for name in NAMES}),
        (["/=/"], {name: name for name in NAMES}),
        (
            [r"(enc|head)/(.*)=\2/\1"],
            {"enc/layer/kernel": "layer/kernel/enc", "enc/layer/bias": "layer/bias/enc", "head/kernel": "kernel/head"},
        ),
        (["enc/layer/bias=b", "enc/=e/"], {"enc/layer/kernel": "e/layer/kernel", "enc/layer/bias": "b"}),
        (["a.b=c"], {"a.b": "c"}),
        (["a[.X]b=c"], {"a.b": "c", "aXb": "c"}),
        ([r"(?=head)(.*)=\1_"], {"head/kernel": "head/kernel_"}),
    ],
)
def test_rules_by_hand(rules, found):
    """Scopes, the top, groups, the first that fits; a name with a dot means itself, where there is one."""
    assert renamed([rule_of(rule) for rule in rules], NAMES, "a.ckpt") == found
    assert list(renamed([rule_of(rule) for rule in rules], NAMES, "a.ckpt")) == [n for n in NAMES if n in found]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["encoder/=x/"], r"'encoder/=x/' fits no tensor of a.ckpt; did you mean 'enc/layer/' or 'enc/'"),
        ([r"encoder/(.*)=\1"], r"fits no tensor of a.ckpt; did you mean 'enc/"),
        (["heed/kernel=x"], r"did you mean 'head/kernel'"),
        (["/=x/", "enc/=y/"], r"'enc/=y/' comes too late.*'enc/layer/kernel'"),
        (["enc/=x"], r"slash at the end of one side only"),
        (["enc"], r"'enc' is no rule OLD=NEW"),
        (["=x"], r"lacks a side"),
        (["(=x"], r"no regular expression.*position 0"),
        ([r"(.*)=\2"], r"invalid group reference 2"),
        ([r"(x)?head/kernel=\1"], r"leave nothing of the name 'head/kernel'"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules, said):
    """Each slip in one sentence, with what is near."""
    with pytest.raises(OptionError, match=said):
        renamed([rule_of(rule) for rule in rules], NAMES, "a.ckpt")


@given(st.lists(st.text("ab/.*", min_size=1, max_size=6), unique=True, max_size=6))
@settings(max_examples=60)
def test_the_top_to_the_top_changes_nothing(names):
    """And a scope put before all names comes off again."""
    if not names:
        return
    assert renamed([rule_of("/=/")], names, "x") == {name: name for name in names}
    there = renamed([rule_of("/=q/r/")], names, "x")
    assert renamed([rule_of("q/r/=/")], list(there.values()), "x") == {new: old for old, new in there.items()}


def test_patterns_choose_names():
    """Globs and regular expressions; what fits nothing is a slip."""
    assert chosen(NAMES, "x") == NAMES
    assert chosen(NAMES, "x", ["enc/*", "re:^a"], ["*/bias"]) == ["enc/layer/kernel", "a.b", "aXb"]
    for patterns in ((["encc/*"], []), ([], ["encc/*"])):
        with pytest.raises(OptionError, match=r"'encc/\*' fits no tensor of x; did you mean 'enc/'"):
            chosen(NAMES, "x", *patterns)
    with pytest.raises(OptionError, match="no regular expression"):
        chosen(NAMES, "x", ["re:("])


# Shapes --------------------------------------------------------------------------------------------------------------


class Arrays:
    """A reader of arrays, which remembers the longest read."""

    def __init__(self, path, **arrays):
        self.path, self.header, self.longest = path, Header(format="safetensors"), 0
        self.arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def specs(self):
        return {n: TensorSpec(name=n, shape=a.shape, dtype=a.dtype.name) for n, a in self.arrays.items()}

    def key(self, name):
        return name

    def read_into(self, name, start, out):
        self.longest = max(self.longest, out.size)
        flat = self.arrays[name].reshape(-1)
        assert 0 <= start <= start + out.size <= flat.size
        out[:] = flat[start : start + out.size].view(out.dtype)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def fitted_by_numpy(ours, theirs, fill, seed):
    """What `Fitted` promises, written with whole arrays."""
    wide = theirs.astype(np.float64)
    if fill == "target":
        made = ours.astype(np.float64)
    elif fill == "zeros":
        made = np.zeros(ours.shape)
    elif fill == "normal":
        u, v = (((rng.stream(rng.key(seed, "t", k), 0, ours.size) >> np.uint64(11)) + 1) * 2.0**-53 for k in (0, 1))
        made = wide.mean() + wide.std() * (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(ours.shape)
    else:
        made = np.zeros(ours.shape)
        for place in np.ndindex(*ours.shape):
            part = tuple(slice(None) if k >= n else k for k, n in zip(place, theirs.shape, strict=True))
            made[place] = wide[part].mean()
    both = tuple(slice(0, min(a, b)) for a, b in zip(ours.shape, theirs.shape, strict=True))
    made[both] = wide[both]
    return made


def read_in_blocks(reader, name, cuts):
    """Return a tensor that is read in blocks, in any order."""
    spec = reader.specs()[name]
    out = np.empty(spec.size, spec.dtype)
    edges = sorted({0, spec.size, *(cut for cut in cuts if cut < spec.size)})
    for a, b in reversed(list(itertools.pairwise(edges))):
        reader.read_into(name, a, out[a:b])
    return out.reshape(spec.shape)


SIZES = st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.lists(st.integers(1, 6), min_size=n, max_size=n)] * 2))


@pytest.mark.parametrize("fill", ["target", "zeros", "mean", "normal"])
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_fitted_tensor_is_what_whole_arrays_give(fill, data):
    """Any shapes of as many axes, any dtypes, read in any blocks."""
    ours, theirs = data.draw(SIZES)
    dtypes = [data.draw(st.sampled_from([np.float32, np.float64, np.float16])) for _ in range(2)]
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    target, source = (
        draw.integers(-40, 40, shape).astype(dtype) / 8 for shape, dtype in zip((ours, theirs), dtypes, strict=True)
    )
    target, source = target.astype(dtypes[0]), source.astype(dtypes[1])
    mine, other = Arrays("target", t=target), Arrays("source", s=source)
    reader = Fitted(other, "s", mine, mine.specs()["t"], fill=fill, seed=3)
    found = read_in_blocks(reader, "s", data.draw(st.lists(st.integers(1, 200), max_size=4)))
    assert found.dtype == target.dtype
    wanted = fitted_by_numpy(target, source, fill, 3)
    if fill in ("target", "zeros"):
        np.testing.assert_array_equal(found, wanted.astype(target.dtype))
    else:
        np.testing.assert_allclose(found, wanted, rtol=2e-3 if target.dtype == np.float16 else 1e-6, atol=1e-6)


@given(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), st.data())
@settings(deadline=None, max_examples=60)
def test_cut_and_filled_up_again_only_the_rest_is_lost(shape, data):
    """Slice, then pad into the original: what was cut has the target's own values."""
    small = [data.draw(st.integers(1, n)) for n in shape]
    whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    cut = Fitted(
        Arrays("a", x=whole),
        "x",
        Arrays("b", x=np.zeros(small, np.float32)),
        TensorSpec(name="x", shape=tuple(small), dtype="float32"),
    )
    again = Arrays("c", x=read_in_blocks(cut, "x", []))
    own = Arrays("d", x=-whole)
    found = read_in_blocks(Fitted(again, "x", own, own.specs()["x"]), "x", [2])
    inside = tuple(slice(0, n) for n in small)
    np.testing.assert_array_equal(found[inside], whole[inside])
    found[inside] = -whole[inside]
    np.testing.assert_array_equal(found, -whole)


def test_random_numbers_depend_on_seed_name_and_place_alone():
    """And have the mean and deviation of the source."""
    source = Arrays("a", x=np.random.default_rng(0).normal(3, 0.5, (50, 40)).astype(np.float32))

    def made(name, seed, rows=4000):
        own = Arrays("b", **{name: np.zeros((rows, 40), np.float32)})
        return read_in_blocks(Fitted(source, "x", own, own.specs()[name], fill="normal", seed=seed), "x", [])

    first = made("x", 0)
    np.testing.assert_array_equal(first[:100], made("x", 0, 100))
    for other in (made("x", 1), made("y", 0)):
        assert (first[50:] == other[50:]).mean() < 1e-3
        assert abs(np.corrcoef(first[50:].ravel(), other[50:].ravel())[0, 1]) < 0.01
    new = first[50:]
    known = source.arrays["x"]
    assert abs(new.mean() - known.mean()) < 0.01
    assert abs(new.std() - known.std()) < 0.01
    assert abs(np.corrcoef(new[:-1].ravel(), new[1:].ravel())[0, 1]) < 0.01


class Endless(Arrays):
    """A reader of a tensor larger than any memory: every element is its column."""

    def __init__(self, shape):
        super().__init__("endless")
        self.shape = shape

    def specs(self):
        return {"x": TensorSpec(name="x", shape=self.shape, dtype="float32")}

    def read_into(self, name, start, out):
        self.longest = max(self.longest, out.size)
        out[:] = np.arange(start, start + out.size) % self.shape[-1]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((10**9, 64), (10**6, 64)),
        ((10**9, 64), (10**9, 30_000)),
        ((10**9, 30_000), (10**9, 7)),
        ((10**7, 5, 64), (10**7, 9, 60)),
    ],
)
def test_memory_does_not_grow_with_the_tensor(ours, theirs):
    """A block in the middle of terabytes, long runs and short ones."""
    source, target = Endless(theirs), Endless(ours)
    reader = Fitted(source, "x", target, target.specs()["x"])
    out = np.empty(1 << 19, np.float32)
    start = min(10**6, theirs[0]) * int(np.prod(ours[1:])) // 2
    tracemalloc.start()
    try:
        reader.read_into("x", start, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(out, np.arange(start, start + out.size) % ours[-1])
    assert source.longest <= max(PIECE, out.size)
    assert peak < 60 * out.nbytes


# Assignments ---------------------------------------------------------------------------------------------------------


def write(path, **arrays):
    """Write a checkpoint whose names have dots for slashes."""
    return tf_files.checkpoint(path, {name.replace("__", "/"): np.asarray(array) for name, array in arrays.items()})


def values_of(path):
    """Return every tensor of a source as the numbers that it holds."""
    with open_store(path) as reader:
        return {n: read_raw(reader, n).view(s.dtype).reshape(s.shape) for n, s in reader.specs().items()}


def assigned(*args, **given):
    """Assign and return the values of the result, and its tables."""
    told = []
    out = gw.checkpoints.assign(*args, on_result=told.append, **given)
    return values_of(out), told[0].tables


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A target, an encoder, and a head."""
    monkeypatch.chdir(tmp_path)
    f = np.float32
    write(
        tmp_path / "t.index",
        encoder__k=np.zeros((3, 2), f),
        encoder__b=np.zeros(2, f),
        head__k=np.zeros((2, 4), f),
        global_step=np.int64(7),
    )
    write(
        tmp_path / "a.index",
        enc__k=np.ones((3, 2), f),
        enc__b=np.full(2, 2, f),
        enc__k__Adam=np.ones((3, 2), f),
        global_step=np.int64(99),
    )
    write(tmp_path / "b.index", new__k=np.arange(8, dtype=f).reshape(2, 4), rest=np.ones(1, f))
    return tmp_path


def test_values_come_by_rules_and_the_table_tells_every_fate(files):
    """Assigned, kept, unused and why."""
    sources = {"a": r"enc/(.*)=encoder/\1", "b": {"new/": "head/"}}
    found, tables = assigned("t", sources, exclude="encoder/b", output="out")
    np.testing.assert_array_equal(found["encoder/k"], 1)
    np.testing.assert_array_equal(found["encoder/b"], 0)
    np.testing.assert_array_equal(found["head/k"].ravel(), range(8))
    assert found["global_step"] == 7
    assert {(row["tensor"], row["from"], row["name there"], row["what"]) for row in tables["assigned"]} == {
        ("encoder/k", "a", "enc/k", "restored"),
        ("encoder/b", "", "", "kept: not among those to be assigned"),
        ("head/k", "b", "new/k", "restored"),
        ("global_step", "", "", "kept"),
    }
    assert {(row["from"], row["name there"], row["why"]) for row in tables["unused"]} == {
        ("a", "enc/b", "'encoder/b' is not among those to be assigned"),
        ("a", "enc/k/Adam", "optimizer: belongs to training (--state)"),
        ("a", "global_step", "counter: belongs to training (--state)"),
        ("b", "rest", "no rule leads from it to a tensor of the target"),
    }


def test_the_order_of_sources_does_not_matter(files):
    """Not in one bit of the result's values."""
    sources = {"a": {"enc/": "encoder/"}, "b": {"new/": "head/"}}
    gw.checkpoints.assign("t", sources, output="x")
    gw.checkpoints.assign("t", dict(reversed(sources.items())), output="y")
    one, other = ((files / f"{name}.data-00000-of-00001").read_bytes() for name in "xy")
    assert one == other


@given(
    st.dictionaries(
        st.text("abc/", min_size=1, max_size=5),
        hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=4)),
        min_size=1,
    )
)
@settings(deadline=None, max_examples=30)
def test_assigned_from_itself_nothing_changes(tmp_path_factory, arrays):
    """All is restored, bit for bit, NaN included."""
    folder = tmp_path_factory.mktemp("itself")
    path = tf_files.checkpoint(folder / "a.index", arrays)
    for rules in (None, "/=/"):
        out = gw.checkpoints.assign(path, {path: rules}, output=folder / "out.index", overwrite=True)
        found = {name: (values.shape, values.tobytes()) for name, values in values_of(out).items()}
        assert found == {name: (values.shape, values.tobytes()) for name, values in arrays.items()}


def test_training_state_is_assigned_when_asked_for(files):
    """Counters by equal names, slots by rules."""
    found, _ = assigned("t", {"a": None}, state=True, output="x")
    assert found["global_step"] == 99
    with pytest.raises(OptionError, match=r"'enc/k/Adam=encoder/k' fits no tensor"):
        gw.checkpoints.assign("t", {"a": "enc/k/Adam=encoder/k"}, output="y")
    assigned("t", {"a": "enc/k/Adam=encoder/k"}, state=True, output="y")


def test_one_tensor_may_begin_two(files):
    """Two towers from one encoder."""
    f = np.float32
    write(files / "two.index", left__k=np.zeros((3, 2), f), right__k=np.zeros((3, 2), f))
    found, _ = assigned("two", {"a": {"enc/": "left/", "enc/(k)": r"right/\1"}}, output="x")
    assert (found["left/k"] == 1).all()
    assert (found["right/k"] == 1).all()
    again, _ = assigned("two", {"a": ["enc/=left/", "enc/k=left/k"]}, output="y")
    assert (again["left/k"] == 1).all(), "two rules that say the same"


REFUSALS = {
    "two sources": (
        {"a": {"enc/k": "encoder/k"}, "c": {"enc/k": "encoder/k"}},
        {},
        r"'encoder/k' of t would get 'enc/k' of a and 'enc/k' of c",
    ),
    "two tensors": ({"b": {"(new/k|rest)": "head/k"}}, {}, r"'head/k' of t would get 'new/k' of b and 'rest' of b"),
    "nothing": (
        {"b": None},
        {},
        r"nothing of b would be assigned to t; write rules: those of b are called 'new/k', 'rest'",
    ),
    "nothing chosen": ({"a": {"enc/": "encoder/"}}, {"include": "head/*"}, r"nothing of a would be assigned"),
    "rule": ({"a": {"enx/": "encoder/"}}, {}, r"'enx/=encoder/' fits no tensor of a; did you mean 'enc/'"),
    "leads nowhere": (
        {"a": {"enc/": "encodr/"}},
        {},
        r"leads to 'encodr/b', and t has no such tensor; did you mean 'encoder/b'",
    ),
    "pattern": ({"a": {"enc/": "encoder/"}}, {"exclude": "heads/*"}, r"'heads/\*' fits no tensor of t"),
    "shape": ({"a": {"enc/k": "head/k"}}, {}, r"'enc/k' of a has the shape \(3, 2\), but 'head/k' of t \(2, 4\)"),
    "cut": ({"a": {"enc/k": "head/k"}}, {"on_shape": "pad", "axes": {"head/k": [0, 1]}}, r"cut along axis 0"),
    "filled": (
        {"a": {"enc/k": "head/k"}},
        {"on_shape": "slice", "axes": {"head/k": [0, 1]}},
        r"filled up along axis 1",
    ),
    "axis": ({"a": {"enc/k": "head/k"}}, {"on_shape": "fit", "axes": {"head/k": -1}}, r"axis 0 is not one"),
    "rank": ({"a": {"enc/b": "head/k"}}, {"on_shape": "fit", "axes": {"head/k": -1}}, r"has the shape \(2,\)"),
    "no such axis": ({"a": {"enc/": "encoder/"}}, {"on_shape": "fit", "axes": {"head/k": 2}}, r"axis 2 of 'head/k'"),
    "axes of nothing": (
        {"a": {"enc/": "encoder/"}},
        {"on_shape": "fit", "axes": {"hat": 2}},
        r"'hat' fits no tensor of t",
    ),
    "axes unused": ({"a": {"enc/": "encoder/"}}, {"axes": {"head/k": 1}}, r"on_shape is 'error'"),
    "no axes": ({"a": {"enc/": "encoder/"}}, {"on_shape": "fit"}, r"`axes` names no axis"),
    "dtype": ({"a": {"enc/b": "global_step"}}, {}, r"'enc/b' of a is float32 .*'global_step' of t int64"),
    "no sources": ({}, {}, r"'sources' is \{\}; expected one or more"),
    "no mapping": ("a", {}, r"expected a mapping from each source"),
    "equals": ({"a": {"enc/k": "a=b"}}, {}, r"cannot lead to 'a=b'"),
}


@pytest.mark.parametrize("slip", REFUSALS)
def test_what_does_not_fit_is_refused(files, slip):
    """Each in one sentence that names both sides; nothing is written."""
    sources, options, said = REFUSALS[slip]
    (files / "c.index").write_bytes((files / "a.index").read_bytes())
    (files / "c.data-00000-of-00001").write_bytes((files / "a.data-00000-of-00001").read_bytes())
    with pytest.raises((MismatchError, OptionError, RecipeError), match=said):
        gw.checkpoints.assign("t", sources, output="out", **options)
    assert not (files / "out.index").exists()


def test_a_source_or_the_target_is_not_written_to(files):
    """Also with `overwrite`."""
    for output in ("t", "a"):
        with pytest.raises(OutputError, match="source"):
            gw.checkpoints.assign("t", {"a": {"enc/": "encoder/"}}, output=output, overwrite=True)


def test_other_shapes_may_be_skipped_or_fitted(files):
    """The table says how; what is filled up is the target's own, unless a rule says otherwise."""
    f = np.float32
    write(files / "w.index", words=np.full((5, 2), -1, f), head=np.full((2, 4), -1, f))
    write(files / "v.index", words=np.arange(6, dtype=f).reshape(3, 2), head=np.arange(10, dtype=f).reshape(2, 5))
    found, tables = assigned("w", {"v": None}, on_shape="fit", axes={"words": 0, "head": -1}, fill="mean", output="x")
    assert found["words"].tolist() == [[0, 1], [2, 3], [4, 5], [2, 3], [2, 3]]
    assert found["head"].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert {row["tensor"]: row["what"] for row in tables["assigned"]} == {
        "words": "restored, axis 0 filled up from 3 to 5 (mean)",
        "head": "restored, axis 1 cut from 5 to 4",
    }
    found, _ = assigned("w", {"v": None}, exclude="head", on_shape="pad", axes={"words": 0}, output="y")
    assert found["words"].tolist() == [[0, 1], [2, 3], [4, 5], [-1, -1], [-1, -1]]
    write(files / "s.index", words=np.ones((3, 2), f), head=np.ones((2, 4), f))
    found, tables = assigned("w", {"s": None}, on_shape="skip", output="z")
    assert (found["words"] == -1).all()
    assert (found["head"] == 1).all()
    assert tables["assigned"][1]["what"] == "kept: 'words' of s has the shape (3, 2)"
    assert tables["unused"][0]["why"] == "its shape is not that of 'words', (5, 2)"


def test_numbers_take_the_dtype_of_the_target(files):
    """Rounded once, also where shapes differ; what a dtype cannot hold is refused."""
    values = np.array([[1.0001, 2], [3, 70000]], np.float32)
    save_file({"same": np.zeros((2, 2), np.float16), "more": np.zeros((3, 2), np.float16)}, files / "h.safetensors")
    write(files / "v.index", same=values[:1].repeat(2, 0), more=values[:1])
    found, tables = assigned("h.safetensors", {"v": None}, on_shape="fit", axes={"more": 0}, output="out.safetensors")
    np.testing.assert_array_equal(found["same"], values[:1].repeat(2, 0).astype(np.float16))
    np.testing.assert_array_equal(found["more"][:1], values[:1].astype(np.float16))
    assert found["more"].dtype == np.float16
    assert tables["assigned"][0]["what"].endswith("float32 to float16")
    write(files / "big.index", same=values, more=values)
    for name in ("same", "more"):
        with pytest.raises(NonFiniteError, match=rf"'{name}'.*cannot hold"):
            gw.checkpoints.assign(
                "h.safetensors", {"big": None}, include=name, on_shape="fit", axes={"more": 0}, output="no.safetensors"
            )
    assert not (files / "no.safetensors").exists()


# The command and the recipe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["t", "--from", "a", r"enc/k=encoder/k", "enc/b=encoder/b", "--from", "b", "new/=head/", "-o", "out"],
        ["--from", "a", "enc/=encoder/", "--from", "b", "new/=head/", "t", "-o", "out"],
        [
            "t",
            "-o",
            "out",
            "--from",
            "b",
            "new/=head/",
            "--from",
            "a",
            "enc/k=encoder/k",
            "--from",
            "a",
            "enc/b=encoder/b",
        ],
    ],
)
def test_each_from_takes_a_model_and_its_rules(files, words):
    """Any number of rules, in any place; the same model twice is one source."""
    done = CliRunner().invoke(app, ["ckpt", "assign", *words])
    assert done.exit_code == 0, done.output
    found = values_of(files / "out.index")
    assert [float(found[name].sum()) for name in ("encoder/k", "encoder/b", "head/k")] == [6, 4, 28]
    plan = CliRunner().invoke(
        app,
        ["ckpt", "assign", *words[:-2], "--dry-run"]
        if words[-2] == "-o"
        else ["ckpt", "assign", *words, "--dry-run", "--overwrite"],
    )
    assert plan.exit_code == 0, plan.output
    assert "enc/k" in plan.output
    assert "restored" in plan.output


def test_a_slip_on_the_command_line_is_told(files):
    """A file that is not there; an option without its words."""
    done = CliRunner().invoke(app, ["ckpt", "assign", "t", "--from", "nowhere", "a=b", "-o", "out"])
    assert done.exit_code == 1
    assert "nowhere" in done.output
    assert CliRunner().invoke(app, ["ckpt", "assign", "t", "-o", "out", "--from"]).exit_code == 2
    assert CliRunner().invoke(app, ["ckpt", "assign", "t", "-o", "out"]).exit_code == 2


def test_a_recipe_assigns_and_goes_on(files):
    """Its result is a model for later steps."""
    recipe = {
        "models": {"t": "t.index", "a": "a.index", "b": "b.index"},
        "steps": {
            "begun": {"ckpt_assign": {"target": "t", "sources": {"a": ["enc/=encoder/"], "b": {"new/": "head/"}}}},
            "mean": {"ckpt_average": {"models": ["t", "begun"]}},
        },
        "outputs": {"mean": "mean.index"},
    }
    reports = gw.plan(recipe)
    gw.run(recipe)
    np.testing.assert_array_equal(values_of(files / "mean.index")["encoder/k"], 0.5)
    assert {row["what"] for row in reports[0].tables["assigned"]} == {"restored", "kept"}


# Live models, and TensorFlow itself ----------------------------------------------------------------------------------

BERT = {
    "bert/embeddings/word_embeddings": (40, 8),
    "bert/embeddings/position_embeddings": (16, 8),
    "bert/embeddings/LayerNorm/gamma": (8,),
    "bert/embeddings/LayerNorm/beta": (8,),
    **{
        f"bert/encoder/layer_{layer}/{part}/{leaf}": shape
        for layer in range(2)
        for part, width in (
            ("attention/self/query", 8),
            ("attention/self/value", 8),
            ("intermediate/dense", 24),
        )
        for leaf, shape in (("kernel", (8, width)), ("bias", (width,)))
    },
    "output_weights": (3, 8),
    "output_bias": (3,),
}
"""What the checkpoint of a small BERT holds, by the names of TensorFlow 1."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A checkpoint of TensorFlow 1, of a BERT that was trained a little with Adam; its prefix."""
    import tensorflow as tf

    v1, folder = tf.compat.v1, tmp_path_factory.mktemp("bert")
    with tf.Graph().as_default(), v1.Session() as session:
        start = v1.random_normal_initializer(0.1, 0.3, seed=1)
        made = [v1.get_variable(name, shape, initializer=start) for name, shape in BERT.items()]
        train = v1.train.AdamOptimizer().minimize(
            tf.add_n([tf.reduce_sum(v**2) for v in made]), v1.train.get_or_create_global_step()
        )
        session.run(v1.global_variables_initializer())
        session.run(train)
        return v1.train.Saver().save(session, str(folder / "bert_model.ckpt"))


def keras_bert(words=50, positions=12, classes=5):
    """Return a Keras 3 model with a larger vocabulary, fewer positions and more classes."""
    import keras

    class Positions(keras.layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(positions, 8), name="embeddings", initializer="uniform")

        def call(self, x):
            return x + self.table[: x.shape[1]]

    ids = keras.Input((10,), dtype="int32")
    x = keras.layers.Embedding(words, 8, name="words")(ids)
    x = Positions(name="positions")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    for k in range(2):
        query = keras.layers.Dense(8, name=f"block_{k}_query")(x)
        value = keras.layers.Dense(8, name=f"block_{k}_value")(x)
        wide = keras.layers.Dense(24, name=f"block_{k}_dense")(query * value)
        x = keras.layers.Dense(8, name=f"block_{k}_down")(wide)
    out = keras.layers.Dense(classes, name="head")(x[:, 0])
    return keras.Model(ids, out, name="mine")


RULES = {
    "bert/embeddings/word_embeddings": "words/embeddings",
    "bert/embeddings/position_embeddings": "positions/embeddings",
    "bert/embeddings/LayerNorm/": "norm/",
    r"bert/encoder/layer_(\d+)/attention/self/(query|value)/(.*)": r"block_\1_\2/\3",
    r"bert/encoder/layer_(\d+)/intermediate/dense/(.*)": r"block_\1_dense/\2",
    "output_bias": "head/bias",
}


@pytest.mark.keras
def test_a_keras_model_begins_from_a_bert_of_tensorflow_1(bert):
    """Every number against plain NumPy on what TensorFlow reads; the optimizer and what is trained stay as they are."""
    import keras
    import tensorflow as tf

    model = keras_bert()
    model.get_layer("norm").trainable = False
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    model.fit(np.zeros((2, 10)), np.zeros((2, 5)), verbose=0)
    before = {v.path: np.array(v) for v in model.variables}
    state = [np.array(v) for v in model.optimizer.variables]
    report = gw.checkpoints.init_from(
        {bert: RULES},
        into=model,
        on_shape="fit",
        axes={"words/embeddings": 0, "positions/embeddings": 0, "head/bias": 0},
        fill="mean",
    )
    read = tf.train.load_checkpoint(bert).get_tensor
    words, positions = read("bert/embeddings/word_embeddings"), read("bert/embeddings/position_embeddings")
    filled = np.concatenate([words, np.repeat(words.mean(0, dtype=np.float64, keepdims=True), 10, 0)])
    bias = read("output_bias")
    wanted = {
        **before,
        "words/embeddings": filled,
        "positions/embeddings": positions[:12],
        "norm/gamma": read("bert/embeddings/LayerNorm/gamma"),
        "norm/beta": read("bert/embeddings/LayerNorm/beta"),
        "head/bias": np.append(bias, [bias.mean()] * 2),
    }
    for k in range(2):
        for ours, theirs in (
            ("query", "attention/self/query"),
            ("value", "attention/self/value"),
            ("dense", "intermediate/dense"),
        ):
            for leaf in ("kernel", "bias"):
                wanted[f"block_{k}_{ours}/{leaf}"] = read(f"bert/encoder/layer_{k}/{theirs}/{leaf}")
    assert set(wanted) == set(before)
    for variable in model.variables:
        np.testing.assert_allclose(
            np.array(variable), wanted[variable.path], rtol=1e-6, atol=1e-7, err_msg=variable.path
        )
    for variable, value in zip(model.optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)
    assert [layer.name for layer in model.layers if not layer.trainable] == ["norm"]
    fates = {row["tensor"]: row["what"] for row in report.tables["assigned"]}
    assert fates["words/embeddings"] == "restored, axis 0 filled up from 40 to 50 (mean)"
    assert fates["positions/embeddings"] == "restored, axis 0 cut from 16 to 12"
    assert fates["head/kernel"] == fates["block_0_down/kernel"] == "kept"
    left = {row["name there"]: row["why"] for row in report.tables["unused"]}
    assert left.pop("output_weights") == "no rule leads from it to a tensor of the target"
    assert all("belongs to training" in why for why in left.values())
    model.fit(np.zeros((2, 10)), np.zeros((2, 5)), verbose=0)


@pytest.mark.keras
def test_a_file_begins_from_the_same(bert, tmp_path):
    """`.keras`, `.weights.h5` and an object checkpoint get what the live model gets; TensorFlow restores the last."""
    import keras
    import tensorflow as tf

    model = keras_bert(40, 16, 3)
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    model.fit(np.zeros((2, 10)), np.zeros((2, 3)), verbose=0)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    prefix = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "m.ckpt"))
    numbered = {old: new.replace("positions/embeddings", "positions/0") for old, new in RULES.items()}
    for source, output, rules in (
        ("m.keras", "out.keras", numbered),
        ("m.weights.h5", "out.weights.h5", numbered),
        (prefix, "out.index", RULES),
    ):
        gw.checkpoints.assign(tmp_path / source, {bert: rules}, output=tmp_path / output)
    gw.checkpoints.init_from({bert: RULES}, into=model)
    wanted = model.get_weights()
    for output in ("out.keras", "out.weights.h5", "out.index"):
        fresh = keras_bert(40, 16, 3)
        fresh.compile(keras.optimizers.Adam(0.01), "mse")
        if output == "out.index":
            root = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer)
            root.restore(str(tmp_path / "out")).assert_existing_objects_matched()
        else:
            fresh.load_weights(tmp_path / output)
        for found, value in zip(fresh.get_weights(), wanted, strict=True):
            np.testing.assert_array_equal(found, value)


@pytest.mark.keras
def test_maps_are_understood_as_tensorflow_spells_them(tmp_path):
    """Those of the documentation of `init_from_checkpoint`, with what it makes of the same variables."""
    import keras
    import tensorflow as tf

    v1 = tf.compat.v1
    arrays = {
        "old/scope/v1": np.ones(2, np.float32),
        "old/scope/v2": np.full(2, 2, np.float32),
        "v3": np.full(2, 3, np.float32),
    }
    tf_files.checkpoint(tmp_path / "a.index", arrays)
    for scopes in ({"old/scope/": "new/"}, {"old/scope/v1": "new/v1", "v3": "new/v2"}, {"/": "/"}):
        names = ("old/scope/v1", "v3") if scopes == {"/": "/"} else ("new/v1", "new/v2")
        with tf.Graph().as_default(), v1.Session() as session:
            made = [v1.get_variable(name, (2,)) for name in names]
            v1.train.init_from_checkpoint(str(tmp_path / "a"), scopes)
            session.run(v1.global_variables_initializer())
            theirs = [value.tolist() for value in session.run(made)]

        class Holder(keras.layers.Layer):
            def build(self, shape):
                for k, name in enumerate(("v1", "v2")):
                    setattr(self, f"v{k}", self.add_weight(shape=(2,), name=name))

            def call(self, x):
                return x + self.v0 + self.v1

        if scopes == {"/": "/"}:
            path = tf_files.checkpoint(tmp_path / "t.index", {name: np.zeros(2, np.float32) for name in names})
            out = gw.checkpoints.assign(path, {tmp_path / "a": scopes}, output=tmp_path / "out.index")
            assert [values_of(out)[name].tolist() for name in names] == theirs
            continue
        model = keras.Sequential([keras.Input((2,)), Holder(name="new")])
        gw.checkpoints.init_from({str(tmp_path / "a"): scopes}, into=model)
        assert [value.tolist() for value in model.get_weights()] == theirs


@pytest.mark.keras
def test_a_live_model_changes_wholly_or_not_at_all(tmp_path, monkeypatch):
    """Live sources are sources; a model of Keras 2 is refused; whatever fails, values are as before."""
    import keras

    def build(name):
        layers = [keras.Input((3,)), keras.layers.Dense(4, name="a"), keras.layers.BatchNormalization(name="n")]
        return keras.Sequential(layers, name=name)

    source, model = build("source"), build("model")
    kept = [w.copy() for w in source.get_weights()]
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(MismatchError, match="would get"):
        gw.checkpoints.init_from({source: None, build("other"): None}, into=model)
    gw.checkpoints.init_from({source: {"a/": "a/"}}, into=model, exclude="a/bias")
    np.testing.assert_array_equal(model.get_weights()[0], kept[0])
    for found, wanted in zip(source.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(found, wanted)
    model.set_weights(before)
    load = type(model).load_weights
    calls = []

    def failing(self, path, **more):
        calls.append(path)
        load(self, path, **more)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "load_weights", failing)
    with pytest.raises(KeyboardInterrupt):
        gw.checkpoints.init_from({source: None}, into=model)
    for found, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    tf_keras = pytest.importorskip("tf_keras")
    old = tf_keras.Sequential([tf_keras.layers.Dense(4, name="a", input_shape=(3,))])
    with pytest.raises(OptionError, match=r"Keras 2 \(tf_keras\)"):
        gw.checkpoints.init_from({source: None}, into=old)
    with pytest.raises(OptionError, match=r"`into` is a str"):
        gw.checkpoints.init_from({source: None}, into="model.keras")


@pytest.mark.keras
def test_a_variable_that_a_file_holds_twice_gets_one_value(tmp_path):
    """Whichever of its names a rule says; two sources for its two names are two for one variable."""
    import keras

    def build():
        dense = keras.layers.Dense(4, use_bias=False, name="dense")
        return keras.Sequential([keras.Input((4,)), keras.layers.SpectralNormalization(dense, name="sn")])

    kernel = np.arange(16, dtype=np.float32).reshape(4, 4)
    write(tmp_path / "a.index", k=kernel)
    write(tmp_path / "b.index", k=kernel + 1)
    build().save(tmp_path / "m.keras")
    with open_store(tmp_path / "m.keras") as reader:
        ((twin, first),) = reader.header.twins.items()
    for name in (twin, first):
        model = build()
        report = gw.checkpoints.init_from({tmp_path / "a": {"k": name}}, into=model)
        assert {row["from"] for row in report.tables["assigned"] if row["tensor"] in (twin, first)} == {"a"}
        np.testing.assert_array_equal(model.layers[0].layer.kernel, kernel)
    with pytest.raises(MismatchError, match="are one variable, but would get values of"):
        gw.checkpoints.init_from({tmp_path / "a": {"k": twin}, tmp_path / "b": {"k": first}}, into=model)
