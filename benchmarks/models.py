"""Models to measure on, made once in a folder and kept there while a benchmark runs."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

LAYERS, WIDTH = 19, 4096

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


def safetensors(folder: Path, name: str, seed: int, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write float32 tensors of random numbers, a block at a time, without any library for the format."""
    path = folder / f"{name}{seed}.safetensors"
    if path.exists():
        return path
    header, at = {}, 0
    for key, shape in shapes.items():
        size = int(np.prod(shape)) * 4
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for left in range(at // 4, 0, -(1 << 22)):
            file.write((rng.standard_normal(min(left, 1 << 22), dtype=np.float32) * 0.02).tobytes())
    return path


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
