"""Sizes as people write them."""

import typer


def size_of(text: str | None) -> int | None:
    """Return a size such as 5GB (powers of ten) or 2GiB in bytes."""
    if text is None:
        return None
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number = text.strip().upper().rstrip("KMGIB")
    unit = text.strip().upper()[len(number) :]
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a size such as 500MB", param_hint="--shard-size") from None
    if size <= 0:
        raise typer.BadParameter(f"{text!r} is not a positive size", param_hint="--shard-size")
    return size
