"""Sends written bytes on their way to the disk early, so that the sync which completes a file has little left to wait for.

The kernel would keep the pages of a file for seconds, and a sync of 1.3 GB at the end took as long as merging it.
"""

import ctypes
import functools
from collections.abc import Callable

_BEGIN_WRITING = 2
"""SYNC_FILE_RANGE_WRITE: start, do not wait."""


def begin_writeback(fd: int, offset: int, nbytes: int) -> None:
    """Ask the system to begin writing a range of a file to the disk; a hint, which may come to nothing.

    Args:
        fd: The file.
        offset: First byte.
        nbytes: How many.
    """
    hint = _hint()
    if hint is not None:
        hint(fd, offset, nbytes, _BEGIN_WRITING)


@functools.cache
def _hint() -> Callable[..., int] | None:
    """Return Linux's ``sync_file_range``, or None elsewhere."""
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function
