"""Data: every kind of source gives the samples that were written, whatever it cannot give is refused in a sentence."""

import gzip
import io
import itertools
import os
import re
import struct
import subprocess
import sys
import tempfile
import textwrap
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graftwork.data import KINDS, Description, Samples, open_data
from graftwork.data.description import SOURCES
from graftwork.data.opening import told
from graftwork.data.streams import Batches
from graftwork.errors import DataError, UnknownNameError

arrow = pytest.importorskip("pyarrow")
csv_files = pytest.importorskip("pyarrow.csv")
parquet_files = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 4)).astype(np.float32)
Y = np.arange(23) % 3
W = np.linspace(0, 1, 23)


def whole(samples):
    """Return all samples, read in batches."""
    parts = list(samples.batches(5))
    inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs}
    labels = None if parts[0].labels is None else np.concatenate([part.labels for part in parts])
    weights = None if parts[0].weights is None else np.concatenate([part.weights for part in parts])
    return inputs, labels, weights


def is_what_was_written(samples, *, x=X, y=Y, weights=None):
    inputs, labels, counted = whole(samples)
    (values,) = inputs.values()
    np.testing.assert_array_equal(values, x)
    assert values.dtype == np.asarray(x).dtype.newbyteorder("=")
    np.testing.assert_array_equal(labels, y) if y is not None else None
    assert (labels is None) == (y is None)
    assert (counted is None) == (weights is None)
    np.testing.assert_array_equal(counted, weights) if weights is not None else None
    some = samples.take(np.array([7, 2, 2, 19]))
    np.testing.assert_array_equal(next(iter(some.inputs.values())), x[[7, 2, 2, 19]])


# Arrays ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
@pytest.mark.parametrize("x", [X, np.asfortranarray(X), X.astype(">f8"), X > 0, X.reshape(23, 2, 2).astype(np.float16)])
def test_npz(tmp_path, save, x):
    """Archives of any layout, byte order and compression; weights are found by their name."""
    save(tmp_path / "d.npz", x=x, y=Y, weights=W, other=np.zeros(23))

    is_what_was_written(open_data(tmp_path / "d.npz"), x=x, weights=W)
    is_what_was_written(open_data("d.npz", root=tmp_path), x=x, weights=W)


def test_an_archive_with_a_test_set_beside(tmp_path):
    """`x_train` and `x_test` have different numbers of rows, as in Keras's mnist.npz: what is named is taken, and else it is asked for."""
    path = tmp_path / "both.npz"
    np.savez(path, x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    found = open_data(path, x="x_test", y="y_test")
    assert len(found) == 5 and set(found.table.columns) == {"x_test", "y_test"}
    with pytest.raises(DataError, match=r"x_train 23, y_train 23, x_test 5.*say which are meant \(x, y\)"):
        open_data(path)
    with pytest.raises(DataError, match="different numbers of rows"):
        open_data(path, x="x_train", y="y_test")


@pytest.mark.parametrize("name", ["weights", "sample_weight", "sample_weights"])
def test_weights_are_found_by_their_usual_names(tmp_path, name):
    """What Keras calls `sample_weight` counts, instead of being passed over."""
    np.savez(tmp_path / "d.npz", x=X, y=Y, **{name: np.arange(23.0)})
    np.testing.assert_array_equal(open_data(tmp_path / "d.npz").take(np.array([3, 7])).weights, [3.0, 7.0])


@pytest.mark.parametrize("x", [X, np.asfortranarray(X), X[::-1]], ids=["C", "Fortran", "turned"])
def test_npy(tmp_path, x):
    """One file per array, or one alone."""
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", Y)

    is_what_was_written(open_data({"npy": {"x": "a.npy", "y": "b.npy"}}, root=tmp_path), x=x)
    is_what_was_written(open_data(tmp_path / "a.npy"), x=x, y=None)


def test_arrays_in_memory():
    """Inputs alone, with labels, with weights, by name, several of each; texts as any kind of array."""
    is_what_was_written(open_data(X), y=None)
    is_what_was_written(open_data((X, Y)))
    is_what_was_written(open_data((X, None, W)), y=None, weights=W)
    is_what_was_written(open_data({"x": X, "y": Y, "weights": W}), weights=W)
    is_what_was_written(open_data((X.tolist(), Y.tolist())), x=X.astype(np.float64))
    several = open_data(({"a": X, "b": X[:, :1]}, Y))
    assert several.inputs == {"a": ("x.a",), "b": ("x.b",)}
    assert open_data(([X, X[:, :1]], Y)).inputs == {"0": ("x.0",), "1": ("x.1",)}
    assert [*open_data((X, [Y, W])).table.columns] == ["x", "y.0", "y.1"]
    for texts in (
        np.array(["ä", "b", "c"]),
        np.array(["ä", "b", "c"], object),
        np.char.encode(["ä", "b", "c"], "utf-8"),
    ):
        found = open_data((X[:3], texts), classes=["c", "b", "ä"])
        assert whole(found)[1].tolist() == [2, 1, 0]
        assert found.table.columns["y"].dtype == "str"


def test_what_is_mapped_is_not_read(tmp_path):
    """Opening costs no memory, and archives that are stored are not copied to the disk."""
    np.savez(tmp_path / "d.npz", x=np.lib.stride_tricks.as_strided(X, (1, 1)))
    found = open_data(tmp_path / "d.npz")
    base = found.table._arrays["x"]
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base).__name__ == "mmap"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:5]), r"different numbers of rows \(x 23, y 5\)"),
        ((X[:0], Y[:0]), "no samples"),
        ((X, np.array([object()] * 23)), "'y' of the data holds Python objects"),
        ((X, np.zeros(23, "M8[s]")), r"holds datetime64\[s\]; expected numbers or texts"),
        (np.zeros(3, np.complex64), "holds complex64"),
        (np.float32(3), "no samples"),
        ((X, Y, W, W), "is a tuple; expected a path"),
        (3, "is a int; expected a path"),
        (([[1, 2], [3]], [0, 1]), "'x' of the data is no array"),
        ((batch for batch in [(X, Y)]), "which can be read once; pass the function that makes it"),
        ({}, "nowhere where it lies; say exactly one of npz, npy"),
        ({"npz": "a", "csv": "b"}, "npz and csv"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_data_is_refused(data, message):
    """What is wrong is said, with what was expected."""
    with pytest.raises(DataError, match=message):
        open_data(data)


# Hostile arrays --------------------------------------------------------------------------------------------------------


def npy(shape, descr="<f4", data=b"", fortran=False, version=(1, 0)):
    """Return a file of one array whose header says anything."""
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(header)) + header + data


