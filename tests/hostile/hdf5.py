"""Faults of HDF5 files, for every format that holds one.

An *edit* changes the tree through h5py before the file is closed. A *patch* changes the finished bytes: it knows the version 0
structures that HDF5 writes by default, which carry no checksums.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hostile.corpus import Corpus, Outcome
from hostile.valid import KERNEL, VALUES, Array, h5_bytes

Fill = Callable[[h5py.File], object]
Edit = Callable[[h5py.File, str, Path], object]
Patch = Callable[[bytes, str], bytes]

KERNEL_VALUES = VALUES[KERNEL]
UNDEFINED = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong with an HDF5 file.

    Attributes:
        outcome: What opening it must end in.
        edit: Changes the tree.
        patch: Changes the bytes afterwards.
        kernel: What the struck tensor holds then, where the file is harmless.
        slow: Whether making it takes a second or more; then one format has it.
    """

    outcome: Outcome = Outcome.REFUSED
    edit: Edit | None = None
    patch: Patch | None = None
    kernel: Array | None = None
    slow: bool = False

    def bytes(self, fill: Fill, kernel: str, outside: Path) -> bytes:
        """Return the file that `fill` writes, with this fault in it."""

        def both(file: h5py.File) -> None:
            fill(file)
            if self.edit is not None:
                self.edit(file, kernel, outside)

        data = h5_bytes(both)
        return data if self.patch is None else self.patch(data, kernel)


FAULTS: dict[str, Fault] = {}


def edit(outcome: Outcome = Outcome.REFUSED, kernel: Array | None = None, slow: bool = False) -> Callable[[Edit], Edit]:
    """Register an edit."""

    def keep(function: Edit) -> Edit:
        FAULTS[function.__name__] = Fault(outcome=outcome, edit=function, kernel=kernel, slow=slow)
        return function

    return keep


def patch(outcome: Outcome = Outcome.REFUSED) -> Callable[[Patch], Patch]:
    """Register a patch."""

    def keep(function: Patch) -> Patch:
        FAULTS[function.__name__] = Fault(outcome=outcome, patch=function)
        return function

    return keep


def add_faults(
    corpus: Corpus, write: Callable[[Path, bytes], Path], fill: Fill, kernel: str, *, slow: bool = False
) -> None:
    """Add every fault to a corpus; `write` makes the rest of the model around the HDF5 bytes."""
    for name, fault in FAULTS.items():
        if fault.slow and not slow:
            continue

        def build(folder: Path, fault: Fault = fault) -> Path:
            return write(folder, fault.bytes(fill, kernel, bait(folder)))

        values = corpus.values if fault.kernel is None else {**corpus.values, KERNEL: fault.kernel}
        corpus.add(f"h5-{name}".replace("_", "-"), build, fault.outcome, values=values)


def bait(folder: Path) -> Path:
    """Return a valid HDF5 file outside the model that nothing may read into it."""
    path = folder / "outside" / "secret.h5"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        with h5py.File(path, "w") as file:
            file["vars/0"] = file["0"] = np.full((8, 4), 666, "f4")
    return path


def _create(file: h5py.File, kernel: str, **options: Any) -> h5py.Dataset:
    del file[kernel]
    return file.create_dataset(kernel, **options)


def _create_low(file: h5py.File, kernel: str, kind: Any, shape: tuple[int, ...], plist: Any = None) -> Any:
    """Replace the kernel by a dataset that h5py's upper half would not make."""
    parent, _, leaf = kernel.rpartition("/")
    del file[kernel]
    space = h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file[parent].id, leaf.encode(), kind, space, dcpl=plist)


# Links -------------------------------------------------------------------------------------------------------------


@edit()
def hard_link_to_the_root(file: h5py.File, kernel: str, outside: Path) -> None:
    """A cycle of hard links."""
    file[kernel].parent["loop"] = file["/"]


@edit()
def hard_link_to_the_parent(file: h5py.File, kernel: str, outside: Path) -> None:
    """A group that holds itself."""
    file[kernel].parent["vars"] = file[kernel].parent


@edit()
def hard_link_to_a_tensor(file: h5py.File, kernel: str, outside: Path) -> None:
    """Two names for one dataset, which would be merged twice."""
    file[kernel].parent["9"] = file[kernel]


@edit()
def soft_link_to_the_root(file: h5py.File, kernel: str, outside: Path) -> None:
    """A cycle through a soft link."""
    file[kernel].parent["loop"] = h5py.SoftLink("/")


@edit()
def soft_link_dangling(file: h5py.File, kernel: str, outside: Path) -> None:
    """A tensor that is a link to nothing."""
    del file[kernel]
    file[kernel] = h5py.SoftLink("/nothing/here")


