"""Models to measure on, made once in a folder and kept there while a benchmark runs."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

SAFETENSORS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

BLOCK = 1 << 20
"""Random numbers drawn at a time: this process stays small, for the peak memory of those it starts is counted from its own."""

KERAS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
kind, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for seed in range(count):
    keras.utils.set_random_seed(seed)
    if kind == "dense":
        model = keras.Sequential([keras.Input((4096,)), *[keras.layers.Dense(4096) for _ in range(19)]])
    else:
        model = keras.applications.ResNet50(weights=None)
    rng = np.random.default_rng(seed)
    if kind != "dense":
        model.set_weights([rng.random(w.shape, dtype="float32") * 0.05 + 0.01 for w in model.get_weights()])
    model.save(f"{folder}/{kind}{seed}.keras")
    del model
    keras.backend.clear_session()
"""


def safetensors(
    folder: Path,
    name: str,
    seed: int,
    shapes: dict[str, tuple[int, ...]],
    *,
    dtype: str = "float32",
    ancestor: int | None = None,
    apart: float = 0.01,
) -> Path:
    """Write tensors of random numbers, a block at a time, without any library for the format.

    Args:
        folder: Where; a file that is there is kept.
        name: Of the file, before its seed.
        seed: Fixes the numbers.
        shapes: Of the tensors.
        dtype: float32, bfloat16 or float16.
        ancestor: Seed of a model from which this one differs, as fine-tunes do; None for numbers of its own.
        apart: By how much of the numbers' standard deviation.
    """
    path = folder / f"{name}{seed}.safetensors"
    if path.exists():
        return path
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    header, at = {}, 0
    for key, shape in shapes.items():
        size = math.prod(shape) * kind.itemsize
        header[key] = {"dtype": SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    streams = [(np.random.default_rng(seed), 0.02)]
    if ancestor is not None:
        streams = [(np.random.default_rng(ancestor), 0.02), (np.random.default_rng(seed), 0.02 * apart)]
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for left in range(at // kind.itemsize, 0, -BLOCK):
            count = min(left, BLOCK)
            numbers = sum(rng.standard_normal(count, dtype=np.float32) * np.float32(scale) for rng, scale in streams)
            file.write(numbers.astype(kind).tobytes())
    return path


def llama(
    folder: Path,
    name: str,
    seed: int,
    megabytes: int,
    dtype: str,
    *,
    ancestor: int | None = None,
    apart: float = 0.01,
) -> Path:
    """Make a Hugging Face directory of a llama with a tiny vocabulary, of so many megabytes in float32; see `safetensors`."""
    directory = folder / f"{name}{seed}"
    directory.mkdir(exist_ok=True)
    width = 1024 if megabytes >= 200 else 256
    inner, words = 4 * width, 2 * width
    block = {
        **{f"self_attn.{key}_proj": (width, width) for key in "qkvo"},
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    each = sum(math.prod(shape) for shape in block.values()) * 4 / 1e6
    layers = max(1, round((megabytes - 2 * words * width * 4 / 1e6) / each))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    for n in range(layers):
        shapes |= {f"model.layers.{n}.{key}.weight": shape for key, shape in block.items()}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (words, width)}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": dtype,
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": words,
        "num_attention_heads": width // 64, "num_key_value_heads": width // 64, "tie_word_embeddings": False,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    if not (directory / "model.safetensors").exists():
        written = safetensors(directory, "model", seed, shapes, dtype=dtype, ancestor=ancestor, apart=apart)
        written.rename(directory / "model.safetensors")
    return directory


def even(megabytes: int, piece_mb: int = 4) -> dict[str, tuple[int, ...]]:
    """Shapes of a model of so many float32 megabytes that is made alike at every size: of tensors of about `piece_mb`."""
    return {f"piece_{n}": (piece_mb * 250, 1000) for n in range(max(1, round(megabytes / piece_mb)))}


def many(megabytes: int = 1300) -> dict[str, tuple[int, ...]]:
    """Shapes of a transformer-like model of about so many megabytes."""
    block = {
        "q": (1024, 1024), "k": (1024, 1024), "v": (1024, 1024), "o": (1024, 1024),
        "up": (1024, 4096), "gate": (1024, 4096), "down": (4096, 1024), "norm1": (1024,), "norm2": (1024,),
    }  # fmt: skip
    each = sum(int(np.prod(s)) for s in block.values()) * 4 / 1e6
    count = max(1, round(megabytes * 0.95 / each))
    shapes = {f"layers.{n}.{key}": shape for n in range(count) for key, shape in block.items()}
    shapes["embed"] = (1024, max(1, round((megabytes - count * each) * 1e6 / 4096)))
    return shapes


def keras(folder: Path, kind: str, count: int) -> list[Path]:
    """Let Keras write its own files: `dense` has 1.3 GB, `resnet` is ResNet50."""
    paths = [folder / f"{kind}{seed}.keras" for seed in range(count)]
    if not all(path.exists() for path in paths):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([sys.executable, "-c", KERAS, kind, str(folder), str(count)], check=True, env=environment)
    return paths