LIES = {
    "more than is there": npy((100, 100), data=b"1234"),
    "less than is there": npy((1,), data=b"12345678"),
    "negative": npy((-1,), data=b"1234"),
    "overflowing": npy((2**32, 2**32), data=b"1234"),
    "of bool": npy((True,), data=b"1234"),
    "pickle": npy((1,), "|O", data=b"cos\nsystem\n(S'echo'\ntR."),
    "structured": npy((1,), [("a", "<f4"), ("b", "|O")], data=b"1234"),
    "no header": b"\x93NUMPY\x01\x00\xff\xff",
    "new version": npy((1,), data=b"1234", version=(9, 9)),
    "code": b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os')    ",
    "half a dict": b"\x93NUMPY\x01\x00" + struct.pack("<H", 10) + b"{'descr': ",
    "empty": b"",
    "text": b"x,y\n1,2\n",
    "bare pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("lie", LIES)
def test_hostile_arrays(tmp_path, lie):
    """Headers are believed only as far as the file goes; pickles are not loaded."""
    (tmp_path / "d.npy").write_bytes(LIES[lie])
    with pytest.raises(DataError, match=r"d\.npy cannot be read as an \.npy file: \S"):
        open_data(tmp_path / "d.npy")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "d.npz", "w", method) as archive:
            archive.writestr("x.npy", LIES[lie])
        with pytest.raises(DataError, match=r"d\.npz cannot be read as an \.npz file: \S"):
            open_data(tmp_path / "d.npz")


