"""HDF5 read without libhdf5 gives what h5py gives, or refuses; h5py writes every file here."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.errors import StoreError
from graftwork.stores import hdf5_checksums, hdf5_pages
from graftwork.stores.base import RAW_DTYPES
from graftwork.stores.hdf5 import H5Source, Tree, has_attribute, lay_out
from graftwork.stores.hdf5_file import H5File
from graftwork.stores.hdf5_groups import links_of
from graftwork.stores.hdf5_headers import messages_of

DTYPES = [
    *[
        "i1",
        "u1",
        "<i2",
        "<u2",
        "<i4",
        "<u4",
        "<i8",
        "<u8",
        "<f2",
        "<f4",
        "<f8",
        ">i2",
        ">u4",
        ">i8",
        ">f2",
        ">f4",
        ">f8",
        "?",
        "V2",
    ]
]


@contextmanager
def opened(path: Path, window: tuple[int, int] | None = None) -> Iterator[H5Source]:
    """Open a file, or the window of one."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield H5Source(path, fd, window)
    finally:
        os.close(fd)


def values_of(source: H5Source, path: str, block: int | None = None) -> Any:
    """Return a dataset's raw elements, read in blocks."""
    found = source.datasets[path]
    out = np.empty(int(np.prod(found.shape, dtype=object)), RAW_DTYPES[found.dtype])
    step = block or max(1, len(out))
    for start in range(0, len(out), step):
        source.read_into(path, start, out[start : start + step])
    return out.reshape(found.shape)


def assert_same_value(found: Any, wanted: Any) -> None:
    """Compare values of attributes, and what they are."""
    assert type(found) is type(wanted), (found, wanted)
    if isinstance(wanted, h5py.Empty):
        assert found.dtype == wanted.dtype
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    else:
        assert found == wanted


def assert_like_h5py(path: Path, *, block: int | None = None) -> int:
    """Compare everything in a file; return how many objects that were."""
    with h5py.File(path, "r") as file, opened(path) as source:
        objects: dict[str, Any] = {"": file}
        file.visititems(objects.__setitem__)
        assert set(source.groups) == {k for k, v in objects.items() if isinstance(v, h5py.Group)}
        assert list(source.datasets) == [k for k, v in objects.items() if isinstance(v, h5py.Dataset)]
        for name, item in objects.items():
            if isinstance(item, h5py.Dataset):
                wanted = np.asarray(item[()])
                little = wanted if wanted.dtype.kind == "V" else wanted.astype(wanted.dtype.newbyteorder("<"))
                assert source.datasets[name].shape == item.shape
                assert source.datasets[name].dtype == (
                    "bfloat16" if wanted.dtype.kind == "V" else wanted.dtype.newbyteorder("=").name
                )
                assert values_of(source, name, block).tobytes() == little.tobytes(), name
            else:
                assert source.attribute_names(name) == sorted(item.attrs)
            for key in item.attrs:
                assert_same_value(source.attribute(name, key), item.attrs[key])
        return len(objects)


def array_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Return values of a dtype."""
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "?" else 100, shape)
    return np.asarray(raw).astype("<u2").view("V2") if dtype == "V2" else np.asarray(raw).astype(dtype)


# Everything that h5py writes by default ---------------------------------------------------------------------------

STORAGE: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"chunks": True},
    "small chunks": {"chunks": 2},
    "gzip": {"compression": "gzip"},
    "shuffle": {"compression": "gzip", "shuffle": True, "chunks": 3},
    "checksum": {"fletcher32": True, "chunks": 2},
    "all filters": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "without an end": {"maxshape": None},
}


def add(group: Any, name: str, values: Any, storage: str) -> None:
    """Write a dataset; a scalar and an empty one have no chunks."""
    options = dict(STORAGE[storage])
    if not values.shape or 0 in values.shape:
        options = {}
    if isinstance(options.get("chunks"), int) and options["chunks"] is not True:
        options["chunks"] = tuple(min(options["chunks"], n) for n in values.shape)
    if "maxshape" in options:
        options["maxshape"] = (None,) * values.ndim
    group.create_dataset(name, data=values, **options)


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_however_stored(dtype: str, storage: str, tmp_path: Path):
    """Scalars, vectors, matrices, more axes and empty ones; whole and in blocks of three."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i, shape in enumerate([(), (5,), (7, 3), (0, 4), (3, 4, 5), (2, 1, 3, 2)]):
            add(file, str(i), array_of(dtype, shape, i), storage)

    assert_like_h5py(path)
    assert_like_h5py(path, block=3)


