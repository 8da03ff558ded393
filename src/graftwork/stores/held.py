"""Files that are held open as long as they are in use, and no longer than others need the place.

A hundred models of four shards each are four hundred files, more than many systems let a process open. So no more than `MOST` are open
that nobody reads from just now; one that was closed meanwhile is opened again, and must then still be the same file.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from graftwork.errors import StoreError
from graftwork.stores.files import open_fd

MOST = 128
"""Files that stay open though nobody is reading from them."""

_lock = threading.Lock()
_idle: "OrderedDict[HeldFile, None]" = OrderedDict()
"""Open files that nobody is reading from, the one that was used last at the end."""


class HeldFile:
    """A file for reading, open whenever it is needed; from any thread.

    Args:
        path: The file.

    Raises:
        StoreError: If there is no such file or it is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_fd(path)
        self._users = 0
        self._closed = False
        self._identity = self._look()
        with _lock:
            _idle[self] = None
            _close_oldest()

    @property
    def size(self) -> int:
        """Bytes of the file when it was first opened."""
        return self._identity[2]

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """Lend the file's descriptor.

        Raises:
            StoreError: If the file was closed, or had to be opened again and is another one by now.
        """
        with _lock:
            if self._closed:
                raise StoreError(f"{self.path.name} is closed")
            if self._fd < 0:
                self._fd = open_fd(self.path)
                if self._look() != self._identity:
                    os.close(self._fd)
                    self._fd = -1
                    raise StoreError(f"{self.path} was changed or replaced while it was being read")
            self._users += 1
            _idle.pop(self, None)
        try:
            yield self._fd
        finally:
            with _lock:
                self._users -= 1
                if self._users == 0:
                    _idle[self] = None
                    _close_oldest()

    def close(self) -> None:
        """Close the file for good; closing twice does nothing."""
        with _lock:
            self._closed = True
            _idle.pop(self, None)
            self._drop()

    def _drop(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _look(self) -> tuple[int, int, int, int]:
        """Return what tells one state of a file from another."""
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _close_oldest() -> None:
    while len(_idle) > MOST:
        _idle.popitem(last=False)[0]._drop()