def test_hostile_archives(tmp_path, monkeypatch):
    """Truncated, damaged, with one name twice, encrypted, without arrays, or larger than the disk."""
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=X, y=Y)
    good = path.read_bytes()
    for broken in (good[: len(good) // 2], good[:200] + bytes(50) + good[250:], b"PK\x05\x06", b"", b"\0" * 99):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"d\.npz cannot be read"):
            open_data(path)
    locked = bytearray(good)
    locked[6] |= 1
    locked[good.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(DataError, match="encrypted"):
        open_data(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy((1,), data=b"1234"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy((1,), data=b"5678"))
    with pytest.raises(DataError, match="two arrays 'x'"):
        open_data(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(DataError, match=r"no arrays in .*numpy\.savez"):
        open_data(path)
    np.savez_compressed(path, x=np.zeros((1 << 20,), np.float32))
    monkeypatch.setattr("shutil.disk_usage", lambda place: types.SimpleNamespace(free=1 << 20))
    with pytest.raises(DataError, match=r"takes 4,194,432 bytes unpacked, and .* has 1,048,576; TMPDIR"):
        open_data(path)


# Tables ----------------------------------------------------------------------------------------------------------------

NAMES = [f"f{k}" for k in range(4)]


def table(**more):
    return arrow.table({name: X[:, k] for k, name in enumerate(NAMES)} | {"y": Y} | more)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_tables(tmp_path, ending):
    """Columns side by side, one each, or by the names of inputs; whole numbers stay whole, texts stay texts."""
    path = tmp_path / f"d.{ending}"
    texts = [f"zeile {k}\n„ä“" if k else "" for k in range(23)]
    found = table(text=texts, yes=Y > 0)
    if ending == "parquet":
        parquet_files.write_table(found, path, row_group_size=7)
    else:
        with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
            csv_files.write_csv(found, file)

    beside = open_data(path, x={"all": NAMES}, y="y")
    inputs, labels, _ = whole(beside)
    np.testing.assert_allclose(inputs["all"], X, rtol=1e-6)
    np.testing.assert_array_equal(labels, Y)
    assert labels.dtype == np.int64
    assert whole(open_data(path, x="text"))[0][""].tolist() == texts
    np.testing.assert_array_equal(whole(open_data(path, x="yes"))[0][""], Y > 0)
    two = open_data(path, x={"b": "f1", "a": ["f2", "y"]}, weights="f0")
    inputs, _, weights = whole(two)
    np.testing.assert_allclose(inputs["b"], X[:, 1], rtol=1e-6)
    np.testing.assert_allclose(inputs["a"], np.stack([X[:, 2], Y], 1), rtol=1e-6)
    np.testing.assert_allclose(weights, X[:, 0], rtol=1e-6)
    assert list(open_data(path, x=["f1", "f0"]).inputs.values()) == [("f1",), ("f0",)]
    shuffled = np.array([5, 0, 22, 5])
    assert open_data(path, x="text").take(shuffled).inputs[""].tolist() == [texts[k] for k in shuffled]


def test_parquet_columns(tmp_path):
    """Lists of one length are vectors, lists of those matrices; what cannot be used is refused when it is."""
    columns = {
        "vector": arrow.array(X.tolist(), arrow.list_(arrow.float32())),
        "fixed": arrow.FixedSizeListArray.from_arrays(arrow.array(X.ravel()), 4),
        "matrix": arrow.array(X.reshape(23, 2, 2).tolist(), arrow.large_list(arrow.list_(arrow.float32()))),
        "tensor": arrow.FixedShapeTensorArray.from_numpy_ndarray(X.reshape(23, 2, 2)),
        "word": arrow.array([f"k{k}" for k in Y]).dictionary_encode(),
        "words": arrow.array([[f"k{k}", "ü"] for k in Y]),
        "cents": arrow.array(range(23)).cast(arrow.decimal128(21, 2)),
        "ragged": arrow.array([[1.0] * (1 + k % 2) for k in range(23)]),
        "holes": arrow.array([[1.0, None]] * 23),
        "missing": arrow.array([1.0] * 20 + [None] * 3),
        "when": arrow.array(range(23), arrow.timestamp("s")),
        "y": arrow.array(Y),
    }
    parquet_files.write_table(arrow.table(columns), tmp_path / "d.parquet", row_group_size=10)

    def read(name):
        return whole(open_data(tmp_path / "d.parquet", x=name, y="y"))[0][""]

    for name in ("vector", "fixed"):
        np.testing.assert_array_equal(read(name), X)
    np.testing.assert_array_equal(read("matrix"), X.reshape(23, 2, 2))
    np.testing.assert_array_equal(read("tensor").reshape(23, 4), X)
    assert read("word").tolist() == [f"k{k}" for k in Y]
    assert read("words").tolist() == [[f"k{k}", "ü"] for k in Y]
    np.testing.assert_array_equal(read("cents"), np.arange(23.0))
    for name, message in {
        "ragged": "lists in column 'ragged' .* different lengths; pad them",
        "holes": "'holes' .* lists with missing values",
        "missing": "'missing' of d.parquet has no value in row 21; fill it",
        "when": r"'when' of d.parquet holds timestamp\[ms\]; expected numbers",
    }.items():
        with pytest.raises(DataError, match=message):
            read(name)


def test_parts_of_a_table(tmp_path):
    """Patterns, each file once; types that only later lines ask for; lines longer than what is read at a time."""
    (tmp_path / "part-1.csv").write_text("a,b,c\n" + "1,2,\n" * 3)
    (tmp_path / "part-2.csv").write_text("a,b,c\n" + "1,2.5,word\n" * 2)
    found = open_data({"csv": ["part-*.csv", "part-1.csv"], "x": {"": ["a", "b"]}}, root=tmp_path)
    assert whole(found)[0][""].tolist() == [[1, 2]] * 3 + [[1, 2.5]] * 2
    assert found.table.columns["a"].dtype == "int64"

    path = tmp_path / "late.csv"
    with path.open("w") as file:
        file.write("a,b\n" + "1,2000-01-01\n" * 400_000 + "0.5,somewhen\n2," + "x" * 5_000_000 + "\n")
    found = open_data(path, x="a")
    assert found.take(np.array([0, 400_000, 400_001])).inputs[""].tolist() == [1, 0.5, 2]
    assert found.table.take("b", np.array([399_999, 400_000])).tolist() == ["2000-01-01", "somewhen"]
    assert len(found.table.take("b", np.array([400_001]))[0]) == 5_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Empty CSV file"),
        (b"a,b\n", "no samples in d.csv"),
        (b"a,b\n1,2\n3\n", "Row #3: Expected 2 columns, got 1: 3"),
        (b"a,b\n1,2\n3,4,5\n", "Row #3: Expected 2 columns, got 3"),
        (b"a,b\n1,2\n3,\n", "column 'b' of d.csv has no value in row 3; fill it, or leave that row out"),
        (b"a,a\n1,2\n", "two columns 'a'"),
        (b"a;b\n1;2\n", "separated by ';'; expected commas"),
        (b"1.5,2\n1,2\n", "first line of d.csv holds numbers .* expected the names"),
        ("a,b\n1,\xe9\n".encode("latin-1"), "no text in UTF-8|which of its columns are inputs"),
        (b"a,b\n1,hello\n", r"does not tell which of its columns are inputs; say it \(x\): a, b"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "d.csv"),
    ],
    ids=str,
)
def test_broken_csv(tmp_path, content, message):
    """Rows are counted as a spreadsheet does: the names are the first."""
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "d.csv")


def test_tables_that_do_not_go_together(tmp_path):
    """Files of one table have the same columns, of the same types."""
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("b,a\n1,2\n")
    with pytest.raises(DataError, match=r"2\.csv has the columns b, a, and 1\.csv a, b"):
        open_data({"csv": "*.csv"}, root=tmp_path)
    parquet_files.write_table(arrow.table({"a": [1, 2]}), tmp_path / "1.parquet")
    parquet_files.write_table(arrow.table({"a": [1.5]}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"'a' of .* is int64 \(\) at first, and float64 \(\) in row 3"):
        open_data({"parquet": "*.parquet"}, root=tmp_path)
    (tmp_path / "1.parquet").write_bytes((tmp_path / "2.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"1\.parquet cannot be read"):
        open_data(tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"\*\.csv means 2 files"):
        open_data({"npz": "*.csv"}, root=tmp_path)


# Images ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Two classes: one with a palette, one grey, one of colours, one with transparency, one JPEG."""
    folder = tmp_path / "pictures"
    values = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)
    for name in ("dog", "cat/nested", ".hidden"):
        (folder / name).mkdir(parents=True)
    colour = Image.fromarray(values)
    colour.save(folder / "cat" / "1.png")
    colour.convert("L").save(folder / "cat" / "nested" / "2.PNG")
    colour.convert("RGBA").save(folder / "dog" / "3.png")
    colour.quantize(256).save(folder / "dog" / "4.gif")
    colour.save(folder / "dog" / "5.jpeg", quality=95)
    (folder / "dog" / "._3.png").write_bytes(b"what macOS leaves")
    (folder / "dog" / "notes.txt").write_text("no image")
    (folder / ".hidden" / "x.png").write_bytes(b"")
    return folder, values


def test_images(pictures):
    """Folders are classes in alphabetical order; values are those that Pillow decodes."""
    folder, values = pictures
    inputs, labels, _ = whole(open_data(folder))

    assert inputs[""].shape == (5, 8, 6, 3)
    assert inputs[""].dtype == np.uint8
    np.testing.assert_array_equal(inputs[""][0], values)
    grey = np.asarray(Image.fromarray(values).convert("L"))
    np.testing.assert_array_equal(inputs[""][1], np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(inputs[""][2], values)
    np.testing.assert_array_equal(inputs[""][3], values)  # 48 colours fit a palette
    np.testing.assert_array_equal(inputs[""][4], np.asarray(Image.open(folder / "dog" / "5.jpeg")))
    assert labels.tolist() == [0, 0, 1, 1, 1]
    assert open_data(folder).classes == ("cat", "dog")
    turned = open_data(folder, classes=["dog", "ape", "cat"])
    assert whole(turned)[1].tolist() == [0, 0, 0, 2, 2]
    assert open_data({"images": str(folder), "x": "file"}).take(np.array([0])).inputs[""][0].endswith("1.png")


def test_images_of_other_sizes(pictures):
    """Sizes are asked for, or all the same; channels are converted."""
    folder, values = pictures
    small = open_data(folder, size=[4, 3], channels=1, scale=1 / 255)
    expected = np.asarray(Image.fromarray(values).convert("L").resize((3, 4), Image.Resampling.BILINEAR))
    found = small.take(np.array([1])).inputs[""]
    np.testing.assert_array_equal(found, expected[None, ..., None] * np.float32(1 / 255))
    assert found.dtype == np.float32
    assert open_data(folder, channels=4).table.columns["image"].shape == (8, 6, 4)
    Image.fromarray(values[:5]).save(folder / "dog" / "6.png")
    with pytest.raises(DataError, match=r"6\.png is 5 × 6, expected 8 × 6 as the first image; say the size .*\(size\)"):
        whole(open_data(folder))
    assert whole(open_data(folder, size=[8, 6]))[0][""].shape == (6, 8, 6, 3)


def bomb():
    """Return a PNG of a few bytes that says it is 60,000 × 60,000."""
    held = io.BytesIO()
    Image.new("L", (1, 1)).save(held, "PNG")
    raw = bytearray(held.getvalue())
    raw[16:24] = struct.pack(">II", 60_000, 60_000)
    raw[29:33] = struct.pack(">I", zipfile.crc32(raw[12:29]))
    return bytes(raw)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "none of BMP, GIF, JPEG, PNG, WEBP"),
        (b"no image at all", "none of BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n", "none of BMP"),
        (bomb(), "cannot be read as an image: Image size .* exceeds limit"),
        ("cut", "cannot be read as an image"),
        ("deep", "more than 8 bits per channel"),
    ],
    ids=["empty", "text", "PostScript", "bomb", "cut", "16 bits"],
)
@pytest.mark.parametrize("first", [False, True])
def test_images_that_lie(pictures, content, message, first):
    """What is inside counts, not what it is called; nothing huge is decoded, and nothing is cut off to 8 bits."""
    folder, values = pictures
    file = folder / ("cat/0.png" if first else "dog/9.png")
    if content == "deep":
        Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(file)
    else:
        file.write_bytes((folder / "cat" / "1.png").read_bytes()[:-60] if content == "cut" else content)
    with pytest.raises(DataError, match=rf"{file.name} .*{message}"):
        whole(open_data(folder))


def test_folders_that_are_no_classes(pictures, tmp_path):
    """A folder that no class is called by, folders without images, none at all."""
    folder, _ = pictures
    with pytest.raises(DataError, match=r"folder 'dog' in .* is none of the classes cat, dgo"):
        open_data(folder, classes=["cat", "dgo"])
    with pytest.raises(DataError, match="two of the classes have one name"):
        open_data(folder, classes=["cat", "dog", "cat"])
    (tmp_path / "none" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in the folders of .*FOLDER/CLASS/IMAGE"):
        open_data(tmp_path / "none")
    with pytest.raises(DataError, match="no directory"):
        open_data({"images": "nowhere"}, root=tmp_path)


# Functions, and data sets that must be installed -----------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module beside the recipe, that Python would not find."""
    (tmp_path / "made_here.py").write_text(
        textwrap.dedent("""
        import numpy as np
        def arrays(count=4):
            return np.ones((count, 2)), np.arange(count)
        def batches(count=2):
            for number in range(count):
                yield np.full((3, 2), number), np.arange(3)
        def forever():
            yield from batches(10**9)
        def iterator():
            return iter([(np.ones((3, 2)),)])
        def fails():
            raise ValueError("no luck")
        def endless():
            return 3
        number = 3
        """)
    )
    (tmp_path / "broken_here.py").write_text("1 / 0")
    yield tmp_path
    for name in ("made_here", "broken_here"):
        sys.modules.pop(name, None)


def test_functions(module):
    """`module:function` returns arrays, or yields batches as often as it is asked; the path of modules is as before."""
    before = list(sys.path)
    found = open_data({"python": "made_here:arrays", "arguments": {"count": 7}, "part": "0:0.5"}, root=module)
    assert isinstance(found, Samples)
    assert len(found) == 4
    stream = open_data({"python": "made_here:batches", "arguments": {"count": 3}}, root=module)
    assert [[len(batch) for batch in stream] for _ in range(2)] == [[2, 2, 2]] * 2
    again = open_data({"python": "made_here:iterator"}, root=module)
    assert [len(list(again)) for _ in range(2)] == [1, 1]
    assert open_data(stream) is stream
    assert sys.path == before


def test_so_many_batches_of_what_never_ends(module):
    """They are one pass, from the beginning each time; samples are no batches."""
    stream = open_data({"python": "made_here:forever", "batches": 4}, root=module)
    assert [[int(x[0, 0]) for x, _ in stream] for _ in range(2)] == [[0, 1, 2, 3]] * 2
    assert len(list(open_data({"python": "made_here:batches", "batches": 4}, root=module))) == 2
    with pytest.raises(DataError, match=r"`batches` is for what yields them.*say `part`"):
        open_data({"python": "made_here:arrays", "batches": 4}, root=module)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("made_here", "write MODULE:FUNCTION"),
        ("nowhere_at_all:x", "no module 'nowhere_at_all', neither in"),
        ("made_here:no", "module 'made_here' has no function 'no'"),
        ("made_here:number", "is a int, not a function"),
        ("made_here:fails", r"made_here:fails failed: ValueError: no luck \(made_here.py, line \d+\)$"),
        ("made_here:endless", "made_here:endless is a int; expected"),
        (
            "broken_here:x",
            r"module 'broken_here' fails: ZeroDivisionError: division by zero \(broken_here.py, line 1\)$",
        ),
    ],
)
def test_functions_that_fail(module, spelling, message):
    """The user's own errors are told."""
    with pytest.raises(DataError, match=message):
        open_data({"python": spelling}, root=module)


def test_generators():
    """Functions give batches; what is only for columns is refused, and so are batches of four."""
    stream = open_data(lambda: iter([(X, Y), X]))
    assert [len(batch) for batch in stream] == [2, 1]
    for field in ({"x": "a"}, {"y": "a"}, {"weights": "a"}, {"part": "0:1"}, {"scale": 2.0}):
        with pytest.raises(DataError, match=f"{next(iter(field))!r} is for columns"):
            open_data(lambda: iter([(X, Y)]), **field)
    with pytest.raises(DataError, match="batch 0 of the data has 4 parts"):
        list(open_data(lambda: iter([(X, Y, W, W)])))
    with pytest.raises(DataError, match="returns a int; expected an iterator"):
        list(open_data(lambda: 3))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no luck\nat all"), r"ValueError: no luck \(test_data\.py, line \d+\)"),
        (KeyError("lost"), r"KeyError: 'lost' \(test_data\.py, line \d+\)"),
        (DataError("ours"), None),
        (KeyboardInterrupt(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_what_makes_batches(error, told, indexed):
    """They are told with the batch and the line, and kept as the cause; what is ours stays as it is, and so do interruptions."""

    def batches():
        yield X, Y
        raise error

    class Sheets:
        def __len__(self):
            return 3

        def __getitem__(self, number):
            if number:
                raise error
            return X, Y

    found = iter(Batches(Sheets() if indexed else batches, "the data"))
    next(found)
    with pytest.raises(BaseException) as raised:
        next(found)
    if told is None:
        assert raised.value is error
    else:
        assert isinstance(raised.value, DataError) and raised.value.__cause__ is error
        assert re.fullmatch(rf"batch 1 of the data cannot be made: {told}", str(raised.value))


class Features:
    """What TensorFlow Datasets has of features: no dictionary."""

    def __init__(self, **features):
        self.items = features.items


def test_data_sets_of_tensorflow_datasets(monkeypatch):
    """Read in pieces; nested names are joined; labels and their classes are known. A stand-in for the package will do."""
    batches = [
        {"image": X[k : k + 10], "label": Y[k : k + 10], "more": {"id": np.array([b"%d" % j for j in range(k, min(k + 10, 23))], object)}}
        for k in (0, 10, 20)
    ]  # fmt: skip
    asked = []
    features = Features(
        image=types.SimpleNamespace(shape=(4,)), label=types.SimpleNamespace(names=["a", "b", "c"]), more=Features()
    )
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features=features, full_name="x/1.0.0", supervised_keys=("image", "label")),
        data_dir="gs://nowhere/x/1.0.0",
        download_and_prepare=lambda: None,
        as_dataset=lambda **options: asked.append(options) or types.SimpleNamespace(ragged_batch=lambda size: batches),
    )
    fake = types.ModuleType("tensorflow_datasets")
    fake.builder = {"mnist": builder}.__getitem__
    fake.as_numpy = lambda found: found
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)

    found = open_data({"tfds": "mnist", "split": "test"})

    is_what_was_written(found)
    assert found.classes == ("a", "b", "c")
    assert found.table.take("more.id", np.array([21]))[0] == "21"
    assert asked[0] == {"split": "test", "decoders": {}}
    assert found.fingerprint() != open_data({"tfds": "mnist", "split": "train"}).fingerprint()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="pip install tensorflow-datasets"):
        open_data({"tfds": "mnist"})


