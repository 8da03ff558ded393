"""How far two models are apart, with numbers found by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import graftwork as gw
from graftwork.report import render


def compared(folder, a, b):
    for name, tensors in (("a", a), ("b", b)):
        save_file({key: np.asarray(value) for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return gw.diff(folder / "a.safetensors", folder / "b.safetensors")


def test_counters_do_not_drown_weights(tmp_path):
    """The distance of a layer, and of all, is that of its weights; a layer that only counts has its own."""
    a = {"n.weight": np.float32([3, 4]), "n.num_batches_tracked": np.int64(60_000), "steps": np.int64(4)}
    b = {"n.weight": np.float32([3, 9]), "n.num_batches_tracked": np.int64(60_001), "steps": np.int64(5)}

    found = compared(tmp_path, a, b)

    assert {layer.name: layer.distance for layer in found.layers} == {"n": 1, "steps": 0.25}
    assert found.distance == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_told(tmp_path, bad):
    """Nothing can be measured of it, but models that differ there are not identical; those that have it in common are."""
    a, b = {"w": np.float32([1, bad])}, {"w": np.float32([1, 2])}

    found = compared(tmp_path, a, b)

    assert not found.identical
    assert "1 element" in found.notes[-1]
    json.dumps(found.to_dict(), allow_nan=False)
    assert compared(tmp_path, a, a).identical


def test_large_integers_are_compared_as_such(tmp_path):
    """Two of them may be the same float64."""
    found = compared(tmp_path, {"n": np.int64([2**60 + 1])}, {"n": np.int64([2**60 + 2])})

    assert not found.identical
    assert found.tensors[0].largest == 1


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_other_dtypes_are_told_and_values_compared_all_the_same(tmp_path, capsys, dtype):
    """Files with the same numbers in other dtypes are not identical, but equal in value; JSON lists each tensor, people see how many."""
    a = {name: np.arange(4, dtype=np.float32) for name in "vwx"}

    found = compared(tmp_path, a, {**a, "v": a["v"].astype(dtype), "w": a["w"].astype(dtype)})

    name = np.dtype(dtype).name
    assert (found.identical, found.equal, found.distance) == (False, True, 0)
    assert found.retyped == (("v", "float32", name), ("w", "float32", name))
    render.difference(found, tensors=False)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"other dtype: v and 1 more are float32 in {found.a} but {name} in {found.b}",
        "equal values: 3 tensors",
    ]