@edit()
def soft_link_to_itself(file: h5py.File, kernel: str, outside: Path) -> None:
    """A tensor that is a link to itself."""
    del file[kernel]
    file[kernel] = h5py.SoftLink(f"/{kernel}")


@edit()
def external_link_to_passwd(file: h5py.File, kernel: str, outside: Path) -> None:
    """A tensor that lies in a system file."""
    del file[kernel]
    file[kernel] = h5py.ExternalLink("/etc/passwd", "/")


@edit()
def external_link_to_another_file(file: h5py.File, kernel: str, outside: Path) -> None:
    """A tensor that lies in another model."""
    del file[kernel]
    file[kernel] = h5py.ExternalLink(str(outside), "/0")


@edit()
def external_link_for_a_group(file: h5py.File, kernel: str, outside: Path) -> None:
    """A group of tensors that lies in another model."""
    parent = kernel.rpartition("/")[0]
    del file[parent]
    file[parent] = h5py.ExternalLink(str(outside), "/vars")


# Values elsewhere --------------------------------------------------------------------------------------------------


@edit()
def external_storage_in_passwd(file: h5py.File, kernel: str, outside: Path) -> None:
    """Values that are bytes of a system file."""
    _create(file, kernel, shape=(8, 4), dtype="f4", external=[("/etc/passwd", 0, 128)])


@edit()
def external_storage_in_another_file(file: h5py.File, kernel: str, outside: Path) -> None:
    """Values that are bytes of another model."""
    _create(file, kernel, shape=(8, 4), dtype="f4", external=[(str(outside), 0, 128)])


@edit()
def virtual_of_another_file(file: h5py.File, kernel: str, outside: Path) -> None:
    """Values that are put together from another file."""
    layout = h5py.VirtualLayout((8, 4), "f4")
    layout[:] = h5py.VirtualSource(str(outside), "0", (8, 4))
    del file[kernel]
    file.create_virtual_dataset(kernel, layout)


@edit()
def virtual_of_itself(file: h5py.File, kernel: str, outside: Path) -> None:
    """Values that are put together from themselves."""
    layout = h5py.VirtualLayout((8, 4), "f4")
    layout[:] = h5py.VirtualSource(".", kernel, (8, 4))
    del file[kernel]
    file.create_virtual_dataset(kernel, layout)


# Shapes and sizes --------------------------------------------------------------------------------------------------


@edit()
def shape_of_exabytes(file: h5py.File, kernel: str, outside: Path) -> None:
    """2**60 values, none stored."""
    _create(file, kernel, shape=(1 << 60,), dtype="f4")


@edit()
def shape_of_exabytes_in_chunks(file: h5py.File, kernel: str, outside: Path) -> None:
    """2**62 values in chunks, none stored."""
    _create(file, kernel, shape=(1 << 62,), dtype="f4", chunks=(1024,))


@edit()
def values_never_stored(file: h5py.File, kernel: str, outside: Path) -> None:
    """A hole where 128 bytes should be; HDF5 would read zeros, silently."""
    _create(file, kernel, shape=(8, 4), dtype="f4")


@edit()
def hundred_gigabytes_of_nothing(file: h5py.File, kernel: str, outside: Path) -> None:
    """100 GB of fill value in a file of a few kilobytes."""
    _create(file, kernel, shape=(25_000_000_000,), dtype="f4", chunks=(1 << 20,), compression="gzip")


@edit()
def chunk_of_gigabytes(file: h5py.File, kernel: str, outside: Path) -> None:
    """One chunk of 2 GiB, deflated twice to next to nothing."""
    _twice_deflated(file, kernel, chunk=1 << 29, stored=1, size=1 << 29)


@edit()
def hundred_gigabytes_of_zeros(file: h5py.File, kernel: str, outside: Path) -> None:
    """100 GB of zeros in chunks of 64 MiB, deflated twice to a few hundred bytes each."""
    _twice_deflated(file, kernel, chunk=1 << 24, stored=1500, size=1500 << 24)


def _twice_deflated(file: h5py.File, kernel: str, *, chunk: int, stored: int, size: int) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((chunk,))
    plist.set_deflate(9)
    plist.set_deflate(9)
    dataset = _create_low(file, kernel, h5py.h5t.IEEE_F32LE, (size,), plist)
    packed = zlib.compress(deflated_zeros(chunk * 4, zlib_header=True), 9)
    for i in range(stored):
        dataset.write_direct_chunk((i * chunk,), packed)