def test_data_sets_that_tensorflow_datasets_wrote(tmp_path):
    """What the package itself reads of a directory; images of several sizes are resized, lists of several lengths are refused."""
    tfds = pytest.importorskip("tensorflow_datasets")
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (5 + row % 2, 6, 3), dtype=np.uint8) for row in range(7)]
    rows = [
        {"picture": image, "even": image[:4], "kind": row % 2, "size": {"of": [row, 2]}, "many": [1] * (row % 3)}
        for row, image in enumerate(images)
    ]
    signature = {
        "picture": tf.TensorSpec((None, 6, 3), tf.uint8),
        "even": tf.TensorSpec((4, 6, 3), tf.uint8),
        "kind": tf.TensorSpec((), tf.int64),
        "size": {"of": tf.TensorSpec((2,), tf.float32)},
        "many": tf.TensorSpec((None,), tf.int64),
    }
    kinds = tfds.features
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="small",
        version="1.0.0",
        features=kinds.FeaturesDict(
            {
                "picture": kinds.Image(shape=(None, 6, 3), encoding_format="png"),
                "even": kinds.Image(shape=(4, 6, 3), encoding_format="png"),
                "kind": kinds.ClassLabel(names=["odd", "even"]),
                "size": {"of": kinds.Tensor(shape=(2,), dtype=np.float32)},
                "many": kinds.Sequence(np.int64),
            }
        ),
        split_datasets={"train": tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=signature)},
        data_dir=tmp_path,
    )
    wanted = list(tfds.as_numpy(builder.as_dataset(split="train")))
    said = {"tfds": "small/1.0.0", "y": "kind"}

    for column, taken in (("even", lambda row: row["even"]), ("size.of", lambda row: row["size"]["of"])):
        part = open_data({**said, "x": column}, root=tmp_path).take(np.arange(7))
        np.testing.assert_array_equal(part.inputs[""], np.stack([taken(row) for row in wanted]))
        assert part.labels.tolist() == [row["kind"] for row in wanted]
    resized = open_data({**said, "x": "picture", "size": [3, 3]}, root=tmp_path)
    assert resized.take(np.arange(7)).inputs[""].shape == (7, 3, 3, 3)
    assert resized.fingerprint() != open_data({**said, "x": "picture", "size": [4, 3]}, root=tmp_path).fingerprint()
    with pytest.raises(DataError, match=r"say the size that all are resized to"):
        open_data({**said, "x": "picture"}, root=tmp_path).take(np.arange(7))
    with pytest.raises(DataError, match=r"'many' of small/1.0.0 .* different shapes"):
        open_data({**said, "x": "many"}, root=tmp_path)
    with pytest.raises(DataError, match="Unknown split 'valid'"):
        open_data({**said, "x": "even", "split": "valid"}, root=tmp_path)


