"""Configurations of Hugging Face models: what two versions of transformers write of one model is the same, and nothing else is.

The pairs are excerpts of what transformers 4.52.4 and 5.23.0 save for one model.
"""

import json
from copy import deepcopy

import numpy as np
import pytest
from safetensors.numpy import save_file

import graftwork as gw
from graftwork.architecture.huggingface import differences

V4, V5 = {"transformers_version": "4.52.4"}, {"transformers_version": "5.23.0"}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LONG = {"short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}

SAME = {
    "llama": (
        {"rope_theta": 10000.0, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    ),
    "llama 3.1": (
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}},
    ),
    "linear": (
        {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"type": "linear", "rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ),
    "yarn, from the length there is": (
        {"max_position_embeddings": 40960, "rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {
            "max_position_embeddings": 40960,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 40960,
            },
        },
    ),
    "phi3": (
        {
            "original_max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "longrope", **LONG},
        },
        {
            "original_max_position_embeddings": 4096,
            "rope_parameters": {
                "type": "longrope",
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "original_max_position_embeddings": 4096,
                **LONG,
            },
        },
    ),
    "gpt_neox": (
        {"rotary_emb_base": 20000, "rotary_pct": 0.5, "rope_scaling": None},
        {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 20000, "rope_type": "default"}},
    ),
    "gemma3": (
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
    "pixtral": (
        {"vision_config": {"rope_theta": 10000.0}},
        {"vision_config": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"}}},
    ),
    "mistral": (
        {"hidden_size": 4096, "num_attention_heads": 32, "head_dim": None},
        {"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128},
    ),
    "qwen2": (
        {"use_sliding_window": False, "sliding_window": 4096},
        {"use_sliding_window": False, "sliding_window": None, "layer_types": ["full_attention", "full_attention"]},
    ),
    "bert": ({}, {"tie_word_embeddings": True, "is_decoder": False}),
}

LEFT_OUT = {
    "gemma2": ({"sliding_window": 4096}, {"sliding_window": 4096, "layer_types": ["sliding_attention"]}),
    "deepseek": ({}, {"num_nextn_predict_layers": 1}),
    "whisper": ({"encoder_layers": 4, "num_hidden_layers": 4}, {"encoder_layers": 4}),
    "a llama without": ({}, {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
    "a tower without": ({"v": {}}, {"v": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"}}}),
}

OTHER = {
    "no scaling": ({"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}),
    "no rope at all": ({}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}),
    "scaling alone": ({}, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "part of the heads": ({"rotary_pct": 0.25, "rotary_emb_base": 1e4}, {"rope_parameters": {"rope_theta": 1e4}}),
    "heads": (
        {"hidden_size": 4096, "num_attention_heads": 32},
        {"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 256},
    ),
    "windows": (
        {"use_sliding_window": True, "sliding_window": 4096},
        {"use_sliding_window": True, "sliding_window": None},
    ),
    "codes": ({}, {"quantization_config": {"bits": 4}}),
    "codes of a part": ({"text_config": {}}, {"text_config": {"quantization_config": {"bits": 4}}}),
}


def both_ways(pair):
    """The differences between what version 4 wrote and what version 5 wrote; the same either way round."""
    a, b = ({**version, **deepcopy(config)} for version, config in zip((V4, V5), pair, strict=True))
    before = deepcopy((a, b))
    found, back = differences(a, b), differences(b, a)
    assert (a, b) == before
    assert {(d.field, str(d.a), str(d.b), d.left_out) for d in found} == {
        (d.field, str(d.b), str(d.a), d.left_out) for d in back
    }
    return found


@pytest.mark.parametrize("case", SAME)
def test_one_model_in_the_words_of_two_versions(case):
    """Nothing differs; with one number changed on one side, that does."""
    assert both_ways(SAME[case]) == []

    a, b = deepcopy(SAME[case])
    part = b.get("vision_config", b)
    rope = part.get("rope_parameters")
    if rope is None:
        return
    for kind in (each for each in (rope, *rope.values()) if isinstance(each, dict) and "rope_theta" in each):
        kind["rope_theta"] += 1
        (found,) = both_ways((a, b))
        assert found.field.endswith("rope_theta") and not found.left_out
        kind["rope_theta"] -= 1


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_field_that_another_version_does_not_have_is_told(case):
    """It does not count as another architecture; within one version, or where none is said, it does."""
    assert [d.left_out for d in both_ways(LEFT_OUT[case])] == [True]
    a, b = LEFT_OUT[case]
    for version in ({}, V4):
        assert [d.left_out for d in differences({**version, **a}, {**version, **b})] == [False]


@pytest.mark.parametrize("case", OTHER)
def test_other_models_differ_in_any_version(case):
    """What every version would have written is not taken to be left out."""
    found = both_ways(OTHER[case])
    assert found and not any(d.left_out for d in found)


def test_fine_tunes_of_two_versions_merge(tmp_path):
    """The result has the first one's configuration; what only one says is told by merge and diff, and no difference of structure."""
    weights = {"a.weight": np.ones((2, 3), np.float32)}
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, config in ((old, {**V4, **SAME["llama"][0]}), (new, {**V5, **SAME["llama"][1], "layer_scale": 0.5})):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        save_file(weights, folder / "model.safetensors")
    notes: list[str] = []

    gw.merge([old, new], output=tmp_path / "out", report=notes)

    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 10000.0
    told = [note for note in (*notes, *gw.diff(old, new).notes) if "layer_scale 0.5 of new" in note]
    assert len(told) == 2 and all("version of transformers" in note for note in told)
    assert gw.diff(old, new).identical