def test_values_in_the_header(tmp_path: Path):
    """Compact datasets, of both orders of bytes."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name in ("<f4", ">f4", "i1"):
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.COMPACT)
            kind = h5py.h5t.py_create(np.dtype(name))
            made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple((6, 2)), dcpl=plist)
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, array_of(name, (6, 2)))

    assert_like_h5py(path)
    assert_like_h5py(path, block=5)


def write_attributes(item: Any) -> None:
    """Write an attribute of every kind that h5py can make and a model may hold."""
    item.attrs["text"] = "Größe"
    item.attrs["no text"] = ""
    item.attrs["long text"] = "n" * 200_000
    item.attrs["bytes"] = np.bytes_(b"abc")
    item.attrs["names"] = ["a", "", "gewicht/ü"]
    item.attrs["no names"] = np.array([], h5py.string_dtype())
    item.attrs["fixed names"] = np.array([b"a", b"bcd"])
    item.attrs["no fixed names"] = np.array([], "S1")
    item.attrs["table of names"] = np.array([["x", "y"], ["z", "ü"]], object)
    item.attrs["float"] = 1.5
    item.attrs["int8"] = np.int8(3)
    item.attrs["matrix"] = np.arange(6.0).reshape(2, 3)
    item.attrs["no matrix"] = np.zeros((0, 3))
    item.attrs["big-endian"] = np.arange(3, dtype=">i4")
    item.attrs["bool"] = True
    item.attrs["bools"] = np.array([True, False])
    item.attrs["void"] = np.void(b"abcdef")
    item.attrs["empty"] = h5py.Empty("f4")
    item.attrs["empty bytes"] = h5py.Empty("S1")
    item.attrs.create("ascii", "abc", dtype=h5py.string_dtype("ascii"))
    item.attrs.create("fixed text", "hé".encode(), dtype=h5py.string_dtype("utf-8", 10))
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(8)
    for padding in (h5py.h5t.STR_NULLTERM, h5py.h5t.STR_NULLPAD, h5py.h5t.STR_SPACEPAD):
        kind.set_strpad(padding)
        made = h5py.h5a.create(item.id, b"padding %d" % padding, kind, h5py.h5s.create_simple((2,)))
        made.write(np.array([b"ab", b"abcdefg"], "S8"))


def test_attributes_of_every_kind(tmp_path: Path):
    """Texts, names, numbers, nothing; on groups, datasets and the root."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for item in (file, file.create_group("g/h"), file.create_dataset("d", data=1.0)):
            write_attributes(item)

    assert_like_h5py(path)


def test_an_attribute_survives_a_copy(tmp_path: Path):
    """What is read can be written with h5py, and is read the same again."""
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    with h5py.File(one, "w") as file:
        write_attributes(file)
    with opened(one) as source, h5py.File(two, "w") as file:
        for name in source.attribute_names(""):
            file.attrs[name] = source.attribute("", name)

    with opened(one) as a, opened(two) as b:
        assert a.attribute_names("") == b.attribute_names("")
        for name in a.attribute_names(""):
            assert_same_value(b.attribute("", name), a.attribute("", name))