# Descriptions ----------------------------------------------------------------------------------------------------------


def test_every_source_is_known():
    """What a description can say is what can be opened."""
    assert set(SOURCES) == set(KINDS)
    assert set(SOURCES) <= set(Description.model_fields)


def test_descriptions(tmp_path):
    """A path, a mapping, a `Description` and a YAML file beside the data say the same."""
    (tmp_path / "deep").mkdir()
    np.savez(tmp_path / "deep" / "d.npz", a=X, b=Y)
    (tmp_path / "deep" / "said.yaml").write_text("npz: d.npz\nx: a\ny: b\npart: 0:0.5\n")
    said = {"npz": str(tmp_path / "deep" / "d.npz"), "x": "a", "y": "b", "part": "0:0.5"}
    expected = open_data(said)
    for data, further in [
        (tmp_path / "deep" / "said.yaml", {}),
        (Description(**said), {}),
        (Description(npz=said["npz"], x="b"), {"x": "a", "y": "b", "part": [0, 0.5]}),
        (said["npz"], {"x": "a", "y": "b", "part": 0.5}),
    ]:
        found = open_data(data, **further)
        assert found.fingerprint() == expected.fingerprint()
        assert len(found) == 12
    assert open_data(expected) is expected
    with pytest.raises(DataError, match="is open already; say 'y' where it is opened"):
        open_data(expected, y="a")
    assert told(said["npz"]) == said["npz"]
    assert told(Description(**said)) == said
    assert told((X, Y)) == "a tuple in memory"


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"npz": "d.npz", "clases": ["a"]}, UnknownNameError, "'clases'; did you mean 'classes'"),
        ({"npz": "d.npz", "x": "a", "y": "z"}, UnknownNameError, "no array in d.npz is called 'z'"),
        ({"npz": "d.npz", "x": {"": ["a", "bb"]}}, UnknownNameError, "'bb'"),
        ({"npz": "d.npz"}, DataError, r"which of its columns are inputs; say it \(x\): a, b"),
        ({"npz": "d.npz", "size": [3, 3]}, DataError, "'size' is for images, tfrecord, tfds, not for npz"),
        ({"npz": "d.npz", "arguments": {}}, DataError, "'arguments' is for python"),
        ({"npz": "d.npz", "stratify": True}, DataError, "'stratify' is for parts"),
        ({"npz": "d.npz", "x": "a", "part": "0.8"}, DataError, "'0.8' is no part of the samples; write fractions"),
        ({"npz": "d.npz", "x": "a", "part": "0.8:0.2"}, DataError, "no part"),
        ({"npz": "d.npz", "x": "a", "part": "0:nan"}, DataError, "no part"),
        ({"npz": "d.npz", "x": "a", "part": "0:0.001"}, DataError, "0.001 of the 23 samples of d.npz is none"),
        ({"npz": "d.npz", "x": "a", "part": "0:1", "stratify": True}, DataError, "no labels to stratify by"),
        ({"npz": "d.npz", "x": "a", "scale": 0}, DataError, "'scale'"),
        ({"npz": "d.npz", "x": "a", "y": "t"}, DataError, r"column 't'\) are texts such as 'u'; say which classes"),
        ({"npz": "d.npz", "x": "a", "y": "t", "classes": ["v"]}, DataError, "'u' of d.npz .* none of the classes v"),
        ({"npz": "d.npz", "x": "a", "weights": "t"}, DataError, "weights of d.npz .* are texts"),
        ({"images": "d", "size": [0, 3]}, DataError, "greater than 0"),
        ({"images": "d", "channels": 2}, DataError, "1, 3 or 4"),
        ({"tfrecord": "d", "features": {"a": {"shape": [4], "decode": "image"}}}, DataError, "height, width, channels"),
        ({"npz": "e.npz"}, DataError, "e.npz is not there"),
        ({"npz": "."}, DataError, "is a directory, not a file"),
        ("d.txt", DataError, "is not there, and no data that is known by its name"),
        ("d.yaml", DataError, "d.yaml cannot be read as YAML"),
        ("twice.yaml", DataError, "twice.yaml cannot be read as YAML: line 2, column 1: 'npz' is given a second time"),
        ("list.yaml", DataError, r"list.yaml holds \['a'\], expected a description|list.yaml holds"),
    ],
    ids=str,
)  # fmt: skip
def test_descriptions_that_make_no_sense(tmp_path, said, error, message):
    """Which field, what was found, what was expected."""
    np.savez(tmp_path / "d.npz", a=X, b=Y[:, None] * X[:, :2], t=np.array(["u"] * 23))
    (tmp_path / "list.yaml").write_text("[a]")
    (tmp_path / "twice.yaml").write_text("npz: d.npz\nnpz: e.npz")
    with pytest.raises(error, match=message):
        whole(open_data(said, root=tmp_path))


