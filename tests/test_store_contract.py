"""Every format keeps `StoreContract`; the samples are written with h5py, zipfile and safetensors alone."""

import json
import zipfile

import h5py
import keras_files
import ml_dtypes
import numpy as np
import pytest
import tf_files
from safetensors import deserialize
from safetensors.numpy import load_file, save_file

from graftwork.errors import StoreError
from graftwork.stores import FORMATS, open_store
from graftwork.testing import ALL, StoreContract, numpy_dtype, random_bits, raw, read_raw


class TestKeras(StoreContract):
    format, suffix = "keras", ".keras"

    def write_sample(self, path, arrays):
        keras_files.keras_zip(path, arrays)

    def read_sample(self, path):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
            with archive.open("model.weights.h5") as file:
                return keras_files.weights_of(file)


class TestWeightsH5(StoreContract):
    format, suffix = "weights_h5", ".weights.h5"

    def write_sample(self, path, arrays):
        keras_files.weights_h5(path, arrays)

    def read_sample(self, path):
        return keras_files.weights_of(path)


class TestShardedH5(StoreContract):
    format, suffix = "sharded_h5", ".weights.json"

    def write_sample(self, path, arrays):
        keras_files.sharded(path, arrays)

    def read_sample(self, path):
        return keras_files.sharded_of(path)


class TestKerasDirectory(StoreContract):
    format = "keras_dir"

    def write_sample(self, path, arrays):
        keras_files.keras_directory(path, arrays)

    def read_sample(self, path):
        assert json.loads((path / "config.json").read_text()) == keras_files.THING
        return keras_files.weights_of(path / "model.weights.h5")


class TestPreset(StoreContract):
    format = "preset"

    def write_sample(self, path, arrays):
        keras_files.keras_directory(path, arrays, keras_hub_version="0.20.0")
        (path / "tokenizer.json").write_text('{"class_name": "Tokenizer"}')

    def read_sample(self, path):
        assert (path / "tokenizer.json").read_text() == '{"class_name": "Tokenizer"}'
        return keras_files.weights_of(path / "model.weights.h5")


class TestLegacyH5(StoreContract):
    format, suffix = "legacy_h5", ".h5"
    dtypes = tuple(dtype for dtype in ALL if dtype != "bfloat16")  # is read only: see test_store_legacy.py

    def write_sample(self, path, arrays):
        keras_files.legacy_h5(path, arrays)

    def read_sample(self, path):
        return keras_files.legacy_of(path)


class TestSafetensors(StoreContract):
    format, suffix = "safetensors", ".safetensors"
    dtypes = (*ALL, "float8_e4m3fn", "float8_e5m2")

    def write_sample(self, path, arrays):
        save_file(dict(arrays), path)

    def read_sample(self, path):
        codes = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BF16": "bfloat16", "BOOL": "bool"}
        codes |= {f"{kind[0].upper()}{n}": f"{kind}{n}" for kind in ("int", "uint", "float") for n in (8, 16, 32, 64)}
        return {
            name: np.frombuffer(entry["data"], numpy_dtype(codes[entry["dtype"]])).reshape(entry["shape"])
            for name, entry in deserialize(path.read_bytes())
        }


class TestHuggingFace(StoreContract):
    format = "huggingface"

    def write_sample(self, path, arrays):
        path.mkdir()
        (path / "config.json").write_text('{"model_type": "thing"}')
        save_file(dict(arrays), path / "model.safetensors", {"format": "pt"})

    def read_sample(self, path):
        return load_file(path / "model.safetensors")


class TestCheckpoint(StoreContract):
    format, suffix = "tf_checkpoint", ".index"
    dtypes = (*ALL, "float8_e4m3fn", "float8_e5m2", "complex64", "complex128")

    def write_sample(self, path, arrays):
        tf_files.checkpoint(path, arrays, shards=3)

    def read_sample(self, path):
        return tf_files.checkpoint_of(path)


class TestSavedModel(StoreContract):
    format = "saved_model"
    dtypes = (*ALL, "float8_e4m3fn", "float8_e5m2", "complex64", "complex128")

    def write_sample(self, path, arrays):
        (path / "variables").mkdir(parents=True)
        (path / "saved_model.pb").write_bytes(b"")
        tf_files.checkpoint(path / "variables" / "variables.index", arrays, shards=2)


