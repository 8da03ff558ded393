"""The command `graftwork`: parses arguments, calls `graftwork.api`, prints what comes back. Nothing is decided here."""

import gc

__all__ = ["main"]


def main() -> None:
    """Run the command line: a short process that makes many small objects, hardly any of them in cycles, and leaves them at its end."""
    gc.set_threshold(300_000, 20, 100)  # Numba's own make half of so many
    from graftwork.cli.app import app

    try:
        app()
    finally:
        gc.freeze()  # so that nobody looks through all of them once more