# Splits and orders -----------------------------------------------------------------------------------------------------


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    edges=st.lists(st.integers(1, 19), max_size=3, unique=True).map(sorted),
    seed=st.integers(0, 5),
    stratify=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_parts_are_disjoint_and_cover_all(labels, edges, seed, stratify):
    """Parts that are described one by one fit each other; shares hold to within one sample, in every class if asked."""
    labels = np.array(labels)
    every = open_data((np.arange(len(labels)), labels))
    cuts = [0.0, *(edge / 20 for edge in edges), 1.0]
    found = []
    for begin, end in itertools.pairwise(cuts):
        try:
            part = every.between(begin, end, seed=seed, stratify=stratify)
        except DataError:
            assert (end - begin) * len(labels) < 1 or stratify
            continue
        found.append(part.rows)
        for label in np.unique(labels) if stratify else [None]:
            mine = labels[part.rows] == label if stratify else np.ones(len(part), bool)
            all_ = labels == label if stratify else np.ones(len(labels), bool)
            assert abs(mine.sum() - (end - begin) * all_.sum()) < 1 + 1e-9
        assert np.all(np.diff(part.rows) > 0)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(labels)))


@given(
    count=st.integers(1, 400),
    shares=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    seed=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_splits_are_parts(count, shares, seed):
    """`split` gives what descriptions of the same fractions give, each time; another seed draws others."""
    assume(count >= 2 * sum(shares))
    every = open_data(np.arange(count))
    fractions = [share / sum(shares) for share in shares]

    parts = every.split(*fractions, seed=seed)

    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(count))
    again = every.split(*fractions, seed=seed)
    assert [part.fingerprint() for part in parts] == [part.fingerprint() for part in again]
    if count > 50 and len(shares) > 1:
        assert not np.array_equal(parts[0].rows, every.split(*fractions, seed=seed + 1)[0].rows)


