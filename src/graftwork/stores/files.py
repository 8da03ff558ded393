"""Opening files and reading JSON, trusting neither."""

import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError

MAX_JSON_BYTES = 1 << 26
"""A configuration or an index is at most this long; the largest known are a few megabytes."""


MAX_ASSET_BYTES = 1 << 33
"""A vocabulary is at most this long."""


def brief(error: BaseException) -> str:
    """Return the message of a lower error as one short line."""
    return " ".join(str(error).split())[:160]


def open_fd(path: Path) -> int:
    """Open a regular file for reading, without waiting on pipes or devices.

    Raises:
        StoreError: If there is no such file or it is not a regular file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError(f"{path} is not a regular file")
    return fd


def read_json(text: bytes, label: str) -> Any:
    """Return what a JSON text says, with every way in which it can be bad turned into an error of ours."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise StoreError(f"{label} gives the key {twice!r} twice")
        return found

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError as error:
        raise StoreError(f"{label} nests too deep") from error
    except ValueError as error:
        raise StoreError(f"{label} is not JSON: {brief(error)}") from error


def digest_of(path: Path) -> str:
    """Return a short digest of a file's bytes, the same as a zip's directory gives for its members."""
    fd = open_fd(path)
    try:
        if os.fstat(fd).st_size > MAX_ASSET_BYTES:
            raise StoreError(
                f"{path} is larger than the {MAX_ASSET_BYTES:,} bytes that a vocabulary or other asset may have"
            )
        crc, size = 0, 0
        while data := os.pread(fd, 1 << 22, size):
            crc, size = zlib.crc32(data, crc), size + len(data)
        return f"{crc:08x}:{size}"
    finally:
        os.close(fd)


def read_small(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return the contents of a file that has no reason to be large.

    Raises:
        StoreError: If it cannot be read, is not a regular file or is larger than `limit`.
    """
    fd = open_fd(path)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise StoreError(f"{path} has {size:,} bytes, more than the {limit:,} that such a file may have")
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)
