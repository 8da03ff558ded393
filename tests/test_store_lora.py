"""LoRA adapters over a base, against the formulas in plain NumPy; and what is refused of them."""

import itertools
import json
import threading

import ml_dtypes
import numpy as np
import pytest
from descriptors import open_under
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import graftwork as gw
from graftwork.errors import GraftworkError, MismatchError, OutputError, StoreError
from graftwork.kernels.low_rank import _add_product, _add_product_in_numpy, add_product
from graftwork.stores import open_store
from graftwork.stores.base import RAW_DTYPES

RANK, IN, OUT, WORDS = 3, 6, 8, 10
BASE = {
    "layers.0.q.weight": (OUT, IN),
    "layers.0.q.bias": (OUT,),
    "layers.1.q.weight": (OUT, IN),
    "square.weight": (IN, IN),
    "conv.weight": (OUT, IN, 3, 3),
    "embed.weight": (WORDS, IN),
    "norm.weight": (IN,),
}
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "target_modules": ["q"], "bias": "none", "use_dora": False}


def base(folder, dtype=np.float32, **config):
    """Write a base model and return its tensors."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, shape in BASE.items()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", **config}))
    return tensors


def adapter(folder, tensors, **config):
    """Write an adapter; keys are without PEFT's prefix."""
    folder.mkdir()
    rng = np.random.default_rng(len(folder.name))
    tensors = {
        f"base_model.model.{name}": rng.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
        for name, value in tensors.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return {name.removeprefix("base_model.model."): value.astype(np.float64) for name, value in tensors.items()}


def pair(module, rank=RANK, out=OUT, into=IN):
    return {f"{module}.lora_A.weight": (rank, into), f"{module}.lora_B.weight": (out, rank)}


def read(reader, name, cuts=()):
    """Return a tensor as its dtype's numbers, read in parts."""
    spec = reader.specs()[name]
    out = np.empty(spec.size, RAW_DTYPES[spec.dtype])
    edges = [0, *sorted(cuts), spec.size]
    for start, end in itertools.pairwise(edges):
        part = np.empty(end - start, out.dtype)
        reader.read_into(name, start, part)
        out[start:end] = part
    return out.view(ml_dtypes.bfloat16 if spec.dtype == "bfloat16" else spec.dtype).reshape(spec.shape)


def applied(tmp_path, *adapters):
    return open_store("+".join(str(tmp_path / name) for name in ("base", *adapters)))


Q = "layers.0.q"


def product(a, module=Q):
    return a[f"{module}.lora_B.weight"] @ a[f"{module}.lora_A.weight"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_the_product_is_added_and_rounded_once(tmp_path, dtype):
    """W + alpha / r · B A in float64, rounded to the base's dtype; all other tensors are the base's."""
    w = base(tmp_path / "base", dtype)
    a = adapter(tmp_path / "lora", pair(Q))

    with applied(tmp_path, "lora") as reader:
        expected = (w[f"{Q}.weight"].astype(np.float64) + 2 * product(a)).astype(dtype)
        np.testing.assert_array_equal(read(reader, f"{Q}.weight"), expected)
        for name in set(BASE) - {f"{Q}.weight"}:
            np.testing.assert_array_equal(read(reader, name), w[name])
        assert {n: (s.shape, s.dtype) for n, s in reader.specs().items()} == {
            n: (v.shape, v.dtype.name) for n, v in w.items()
        }


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 2500),
    rank=st.integers(1, 5),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_no_bit_depends_on_where_a_block_begins(rows, columns, rank, cuts, dtype):
    """The compiled loop and its NumPy twin give the same bits, whole or in parts, and the product to float64's accuracy."""
    rng = np.random.default_rng(rows * columns)
    left, right = rng.standard_normal((rows, rank)).astype(dtype), rng.standard_normal((rank, columns)).astype(dtype)
    w = rng.standard_normal(rows * columns)
    whole = w.copy()
    add_product(whole, 0, left, right, 0.7)
    np.testing.assert_allclose(
        whole.reshape(rows, columns),
        w.reshape(rows, columns) + 0.7 * (left.astype(np.float64) @ right.astype(np.float64)),
        rtol=1e-12,
        atol=1e-12,
    )
    edges = sorted({0, *(int(cut * w.size) for cut in cuts), w.size})
    for loop in (_add_product, _add_product_in_numpy):
        parts = w.copy()
        for start, end in itertools.pairwise(edges):
            loop(parts[start:end], start, left, right, 0.7)
        assert parts.tobytes() == whole.tobytes()


def test_scaling_ranks_and_alphas(tmp_path):
    """Patterns are regular expressions over ends of modules' names; rsLoRA divides by the root."""
    w = base(tmp_path / "base")
    a = adapter(
        tmp_path / "lora",
        {**pair(Q, rank=2), **pair("layers.1.q")},
        rank_pattern={r"0\.q": 2},
        alpha_pattern={"layers.1.q": 5},
        use_rslora=True,
    )

    with applied(tmp_path, "lora") as reader:
        for module, scaling in ((Q, 6 / 2**0.5), ("layers.1.q", 5 / 3**0.5)):
            expected = (w[f"{module}.weight"] + scaling * product(a, module)).astype(np.float32)
            np.testing.assert_array_equal(read(reader, f"{module}.weight"), expected)


@pytest.mark.parametrize("told_by", ["the adapter", "the base"])
def test_transposed_layers(tmp_path, told_by):
    """Square weights tell nothing by their shape: fan_in_fan_out does, and GPT-2's layers are known whatever it says."""
    config, name = ({}, "square") if told_by == "the adapter" else ({"model_type": "gpt2"}, "h.c_proj")
    tensors = {f"{name}.weight": np.random.default_rng(1).standard_normal((IN, IN)).astype(np.float32)}
    base(tmp_path / "base", **config)
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    a = adapter(tmp_path / "lora", pair(name, out=IN), fan_in_fan_out=told_by == "the adapter")

    with applied(tmp_path, "lora") as reader:
        expected = (tensors[f"{name}.weight"] + 2 * product(a, name).T).astype(np.float32)
        np.testing.assert_array_equal(read(reader, f"{name}.weight", [7, 20]), expected)


def test_embeddings_convolutions_and_whole_modules(tmp_path):
    """Everything else that PEFT saves, under each of its names."""
    w = base(tmp_path / "base")
    a = adapter(
        tmp_path / "lora",
        {
            "embed.lora_embedding_A": (RANK, WORDS),
            "embed.lora_embedding_B": (IN, RANK),
            "conv.lora_A.default.weight": (RANK, IN, 3, 3),
            "conv.lora_B.default.weight": (OUT, RANK, 1, 1),
            "norm.modules_to_save.default.weight": (IN,),
            f"{Q}.base_layer.bias": (OUT,),
            f"{Q}.lora_B.bias": (OUT,),
            **pair(Q),
        },
        lora_bias=True,
    )

    with applied(tmp_path, "lora") as reader:
        found = {name: read(reader, name, [5]) for name in reader.specs()}
    embed = a["embed.lora_embedding_B"] @ a["embed.lora_embedding_A"]
    conv = np.einsum("or,rixy->oixy", a["conv.lora_B.default.weight"][..., 0, 0], a["conv.lora_A.default.weight"])
    np.testing.assert_allclose(found["embed.weight"], w["embed.weight"] + 2 * embed.T, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["conv.weight"], w["conv.weight"] + 2 * conv, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found["norm.weight"], a["norm.modules_to_save.default.weight"].astype(np.float32))
    bias = a[f"{Q}.base_layer.bias"] + 2 * a[f"{Q}.lora_B.bias"]
    np.testing.assert_array_equal(found[f"{Q}.bias"], bias.astype(np.float32))


@pytest.mark.parametrize("where", ["linear", "transposed", "embedding"])
def test_dora(tmp_path, where):
    """Each output has the length that the magnitudes say."""
    w = base(tmp_path / "base")
    turned = where != "linear"
    name = {"linear": Q, "transposed": "square", "embedding": "embed"}[where]
    factors = (
        {"embed.lora_embedding_A": (RANK, WORDS), "embed.lora_embedding_B": (IN, RANK)}
        if where == "embedding"
        else pair(name, out=IN if turned else OUT)
    )
    outputs = IN if turned else OUT
    a = adapter(
        tmp_path / "lora",
        {**factors, f"{name}.lora_magnitude_vector": (outputs,)},
        use_dora=True,
        fan_in_fan_out=where == "transposed",
    )

    down, up = (a[key] for key in factors)
    moved = w[f"{name}.weight"] + 2 * ((up @ down).T if turned else up @ down)
    lengths = np.linalg.norm(moved, axis=0 if turned else 1, keepdims=True)
    m = a[f"{name}.lora_magnitude_vector"]
    expected = moved / lengths * (m if turned else m[:, None])
    with applied(tmp_path, "lora") as reader:
        whole = read(reader, f"{name}.weight")
        np.testing.assert_allclose(whole, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(read(reader, f"{name}.weight", [1, 13, 30]), whole)


def test_several_adapters_are_applied_from_left_to_right(tmp_path):
    """Replacing and adding do not commute, so the order is seen."""
    w = base(tmp_path / "base")
    a = adapter(tmp_path / "first", pair(Q))
    b = adapter(tmp_path / "second", {f"{Q}.weight": (OUT, IN)})

    with applied(tmp_path, "second", "first") as reader:
        expected = (b[f"{Q}.weight"] + 2 * product(a)).astype(np.float32)
        np.testing.assert_array_equal(read(reader, f"{Q}.weight"), expected)
        assert [note.split(" is")[0] for note in reader.header.notes] == ["the adapter second", "the adapter first"]
    with applied(tmp_path, "first", "second") as reader:
        np.testing.assert_array_equal(read(reader, f"{Q}.weight"), b[f"{Q}.weight"].astype(np.float32))
    assert not np.array_equal(expected, w[f"{Q}.weight"])


def test_many_threads_read_one_tensor(tmp_path):
    """Factors and norms are made once and shared."""
    base(tmp_path / "base")
    adapter(tmp_path / "lora", {**pair(Q), f"{Q}.lora_magnitude_vector": (OUT,)}, use_dora=True)
    with applied(tmp_path, "lora") as reader:
        expected = read(reader, f"{Q}.weight")
    with applied(tmp_path, "lora") as reader:
        found = []
        threads = [threading.Thread(target=lambda: found.append(read(reader, f"{Q}.weight"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and all(np.array_equal(each, expected) for each in found)


REFUSED = {
    "no B": ({f"{Q}.lora_A.weight": (RANK, IN)}, {}, "has lora_A, but no lora_B"),
    "no A": ({f"{Q}.lora_B.weight": (OUT, RANK)}, {}, "has lora_B, but no lora_A"),
    "a NaN alpha": (pair(Q), {"lora_alpha": float("nan")}, "lora_alpha nan, expected a finite number"),
    "an infinite alpha": (pair(Q), {"alpha_pattern": {"q": float("inf")}}, "for 'q' in alpha_pattern, inf"),
    "an alpha that is a text": (pair(Q), {"lora_alpha": "6"}, "lora_alpha '6'"),
    "rank 0": (pair(Q, rank=0), {"r": 0}, "r 0, expected a whole number from 1 on"),
    "another rank": (pair(Q, rank=2), {}, r"has shape \(2, 6\), expected \(3, 6\)"),
    "B of another rank": ({**pair(Q), f"{Q}.lora_B.weight": (OUT, 2)}, {}, r"shape \(8, 2\), expected \(8, 3\)"),
    "another width": (pair(Q, into=7), {}, r"shape \(3, 7\), expected \(3, 6\) for 'layers.0.q.weight'"),
    "transposed where it is not": (pair(Q), {"fan_in_fan_out": True}, "and transposed weights"),
    "an unknown module": (pair("layers.7.q"), {}, "no tensor 'layers.7.q.weight'; did you mean 'layers.1.q.weight'"),
    "an unknown tensor": ({**pair(Q), "extra.weight": (3,)}, {}, "is no part of a LoRA and no tensor of the base"),
    "a head of other classes": ({"norm.weight": (IN + 1,)}, {}, r"shape \(7,\) in float32, but 'norm.weight'"),
    "a slot that is not LoRA's": ({f"{Q}.hada_w1_a": (3, 3)}, {}, "is no part of a LoRA"),
    "the same twice": ({**pair(Q), f"{Q}.lora_A.default.weight": (RANK, IN)}, {}, "lora_A of 'layers.0.q' twice"),
    "integers": ({f"{Q}.weight": np.zeros((OUT, IN), np.int32)}, {}, "holds int32, expected floating-point numbers"),
    "magnitudes without DoRA": ({**pair(Q), f"{Q}.lora_magnitude_vector": (OUT,)}, {}, "but use_dora is False"),
    "DoRA without magnitudes": (pair(Q), {"use_dora": True}, "has no lora_magnitude_vector"),
    "too few magnitudes": (
        {**pair(Q), f"{Q}.lora_magnitude_vector": (OUT - 1,)},
        {"use_dora": True},
        "expected 8 magnitudes",
    ),
    "nothing": ({}, {}, "holds no tensors"),
    "LoHa": (pair(Q), {"peft_type": "LOHA"}, "peft_type 'LOHA'; graftwork applies LORA alone"),
    "IA3": (pair(Q), {"peft_type": "IA3"}, "peft_type 'IA3'"),
    "no type": (pair(Q), {"peft_type": None}, "peft_type None"),
    "PiSSA": (pair(Q), {"init_lora_weights": "pissa_niter_4"}, "changes the base model before training"),
    "layers replicated": (pair(Q), {"layer_replication": [[0, 1]]}, "the setting 'layer_replication'"),
    "a setting of the future": (pair(Q), {"use_nora": True}, "the setting 'use_nora'"),
    "a pattern that is none": (pair(Q), {"rank_pattern": {"(": 2}}, "no regular expression"),
    "patterns in a list": (pair(Q), {"rank_pattern": [2]}, "expected an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_named(tmp_path, case):
    """No part of an adapter is left out silently; no file stays open."""
    tensors, config, message = REFUSED[case]
    base(tmp_path / "base")
    adapter(tmp_path / "lora", tensors, **config)
    before = open_under(tmp_path)
    with pytest.raises((StoreError, MismatchError), match=message):
        applied(tmp_path, "lora")
    assert open_under(tmp_path) == before


def test_damaged_adapters_are_refused(tmp_path):
    """Cut short at every place, without a configuration, pickled, or linked to elsewhere."""
    base(tmp_path / "base")
    adapter(tmp_path / "lora", pair(Q))
    weights, config = (tmp_path / "lora" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    data = weights.read_bytes()
    for size in (0, 7, 100, len(data) - 1):
        weights.write_bytes(data[:size])
        with pytest.raises(StoreError, match=r"adapter_model\.safetensors"):
            applied(tmp_path, "lora")
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="links to a file outside of lora"):
        applied(tmp_path, "lora")
    weights.unlink()
    (tmp_path / "lora" / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(StoreError, match=r"adapter_model\.bin is a pickle"):
        applied(tmp_path, "lora")
    config.write_text("[]")
    weights.write_bytes(data)
    with pytest.raises(StoreError, match="is not a JSON object"):
        applied(tmp_path, "lora")
    with pytest.raises(StoreError, match="there is no adapter"):
        applied(tmp_path, "none")


def test_nan_in_an_adapter_stops_a_merge(tmp_path):
    """Values are looked at as those of any source."""
    base(tmp_path / "base")
    adapter(tmp_path / "lora", {**pair(Q), f"{Q}.lora_A.weight": np.full((RANK, IN), np.nan, np.float32)})
    sources = [f"{tmp_path}/base+{tmp_path}/lora", tmp_path / "base"]
    with pytest.raises(GraftworkError, match=r"'layers.0.q.weight' holds values that are NaN.*48 in base\+lora"):
        gw.merge(sources, output=tmp_path / "out", format="huggingface")
    assert not (tmp_path / "out").exists()


def test_an_adapted_model_merges_and_keeps_what_the_base_carries(tmp_path):
    """Merged with the base by halves, half of the product is left; configuration and tokenizer come along."""
    w = base(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text('{"a": 1}')
    (tmp_path / "base" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "base" / "generation_config.json").write_text("{}")
    a = adapter(tmp_path / "lora", pair(Q))
    out = gw.merge([f"{tmp_path}/base+{tmp_path}/lora", tmp_path / "base"], output=tmp_path / "out")

    np.testing.assert_allclose(
        load_file(out / "model.safetensors")[f"{Q}.weight"], w[f"{Q}.weight"] + product(a), rtol=1e-6, atol=1e-6
    )
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (tmp_path / "base" / name).read_bytes()


@pytest.mark.parametrize("target", ["lora", "base", "lora/x", "base/x"])
def test_an_adapter_is_a_source_like_any_other(tmp_path, target):
    """Nothing is written over it, or into it."""
    base(tmp_path / "base")
    adapter(tmp_path / "lora", pair(Q))
    sources = [f"{tmp_path}/base+{tmp_path}/lora"] * 2
    with pytest.raises(OutputError, match="one of the sources"):
        gw.merge(sources, output=tmp_path / target, overwrite=True, format="huggingface")