def test_small_classes_go_to_both_sides():
    """A thousand classes of three: four fifths of the samples are four fifths, not two thirds."""
    every = open_data((np.zeros(3000), np.arange(3000) % 1000))
    assert abs(len(every.split(0.8, 0.2, stratify=True)[0]) - 2400) <= 1


def test_what_can_be_stratified_by():
    """Classes as numbers, texts, in a column of their own, one-hot; not numbers, and not several per sample."""

    def shares(labels, **more):
        part = open_data((np.zeros(len(labels)), labels), part="0:0.5", stratify=True, **more)
        return np.bincount((Y[:20] > 0)[part.rows].astype(int), minlength=2).tolist()

    truth = (Y[:20] > 0).astype(int)
    expected = shares(truth)
    assert shares(truth[:, None]) == shares(np.eye(2)[truth]) == expected
    assert shares(np.array(["no", "yes"])[truth], classes=["no", "yes"]) == expected
    for labels in (W[:20], np.ones((20, 2)), np.full(20, np.nan)):
        with pytest.raises(DataError, match="not one class per sample"):
            shares(labels)


def test_shares_that_are_none():
    """More than everything, less than nothing."""
    for shares in ((0.7, 0.7), (-0.1, 0.5), (float("nan"),), (0, 1)):
        with pytest.raises(DataError, match="no parts of 1"):
            open_data(X).split(*shares)


