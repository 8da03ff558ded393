"""Random damage: what a bad disk, a broken download or a fuzzer does to a file."""

import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from hostile import (
    huggingface,
    keras_dir,
    keras_zip,
    legacy_h5,
    preset,
    safetensors,
    sharded,
    tf_checkpoint,
    weights_h5,
)

ODD = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
"""Numbers that lengths and offsets like least."""


def flip(data: bytearray, rng: random.Random) -> None:
    """Change some bits, all over the file or close together."""
    around = rng.randrange(len(data))
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = rng.randrange(len(data)) if rng.random() < 0.5 else min(len(data) - 1, around + rng.randrange(64))
        data[at] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    """End the file early."""
    del data[rng.randrange(len(data)) :]


def remove(data: bytearray, rng: random.Random) -> None:
    """Take a piece out, so that the rest shifts."""
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 8, 100, 4096))]


def insert(data: bytearray, rng: random.Random) -> None:
    """Put something in, so that the rest shifts."""
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 8, 512)))


def copy(data: bytearray, rng: random.Random) -> None:
    """Write one piece of the file over another."""
    source, target, size = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((4, 8, 40, 328, 2048))
    piece = data[source : source + size]
    data[target : target + len(piece)] = piece


def repeat(data: bytearray, rng: random.Random) -> None:
    """Put a piece of the file in a second time."""
    at, size = rng.randrange(len(data)), rng.choice((8, 100, 2048))
    data[at:at] = data[at : at + size]


def erase(data: bytearray, rng: random.Random) -> None:
    """Overwrite a piece with one byte, as a lost sector reads."""
    at, size = rng.randrange(len(data)), rng.choice((4, 16, 512, 4096))
    size = min(size, len(data) - at)
    data[at : at + size] = bytes([rng.choice((0, 0xFF, 0x20))]) * size


def number(data: bytearray, rng: random.Random) -> None:
    """Overwrite something, aligned as lengths and offsets are, with a number that nobody expects."""
    for _ in range(rng.choice((1, 1, 3))):
        form, width = rng.choice((("<H", 2), ("<I", 4), ("<Q", 8), ("<Q", 8)))
        at = rng.randrange(max(1, len(data) - width + 1))
        at -= at % rng.choice((1, width))
        value = rng.choice((*ODD, len(data), len(data) - 8, at, rng.randrange(len(data) + 1)))
        if at + width <= len(data):
            struct.pack_into(form, data, at, value & ((1 << 8 * width) - 1))


def digits(data: bytearray, rng: random.Random) -> None:
    """Change characters of texts, as long as there are any."""
    at = data.find(b'"', rng.randrange(len(data)))
    for _ in range(rng.choice((1, 3))):
        spot = at + rng.randrange(80) if at >= 0 else rng.randrange(len(data))
        if spot < len(data):
            data[spot] = rng.choice(b'0123456789-.eE[]{}":,ntf\\ ')


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    flip,
    cut,
    remove,
    insert,
    copy,
    copy,
    repeat,
    erase,
    number,
    number,
    number,
    digits,
)


def sources() -> Mapping[str, Callable[[Path], Path]]:
    """Return, by format, what makes a valid file."""
    return {
        "keras": keras_zip.valid_file,
        "weights_h5": weights_h5.valid_file,
        "sharded": sharded.valid_file,
        "keras_dir": keras_dir.valid_directory,
        "legacy_h5": legacy_h5.valid_file,
        "safetensors": safetensors.valid_file,
        "huggingface": huggingface.valid_directory,
        "preset": preset.valid_with_a_task,
        "tf_checkpoint": tf_checkpoint.valid_file,
    }


def damage(files: Mapping[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """Return a copy of the files of a model with one to three mutations of one of them."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            rng.choice(MUTATIONS)(data, rng)
    return {**files, name: bytes(data)}