@edit()
def chunk_inflates_beyond_its_size(file: h5py.File, kernel: str, outside: Path) -> None:
    """A chunk of 4 MiB whose DEFLATE stream goes on for 3 GiB; HDF5 makes room as it comes."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1 << 20,))
    plist.set_deflate(9)
    dataset = _create_low(file, kernel, h5py.h5t.IEEE_F32LE, (1 << 20,), plist)
    dataset.write_direct_chunk((0,), deflated_zeros(3 << 30, zlib_header=True))


@edit()
def chunk_inflates_to_less(file: h5py.File, kernel: str, outside: Path) -> None:
    """A chunk of 128 bytes whose DEFLATE stream ends after 4."""
    dataset = _create(file, kernel, shape=(8, 4), dtype="f4", chunks=(8, 4), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), zlib.compress(b"abcd"))


@edit()
def chunk_is_not_deflate(file: h5py.File, kernel: str, outside: Path) -> None:
    """A chunk of garbage."""
    dataset = _create(file, kernel, shape=(8, 4), dtype="f4", chunks=(8, 4), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), b"garbage!" * 8)


@edit()
def chunk_with_a_wrong_checksum(file: h5py.File, kernel: str, outside: Path) -> None:
    """A chunk that Fletcher's checksum tells to be damaged."""
    dataset = _create(file, kernel, shape=(8, 4), dtype="f4", chunks=(8, 4), fletcher32=True)
    dataset.id.write_direct_chunk((0, 0), KERNEL_VALUES.tobytes() + b"\1\2\3\4")


@edit()
def filter_that_does_not_exist(file: h5py.File, kernel: str, outside: Path) -> None:
    """Values that only somebody's plug-in could read."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((8, 4))
    plist.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, ())
    dataset = _create_low(file, kernel, h5py.h5t.IEEE_F32LE, (8, 4), plist)
    dataset.write_direct_chunk((0, 0), KERNEL_VALUES.tobytes())


# Types -------------------------------------------------------------------------------------------------------------


@edit()
def compound_values(file: h5py.File, kernel: str, outside: Path) -> None:
    """Records instead of numbers."""
    _create(file, kernel, data=np.zeros((8, 4), [("a", "f4"), ("b", "i8")]))


@edit()
def nested_compound_values(file: h5py.File, kernel: str, outside: Path) -> None:
    """Records of records."""
    kind = np.dtype("f4")
    for _ in range(60):
        kind = np.dtype([("a", kind)])
    _create(file, kernel, data=np.zeros((8, 4), kind))


@edit()
def values_of_any_length(file: h5py.File, kernel: str, outside: Path) -> None:
    """Lists instead of numbers."""
    _create(file, kernel, shape=(8, 4), dtype=h5py.vlen_dtype("f4"))[0, 0] = [1, 2, 3]


@edit()
def text_values(file: h5py.File, kernel: str, outside: Path) -> None:
    """Text of four bytes instead of numbers."""
    _create(file, kernel, data=np.full((8, 4), b"1.25", "S4"))


@edit()
def text_of_any_length(file: h5py.File, kernel: str, outside: Path) -> None:
    """Text instead of numbers."""
    _create(file, kernel, data=np.full((8, 4), "1.25", object), dtype=h5py.string_dtype())


@edit()
def references(file: h5py.File, kernel: str, outside: Path) -> None:
    """References to objects instead of numbers."""
    _create(file, kernel, shape=(8, 4), dtype=h5py.ref_dtype)[0, 0] = file.ref


@edit()
def region_references(file: h5py.File, kernel: str, outside: Path) -> None:
    """References to parts of objects instead of numbers."""
    _create(file, kernel, shape=(8, 4), dtype=h5py.regionref_dtype)


@edit()
def enumeration(file: h5py.File, kernel: str, outside: Path) -> None:
    """An enumeration that is not bool."""
    _create(file, kernel, data=np.zeros((8, 4), "i4"), dtype=h5py.enum_dtype({"RED": 0, "GREEN": 1}, "i4"))


@edit()
def opaque_of_four_bytes(file: h5py.File, kernel: str, outside: Path) -> None:
    """Bytes of no known meaning."""
    _create(file, kernel, data=KERNEL_VALUES.view("V4"))


@edit()
def opaque_marked_float128(file: h5py.File, kernel: str, outside: Path) -> None:
    """Two opaque bytes said to be something that is not bfloat16."""
    _create(file, kernel, data=np.zeros((8, 4), "V2")).attrs["dtype"] = "float128"


@edit(Outcome.TOLERATED)
def opaque_of_two_bytes(file: h5py.File, kernel: str, outside: Path) -> None:
    """Legacy bfloat16 looks like this, everything else does not."""
    _create(file, kernel, data=np.zeros((8, 4), "V2"))


@edit()
def extended_floats(file: h5py.File, kernel: str, outside: Path) -> None:
    """Floats of 80 bits in 16 bytes."""
    _create(file, kernel, data=KERNEL_VALUES.astype(np.longdouble))


@edit()
def floats_with_another_exponent(file: h5py.File, kernel: str, outside: Path) -> None:
    """Floats of 32 bits that are not IEEE's: the same bits mean other numbers."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    _create_low(file, kernel, kind, (8, 4)).write(h5py.h5s.ALL, h5py.h5s.ALL, KERNEL_VALUES)