def test_attributes_by_the_hundred(tmp_path: Path):
    """Object headers with many continuations."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(300):
            file.attrs[f"attribute {i}"] = [f"name {k}" for k in range(i)]
            file[str(i)] = np.arange(i)

    assert_like_h5py(path)


def test_a_text_attribute_is_text_or_nothing(tmp_path: Path):
    """Bytes are decoded, numbers are no text, what is absent is None."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["text"] = "ü"
        file.attrs["bytes"] = np.bytes_("ü".encode())
        file.attrs["number"] = 1
        file.attrs.create("latin", b"\xff\xfe", dtype=h5py.string_dtype("utf-8"))
        file.attrs["latin bytes"] = np.bytes_(b"\xff\xfe")

    with opened(path) as source:
        assert source.text_attribute("", "text") == source.text_attribute("", "bytes") == "ü"
        assert source.text_attribute("", "number") is None
        assert source.text_attribute("", "absent") is None
        assert source.attribute("no/such/group", "text") is None
        for name in ("latin", "latin bytes"):
            with pytest.raises(StoreError, match=r"attribute 'latin.*' of '' in x\.h5 is not UTF-8"):
                source.text_attribute("", name)


@pytest.mark.parametrize("userblock", [0, 512, 1024, 8192])
def test_a_user_block_is_passed_over(userblock: int, tmp_path: Path):
    """HDF5 may begin after 512 · 2ᵏ bytes of something else."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["a/b"] = np.arange(5.0)
        add(file, "c", array_of("<f4", (9, 9)), "all filters")
        file.attrs["text"] = "abc"

    assert_like_h5py(path)


def test_a_window_of_a_file(tmp_path: Path):
    """The HDF5 file is a member of a zip: places of values count from the beginning of the zip."""
    path, whole = tmp_path / "x.h5", tmp_path / "x.zip"
    with h5py.File(path, "w") as file:
        file["a/b"] = np.arange(5.0)
        add(file, "c", array_of("<f4", (9, 9)), "gzip")
    data = path.read_bytes()
    whole.write_bytes(b"z" * 1234 + data + b"tail")

    with opened(whole, (1234, len(data))) as source, opened(path) as alone:
        np.testing.assert_array_equal(values_of(source, "a/b"), np.arange(5.0))
        np.testing.assert_array_equal(values_of(source, "c"), array_of("<f4", (9, 9)))
        inside, outside = alone.extent("a/b"), source.extent("a/b")
        assert inside is not None and outside is not None
        assert (outside.offset, outside.nbytes) == (inside.offset + 1234, 40)


def test_five_thousand_groups_in_one(tmp_path: Path):
    """B-trees of several levels."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(5000):
            h5py.h5g.create(file.id, b"group %d" % i)

    assert assert_like_h5py(path) == 5001


def test_a_hundred_groups_deep(tmp_path: Path):
    """Models in models."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_group("/".join(["layers"] * 100))["0"] = 1.0

    assert_like_h5py(path)


def test_a_group_that_lost_most_of_its_links(tmp_path: Path):
    """Free blocks in heaps, half-empty nodes, empty messages in headers."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(200):
            file[f"g/{i}"] = i
            file.attrs[str(i)] = i
        for i in range(200):
            if i % 7:
                del file[f"g/{i}"]
            if i < 10:
                del file.attrs[str(i)]

    assert_like_h5py(path)


def test_chunks_read_by_several_threads(tmp_path: Path):
    """Blocks come from any thread."""
    path = tmp_path / "x.h5"
    values = array_of("<f8", (100, 37, 5))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=(7, 11, 2), compression="gzip")

    with opened(path) as source, ThreadPoolExecutor(8) as pool:
        out = np.empty(values.size, "<f8")
        starts = range(0, values.size, 131)
        list(pool.map(lambda s: source.read_into("x", s, out[s : s + 131]), starts))
    np.testing.assert_array_equal(out, values.reshape(-1))


