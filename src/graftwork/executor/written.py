"""What was written, and the comparison of it with what the file holds when it is opened again."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import google_crc32c
import numpy as np

from graftwork.errors import OutputError
from graftwork.stores.base import RAW_DTYPES, Raw, Reader
from graftwork.tensor import TensorSpec

HEAD = 1024
"""Elements of a block that was compared when it was written, which are read again to see that they are found under their name."""


@dataclass(frozen=True, slots=True)
class Written:
    """Raw elements of the result and their CRC-32C, to compare with what the file holds when it is opened again."""

    name: str
    start: int
    size: int
    crc: int

    @classmethod
    def of(cls, name: str, start: int, raw: Raw, *, compared: bool) -> "Written":
        """Return what is to be compared later; the head alone, if all was compared when it was written."""
        raw = raw[:HEAD] if compared else raw
        return cls(name, start, len(raw), google_crc32c.value(raw.view(np.uint8)))


def verify_written(
    reader: Reader,
    specs: Sequence[TensorSpec],
    written: Sequence[Written],
    threads: int,
    keys: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Compare a result that was reopened with what was written.

    Args:
        reader: The result.
        specs: What it should hold.
        written: What was written.
        threads: How many threads read.
        keys: Where each tensor is in a file that does not tell what all of them are called, having no architecture.

    Raises:
        OutputError: If a tensor is missing, has another shape or dtype, or other bytes.
    """
    found = reader.specs()
    places = {reader.key(name): name for name in found} if keys else {}
    names = {spec.name: places.get(keys[spec.name], "") if keys else spec.name for spec in specs}
    for spec in specs:
        other = found.get(names[spec.name])
        if other is None or (other.shape, other.dtype) != (spec.shape, spec.dtype):
            raise OutputError(
                f"the result was reopened and tensor {spec.name!r} is not as planned: "
                f"expected {spec.dtype} {spec.shape}, found {f'{other.dtype} {other.shape}' if other else 'nothing'}"
            )
    if len(found) != len(specs):
        planned = set(names.values())
        extra = next(name for name in found if name not in planned)
        raise OutputError(f"the result was reopened and holds a tensor {extra!r} that was not planned")

    def compare(item: Written) -> str | None:
        name = names[item.name]
        raw = np.empty(item.size, RAW_DTYPES[found[name].dtype])
        reader.read_into(name, item.start, raw)
        return None if google_crc32c.value(raw.view(np.uint8)) == item.crc else item.name

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for name in pool.map(compare, written, chunksize=64):
            if name is not None:
                raise OutputError(f"the result was reopened and tensor {name!r} does not hold what was written")