@edit()
def floats_with_other_fields(file: h5py.File, kernel: str, outside: Path) -> None:
    """bfloat16 as a float of its own making, which is not how Keras writes it."""
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    _create_low(file, kernel, kind, (8, 4)).write(h5py.h5s.ALL, h5py.h5s.ALL, KERNEL_VALUES)


@edit()
def array_values(file: h5py.File, kernel: str, outside: Path) -> None:
    """Arrays in arrays."""
    kind = h5py.h5t.array_create(h5py.h5t.IEEE_F32LE, (2, 2))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    _create_low(file, kernel, kind, (8,), plist)


@edit()
def no_values_at_all(file: h5py.File, kernel: str, outside: Path) -> None:
    """A null dataspace."""
    _create(file, kernel, data=h5py.Empty("f4"))


@edit()
def named_datatype(file: h5py.File, kernel: str, outside: Path) -> None:
    """A datatype where a tensor should be."""
    del file[kernel]
    file[kernel] = np.dtype("f4")


# Trees -------------------------------------------------------------------------------------------------------------


@edit()
def ten_thousand_deep(file: h5py.File, kernel: str, outside: Path) -> None:
    """Groups in groups."""
    group = file[kernel].parent.id
    for _ in range(10_000):
        group = h5py.h5g.create(group, b"g")


@edit(slow=True)
def two_hundred_thousand_groups(file: h5py.File, kernel: str, outside: Path) -> None:
    """More groups than any model has."""
    group = file[kernel].parent.id
    for i in range(200_100):
        h5py.h5g.create(group, b"g%d" % i)


@edit()
def group_where_a_tensor_should_be(file: h5py.File, kernel: str, outside: Path) -> None:
    """An empty group in the tensor's place."""
    del file[kernel]
    file.create_group(kernel)


@edit()
def tensor_where_a_group_should_be(file: h5py.File, kernel: str, outside: Path) -> None:
    """The group of a layer is a dataset."""
    parent = kernel.rpartition("/")[0]
    del file[parent]
    file[parent] = KERNEL_VALUES


@edit()
def tensor_where_the_tree_should_be(file: h5py.File, kernel: str, outside: Path) -> None:
    """The group of all layers is a dataset."""
    top = kernel.split("/")[0]
    del file[top]
    file[top] = KERNEL_VALUES


@edit()
def nothing_in_it(file: h5py.File, kernel: str, outside: Path) -> None:
    """An HDF5 file without anything."""
    for name in list(file):
        del file[name]


@edit()
def link_name_not_utf8(file: h5py.File, kernel: str, outside: Path) -> None:
    """A name that is not text."""
    h5py.h5g.create(file[kernel].parent.id, b"\xff\xfe")


@edit(Outcome.TOLERATED)
def link_name_of_control_characters(file: h5py.File, kernel: str, outside: Path) -> None:
    """A name that would clear the terminal."""
    file[kernel].parent["\x1b[2J\n\r\x07"] = np.float32(1)


@edit(Outcome.TOLERATED)
def link_name_of_a_superscript(file: h5py.File, kernel: str, outside: Path) -> None:
    """``"²".isdigit()``, but `int` refuses it."""
    file[kernel].parent["²"] = np.float32(1)


@edit(Outcome.TOLERATED)
def link_name_of_five_thousand_digits(file: h5py.File, kernel: str, outside: Path) -> None:
    """A number that `int` refuses to read."""
    file[kernel].parent["9" * 5000] = np.float32(1)


@edit(Outcome.TOLERATED)
def link_name_of_sixty_thousand_characters(file: h5py.File, kernel: str, outside: Path) -> None:
    """A name that fills a screen when it is shown."""
    file[kernel].parent["n" * 60_000] = np.float32(1)


@edit(Outcome.TOLERATED)
def link_names_that_are_one_number(file: h5py.File, kernel: str, outside: Path) -> None:
    """``1`` and ``01``."""
    file[kernel].parent["01"] = np.float32(1)


# Attributes --------------------------------------------------------------------------------------------------------


@edit(Outcome.HARMLESS)
def attributes_by_the_hundred(file: h5py.File, kernel: str, outside: Path) -> None:
    """A hundred attributes of 60,000 bytes that nobody asked for."""
    for i in range(100):
        file[kernel].parent.attrs[f"a{i}"] = np.zeros(60_000, "u1")


