"""Contracts that the author of a plugin inherits, so that a new format is tested as the built-in ones are.

::

    class TestMyFormat(StoreContract):
        format = "my_format"
        suffix = ".mine"
        dtypes = ("float16", "float32")

        def write_sample(self, path, arrays):
            ...  # without graftwork: with the reference library, or byte by byte

        def read_sample(self, path):
            ...  # likewise

Needs pytest and hypothesis. In ``conftest.py``, ``pytest.register_assert_rewrite("graftwork.testing")`` makes failures readable.
"""

import itertools
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graftwork.errors import StoreError, UnknownNameError
from graftwork.stores import FORMATS, Reader, format_for_target, open_store
from graftwork.stores.base import RAW_DTYPES
from graftwork.tensor import ITEMSIZE, TensorSpec

Array = NDArray[Any]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
ALL = (*FLOATS, *INTEGERS, "bool")
"""The dtypes that every Keras format holds."""

SHAPES: tuple[tuple[int, ...], ...] = ((7, 5), (), (0, 3), (1,), (2, 3, 4), (257,), (3, 1, 2, 2))
"""Shapes of the sample's tensors: matrices, scalars, nothing at all, more than one block's worth of odd sizes."""

EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture],
)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype (ml_dtypes' for bfloat16 and float8) of one of graftwork's."""
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def random_bits(dtype: str, shape: Sequence[int], seed: int = 0) -> Array:
    """Return an array of random bits: every NaN, infinity and denormal may occur. Booleans are 0 or 1."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, tuple(shape)).astype(bool)
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(rng.bytes(count * ITEMSIZE[dtype]), numpy_dtype(dtype)).reshape(tuple(shape)).copy()


def raw(array: Array) -> Array:
    """Return an array's elements as stores deal in them: flat, bfloat16 as ``uint16``, bool as ``uint8``."""
    return np.ascontiguousarray(array).reshape(-1).view(RAW_DTYPES[array.dtype.name])


def read_raw(reader: Reader, name: str, blocks: int = 1) -> Array:
    """Return a tensor's raw elements, read in some blocks."""
    spec = reader.specs()[name]
    out = np.empty(spec.size, RAW_DTYPES[spec.dtype])
    cuts = [spec.size * k // blocks for k in range(blocks + 1)]
    for begin, end in itertools.pairwise(cuts):
        reader.read_into(name, begin, out[begin:end])
    return out


def contents(path: Path) -> bytes:
    """Return all bytes of a file, or of every file below a directory with its name."""
    if path.is_file():
        return path.read_bytes()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return b"".join(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes() for file in files)


class StoreContract:
    """What every store format promises, as tests; subclass it under a name that pytest collects (``TestMyFormat``).

    Attributes:
        format: The format's name in the registry.
        suffix: How its paths end.
        dtypes: The dtypes that it holds.
        layer: First part of the canonical names of the sample's tensors.
    """

    format: ClassVar[str]
    suffix: ClassVar[str] = ""
    dtypes: ClassVar[Sequence[str]] = ALL
    layer: ClassVar[str] = "thing"

    # What a format says of itself

    def write_sample(self, path: Path, arrays: Mapping[str, Array]) -> None:
        """Write a file with these tensors, without graftwork.

        Args:
            path: Where; its parent exists.
            arrays: Values by canonical name. Names are those of `names`; bfloat16 is `ml_dtypes`'.
        """
        raise NotImplementedError

    def read_sample(self, path: Path) -> Mapping[str, Array]:
        """Return every tensor of a file that graftwork wrote, by canonical name, read without graftwork."""
        raise NotImplementedError

    def names(self, count: int) -> list[str]:
        """Return canonical names that a sample's tensors can have, in the order of a file."""
        return [f"{self.layer}/{k}" for k in range(count)]

    # Helpers

    def sample(self, dtype: str = "", seed: int = 0) -> dict[str, Array]:
        """Return arrays of every shape in one dtype, or in all that the format holds."""
        shapes: Sequence[tuple[int, ...]] = SHAPES if dtype else [SHAPES[k % len(SHAPES)] for k in range(2 * len(ALL))]
        dtypes = [dtype or self.dtypes[k % len(self.dtypes)] for k in range(len(shapes))]
        names = self.names(len(shapes))
        return {
            name: random_bits(kind, shape, seed * 1000 + k)
            for k, (name, kind, shape) in enumerate(zip(names, dtypes, shapes, strict=True))
        }

    @contextmanager
    def opened(self, arrays: Mapping[str, Array]) -> Iterator[Reader]:
        """Yield a reader of a sample in a folder of its own."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"sample{self.suffix}"
            self.write_sample(path, arrays)
            with FORMATS[self.format].open(path) as reader:
                yield reader

    def write(
        self, path: Path, reader: Reader, arrays: Mapping[str, Array], *, seed: int = 0, threads: int = 3
    ) -> Path:
        """Write arrays with our writer, in blocks in a random order from several threads; return what to open."""
        row = FORMATS[self.format]
        if row.create is None:
            pytest.skip("this format is only read")
        specs = [
            TensorSpec(name=name, shape=values.shape, dtype=values.dtype.name, role=reader.specs()[name].role)
            for name, values in arrays.items()
        ]
        options = {"target": path} if row.files_beside else {}
        place = path.with_name("staged") if row.files_beside else path
        writer = row.create(place, specs, like=reader, provenance='{"made": "by a test"}', **options)
        order = random.Random(seed)
        blocks: list[tuple[str, int, Array]] = []
        for name, values in arrays.items():
            flat = raw(values)
            cuts = sorted({0, flat.size, *(order.randint(0, flat.size) for _ in range(3))})
            blocks += [(name, begin, flat[begin:end]) for begin, end in itertools.pairwise(cuts)]
        order.shuffle(blocks)
        try:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda block: writer.write(*block), blocks))
            writer.finish()
        finally:
            writer.close()
        return place / path.name if row.files_beside else place

    # Reading

    def test_the_format_recognises_its_files(self, tmp_path: Path) -> None:
        """A sample is opened as this format whoever asks, and a new path with its ending is written in it."""
        path = tmp_path / f"sample{self.suffix}"
        self.write_sample(path, self.sample())
        with open_store(path) as reader:
            assert reader.header.format == self.format
            assert reader.header.size_bytes == sum(file.stat().st_size for file in set(reader.header.files))
            assert format_for_target(tmp_path / f"new{self.suffix}", reader).name == self.format

    def test_specs_tell_names_shapes_and_dtypes_in_a_fixed_order(self) -> None:
        """Headers alone say what the values are."""
        arrays = self.sample()
        with self.opened(arrays) as reader:
            specs = reader.specs()
            assert {n: (s.shape, s.dtype) for n, s in specs.items()} == {
                n: (a.shape, a.dtype.name) for n, a in arrays.items()
            }
            assert all(name == spec.name for name, spec in specs.items())
            assert len({reader.key(name) for name in specs}) == len(specs)
            first = list(specs)
        with self.opened(arrays) as again:
            assert list(again.specs()) == first

    def test_every_dtype_is_read_bit_for_bit(self) -> None:
        """NaN payloads included; whole tensors and pieces."""
        for dtype in self.dtypes:
            arrays = self.sample(dtype)
            with self.opened(arrays) as reader:
                for name, values in arrays.items():
                    assert reader.specs()[name].dtype == dtype
                    for blocks in (1, 4):
                        np.testing.assert_array_equal(read_raw(reader, name, blocks), raw(values))

    @EXAMPLES
    @given(data=st.data())
    def test_any_range_is_read_bit_for_bit(self, data: st.DataObject) -> None:
        """A block may begin and end anywhere."""
        dtype = data.draw(st.sampled_from(list(self.dtypes)))
        shape = tuple(data.draw(st.lists(st.integers(1, 9), max_size=4)))
        (name,) = self.names(1)
        values = random_bits(dtype, shape, seed=1)
        with self.opened({name: values}) as reader:
            flat = raw(values)
            for _ in range(5):
                begin = data.draw(st.integers(0, flat.size))
                out = np.empty(data.draw(st.integers(0, flat.size - begin)), flat.dtype)
                reader.read_into(name, begin, out)
                np.testing.assert_array_equal(out, flat[begin : begin + out.size])

    def test_threads_may_read_at_once(self) -> None:
        """Reading has no position that threads could move for each other."""
        arrays = self.sample()
        with self.opened(arrays) as reader, ThreadPoolExecutor(4) as pool:
            names = [*arrays] * 4
            for name, found in zip(names, pool.map(lambda n: read_raw(reader, n, 3), names), strict=True):
                np.testing.assert_array_equal(found, raw(arrays[name]))

    def test_an_unknown_name_is_refused(self) -> None:
        """The message suggests names that there are."""
        arrays = self.sample()
        with self.opened(arrays) as reader:
            name = next(iter(arrays))
            for act in (lambda n: reader.key(n), lambda n: reader.read_into(n, 0, np.empty(1, np.float32))):
                with pytest.raises(UnknownNameError, match="did you mean"):
                    act(name + "x")

    def test_a_closed_store_stays_closed(self) -> None:
        """Closing twice does nothing, and nothing is read afterwards."""
        arrays = self.sample()
        with self.opened(arrays) as reader:
            name = next(iter(arrays))
            reader.close()
            reader.close()
            with pytest.raises((StoreError, OSError, ValueError, RuntimeError)):
                reader.read_into(name, 0, np.empty(35, raw(arrays[name]).dtype))

    def test_a_file_cut_short_is_refused(self, tmp_path: Path) -> None:
        """Wherever it ends: when it is opened, or at the latest when the values that are missing are read."""
        path = tmp_path / f"sample{self.suffix}"
        self.write_sample(path, self.sample())
        with open_store(path) as reader:
            victim = max(reader.header.files, key=lambda file: file.stat().st_size)
        whole = victim.read_bytes()
        for keep in (0, 1, len(whole) // 3, len(whole) - 1):
            victim.write_bytes(whole[:keep])
            with pytest.raises(StoreError):
                self._read_all(path)

    def _read_all(self, path: Path) -> None:
        with open_store(path) as reader:
            for name in reader.specs():
                read_raw(reader, name)

    # Writing

    def test_what_is_written_is_read_back(self, tmp_path: Path) -> None:
        """By us and by the reference, in every dtype, however the blocks arrive."""
        for dtype in self.dtypes:
            arrays = self.sample(dtype, seed=1)
            with self.opened(self.sample(dtype, seed=2)) as like:
                folder = tmp_path / dtype
                folder.mkdir()
                made = self.write(folder / f"made{self.suffix}", like, arrays)
            with FORMATS[self.format].open(made) as reader:
                assert {n: s.shape for n, s in reader.specs().items()} == {n: a.shape for n, a in arrays.items()}
                for name, values in arrays.items():
                    assert reader.specs()[name].dtype == dtype
                    np.testing.assert_array_equal(read_raw(reader, name), raw(values))
            found = self.read_sample(made)
            assert set(found) == set(arrays)
            for name, values in arrays.items():
                assert (found[name].shape, found[name].dtype) == (values.shape, values.dtype)
                np.testing.assert_array_equal(raw(found[name]), raw(values))

    def test_equal_inputs_give_equal_bytes(self, tmp_path: Path) -> None:
        """No date, no order of threads, no name of a temporary file gets into the result."""
        arrays = self.sample(seed=3)
        with self.opened(self.sample(seed=4)) as like:
            found = []
            for k in range(2):
                folder = tmp_path / str(k)
                folder.mkdir()
                made = self.write(folder / f"made{self.suffix}", like, arrays, seed=k, threads=1 + 2 * k)
                found.append(contents(made.parent if FORMATS[self.format].files_beside else made))
        assert found[0] == found[1]

    def test_the_record_survives(self, tmp_path: Path) -> None:
        """What made a file can be read from it, and a file made from it has its own record only."""
        arrays = self.sample(seed=5)
        with self.opened(arrays) as like:
            made = self.write(tmp_path / f"made{self.suffix}", like, arrays)
        with FORMATS[self.format].open(made) as reader:
            assert reader.header.provenance == {"made": "by a test"}
            (tmp_path / "second").mkdir()
            again = self.write(tmp_path / "second" / f"again{self.suffix}", reader, arrays)
        with FORMATS[self.format].open(again) as reader:
            assert reader.header.provenance == {"made": "by a test"}


__all__ = ["ALL", "FLOATS", "INTEGERS", "StoreContract", "contents", "numpy_dtype", "random_bits", "raw", "read_raw"]
