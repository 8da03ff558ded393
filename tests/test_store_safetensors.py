"""The safetensors store against files that the reference implementation or the test itself wrote."""

import contextlib
import errno
import itertools
import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from descriptors import open_under
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import load_file, save_file

from graftwork.errors import OutputError, StoreError, UnknownNameError
from graftwork.stores import format_for_target, open_store
from graftwork.stores.base import RAW_DTYPES
from graftwork.stores.safetensors import SafetensorsReader, SafetensorsWriter, roles_of
from graftwork.tensor import FLOATS, Role, TensorSpec

NUMPY = {
    **{name: np.dtype(name) for name in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")},
    **{name: np.dtype(name) for name in ("uint64", "float16", "float32", "float64")},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}


CODES = {
    "bool": "BOOL",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)},
}


def random_array(dtype, shape, seed=0):
    """Return random bits, NaNs and all, as an array."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    size = int(np.prod(shape, dtype=np.int64)) * NUMPY[dtype].itemsize
    return np.frombuffer(rng.bytes(size), NUMPY[dtype]).reshape(shape)


def read(reader, name, blocks=1):
    """Return a tensor's bytes, read in some blocks."""
    spec = reader.specs()[name]
    out = np.empty(spec.size, RAW_DTYPES[spec.dtype])
    cuts = [spec.size * i // blocks for i in range(blocks + 1)]
    for begin, end in itertools.pairwise(cuts):
        reader.read_into(name, begin, out[begin:end])
    return out.tobytes()


def write(path, arrays, like, *, specs=None, provenance="", create=SafetensorsWriter, **options):
    """Write arrays through our writer."""
    specs = specs or [TensorSpec(name=n, shape=a.shape, dtype=a.dtype.name) for n, a in arrays.items()]
    writer = create(path, specs, like=like, provenance=provenance, **options)
    try:
        for spec in specs:
            writer.write(spec.name, 0, arrays[spec.name].reshape(-1).view(RAW_DTYPES[spec.dtype]))
        writer.finish()
    finally:
        writer.close()


def reference(path):
    """Return what the reference implementation reads: name → type, shape, bytes (its NumPy side knows no float8)."""
    return {n: (v["dtype"], tuple(v["shape"]), bytes(v["data"])) for n, v in deserialize(path.read_bytes())}


def expected(arrays):
    """Return what `reference` should say of arrays."""
    return {n: (CODES[a.dtype.name], a.shape, a.tobytes()) for n, a in arrays.items()}


@pytest.fixture
def like(tmp_path):
    """A source as PyTorch users save it."""
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "like.safetensors", {"format": "pt", "who": "ü"})
    with SafetensorsReader(tmp_path / "like.safetensors") as reader:
        yield reader


@pytest.mark.parametrize("dtype", sorted(NUMPY))
def test_every_dtype_is_read_bit_for_bit(tmp_path, dtype):
    """Whatever the reference implementation writes comes back, NaN payloads included, in blocks of any size."""
    arrays = {
        "layer.0.weight": random_array(dtype, (3, 5)),
        "scalar": random_array(dtype, (), 1),
        "nothing": random_array(dtype, (4, 0), 2),
        "größe/名前": random_array(dtype, (7,), 3),
    }
    save_file(arrays, tmp_path / "a.safetensors")
    with open_store(tmp_path / "a.safetensors") as reader:
        assert reader.header.format == "safetensors"
        assert reader.header.size_bytes == (tmp_path / "a.safetensors").stat().st_size
        assert set(reader.specs()) == set(arrays)
        for name, array in arrays.items():
            spec = reader.specs()[name]
            assert (spec.shape, spec.dtype, reader.key(name)) == (array.shape, dtype, name)
            assert read(reader, name, blocks=4) == array.tobytes()


