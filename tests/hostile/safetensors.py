"""safetensors files: the length of a JSON header, the header, the values."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hostile import json_text, oddities
from hostile.corpus import Corpus, Outcome
from hostile.valid import KERNEL, VALUES, safetensors_bytes, safetensors_parts, text

Json = Any
CORPUS = Corpus("safetensors", VALUES)
TOTAL = sum(v.nbytes for v in VALUES.values())


def put(folder: Path, data: bytes) -> Path:
    """Write the file."""
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


@CORPUS.harmless()
def valid_file(folder: Path) -> Path:
    """Nothing wrong."""
    return put(folder, safetensors_bytes())


oddities.add(CORPUS, "model.safetensors", safetensors_bytes())


def faults() -> dict[str, tuple[Callable[[], bytes], Outcome]]:
    """Return, for every fault, the file (a Hugging Face directory has the same files)."""
    found: dict[str, tuple[Callable[[], bytes], Outcome]] = {}

    def keep(name: str, edit: Callable[[dict[str, Json]], object], outcome: Outcome = Outcome.REFUSED) -> None:
        def make() -> bytes:
            header, data = safetensors_parts()
            edit(header)
            return safetensors_bytes(header, data)

        found[name] = (make, outcome)

    def tensor(name: str, outcome: Outcome = Outcome.REFUSED, **fields: Json) -> None:
        keep(name, lambda header: header[KERNEL].update(fields), outcome)

    def whole(name: str, make: Callable[[], bytes], outcome: Outcome = Outcome.REFUSED) -> None:
        found[name] = (make, outcome)

    for name, raw in json_text.BROKEN.items():
        whole(f"header-{name}", lambda raw=raw: safetensors_bytes(raw))

    # The length of the header
    good = safetensors_bytes()
    whole("cut-in-the-length", lambda: good[:5])
    whole("cut-after-the-length", lambda: good[:8])
    whole("cut-in-the-header", lambda: good[:100])
    whole("cut-in-the-values", lambda: good[: len(good) - TOTAL // 2])
    whole("values-missing", lambda: good[: len(good) - TOTAL])
    whole("last-byte-missing", lambda: good[:-1])
    whole("byte-too-many", lambda: good + b"\0")
    for name, length in {
        "zero": 0,
        "one": 1,
        "short": 50,
        "one-more": len(good) - TOTAL - 7,
        "whole-file": len(good) - 8,
        "past-the-end": len(good) + 1,
        "of-99-megabytes": 99_000_000,
        "of-gigabytes": 1 << 32,
        "negative": (1 << 64) - 1,
        "that-overflows": (1 << 63) - 4,
    }.items():
        whole(f"header-length-{name}", lambda length=length: safetensors_bytes(length=length))

    # Ranges
    tensor("range-backwards", data_offsets=[128, 0])
    tensor("range-negative", data_offsets=[-128, 0])
    tensor("range-past-the-end", data_offsets=[TOTAL - 64, TOTAL + 64])
    tensor("range-far-past-the-end", data_offsets=[1 << 40, (1 << 40) + 128])
    tensor("range-that-overflows", data_offsets=[(1 << 63) - 64, (1 << 63) + 64])
    tensor("range-that-overflows-twice", data_offsets=[(1 << 64) - 64, (1 << 64) + 64])
    tensor("range-of-exabytes", data_offsets=[0, 1 << 62])
    tensor("range-empty", data_offsets=[0, 0])
    tensor("range-shorter-than-the-shape", data_offsets=[0, 64])
    tensor("range-overlaps", data_offsets=[64, 192])
    tensor("range-of-three", data_offsets=[0, 128, 256])
    tensor("range-of-one", data_offsets=[0])
    tensor("range-is-null", data_offsets=None)
    tensor("range-is-text", data_offsets="0-128")
    tensor("range-of-texts", data_offsets=["0", "128"])
    tensor("range-fractional", data_offsets=[0.0, 128.0])
    tensor("range-of-bools", data_offsets=[False, True])
    tensor("range-infinite", data_offsets=[0, float("inf")])
    tensor("range-an-object", data_offsets={"0": 0, "1": 128})
    keep("two-tensors-in-one-place", lambda h: h.update(twin=dict(h[KERNEL])))
    keep("hole", lambda h: h.pop("batch_normalization/gamma"))
    keep("hole-in-front", lambda h: h.pop(KERNEL))
    keep("no-tensors-but-values", lambda h: [h.pop(name) for name in VALUES])

    # Shapes
    tensor("shape-negative", shape=[-8, -4])
    tensor("shape-fractional", shape=[8.0, 4.0])
    tensor("shape-of-texts", shape=["8", "4"])
    tensor("shape-of-bools", shape=[True, 32])
    tensor("shape-with-null", shape=[None, 4])
    tensor("shape-is-a-number", shape=32)
    tensor("shape-is-text", shape="8,4")
    tensor("shape-missing", shape=None)
    tensor("shape-too-small", shape=[8, 3])
    tensor("shape-too-large", shape=[8, 5])
    tensor("shape-that-overflows", shape=[1 << 61, 8])
    tensor("shape-that-overflows-to-the-right-size", shape=[(1 << 57) + 1, 32])
    tensor("shape-of-exabytes", shape=[1 << 62])
    tensor("shape-infinite", shape=[float("inf"), 4])
    tensor("shape-not-a-number", shape=[float("nan"), 4])
    tensor("shape-of-a-hundred-axes", Outcome.TOLERATED, shape=[8, 4] + [1] * 98)
    tensor("shape-of-a-hundred-thousand-axes", Outcome.TOLERATED, shape=[8, 4] + [1] * 100_000)
    tensor("shape-of-huge-axes", shape=[10**300, 10**300, 10**300])
    whole(
        "shape-of-a-million-digits",
        lambda: safetensors_bytes(text(safetensors_parts()[0]).replace(b"[8, 4]", b"[8" + b"0" * 1_000_000 + b", 4]")),
    )
    whole("shape-one-e400", lambda: safetensors_bytes(text(safetensors_parts()[0]).replace(b"[8, 4]", b"[1e400, 4]")))
    tensor("shape-empty-but-values", shape=[0, 4])

    # Types
    tensor("type-unknown", dtype="F31")
    tensor("type-of-numpy", dtype="float32")
    tensor("type-lower-case", dtype="f32")
    tensor("type-is-null", dtype=None)
    tensor("type-is-a-number", dtype=32)
    tensor("type-is-a-list", dtype=["F32"])
    tensor("type-is-an-object", dtype={"F32": 1})
    tensor("type-of-another-width", dtype="F64")
    tensor("type-of-half-a-byte", dtype="F4", shape=[8, 32])
    tensor("type-object", dtype="O")

    # Fields
    keep("tensor-is-a-list", lambda h: h.update({KERNEL: ["F32", [8, 4], [0, 128]]}))
    keep("tensor-is-null", lambda h: h.update({KERNEL: None}))
    keep("tensor-is-text", lambda h: h.update({KERNEL: "F32"}))
    keep("tensor-is-empty", lambda h: h.update({KERNEL: {}}))
    keep("type-missing", lambda h: h[KERNEL].pop("dtype"))
    keep("range-missing", lambda h: h[KERNEL].pop("data_offsets"))
    tensor("field-nobody-knows", Outcome.TOLERATED, strides=[4, 1])
    keep("metadata-is-a-list", lambda h: h.update(__metadata__=["pt"]), Outcome.TOLERATED)
    keep("metadata-is-null", lambda h: h.update(__metadata__=None), Outcome.TOLERATED)
    keep("metadata-of-numbers", lambda h: h.update(__metadata__={"format": 3, "deep": {"a": []}}), Outcome.TOLERATED)
    keep("metadata-that-looks-like-a-tensor", lambda h: h.update(__metadata__=h[KERNEL]), Outcome.TOLERATED)
    keep("metadata-of-a-megabyte", lambda h: h.update(__metadata__={"a": "b" * 1_000_000}), Outcome.HARMLESS)
    whole(
        "name-twice",
        lambda: safetensors_bytes(
            text(safetensors_parts()[0])[:-1]
            + b', "dense/kernel": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}'
        ),
    )

    # Names
    def rename(name: str, new: str, outcome: Outcome = Outcome.TOLERATED) -> None:
        keep(name, lambda h: h.update({new: h.pop(KERNEL)}), outcome)

    rename("name-empty", "")
    rename("name-climbs", "../../etc/passwd")
    rename("name-holds-a-nul", "a\0b")
    rename("name-of-control-characters", "\x1b[2J\n")
    rename("name-half-of-a-character", "\ud800")
    rename("name-of-a-megabyte", "n" * 1_000_000)
    rename("name-superscript", "vars/²")
    rename("name-of-digits", "9" * 5000)

    # Odd but right
    header = text(safetensors_parts()[0])
    whole("header-padded", lambda: safetensors_bytes(header + b" " * 61), Outcome.HARMLESS)
    whole("header-unaligned", lambda: safetensors_bytes(header + b" " * (3 - len(header) % 8 + 8)), Outcome.HARMLESS)
    whole("header-begins-with-a-blank", lambda: safetensors_bytes(b"  " + header), Outcome.TOLERATED)
    whole("header-ends-with-garbage", lambda: safetensors_bytes(header + b"garbage"))
    whole("header-is-two", lambda: safetensors_bytes(header + header))
    keep("order-backwards", _backwards, Outcome.HARMLESS)
    keep("no-metadata", lambda h: h.pop("__metadata__"), Outcome.HARMLESS)
    whole("a-hundred-thousand-tensors", _many, Outcome.TOLERATED)
    whole("no-tensors", lambda: safetensors_bytes({}, b""), Outcome.TOLERATED)
    return found


def _backwards(header: dict[str, Json]) -> None:
    items = list(header.items())[::-1]
    header.clear()
    header.update(items)


def _many() -> bytes:
    header = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(100_000)}
    return safetensors_bytes(header, bytes(100_000))


for _name, (_make, _outcome) in faults().items():
    CORPUS.add(_name, lambda folder, make=_make: put(folder, make()), _outcome)


_TYPES: dict[str, tuple[str, np.ndarray[Any, Any]]] = {
    "bool": ("BOOL", np.array([1, 0, 1], "u1")),
    "int8": ("I8", np.array([-1, 0, 1], "i1")),
    "uint64": ("U64", np.array([1 << 63, 0, 1], "<u8")),
    "bfloat16": ("BF16", np.array([0x3F80, 0x4000, 1], "<u2")),
    "float8": ("F8_E4M3", np.array([0x3F, 0x40, 1], "u1")),
    "float64": ("F64", np.array([0.5, -0.0, np.inf], "<f8")),
    "scalar": ("F32", np.array(0.5, "<f4")),
    "nothing": ("F32", np.zeros((3, 0, 2), "<f4")),
}
for _name, (_dtype, _values) in _TYPES.items():

    def _typed(folder: Path, dtype: str = _dtype, values: np.ndarray[Any, Any] = _values) -> Path:
        entry = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [0, values.nbytes]}
        return put(folder, safetensors_bytes({"x": entry}, values.tobytes()))

    CORPUS.add(f"type-{_name}", _typed, Outcome.HARMLESS, values={"x": _values})


@CORPUS.refused()
def header_of_two_hundred_megabytes(folder: Path) -> Path:
    """A header that is a hole in the file: it is there, and no model needs it."""
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000) + b'{"')
        file.truncate(200_000_100)
    return path


@CORPUS.refused()
def header_of_ninety_megabytes(folder: Path) -> Path:
    """As large as the reference reader allows, and a hole."""
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 90_000_000) + b'{"')
        file.truncate(90_000_100)
    return path
