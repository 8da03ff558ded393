"""Hugging Face directories with small models of Llama's architecture, written without graftwork."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HIDDEN, INTERMEDIATE, VOCABULARY = 16, 24, 32


def make_llama(
    folder: Path, layers: int = 4, seed: int = 0, dtype: type = np.float32, prefix: str = "model.layers", **config
) -> Path:
    """Write a model whose values are drawn from `seed`; `config` adds to ``config.json``."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int):
        return (rng.standard_normal(shape) * 0.3).astype(dtype)

    tensors = {"model.embed_tokens.weight": draw(VOCABULARY, HIDDEN)}
    for number in range(layers):
        block = f"{prefix}.{number}"
        tensors |= {f"{block}.self_attn.{name}_proj.weight": draw(HIDDEN, HIDDEN) for name in "qkvo"}
        tensors |= {f"{block}.mlp.{name}_proj.weight": draw(INTERMEDIATE, HIDDEN) for name in ("gate", "up")}
        tensors[f"{block}.mlp.down_proj.weight"] = draw(HIDDEN, INTERMEDIATE)
        tensors |= {f"{block}.{name}_layernorm.weight": draw(HIDDEN) for name in ("input", "post_attention")}
    tensors |= {"model.norm.weight": draw(HIDDEN), "lm_head.weight": draw(VOCABULARY, HIDDEN)}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    said = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "torch_dtype": np.dtype(dtype).name,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def tensors_of(folder: Path) -> dict:
    """Return every tensor of a directory as the reference implementation reads it."""
    return {name: array for file in sorted(folder.glob("*.safetensors")) for name, array in load_file(file).items()}


def config_of(folder: Path) -> dict:
    """Return what its ``config.json`` says."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
