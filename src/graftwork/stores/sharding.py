"""Which tensors go into which of a model's files, where it is cut into shards."""

from collections.abc import Sequence

from graftwork.errors import OutputError
from graftwork.tensor import TensorSpec

DEFAULT_SHARD_BYTES = 5 * 10**9
"""As transformers has it."""


def in_shards(specs: Sequence[TensorSpec], shard_bytes: int | None) -> list[list[TensorSpec]]:
    """Return the tensors of each shard, in order; one that is larger than a shard has one of its own.

    Args:
        specs: The tensors.
        shard_bytes: Greatest size of the values in one shard.

    Raises:
        OutputError: If that is none.
    """
    most = DEFAULT_SHARD_BYTES if shard_bytes is None else shard_bytes
    if most <= 0:
        raise OutputError(f"a shard of {most} bytes holds nothing; give a positive size")
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.size_bytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.size_bytes
    return shards