@edit(Outcome.TOLERATED)
def names_are_numbers(file: h5py.File, kernel: str, outside: Path) -> None:
    """Attributes that should be text are not."""
    for name in ("name", "weight_names", "layer_names"):
        for at in (file[kernel].parent, file[kernel.split("/")[0]]):
            at.attrs[name] = np.arange(5.0)


@edit(Outcome.TOLERATED)
def names_are_not_utf8(file: h5py.File, kernel: str, outside: Path) -> None:
    """Attributes that should be text are not."""
    file[kernel].parent.attrs.create("name", b"\xff\xfe", dtype=h5py.string_dtype("utf-8"))


@edit(Outcome.TOLERATED)
def names_are_empty(file: h5py.File, kernel: str, outside: Path) -> None:
    """A layer without a name, or without names of weights."""
    file[kernel].parent.attrs["name"] = ""
    file[kernel].parent.attrs["weight_names"] = h5py.Empty("S1")


@edit(Outcome.TOLERATED)
def names_are_references(file: h5py.File, kernel: str, outside: Path) -> None:
    """An attribute that refers to an object."""
    file[kernel].parent.attrs.create("name", file.ref, dtype=h5py.ref_dtype)


@edit(Outcome.TOLERATED)
def names_climb(file: h5py.File, kernel: str, outside: Path) -> None:
    """A layer whose name is a path out of the model."""
    file[kernel].parent.attrs["name"] = "../../dense_1"


@edit(Outcome.TOLERATED)
def name_of_a_megabyte(file: h5py.File, kernel: str, outside: Path) -> None:
    """A layer's name that fills a screen when it is shown."""
    file[kernel].parent.attrs["name"] = "n" * 1_000_000


@edit(Outcome.TOLERATED)
def names_in_many_axes(file: h5py.File, kernel: str, outside: Path) -> None:
    """An attribute of a thousand texts in three axes."""
    file[kernel].parent.attrs.create("name", np.full((10, 10, 10), "n", object), dtype=h5py.string_dtype())


@edit(Outcome.TOLERATED)
def compound_attribute(file: h5py.File, kernel: str, outside: Path) -> None:
    """Attributes that should be text are records."""
    file[kernel].parent.attrs["name"] = np.zeros(3, [("a", "f4")])


@edit(Outcome.TOLERATED)
def attribute_of_a_made_up_float(file: h5py.File, kernel: str, outside: Path) -> None:
    """An attribute of a type that NumPy does not have."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_size(16)
    kind.set_precision(128)
    kind.set_fields(127, 64, 63, 0, 64)
    if h5py.h5a.exists(file[kernel].parent.id, b"name"):
        h5py.h5a.delete(file[kernel].parent.id, b"name")
    h5py.h5a.create(file[kernel].parent.id, b"name", kind, h5py.h5s.create(h5py.h5s.SCALAR))


# Odd but right -----------------------------------------------------------------------------------------------------


@edit(Outcome.HARMLESS)
def big_endian_floats(file: h5py.File, kernel: str, outside: Path) -> None:
    """float32 with the high byte first."""
    _create(file, kernel, data=KERNEL_VALUES, dtype=">f4")


@edit(Outcome.HARMLESS, kernel=KERNEL_VALUES.astype("<f8"))
def big_endian_doubles(file: h5py.File, kernel: str, outside: Path) -> None:
    """float64 with the high byte first."""
    _create(file, kernel, data=KERNEL_VALUES, dtype=">f8")


@edit(Outcome.HARMLESS, kernel=KERNEL_VALUES.astype("<f2"))
def half_floats(file: h5py.File, kernel: str, outside: Path) -> None:
    """float16."""
    _create(file, kernel, data=KERNEL_VALUES, dtype="<f2")


@edit(Outcome.HARMLESS, kernel=(KERNEL_VALUES.view("<u4") >> 16).astype("<u2"))
def bfloat16_as_keras_writes_it(file: h5py.File, kernel: str, outside: Path) -> None:
    """Two opaque bytes with the attribute."""
    raw = (KERNEL_VALUES.view("<u4") >> 16).astype("<u2").view("V2")
    _create(file, kernel, data=raw).attrs["dtype"] = "bfloat16"


@edit(Outcome.HARMLESS)
def chunks_with_every_filter(file: h5py.File, kernel: str, outside: Path) -> None:
    """Chunks that divide no axis, shuffled, deflated and with a checksum."""
    options: dict[str, Any] = {"chunks": (3, 3), "compression": "gzip", "shuffle": True, "fletcher32": True}
    _create(file, kernel, data=KERNEL_VALUES, **options)


@edit(Outcome.HARMLESS)
def chunks_that_can_grow(file: h5py.File, kernel: str, outside: Path) -> None:
    """Axes without an end."""
    _create(file, kernel, data=KERNEL_VALUES, chunks=(8, 4), maxshape=(None, None))


@edit(Outcome.HARMLESS)
def compact_values(file: h5py.File, kernel: str, outside: Path) -> None:
    """Values that lie in the header."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    _create_low(file, kernel, h5py.h5t.IEEE_F32LE, (8, 4), plist).write(h5py.h5s.ALL, h5py.h5s.ALL, KERNEL_VALUES)


