"""How far two models are apart, with numbers found by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import graftwork as gw


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