def test_a_dataset_that_shrank(tmp_path: Path):
    """Chunks outside the shape are passed over."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(100.0), chunks=(10,), maxshape=(None,))
        file["x"].resize((25,))

    assert_like_h5py(path)


NAMES = st.text(st.characters(exclude_characters="/.\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)
LEAVES = st.tuples(st.sampled_from(DTYPES), SHAPES, st.sampled_from(sorted(STORAGE)), st.integers(0, 99))
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=12), max_leaves=30)
VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=30),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(st.floats(allow_nan=False), max_size=30),
    st.booleans(),
)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    tree=st.dictionaries(NAMES, TREES, max_size=12),
    attributes=st.dictionaries(NAMES, VALUES, max_size=12),
    userblock=st.sampled_from([0, 512]),
    block=st.integers(1, 9),
)
def test_any_tree(tree: Any, attributes: Any, userblock: int, block: int, tmp_path: Path):
    """Random groups, names, dtypes, shapes, layouts and attributes."""

    def write(group: Any, node: Any) -> None:
        for name, value in node.items():
            if isinstance(value, dict):
                write(group.create_group(name), value)
            else:
                dtype, shape, storage, seed = value
                add(group, name, array_of(dtype, shape, seed), storage)

    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        write(file, tree)
        for item in [file, *file.values()]:
            for name, value in attributes.items():
                item.attrs[name] = value

    assert_like_h5py(path, block=block)


# What h5py writes when asked --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v108", "v110", "v112", "v114", "latest"])
def test_newer_structures(version: str, tmp_path: Path):
    """Superblocks 2 and 3, object headers 2, links as messages, a single chunk."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=version) as file:
        group = file.create_group("a/b")
        group.attrs["name"] = "x"
        group.attrs["names"] = ["a", "b"]
        group["x"] = np.arange(5.0)
        group["scalar"] = np.float32(1)
        group["bool"] = np.array([True])
        for name, options in {"one": {}, "packed": {"compression": "gzip", "shuffle": True}}.items():
            group.create_dataset(name, data=array_of("<f4", (4, 4)), chunks=(4, 4), **options)

    assert_like_h5py(path)


@pytest.mark.parametrize("count", [9, 200, 5000])
@pytest.mark.parametrize("options", [{"libver": "v108"}, {"libver": "latest"}, {"track_order": True}], ids=str)
def test_newer_structures_of_large_groups(options: dict[str, Any], count: int, tmp_path: Path):
    """Links in a fractal heap, of one block and of many."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", **options) as file:
        for i in range(count):
            h5py.h5g.create(file.id, b"layer_%d" % i)
        group = file.create_group("inner", track_order=True)
        for i in reversed(range(20)):
            group[f"name {i}"] = i

    assert assert_like_h5py(path) == count + 22


def test_a_name_that_is_not_ascii(tmp_path: Path):
    """It makes a group one of the newer layout, whatever the settings."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(30):
            file[f"schicht_ä{i}/kernel"] = float(i)

    assert_like_h5py(path)


def test_thirty_thousand_links_of_the_newer_layout(tmp_path: Path):
    """Fractal heaps of indirect blocks in indirect blocks."""
    path = tmp_path / "x.h5"
    names = sorted(b"%d" % i + b"n" * 60 for i in range(30_000))
    with h5py.File(path, "w", libver="v108") as file:
        for name in names:
            file.id.links.create_soft(name, b"x")

    with path.open("rb") as file:
        read = H5File(file.fileno(), 0, path.stat().st_size)
        found = links_of(read, messages_of(read, read.root), 200_000, claim=True)
    assert found == [(name, -1) for name in names]


@pytest.mark.parametrize("version", ["v108", "latest"])
def test_newer_structures_of_many_attributes(version: str, tmp_path: Path):
    """Attributes in a fractal heap; one that is too large for it is refused with what to do."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=version) as file:
        for i in range(200):
            file.attrs[str(i)] = [i] * i
        write_attributes(file.create_group("g"))
        file["x"] = 1.0

    assert_like_h5py(path)
    with h5py.File(path, "a", libver=version) as file:
        file.attrs["large"] = np.zeros(5000, "u1")
    with (
        opened(path) as source,
        pytest.raises(StoreError, match=r"attribute of more than 4,096 bytes in HDF5's newer.*default settings"),
    ):
        source.attribute("", "1")


@pytest.mark.parametrize("maxshape", [None, (None, None), (None, 9)])
def test_newer_lists_of_chunks_are_refused(maxshape: Any, tmp_path: Path):
    """A refusal says what to do."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=array_of("<f4", (8, 8)), chunks=(2, 2), maxshape=maxshape)

    with pytest.raises(StoreError, match=r"'x' of x\.h5 lists its chunks in HDF5's newer way.*default"), opened(path):
        pass