@edit(Outcome.HARMLESS, kernel=np.arange(3 << 18, dtype="<f4").reshape(3, 1 << 17, 2))
def chunks_larger_than_a_block(file: h5py.File, kernel: str, outside: Path) -> None:
    """A tensor of three axes that is read in many pieces."""
    values = np.arange(3 << 18, dtype="<f4").reshape(3, 1 << 17, 2)
    _create(file, kernel, data=values, chunks=(2, 1 << 16, 1), compression="gzip", compression_opts=1)


# Bytes -------------------------------------------------------------------------------------------------------------


@patch()
def empty_file(data: bytes, kernel: str) -> bytes:
    """Nothing."""
    return b""


@patch()
def signature_only(data: bytes, kernel: str) -> bytes:
    """Eight bytes."""
    return data[:8]


@patch()
def cut_in_the_superblock(data: bytes, kernel: str) -> bytes:
    """Sixty bytes."""
    return data[:60]


@patch()
def cut_in_the_header(data: bytes, kernel: str) -> bytes:
    """A quarter of the file."""
    return data[: len(data) // 4]


@patch()
def cut_in_the_middle(data: bytes, kernel: str) -> bytes:
    """Half of the file."""
    return data[: len(data) // 2]


@patch()
def last_byte_missing(data: bytes, kernel: str) -> bytes:
    """All but one byte."""
    return data[:-1]


@patch()
def not_hdf5(data: bytes, kernel: str) -> bytes:
    """A picture."""
    return b"\x89PNG\r\n\x1a\n" + data[8:]


@patch()
def superblock_of_the_future(data: bytes, kernel: str) -> bytes:
    """Version 99."""
    return data[:8] + b"\x63" + data[9:]


@patch()
def offsets_of_three_bytes(data: bytes, kernel: str) -> bytes:
    """A superblock with addresses three bytes wide."""
    return data[:13] + b"\x03" + data[14:]


@patch()
def end_of_file_lies(data: bytes, kernel: str) -> bytes:
    """A superblock that claims 2**62 bytes."""
    return data[:40] + struct.pack("<Q", 1 << 62) + data[48:]


@patch()
def root_past_the_end(data: bytes, kernel: str) -> bytes:
    """The root group's header lies beyond the file."""
    return data[:64] + struct.pack("<Q", len(data) + 8) + data[72:]


@patch()
def root_in_the_superblock(data: bytes, kernel: str) -> bytes:
    """The root group's header is the superblock."""
    return data[:64] + struct.pack("<Q", 0) + data[72:]


def _layout(data: bytes, kernel: str) -> int:
    """Return where the address and the size of the kernel's values stand (layout message, version 3, contiguous)."""
    with h5py.File(io.BytesIO(data), "r") as file:
        offset, size = file[kernel].id.get_offset(), file[kernel].nbytes
    at = data.find(struct.pack("<BBQQ", 3, 1, offset, size))
    assert at >= 0, "no layout message"
    return at + 2


def _place(data: bytes, kernel: str, offset: int | None = None, size: int | None = None) -> bytes:
    at = _layout(data, kernel)
    old = struct.unpack_from("<QQ", data, at)
    new = struct.pack("<QQ", old[0] if offset is None else offset, old[1] if size is None else size)
    return data[:at] + new + data[at + 16 :]


@patch()
def values_past_the_end(data: bytes, kernel: str) -> bytes:
    """Values that begin in the file and end outside it."""
    return _place(data, kernel, offset=len(data) - 64)


@patch()
def values_far_past_the_end(data: bytes, kernel: str) -> bytes:
    """Values at 2**40."""
    return _place(data, kernel, offset=1 << 40)


@patch()
def values_at_an_offset_that_overflows(data: bytes, kernel: str) -> bytes:
    """Offset plus length is more than 2**63."""
    return _place(data, kernel, offset=(1 << 63) - 8)


@patch()
def values_at_a_negative_offset(data: bytes, kernel: str) -> bytes:
    """Offset -64."""
    return _place(data, kernel, offset=(1 << 64) - 64)


@patch()
def values_nowhere(data: bytes, kernel: str) -> bytes:
    """The undefined address."""
    return _place(data, kernel, offset=UNDEFINED)


@patch(Outcome.TOLERATED)
def values_in_the_superblock(data: bytes, kernel: str) -> bytes:
    """Values that are the file's own header."""
    return _place(data, kernel, offset=0)


@patch()
def values_shorter_than_the_shape(data: bytes, kernel: str) -> bytes:
    """64 bytes for 128."""
    return _place(data, kernel, size=64)


@patch()
def values_longer_than_the_shape(data: bytes, kernel: str) -> bytes:
    """256 bytes for 128."""
    return _place(data, kernel, size=256)


@patch()
def values_of_exabytes(data: bytes, kernel: str) -> bytes:
    """2**62 bytes for 128."""
    return _place(data, kernel, size=1 << 62)


@patch()
def values_overlap(data: bytes, kernel: str) -> bytes:
    """Values that begin in the middle of another tensor's."""
    with h5py.File(io.BytesIO(data), "r") as file:
        sibling = next(v for k, v in sorted(file[kernel].parent.items()) if v.name != f"/{kernel}")
        offset = sibling.id.get_offset()
    return _place(data, kernel, offset=offset + 4)


def _shape(data: bytes, kernel: str, shape: tuple[int, int]) -> bytes:
    """Replace the dimensions (8, 4) before the kernel's layout message."""
    stop = _layout(data, kernel)
    at = data.rfind(struct.pack("<QQ", 8, 4), 0, stop)
    assert at >= 0, "no dataspace message"
    at = data.rfind(b"\x01\x02", at - 8, at)  # version 1, rank 2
    flags = data[at + 2]
    repeat = 2 if flags & 1 else 1
    return data[: at + 8] + struct.pack("<QQ", *shape) * repeat + data[at + 8 + 16 * repeat :]


@patch()
def shape_larger_than_the_values(data: bytes, kernel: str) -> bytes:
    """(8, 400) for 128 bytes."""
    return _shape(data, kernel, (8, 400))


@patch()
def shape_that_overflows(data: bytes, kernel: str) -> bytes:
    """2**61 · 8 values: 0 bytes to whoever multiplies in 64 bits."""
    return _shape(data, kernel, (1 << 61, 8))


@patch()
def shape_that_overflows_to_the_right_size(data: bytes, kernel: str) -> bytes:
    """(2**58 + 1) · 32 values of 4 bytes: 128 bytes to whoever multiplies in 64 bits."""
    return _shape(data, kernel, ((1 << 57) + 1, 32))


@patch()
def rank_of_two_hundred(data: bytes, kernel: str) -> bytes:
    """More axes than HDF5 has."""
    at = data.rfind(struct.pack("<QQ", 8, 4), 0, _layout(data, kernel))
    at = data.rfind(b"\x01\x02", at - 8, at)
    return data[: at + 1] + b"\xc8" + data[at + 2 :]


def _all(data: bytes, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


@patch()
def btree_that_holds_itself(data: bytes, kernel: str) -> bytes:
    """A B-tree node of level 1 whose child is itself."""
    changed = bytearray(data)
    for at in _all(data, b"TREE"):
        changed[at + 5] = 1
        struct.pack_into("<Q", changed, at + 32, at)
    return bytes(changed)


@patch()
def btree_with_a_next_that_is_itself(data: bytes, kernel: str) -> bytes:
    """A B-tree node whose right sibling is itself: a list without an end."""
    changed = bytearray(data)
    for at in _all(data, b"TREE"):
        struct.pack_into("<QQ", changed, at + 8, at, at)
        changed[at + 5] = 1
        struct.pack_into("<Q", changed, at + 32, at)
    return bytes(changed)


@patch()
def btree_of_sixty_thousand_entries(data: bytes, kernel: str) -> bytes:
    """A B-tree node that claims more entries than it has room for."""
    changed = bytearray(data)
    for at in _all(data, b"TREE"):
        struct.pack_into("<H", changed, at + 6, 0xFFFF)
    return bytes(changed)


@patch()
def symbols_in_the_thousands(data: bytes, kernel: str) -> bytes:
    """Symbol table nodes that claim more symbols than they have room for."""
    changed = bytearray(data)
    for at in _all(data, b"SNOD"):
        struct.pack_into("<H", changed, at + 6, 0xFFFF)
    return bytes(changed)


@patch()
def heap_without_an_end(data: bytes, kernel: str) -> bytes:
    """Local heaps that claim 2**62 bytes."""
    changed = bytearray(data)
    for at in _all(data, b"HEAP"):
        struct.pack_into("<Q", changed, at + 8, 1 << 62)
    return bytes(changed)


@patch()
def heap_of_two_gigabytes(data: bytes, kernel: str) -> bytes:
    """Local heaps that claim 2 GiB, which somebody might allocate."""
    changed = bytearray(data)
    for at in _all(data, b"HEAP"):
        struct.pack_into("<Q", changed, at + 8, 2 << 30)
    return bytes(changed)


@patch()
def heap_free_list_that_holds_itself(data: bytes, kernel: str) -> bytes:
    """A list of free blocks without an end."""
    changed = bytearray(data)
    for at in _all(data, b"HEAP"):
        segment = struct.unpack_from("<Q", data, at + 24)[0]
        struct.pack_into("<Q", changed, at + 16, 8)
        struct.pack_into("<QQ", changed, segment + 8, 8, 16)
    return bytes(changed)


@patch()
def names_past_the_heap(data: bytes, kernel: str) -> bytes:
    """Symbols whose names lie outside the heap of names."""
    changed = bytearray(data)
    for at in _all(data, b"SNOD"):
        struct.pack_into("<Q", changed, at + 8, 1 << 40)
    return bytes(changed)


@patch()
def group_that_is_its_own_child(data: bytes, kernel: str) -> bytes:
    """Every symbol's header is the root's: a tree without an end."""
    changed = bytearray(data)
    root = struct.unpack_from("<Q", data, 64)[0]
    for at in _all(data, b"SNOD"):
        struct.pack_into("<Q", changed, at + 16, root)
    return bytes(changed)


@patch()
def header_that_continues_in_itself(data: bytes, kernel: str) -> bytes:
    """The root's object header has a continuation that is the same header: a list without an end."""
    changed = bytearray(data)
    root = struct.unpack_from("<Q", data, 64)[0]
    length = struct.unpack_from("<I", data, root + 8)[0]
    struct.pack_into("<HHB3x", changed, root + 16, 0x10, 16, 0)
    struct.pack_into("<QQ", changed, root + 24, root + 16, length)
    return bytes(changed)


@patch(Outcome.TOLERATED)
def header_of_sixty_thousand_messages(data: bytes, kernel: str) -> bytes:
    """The root's object header claims more messages than it has."""
    root = struct.unpack_from("<Q", data, 64)[0]
    return data[: root + 2] + b"\xff\xff" + data[root + 4 :]


@patch()
def global_heap_of_nothing(data: bytes, kernel: str) -> bytes:
    """Texts of any length whose heap is full of zeros."""
    found = _all(data, b"GCOL")
    if not found:
        return data[:96]
    changed = bytearray(data)
    for at in found:
        size = struct.unpack_from("<Q", data, at + 8)[0]
        changed[at + 16 : at + size] = bytes(size - 16)
    return bytes(changed)


@patch()
def global_heap_of_exabytes(data: bytes, kernel: str) -> bytes:
    """Texts of any length whose first object claims 2**62 bytes."""
    found = _all(data, b"GCOL")
    if not found:
        return data[:96]
    changed = bytearray(data)
    for at in found:
        struct.pack_into("<Q", changed, at + 16 + 8, 1 << 62)
    return bytes(changed)


@patch()
def text_of_gigabytes(data: bytes, kernel: str) -> bytes:
    """Texts of any length whose attributes claim 2 GiB, which the library would allocate before it looks."""
    found = _all(data, b"GCOL")
    changed = bytearray(data)
    for at in found:
        for reference in _all(data, struct.pack("<Q", at)):
            struct.pack_into("<I", changed, reference - 4, (2 << 30) - 1)
    return bytes(changed) if found else data[:96]


@patch(Outcome.HARMLESS)
def bytes_after_the_end(data: bytes, kernel: str) -> bytes:
    """A kilobyte of something else behind the file."""
    return data + b"\xa5" * 1024


@patch(Outcome.TOLERATED)
def bytes_before_the_beginning(data: bytes, kernel: str) -> bytes:
    """A user block of 512 bytes, which HDF5 allows."""
    return b"#!/bin/sh\n".ljust(512, b"#") + data


def deflated_zeros(size: int, *, zlib_header: bool = False, prefix: bytes = b"") -> bytes:
    """Return a DEFLATE stream of `prefix` and `size` zeros without working through all of them."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = squeeze.compress(prefix) + squeeze.flush(zlib.Z_FULL_FLUSH) if prefix else b""
    unit = 1 << 24
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(bytes(unit)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    stream = first + block * (size // unit) + b"\x03\x00"
    if not zlib_header:
        return stream
    total = (size // unit) * unit + len(prefix)  # Adler-32 of zeros counts them
    assert not prefix, "the checksum below is that of zeros"
    return b"\x78\xda" + stream + struct.pack(">I", (total % 65521) << 16 | 1)
