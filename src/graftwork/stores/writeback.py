"""How blocks of a result get to the disk: early, and without filling the memory with what is read again fast enough.

Left alone, the kernel keeps written pages for seconds, and the sync that completes a file of 1.3 GB takes as long as merging it. So it is
asked to begin with every block at once (`sync_file_range` of Linux).

A page of memory for every page of the result costs more than the merge, too, where memory has to be found first: on a virtual machine
whose host takes freed memory back, two seconds of three. A large file on a fast disk therefore leaves the page cache block by block
(``RWF_DONTCACHE`` of Linux 6.14). How fast the disk is, the first blocks tell. On a slow one the pages stay, for whoever reads the
result next. A block that leaves is read back first and compared, while it is still at hand.
"""

import ctypes
import errno
import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from graftwork.errors import OutputError
from graftwork.lazy import NDArray, np

LARGE = 1 << 29
"""Bytes of a file from which on its pages are not kept; smaller ones fit beside everything else."""

PROBE = 1 << 26
"""Bytes that are written and synced to see how fast the disk is."""

FAST = 1e9
"""Bytes a second that a disk has to write for its pages not to be missed."""

SMALL_BLOCK = 1 << 16
"""Blocks below are left to the kernel."""

_BEGIN_WRITING = 2
"""SYNC_FILE_RANGE_WRITE: start, do not wait."""

_DO_NOT_CACHE = 0x80
"""RWF_DONTCACHE."""


class Sink:
    """Takes the blocks of one file, from any thread.

    Args:
        fd: The file, open for reading and writing.
        size: Bytes that it will have.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._scratch = threading.local()
        self._left_to_probe = PROBE if size >= LARGE else 0
        self._flags = 0

    def write(self, block: NDArray[Any], offset: int) -> bool:
        """Write all of a block at a byte offset; return whether it was read back and compared.

        Raises:
            OutputError: If what was read back differs.
        """
        view = block.data.cast("B")
        flags = self._flags if len(view) >= SMALL_BLOCK else 0
        done = 0
        while done < len(view):
            try:
                done += os.pwritev(self._fd, [view[done:]], offset + done, flags)
            except OSError as error:
                if not flags or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                flags = self._flags = 0  # the system or the file system cannot: pages stay
        if flags:
            self._compare(block, offset)
            return True
        if self._left_to_probe > 0:
            self._probe(len(view))
        elif len(view) >= SMALL_BLOCK:
            _begin_writing(self._fd, offset, len(view))
        return False

    def _probe(self, nbytes: int) -> None:
        """Count what is written, and see how fast it gets to the disk when that is enough."""
        with self._lock:
            self._left_to_probe -= nbytes
            if self._left_to_probe > 0 or self._left_to_probe + nbytes <= 0:
                return
        begin = time.perf_counter()
        os.fdatasync(self._fd)
        if PROBE / max(time.perf_counter() - begin, 1e-9) >= FAST:
            self._flags = _DO_NOT_CACHE

    def _compare(self, block: NDArray[Any], offset: int) -> None:
        nbytes = block.nbytes
        found = self._scratch.__dict__.get("found")
        if found is None or found.nbytes < nbytes:
            found = self._scratch.found = np.empty(nbytes, np.uint8)
        view, done = found[:nbytes].data, 0
        while done < nbytes:
            count = os.preadv(self._fd, [view[done:]], offset + done, _DO_NOT_CACHE)
            if count <= 0:
                break
            done += count
        if done < nbytes or not _same(found, block):
            raise OutputError(
                f"{nbytes} bytes were written at byte {offset} and read back differently; the disk is not to be trusted"
            )


def _same(found: NDArray[Any], block: NDArray[Any]) -> bool:
    compare = _system("memcmp", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    if compare is None:
        return found[: block.nbytes].tobytes() == block.tobytes()
    return compare(found.ctypes.data, block.ctypes.data, block.nbytes) == 0


def _begin_writing(fd: int, offset: int, nbytes: int) -> None:
    """Ask the system to begin writing a range to the disk; a hint, which may come to nothing."""
    hint = _system("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if hint is not None:
        hint(fd, offset, nbytes, _BEGIN_WRITING)


@functools.cache
def _system(name: str, *types: Any) -> Callable[..., int] | None:
    """Return a function of the system's C library, or None where it has no such."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = types
    return function  # type: ignore[no-any-return]