@pytest.mark.parametrize("compression", ["lzf"])
def test_other_filters_are_refused_by_number(compression: str, tmp_path: Path):
    """A filter that is not HDF5's own needs its plug-in."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(100), compression=compression)

    with (
        pytest.raises(StoreError, match=r"dataset 'x' of x\.h5 is stored with HDF5 filter 32000 \(lzf\)"),
        opened(path),
    ):
        pass


def test_an_attribute_of_another_kind_is_refused_when_asked_for(tmp_path: Path):
    """Records and references do no harm where nobody reads them."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["record"] = np.zeros(3, [("a", "f4")])
        file.attrs.create("reference", file.ref, dtype=h5py.ref_dtype)
        file["x"] = 1.0

    with opened(path) as source:
        assert source.attribute_names("") == ["record", "reference"]
        for name, kind in {"record": "compound", "reference": "reference"}.items():
            with pytest.raises(StoreError, match=f"attribute '{name}' of '' in x.h5 holds {kind} values"):
                source.attribute("", name)


# Damage -----------------------------------------------------------------------------------------------------------


def small_file(path: Path) -> bytes:
    """Write a file with one of each structure; return its bytes."""
    with h5py.File(path, "w") as file:
        file.attrs["names"] = ["a", "bc"]
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group["0"] = np.arange(6.0).reshape(2, 3)
        group.create_dataset("1", data=np.arange(8), chunks=(3,), compression="gzip", shuffle=True, fletcher32=True)
        group["2"] = np.array([True, False])
    return path.read_bytes()


def read_everything(path: Path) -> None:
    """Read a file, expecting no more than an error of ours."""
    try:
        with opened(path) as source:
            for name in source.groups:
                for key in source.attribute_names(name):
                    source.attribute(name, key)
            for name, found in source.datasets.items():
                if found.nbytes < 1 << 24:
                    values_of(source, name)
    except StoreError as error:
        said = str(error)
        if path.name not in said or not said.isprintable() or len(said) > 700:
            raise AssertionError(said) from error


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    """No length but the right one will do."""
    path = tmp_path / "x.h5"
    data = small_file(path)
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"x\.h5"), opened(path):
            pass


@pytest.mark.parametrize("value", [0x00, 0xFF, 0x01, 0x80])
def test_any_byte_may_be_wrong(value: int, tmp_path: Path):
    """Every byte of every structure, one after the other: values, or an error of ours."""
    path = tmp_path / "x.h5"
    data = small_file(path)
    fd = os.open(path, os.O_RDWR)
    for at in range(len(data)):
        if data[at] != value and (data[at] or at % 8 == value % 7):
            os.pwrite(fd, bytes([value]), at)
            read_everything(path)
            os.pwrite(fd, data[at : at + 1], at)
    os.close(fd)
    assert path.read_bytes() == data


def busy_file(path: Path, version: str) -> bytes:
    """Write a file with many structures of a version of HDF5; return its bytes."""
    with h5py.File(path, "w", libver=version) as file:
        for i in range(60):
            file.create_group(f"g/{i}")
        for i in range(30):
            file.attrs[str(i)] = ["n" * i]
        file["x"] = np.arange(5.0)
        file.create_dataset("y", data=np.ones((4, 4)), chunks=(4, 4), compression="gzip")
    return path.read_bytes()


MARKS = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"FRHP", b"FHDB", b"BTHD", b"BTLF")


