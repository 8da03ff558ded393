"""The record says how to make the result again."""

import numpy as np
from safetensors.numpy import save_file

import graftwork as gw


def test_the_record_keeps_zeros_and_false(tmp_path):
    """`normalize=False`, `t=0` and a weight of 0 are settings like others."""
    save_file({"w": np.ones(4, np.float32)}, tmp_path / "a.safetensors")
    save_file({"w": np.ones(4, np.float32)}, tmp_path / "b.safetensors")
    sources = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    gw.merge(sources, normalize=False, weights=[1, 0], output=tmp_path / "c.safetensors")
    gw.merge(sources, method="slerp", t=0, output=tmp_path / "d.safetensors")
    linear = gw.inspect(tmp_path / "c.safetensors").provenance["merge"]
    assert linear["normalize"] is False
    assert linear["weight"] == [1, 0]
    assert linear["seed"] == 0
    assert gw.inspect(tmp_path / "d.safetensors").provenance["merge"]["t"] == 0