@pytest.mark.parametrize("dtype", sorted(NUMPY))
def test_the_reference_implementation_reads_what_we_write(tmp_path, like, dtype):
    """Names, shapes, dtypes, bits and metadata, with tensors of all widths in any order beside it."""
    arrays = {
        "flag": np.array(True),
        "größe/名前": random_array(dtype, (3, 5)),
        "empty": random_array(dtype, (0, 2)),
        "wide": random_array("float64", (3,)),
        "half": random_array("bfloat16", (5,)),
    }
    write(tmp_path / "b.safetensors", arrays, like, provenance='{"made": "here"}')
    assert reference(tmp_path / "b.safetensors") == expected(arrays)
    with safe_open(tmp_path / "b.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt", "who": "ü", "graftwork": '{"made": "here"}'}


def test_every_tensor_we_write_is_aligned(tmp_path, like):
    """Readers that map the file may cast a tensor in place."""
    arrays = {"a": np.zeros(3, bool), "b": np.zeros(5, np.float32), "c": np.zeros(1, np.float16), "d": np.zeros(2)}
    write(tmp_path / "b.safetensors", arrays, like)
    data = (tmp_path / "b.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    for name, array in arrays.items():
        assert (8 + length + header[name]["data_offsets"][0]) % array.itemsize == 0


def test_provenance_and_metadata_survive(tmp_path, like):
    """Our record is in the header, is not mixed with the user's texts, and is replaced, not inherited."""
    arrays = {"w": np.zeros(2, np.float32)}
    write(tmp_path / "a.safetensors", arrays, like, provenance='{"recipe": 1}')
    with open_store(tmp_path / "a.safetensors") as first:
        assert first.header.provenance == {"recipe": 1}
        assert first.metadata == {"format": "pt", "who": "ü"}
        write(tmp_path / "b.safetensors", arrays, first)
    with open_store(tmp_path / "b.safetensors") as second:
        assert second.header.provenance is None
        assert second.metadata == {"format": "pt", "who": "ü"}


def test_equal_inputs_give_equal_bytes(tmp_path, like):
    """Nothing in the file depends on when or where it was written."""
    arrays = {"b": random_array("float32", (4,)), "a": random_array("int64", (3,))}
    for name in ("x", "y"):
        write(tmp_path / f"{name}.safetensors", arrays, like, provenance="{}")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
specs = st.builds(
    TensorSpec,
    name=names,
    shape=st.lists(st.integers(0, 4), max_size=4).map(tuple),
    dtype=st.sampled_from(sorted(NUMPY)),
    role=st.sampled_from(Role),
)


@settings(max_examples=60, deadline=None)
@given(specs=st.lists(specs, max_size=8, unique_by=lambda spec: spec.name), text=st.text(max_size=20))
def test_round_trip(tmp_path_factory, specs, text):
    """Any specs come back as they were, roles included, and any values; the reference implementation agrees."""
    specs = [
        s if s.dtype in FLOATS or s.role not in (Role.WEIGHT, Role.STATISTIC) else _other_role(s, Role.COUNTER)
        for s in specs
    ]
    folder = tmp_path_factory.mktemp("round")
    arrays = {s.name: random_array(s.dtype, s.shape, i) for i, s in enumerate(specs)}
    save_file({}, folder / "like.safetensors", {"format": "pt"})
    with open_store(folder / "like.safetensors") as like:
        write(folder / "a.safetensors", arrays, like, specs=specs, provenance=json.dumps(text))
    with open_store(folder / "a.safetensors") as reader:
        assert reader.specs() == {spec.name: spec for spec in specs}
        assert reader.header.provenance == text
        for name, array in arrays.items():
            assert read(reader, name, blocks=3) == array.tobytes()
    assert reference(folder / "a.safetensors") == expected(arrays)


def _other_role(spec, role):
    return TensorSpec(name=spec.name, shape=spec.shape, dtype=spec.dtype, role=role)


def test_blocks_may_come_from_many_threads_in_any_order(tmp_path, like):
    """The file does not depend on who wrote which block when."""
    arrays = {f"t{i}": random_array("float32", (101, 7), i) for i in range(6)}
    specs = [TensorSpec(name=n, shape=a.shape, dtype="float32") for n, a in arrays.items()]
    writer = SafetensorsWriter(tmp_path / "a.safetensors", specs, like=like, provenance="")
    blocks = [(name, start) for name in arrays for start in range(0, 707, 50)]
    order = np.random.default_rng(0).permutation(len(blocks))
    with ThreadPoolExecutor(4) as pool:

        def one(i):
            name, start = blocks[i]
            writer.write(name, start, arrays[name].reshape(-1)[start : start + 50])

        list(pool.map(one, order))
    writer.finish()
    writer.close()
    for name, array in load_file(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(array.view(np.uint32), arrays[name].view(np.uint32))


def test_roles():
    """Names and dtypes tell what a tensor is for."""
    wanted = {
        "bn.running_mean": ("float32", Role.STATISTIC),
        "bn/moving_variance": ("float32", Role.STATISTIC),
        "bn.num_batches_tracked": ("int64", Role.COUNTER),
        "embeddings.position_ids": ("int64", Role.COUNTER),
        "attn.bias": ("uint8", Role.COUNTER),
        "mask": ("bool", Role.COUNTER),
        "dropout/seed_generator_state": ("uint32", Role.SEED),
        "linear.weight": ("float16", Role.WEIGHT),
        "linear.bias": ("bfloat16", Role.WEIGHT),
        "norm.scales": ("float32", Role.WEIGHT),  # no codes beside it
        "a.weight": ("int8", Role.QUANTIZED),
        "a.SCB": ("float32", Role.QUANTIZED),
        "a.bias": ("float16", Role.WEIGHT),
        "b.weight": ("uint8", Role.QUANTIZED),
        "b.weight.absmax": ("float32", Role.QUANTIZED),
        "b.weight.quant_state.bitsandbytes__nf4": ("uint8", Role.QUANTIZED),
        "c.qweight": ("int32", Role.QUANTIZED),
        "c.qzeros": ("int32", Role.QUANTIZED),
        "c.scales": ("float16", Role.QUANTIZED),
        "c.g_idx": ("int32", Role.QUANTIZED),
        "d.weight": ("float8_e4m3fn", Role.QUANTIZED),
        "d.weight_scale_inv": ("float32", Role.QUANTIZED),
        "e.down_proj_blocks": ("uint8", Role.QUANTIZED),
        "e.down_proj_scales": ("uint8", Role.QUANTIZED),
        "dense/kernel": ("int8", Role.QUANTIZED),
        "dense/kernel_scale": ("float32", Role.QUANTIZED),
    }
    found = roles_of({name: dtype for name, (dtype, _) in wanted.items()})
    assert found == {name: role for name, (_, role) in wanted.items()}


def test_integers_are_never_believed_to_be_weights(tmp_path):
    """A file cannot talk codes into a merge by what it records."""
    texts = {"graftwork.roles": '{"w": "weight", "f": "optimizer", "gone": "seed"}'}
    save_file({"w": np.zeros(2, np.int8), "f": np.zeros(2, np.float32)}, tmp_path / "a.safetensors", texts)
    with open_store(tmp_path / "a.safetensors") as reader:
        assert {n: s.role for n, s in reader.specs().items()} == {"w": Role.COUNTER, "f": Role.OPTIMIZER}


def build(header, data=b"", length=None):
    """Return a file's bytes from a header, as JSON or as text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    """Return one entry of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


REFUSED = {
    "empty": (b"", "too few"),
    "a huge header": (build(b"{}", length=1 << 60), "claims a header of 1,152,921,504,606,846,976 bytes"),
    "a header longer than the file": (build(b"{}", length=99), "claims a header of 99 bytes but has 2"),
    "no JSON": (build(b"{nonsense}"), "is not JSON"),
    "no object": (build(b"[]      "), "expected '{'"),
    "a key twice": (build(b'{"a": 1, "a": 2}'), "'a' twice"),
    "deep nesting": (build(b'{"a":' + b"[" * 100_000), "nests too deep"),
    "not UTF-8": (build(b'{"\xff": 1}'), "is not JSON"),
    "half a character": (build(b'{"\\ud800": 1}'), "not Unicode"),
    "metadata of numbers": (build({"__metadata__": {"a": 1}}), "__metadata__"),
    "a record that is none": (build({"__metadata__": {"graftwork": "{"}}), "the record of graftwork"),
    "roles that are none": (build({"__metadata__": {"graftwork.roles": '{"a": "king"}'}}), "graftwork.roles"),
    "an entry that is none": (build({"a": 3}), "'a' of f.safetensors is described by 3"),
    "an unknown dtype": (build({"a": tensor("F4")}, bytes(8)), "elements of type 'F4'; graftwork reads BOOL"),
    "a scale dtype": (build({"a": tensor("F8_E8M0", (8,))}, bytes(8)), "elements of type 'F8_E8M0'"),
    "a negative size": (build({"a": tensor(shape=(-2, -1))}, bytes(8)), "expected a list of sizes"),
    "a fractional size": (build({"a": tensor(shape=(2.0,))}, bytes(8)), "expected a list of sizes"),
    "a true size": (build({"a": tensor(shape=(2, True))}, bytes(8)), "expected a list of sizes"),
    "sizes that overflow": (build({"a": tensor(shape=(1 << 40, 1 << 40, 0), offsets=(0, 0))}), "no memory holds"),
    "too many axes": (build({"a": tensor(shape=(1,) * 40, offsets=(0, 4))}, bytes(4)), "40 axes"),
    "one offset": (build({"a": tensor(offsets=(0,))}, bytes(8)), "expected two offsets"),
    "offsets reversed": (build({"a": tensor(shape=(0,), offsets=(8, 0))}, bytes(8)), "lies at 8 to 0"),
    "shape against range": (build({"a": tensor(shape=(3,))}, bytes(8)), "takes 12 bytes, but lies at 0 to 8"),
    "an overlap": (build({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)), "'b' .* overlaps"),
    "the same range twice": (build({"a": tensor(), "b": tensor()}, bytes(8)), "'b' .* overlaps"),
    "a hole": (build({"a": tensor(), "b": tensor(offsets=(12, 20))}, bytes(20)), "'b' .* leaves 4 bytes"),
    "a hole at the beginning": (build({"a": tensor(offsets=(4, 12))}, bytes(12)), "leaves 4 bytes"),
    "cut short": (build({"a": tensor()}, bytes(7)), "has 7 bytes behind its header, but its tensors take 8"),
    "something appended": (build({"a": tensor()}, bytes(9)), "something appended"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(tmp_path, case):
    """Every contradiction is found when the file is opened, and the message says which."""
    data, message = REFUSED[case]
    (tmp_path / "f.safetensors").write_bytes(data)
    before = open_under(tmp_path)
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path / "f.safetensors")
    assert open_under(tmp_path) == before


STRICTER = {
    "a key twice",  # which one counts?
    "too many axes",  # NumPy could not hold the tensor
    "an unknown dtype",
    "a scale dtype",
    "a record that is none",
    "roles that are none",
}


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in STRICTER])
def test_the_reference_implementation_refuses_them_too(tmp_path, case):
    """We are no stricter than it but where we say so."""
    (tmp_path / "f.safetensors").write_bytes(REFUSED[case][0])
    with pytest.raises(SafetensorError):
        load_file(tmp_path / "f.safetensors")


@settings(max_examples=300, deadline=None)
@given(at=st.integers(8, 300), byte=st.binary(min_size=1, max_size=3), cut=st.integers(0, 3))
def test_a_damaged_header_is_refused_or_still_a_model(tmp_path_factory, at, byte, cut):
    """Whatever bytes change, nothing but a StoreError comes out, and what is accepted can be read."""
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    good = build(
        {"__metadata__": {"format": "pt"}, "a": tensor(), "b.weight": tensor("I8", (2, 4), (8, 16))}, bytes(16)
    )
    at %= len(good)
    path.write_bytes(good[:at] + byte + good[at + cut :])
    with contextlib.suppress(StoreError), SafetensorsReader(path) as reader:
        for name in reader.specs():
            read(reader, name)


def test_a_file_in_any_order_is_read(tmp_path):
    """Headers need not follow the order of the values."""
    data = np.arange(4, dtype="<f4").tobytes()
    header = {"b": tensor(offsets=(8, 16)), "nothing": tensor(shape=(0,), offsets=(8, 8)), "a": tensor()}
    (tmp_path / "f.safetensors").write_bytes(build(header, data))
    with open_store(tmp_path / "f.safetensors") as reader:
        assert list(reader.specs()) == ["a", "nothing", "b"]
        assert read(reader, "b") == data[8:]


def test_a_file_without_the_ending_is_recognised(tmp_path, like):
    """A blob of a cache, or a result that has not got its name yet."""
    (tmp_path / "0123abcd").write_bytes(like.path.read_bytes())
    with open_store(tmp_path / "0123abcd") as reader:
        assert list(reader.specs()) == ["w"]
    assert format_for_target("x.safetensors").name == "safetensors"


def test_a_file_cut_while_open_is_noticed(tmp_path, like):
    """No block is silently left half filled."""
    os.truncate(like.path, like.path.stat().st_size - 4)
    with pytest.raises(StoreError, match="ends at byte"):
        like.read_into("w", 0, np.empty(2, np.float32))


def test_reading_and_writing_outside_a_tensor_is_a_mistake(tmp_path, like):
    """Not a way to the neighbour's values."""
    with pytest.raises(ValueError, match="not a part"):
        like.read_into("w", 1, np.empty(2, np.float32))
    with pytest.raises(UnknownNameError, match="did you mean 'w'"):
        like.read_into("w ", 0, np.empty(2, np.float32))
    spec = TensorSpec(name="a", shape=(2,), dtype="float32")
    writer = SafetensorsWriter(tmp_path / "a.safetensors", [spec], like=like, provenance="")
    with pytest.raises(ValueError, match="not a part"):
        writer.write("a", 0, np.zeros(2, np.float64))
    writer.close()
    writer.close()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            TensorSpec(name="c", shape=(1,), dtype="complex64"),
            "'c' is complex64, which safetensors does not hold; .*ckpt drop",
        ),
        (TensorSpec(name="__metadata__", shape=(1,), dtype="float32"), "rename it"),
        (TensorSpec(name="\ud800", shape=(1,), dtype="float32"), "not Unicode"),
        (
            TensorSpec(name="big", shape=(1 << 50,), dtype="float32"),
            "needs 4,503,599,627,3.* bytes but its disk has",
        ),
    ],
    ids=["complex", "reserved", "surrogate", "too large"],
)
def test_what_cannot_be_written_is_refused(tmp_path, like, spec, message):
    """Before any value is, and leaving no descriptor open."""
    before = open_under(tmp_path)
    with pytest.raises(OutputError, match=message):
        SafetensorsWriter(tmp_path / "a.safetensors", [spec], like=like, provenance="")
    assert open_under(tmp_path) == before


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP])
def test_the_space_is_reserved_up_front(tmp_path, like, monkeypatch, reason):
    """A disk that fills up meanwhile is noticed at once; a file system that cannot reserve gives the size only."""

    def refuse(fd, offset, length):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    if reason == errno.EOPNOTSUPP:
        write(tmp_path / "a.safetensors", {"w": np.ones(2, np.float32)}, like)
        np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["w"], [1, 1])
    else:
        with pytest.raises(OutputError, match=os.strerror(reason)):
            write(tmp_path / "a.safetensors", {"w": np.ones(2, np.float32)}, like)


def test_a_directory_or_a_pipe_is_no_file(tmp_path):
    """Opening never waits."""
    os.mkfifo(tmp_path / "p.safetensors")
    with pytest.raises(StoreError):
        open_store(tmp_path / "p.safetensors")
    with pytest.raises(StoreError):
        SafetensorsReader(Path(tmp_path / "p.safetensors"))