@pytest.mark.parametrize("version", ["earliest", "v108"])
def test_structures_may_point_anywhere(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Addresses exchanged, and first bytes of structures changed; checksums do not help."""
    path = tmp_path / "x.h5"
    data = busy_file(path, version)
    monkeypatch.setattr(hdf5_checksums, "sum_of", lambda _: Anything())
    rng = random.Random(version)
    places = {
        at: target
        for at in range(len(data) - 8)
        if 48 <= (target := int.from_bytes(data[at : at + 8], "little")) < len(data)
        and (data[target : target + 4] in MARKS or (at % 8 == 0 and data[target] == 1))
    }
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2))):
            one, two = rng.choice(list(places)), rng.choice(list(places))
            if rng.random() < 0.5:
                damaged[one : one + 8] = data[two : two + 8]
            else:
                damaged[min(places[one] + rng.randrange(48), len(data) - 1)] = rng.choice(
                    (*range(10), 64, 127, 128, 255)
                )
        path.write_bytes(damaged)
        read_everything(path)


class Anything(int):
    """A checksum that is always right."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def test_too_many_structures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All that is read is counted."""
    path = tmp_path / "x.h5"
    small_file(path)
    monkeypatch.setattr(hdf5_pages, "MAX_METADATA_BYTES", 2000)

    with pytest.raises(StoreError, match=r"x\.h5 has more structures than any Keras model needs"), opened(path):
        pass


def test_overlapping_values_are_refused(tmp_path: Path):
    """Values lie neither in other values nor in a structure."""
    path = tmp_path / "x.h5"
    places = lay_out(path, Tree(datasets={"a": ((8,), "float32"), "b": ((8,), "float32")}))
    data = path.read_bytes()
    pair = {k: np.array(v, "<u8").tobytes() for k, v in places.items()}
    for other in (places["b"][0] - 4, 0, 800):
        path.write_bytes(data.replace(pair["a"], np.array([other, 32], "<u8").tobytes()))
        with pytest.raises(StoreError, match=r"'a'.* of x\.h5 overlap"), opened(path):
            pass


# Beside the values ------------------------------------------------------------------------------------------------


def test_what_is_laid_out_is_found(tmp_path: Path):
    """Writer and reader agree where values lie."""
    path = tmp_path / "x.h5"
    tree = Tree(
        groups={"": {"graftwork": "{}"}, "layers/dense/vars": {"name": "dense"}},
        datasets={f"layers/dense/vars/{i}": ((3, i), dtype) for i, dtype in enumerate(["float32", "bfloat16", "bool"])},
    )

    places = lay_out(path, tree)

    with opened(path) as source:
        assert source.attribute("", "graftwork") == "{}"
        for name, (shape, dtype) in tree.datasets.items():
            found = source.datasets[name]
            assert (found.shape, found.dtype) == (shape, dtype)
            assert (found.offset, found.nbytes) == places[name]


def test_an_attribute_is_found_without_a_walk(tmp_path: Path):
    """In the group, or in the root where there is no such group; None where there is no telling."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["a"]
        file.create_group("inner")
        file["loop"] = h5py.SoftLink("/")

    assert has_attribute(path, "model_weights", ["layer_names"]) is True
    assert has_attribute(path, "model_weights", ["other"]) is False
    assert has_attribute(path, "inner", ["layer_names"]) is False
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert has_attribute(path, "inner", ["layer_names"]) is None
    assert has_attribute(tmp_path, "inner", ["layer_names"]) is None


def test_reading_does_not_import_h5py(tmp_path: Path):
    """libhdf5 is not even there while a file is read."""
    path = tmp_path / "x.weights.h5"
    small_file(path)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from graftwork.stores.hdf5 import H5Source\n"
        f"source = H5Source(Path({str(path)!r}), os.open({str(path)!r}, os.O_RDONLY))\n"
        "assert source.attribute('', 'names').tolist() == ['a', 'bc']\n"
        "assert 'h5py' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
