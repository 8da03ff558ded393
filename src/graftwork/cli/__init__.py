"""The command `graftwork`: parses arguments, calls `graftwork.api`, prints what comes back. Nothing is decided here."""

from graftwork.cli.app import main

__all__ = ["main"]