@given(size=st.integers(1, 30), seed=st.integers(0, 4), epoch=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_batches_are_drawn_by_seed_and_epoch(size, seed, epoch):
    """Each epoch shows every sample once, in the same order for the same seed and epoch and in another one otherwise."""
    every = open_data((X, Y)).only(slice(3, None))

    def order(*which):
        return np.concatenate([part.rows for part in every.batches(size, seed=which[0], epoch=which[1])]).tolist()

    assert sorted(order(seed, epoch)) == list(range(3, 23))
    assert order(seed, epoch) == order(seed, epoch)
    assert order(seed, epoch) != order(seed, epoch + 1) != order(seed + 1, epoch)
    assert every.shuffled(seed, epoch).rows.tolist() == order(seed, epoch)
    part = next(every.batches(size, seed=seed, epoch=epoch))
    np.testing.assert_array_equal(part.inputs[""], X[part.rows])
    np.testing.assert_array_equal(part.labels, Y[part.rows])


def test_classes_can_be_replaced():
    """No name of another list is left."""
    found = open_data((X, np.array(["a"] * 23)), classes=["a", "b"])
    assert whole(replace(found, classes=("b", "a")))[1].tolist() == [1] * 23
    with pytest.raises(DataError, match="none of the classes c"):
        whole(replace(found, classes=("c",)))


# Fingerprints ----------------------------------------------------------------------------------------------------------


def test_fingerprints_tell_samples_apart(tmp_path, pictures):
    """Everything that changes what comes out changes the key that caches are kept by; opening again does not."""
    np.savez(tmp_path / "d.npz", a=X, b=X + 1, t=np.array(["u", "v", "w"])[Y])
    np.save(tmp_path / "1.npy", X)
    np.save(tmp_path / "2.npy", X)
    (tmp_path / "d.csv").write_text("a,b\n1,2\n3,4\n5,6\n")
    folder = str(pictures[0])
    npz = {"npz": "d.npz", "x": "a", "y": "t", "classes": ["u", "v", "w"]}
    said = [
        npz,
        npz | {"x": "b"},
        npz | {"x": ["a", "b"]},
        npz | {"x": {"": ["a", "b"]}},
        npz | {"x": {"": ["b", "a"]}},
        npz | {"y": "b"},
        npz | {"weights": "b"},
        npz | {"classes": ["v", "u", "w"]},
        npz | {"scale": 2},
        npz | {"offset": 2},
        npz | {"part": "0:0.5"},
        npz | {"part": "0.5:1"},
        npz | {"part": "0:0.5", "seed": 1},
        {"npy": {"x": "1.npy", "x2": "2.npy"}},
        {"npy": {"x": "2.npy", "x2": "1.npy"}},
        {"csv": "d.csv"},
        {"csv": "d.csv", "x": "a"},
        {"images": folder},
        {"images": folder, "channels": 1},
        {"images": folder, "size": [4, 4]},
        {"images": folder, "classes": ["dog", "cat"]},
        *[(X, Y), (X + 0.5, Y), (X.astype(np.float64), Y), ({"a": X}, Y), (X, Y[::-1]), (X[::-1], Y)],
    ]

    def prints():
        return [open_data(each, root=tmp_path).fingerprint() for each in said]

    found = prints()
    assert len(set(found)) == len(found)
    assert prints() == found
    every = open_data((X, Y))
    assert (
        len({each.fingerprint() for each in (every, every.shuffled(0), every.shuffled(0, 1), every.only(slice(5)))})
        == 4
    )


def test_fingerprints_are_of_what_was_opened(tmp_path):
    """A file that is replaced by one of the same size and time is another; what was opened before keeps its own."""
    path = tmp_path / "d.csv"
    path.write_text("a,b\n1,2\n")
    before = open_data(path)
    told_before, times = before.fingerprint(), path.stat()
    (tmp_path / "new").write_text("a,b\n1,3\n")
    (tmp_path / "new").replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    while path.stat().st_ctime_ns == times.st_ctime_ns:  # until the file system's clock has ticked
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_data(path).fingerprint() != told_before == before.fingerprint()
    assert whole(before)[0][""].tolist() == [[1, 2]]


# Memory and the disk ---------------------------------------------------------------------------------------------------

WATCHED = """
import gc, os, sys, threading, time
import numpy as np
import pyarrow.csv, pyarrow.parquet
from graftwork.data import open_data

def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) >> 10

before, most, over = own(), 0, False
def watch():
    global most
    while not over:
        most = max(most, own())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
total = 0.0
samples = open_data(sys.argv[1], x=sys.argv[2])
for part in samples.batches(256, seed=0):
    values = part.inputs[""]
    total += float(values.sum()) if values.dtype.kind == "f" else float(np.char.str_len(values).sum())
over = True
thread.join()
print(len(samples), total, most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", ["npz", "npz compressed", "npy Fortran", "csv", "parquet", "texts"])
def test_memory_does_not_grow_with_the_data(tmp_path, kind):
    """300 MB of samples are read, shuffled, by a process that holds less than two thirds of that; nothing is left behind."""
    count, width = 150_000, 512
    path, x = tmp_path / "d", "x"
    values = np.ones((count, width), np.float32)
    if "compressed" not in kind:  # which would take long
        values *= np.random.default_rng(1).integers(0, 100, (count, width), dtype=np.uint8)
    expected = float(values.sum(dtype=np.float64))
    if kind.startswith("npz"):
        path = path.with_suffix(".npz")
        (np.savez_compressed if "compressed" in kind else np.savez)(path, x=values)
    elif kind.startswith("npy"):
        path = path.with_suffix(".npy")
        np.save(path, np.asfortranarray(values))
    elif kind == "parquet":
        path = path.with_suffix(".parquet")
        lists = arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), width)
        parquet_files.write_table(arrow.table({"x": lists}), path, compression="none", use_dictionary=False)
    else:
        path, x = path.with_suffix(".csv"), "a"
        text = "x" * 1995
        with path.open("w") as file:
            file.write("a,b\n")
            for first in range(0, count, 1000):
                rows = range(first, first + 1000)
                file.write("".join(f"{text}{k},{k}\n" if kind == "texts" else f"{k}.5,{text}{k}\n" for k in rows))
        expected = float(
            sum(1995 + len(str(k)) for k in range(count)) if kind == "texts" else sum(k + 0.5 for k in range(count))
        )
    del values
    assert path.stat().st_size > 280 << 20 or "compressed" in kind
    place = tmp_path / "temporary"
    place.mkdir()

    done = subprocess.run(
        [sys.executable, "-c", WATCHED, path, x],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(place)},
    )

    assert done.returncode == 0, done.stderr
    rows, total, grown = done.stdout.split()
    assert int(rows) == count
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert int(grown) < 200, f"{grown} MB"
    assert not list(place.iterdir())


def test_temporary_files_are_gone(tmp_path, monkeypatch):
    """While data is open, too: nothing is left by a process that is killed then."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "place"))
    (tmp_path / "place").mkdir()
    np.savez_compressed(tmp_path / "d.npz", x=X)
    (tmp_path / "d.csv").write_text("a,b\n1,x\n2,y\n")
    (tmp_path / "broken.csv").write_text("a,b\n1,x\n2\n")
    kept = [open_data(tmp_path / "d.npz"), open_data(tmp_path / "d.csv", x="b")]
    with pytest.raises(DataError):
        open_data(tmp_path / "broken.csv")
    assert not list((tmp_path / "place").iterdir())
    assert whole(kept[1])[0][""].tolist() == ["x", "y"]
    np.testing.assert_array_equal(whole(kept[0])[0][""], X)


def test_opening_data_loads_no_framework(tmp_path):
    """Arrays and tables are read without Keras and TensorFlow; pyarrow and Pillow only when they are needed."""
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    program = (
        "import sys; from graftwork.data import open_data; open_data(sys.argv[1]).split(0.5, 0.5);"
        "print([name for name in ('keras', 'tensorflow', 'pyarrow', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "d.npz"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