def test_every_format_keeps_the_contract():
    """No format escapes."""
    assert {cls.format for cls in StoreContract.__subclasses__() if cls.__module__ == __name__} == set(FORMATS)


# What HDF5 and zip allow beyond what Keras writes ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool", "float16"])
@pytest.mark.parametrize(
    "options",
    [
        {"chunks": True},
        {"chunks": True, "compression": "gzip"},
        {"chunks": True, "compression": "gzip", "shuffle": True},
    ],
    ids=["chunked", "gzip", "shuffled"],
)
def test_chunked_and_compressed_datasets_are_read(tmp_path, dtype, options):
    """Slower than byte ranges, equal to the bit, wherever blocks begin."""
    arrays = {f"thing/{k}": random_bits(dtype, s, k) for k, s in enumerate([(300,), (17, 9), (5, 4, 3, 2), (2, 1, 70)])}
    keras_files.weights_h5(tmp_path / "a.weights.h5", arrays, **options)
    with open_store(tmp_path / "a.weights.h5") as reader:
        for name, values in arrays.items():
            for blocks in (1, 3, 7, values.size):
                np.testing.assert_array_equal(read_raw(reader, name, blocks), raw(values))


@pytest.mark.parametrize("kind", [">f4", ">f8", ">f2", ">i4", ">i8", ">u2"])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}], ids=["contiguous", "gzip"])
def test_big_endian_datasets_are_read(tmp_path, kind, options):
    """A file from another machine has the same numbers."""
    values = np.arange(60).reshape(5, 12).astype(kind) * 3 + 1
    keras_files.weights_h5(tmp_path / "a.weights.h5", {"thing/0": values}, **options)
    with open_store(tmp_path / "a.weights.h5") as reader:
        spec = reader.specs()["thing/0"]
        assert spec.dtype == values.dtype.newbyteorder("<").name
        for blocks in (1, 7):
            np.testing.assert_array_equal(read_raw(reader, "thing/0", blocks), values.reshape(-1).astype(spec.dtype))


def test_a_compact_dataset_is_read(tmp_path):
    """Small values that lie inside the object's header."""
    with h5py.File(tmp_path / "a.weights.h5", "w") as h5:
        group = h5.create_group("layers/thing/vars")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5,))
        made = h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32LE, space, dcpl=plist)
        made.write(space, space, np.arange(5, dtype=np.float32))
    with open_store(tmp_path / "a.weights.h5") as reader:
        np.testing.assert_array_equal(read_raw(reader, "thing/0", 3), np.arange(5, dtype=np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_deflated_keras_file_is_read(tmp_path, dtype):
    """Someone zipped it again."""
    arrays = {"thing/0": random_bits(dtype, (300, 20)), "thing/1": random_bits(dtype, ())}
    keras_files.keras_zip(tmp_path / "a.keras", arrays, compression=zipfile.ZIP_DEFLATED)
    with open_store(tmp_path / "a.keras") as reader:
        reader.check()
        for name, values in arrays.items():
            np.testing.assert_array_equal(read_raw(reader, name, 4), raw(values))


def test_a_damaged_byte_is_found_by_the_check(tmp_path):
    """`verify` compares members with the zip's CRCs."""
    keras_files.keras_zip(tmp_path / "a.keras", {"thing/0": np.ones(1000, np.float32)})
    data = bytearray((tmp_path / "a.keras").read_bytes())
    at = data.index(np.ones(4, np.float32).tobytes())
    data[at + 7] ^= 1
    (tmp_path / "a.keras").write_bytes(data)
    with open_store(tmp_path / "a.keras") as reader, pytest.raises(StoreError, match=r"model\.weights\.h5.*CRC"):
        reader.check()


def test_bfloat16_of_a_legacy_file_is_read(tmp_path):
    """With the attribute that Keras forgets, and without."""
    values = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16)
    keras_files.legacy_h5(tmp_path / "a.h5", {"thing/0": values, "thing/1": values})
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        del h5["thing/thing/0"].attrs["dtype"]
    with open_store(tmp_path / "a.h5") as reader:
        for name in ("thing/0", "thing/1"):
            assert reader.specs()[name].dtype == "bfloat16"
            np.testing.assert_array_equal(read_raw(reader, name), raw(values))
