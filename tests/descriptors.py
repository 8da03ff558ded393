"""Which files this process holds open: asked of one folder, since other tests' rubbish is collected at any moment."""

import os
from pathlib import Path


def open_under(folder: Path) -> int:
    """Return how many open descriptors lead to files below a folder."""
    below = f"{folder.resolve()}{os.sep}"
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith(below)
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return count
