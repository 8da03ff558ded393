"""The executor: the same bytes however the work is cut, plain NumPy's values, bounded memory, and nothing left behind when it fails."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras_files
import numpy as np
import pytest
import tf_files
from reference_methods import REFERENCES
from safetensors.numpy import load_file, save_file
from test_methods import CASES as METHOD_ROWS
from test_methods import resolved

import graftwork as gw
from graftwork import methods
from graftwork.executor import blocks, local, written
from graftwork.methods.arrays import merge_arrays
from graftwork.methods.base import CHUNK
from graftwork.stores import FORMATS
from graftwork.testing import contents, numpy_dtype

EXAMPLES = [
    ("linear", 3, {"weights": [1, 2, 0.5]}),
    ("linear", 2, {"normalize": False, "weights": [0.3, 0.9]}),
    ("slerp", 2, {"t": 0.3}),
    ("passthrough", 1, {}),
    ("task_arithmetic", 3, {"lambda_": 0.7}),
    ("ties", 3, {"density": 0.3}),
    ("ties", 3, {"density": 0.3, "trim": "model"}),
    ("dare_linear", 2, {"density": 0.4}),
    ("dare_linear", 2, {"density": 0.4, "rescale_norm": "l1"}),
    ("dare_ties", 3, {"density": 0.4}),
]
"""Compared with plain NumPy below; the other methods are in tests/test_methods.py, and here with what `merge_arrays` gives."""


def usual(row):
    """Return a number of models that a method is tried with, near three."""
    return min(row.counts, key=lambda count: abs(count - 3))


ROWS = [row for row in METHOD_ROWS if not methods.get(row.method).companion]
EVERY = [
    *EXAMPLES,
    *((row.method, n, resolved(row.options, n)) for row in ROWS for n in [usual(row)]),
]


def ids(cases):
    """Return a name for each case."""
    return [f"{method}-{'-'.join(str(v) for v in options.values())}" for method, _, options in cases]


def has_base(method):
    return methods.get(method).base is methods.Base.REQUIRED


def listing(folder):
    """Return every path below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def state(folder):
    """Return contents and time of change of every file below a folder."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


# The same bytes -----------------------------------------------------------------------------------------------------

BIG = 1_200_000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Eight files of one model: a tensor of many blocks, small ones, a scalar, nothing, statistics, half precision."""
    folder = tmp_path_factory.mktemp("models")
    for k in range(8):
        rng = np.random.default_rng(k)
        # multiples of 1/64 make equal magnitudes common, so that ties between them are broken everywhere
        coarse = (rng.integers(-64, 65, 70_000) / 64).astype(np.float32)
        save_file(
            {
                "big": rng.standard_normal(BIG, dtype=np.float32),
                "coarse": coarse,
                "matrix": rng.standard_normal((320, 250), dtype=np.float32),
                "filters": rng.standard_normal((7, 5, 3, 3), dtype=np.float32),
                "half": rng.standard_normal((300, 250)).astype(numpy_dtype("bfloat16")),
                "double": rng.standard_normal((33, 5)),
                "one": rng.standard_normal(()).astype(np.float32),
                "none": np.zeros((0, 4), np.float32),
                "bn.running_mean": rng.standard_normal(9).astype(np.float32),
                "steps": np.arange(5),
            },
            folder / f"m{k}.safetensors",
        )
    return [folder / f"m{k}.safetensors" for k in range(8)]


@pytest.mark.parametrize(("method", "count", "options"), EVERY, ids=ids(EVERY))
def test_threads_and_blocks_do_not_change_a_bit(models, tmp_path, monkeypatch, method, count, options):
    """1, 2 and 5 threads, blocks of 4096, 65536 and everything at once, held between passes or read again: one file."""
    base = models[7] if has_base(method) else None
    found = set()
    for block, threads in ((4096, 1), (4096, 5), (65536, 2), (1 << 21, 1), (1 << 21, 2)):
        monkeypatch.setattr(local, "HELD", 0 if threads == 2 else 1 << 26)
        monkeypatch.setattr(blocks, "block_elements", lambda *_, block=block: max(CHUNK, block))
        out = tmp_path / "out.safetensors"
        gw.merge(models[:count], method=method, base=base, output=out, threads=threads, overwrite=True, **options)
        found.add(out.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("layout", ["keras", "torch"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method)
def test_files_give_what_arrays_give(tmp_path, monkeypatch, row, layout):
    """Units are found in the layout of the file, whatever the blocks: names with slashes are Keras's."""
    monkeypatch.setattr(blocks, "block_elements", lambda *_: CHUNK)
    shapes = {"a/kernel": (70, 90), "b/kernel": (3, 3, 5, 8), "c/bias": (90,), "d/kernel": (1, 5), "e/scale": ()}
    names = {name: name if layout == "keras" else name.replace("/", ".") for name in shapes}
    count = usual(row)
    rng = np.random.default_rng(0)
    arrays = [
        {names[n]: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
        for _ in range(count + 1)
    ]
    for k, tensors in enumerate(arrays):
        save_file(tensors, tmp_path / f"{k}.safetensors")
    files = [tmp_path / f"{k}.safetensors" for k in range(count)]
    base = tmp_path / f"{count}.safetensors" if row.has_base else None

    options = resolved(row.options, count)
    out = gw.merge(files, method=row.method, base=base, output=tmp_path / "out.safetensors", seed=3, **options)

    for name, found in load_file(out).items():
        wanted = merge_arrays(
            row.method,
            [tensors[name] for tensors in arrays[:count]],
            base=arrays[count][name] if row.has_base else None,
            name=name,
            seed=3,
            unit_axis=-1 if layout == "keras" else 0,
            **options,
        )
        np.testing.assert_array_equal(found, wanted, err_msg=name)


def test_the_seed_and_nothing_else_draws_the_masks(models, tmp_path):
    """Same seed, same bytes; another seed, other bytes."""
    made = [
        gw.merge(
            models[:2],
            method="dare_linear",
            base=models[3],
            density=0.5,
            seed=seed,
            output=tmp_path / f"{k}.safetensors",
        ).read_bytes()
        for k, seed in enumerate((7, 7, 8))
    ]
    assert made[0] == made[1] != made[2]


# Values -------------------------------------------------------------------------------------------------------------

MIXTURES = [
    ("float32", "float32", "float32", "float32"),
    ("float16",) * 4,
    ("bfloat16",) * 4,
    ("float64",) * 4,
    ("float32", "float16", "bfloat16", "float32"),
    ("bfloat16", "float32", "float64", "float16"),
]
ULPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2e-6, "float64": 1e-13}


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda m: "-".join(dict.fromkeys(m)))
@pytest.mark.parametrize(("method", "count", "options"), EXAMPLES, ids=ids(EXAMPLES))
def test_values_are_those_of_plain_numpy(tmp_path, method, count, options, mixture):
    """Against the formula on whole arrays in float64; the result may be off by one rounding to its dtype."""
    if options.get("trim") == "model" or options.get("rescale_norm") == "l1":
        pytest.skip("the reference knows one tensor, without L1")
    rng = np.random.default_rng(0)
    wide = "float64" in (*mixture[:count], *(mixture[3:] if has_base(method) else ()))
    arrays = []
    for k, dtype in enumerate(mixture):
        arrays.append(rng.standard_normal((61, 83)).astype(numpy_dtype(dtype)))
        save_file({"w": arrays[-1]}, tmp_path / f"{k}.safetensors")
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]
    base = files[3] if has_base(method) else None
    out = gw.merge(files[:count], method=method, base=base, output=tmp_path / "out.safetensors", seed=3, **options)

    worked = [a.astype(np.float64 if wide else np.float32) for a in arrays]
    options = dict(options)
    if "weights" in options:
        options["weight"] = options.pop("weights")
    wanted = REFERENCES[method](worked[:count], worked[3] if base else None, seed=3, name="w", **options)
    found = load_file(out)["w"]
    assert found.dtype == numpy_dtype(mixture[0])
    tolerance = ULPS[mixture[0]] if not (wide is False and mixture[0] == "float64") else ULPS["float32"]
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_models_that_agree_keep_their_values_to_the_bit(tmp_path, count, dtype):
    """An average of equal numbers is that number, whatever their count: frozen layers stay as they were."""
    values = np.random.default_rng(0).standard_normal((77, 31)).astype(numpy_dtype(dtype))
    for k in range(count):
        save_file({"w": values}, tmp_path / f"{k}.safetensors")
    files = [tmp_path / f"{k}.safetensors" for k in range(count)]
    for name, weights in (("equal", None), ("unequal", [0.1 * (k + 1) for k in range(count)])):
        out = gw.merge(files, weights=weights, output=tmp_path / f"{name}.safetensors")
        np.testing.assert_array_equal(load_file(out)["w"], values)


def test_a_tensor_whose_values_have_no_answer_is_named(tmp_path):
    """Directions that balance have no mean on the sphere; which tensor, is what the user needs to know."""
    arrays = [np.array(v, np.float32) for v in ([1, 0], [-1, 0], [0, 1], [0, -1])]
    for k, array in enumerate(arrays):
        save_file({"fine": np.ones(2, np.float32), "odd": array}, tmp_path / f"{k}.safetensors")
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]

    with pytest.raises(gw.GraftworkError, match="tensor 'odd': "):
        gw.merge(files, method="multislerp", output=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


# Memory -------------------------------------------------------------------------------------------------------------

PEAK = """
import sys
import graftwork as gw
a, b, out, method = sys.argv[1:]
base = b if method == "ties" else None
gw.merge([a, b], method=method, base=base, output=out, threads=2)
# not ru_maxrss, which keeps the peak of the process that started this one
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_peak_memory_does_not_grow_with_the_model(tmp_path, method):
    """Ten times the tensors, or all in one tensor: the same peak."""
    peaks = {}
    mega = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
    for name, count, repeat in (("few", 4, 1), ("many", 40, 1), ("one", 1, 40)):
        for k in range(2):
            arrays = {f"t{i}": np.tile(mega + k * i, repeat) for i in range(count)}
            save_file(arrays, tmp_path / f"{k}.safetensors")
            del arrays
        files = [str(tmp_path / f"{k}.safetensors") for k in range(2)]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *files, str(tmp_path / f"{name}.safetensors"), method],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[name] = int(done.stdout) / 1024
        (tmp_path / f"{name}.safetensors").unlink()
    assert max(peaks.values()) < 1.2 * peaks["few"], peaks
    assert max(peaks.values()) < 350, peaks


# Failing ------------------------------------------------------------------------------------------------------------

THING = {
    "keras": (keras_files.keras_zip, "a.keras"),
    "weights_h5": (keras_files.weights_h5, "a.weights.h5"),
    "sharded_h5": (keras_files.sharded, "a.weights.json"),
    "keras_dir": (keras_files.keras_directory, "a_dir"),
    "preset": (lambda p, a: keras_files.keras_directory(p, a, keras_hub_version="0.20"), "a_preset"),
    "legacy_h5": (keras_files.legacy_h5, "a.h5"),
    "safetensors": (lambda p, a: save_file(a, p), "a.safetensors"),
    "tf_checkpoint": (tf_files.checkpoint, "a.index"),
}


def sources(folder, format_name, size=50_000, count=6):
    """Write two models in one format and return them with a target's name."""
    write, name = THING[format_name]
    found = []
    for k in range(2):
        (folder / f"s{k}").mkdir()
        rng = np.random.default_rng(k)
        write(
            folder / f"s{k}" / name, {f"thing/{i}": rng.standard_normal(size, dtype=np.float32) for i in range(count)}
        )
        found.append(folder / f"s{k}" / name)
    return found, name


def test_every_keras_format_is_tried():
    """The failures below are provoked in every format; a Hugging Face directory is made of safetensors files."""
    assert {*THING, "huggingface"} == {name for name, row in FORMATS.items() if row.create is not None}


@pytest.mark.parametrize("format_name", THING)
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, format_name, after):
    """Writes fail from some moment on: one clear error, no file, sources as they were."""
    files, name = sources(tmp_path, format_name)
    (tmp_path / "out").mkdir()
    before, there = state(tmp_path), listing(tmp_path)
    left = [after]

    def failing(real):
        def write(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        return write

    monkeypatch.setattr(os, "pwrite", failing(os.pwrite))
    monkeypatch.setattr(os, "pwritev", failing(os.pwritev))
    with pytest.raises(gw.GraftworkError, match="No space left"):
        gw.merge(files, output=tmp_path / "out" / name, format=format_name, threads=2)
    assert listing(tmp_path) == there
    assert state(tmp_path) == before


LIMITED = """
import resource, signal, sys
import graftwork as gw
a, b, out, name, limit = sys.argv[1:]
from graftwork.executor import local
import graftwork.methods.linear
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    gw.merge([a, b], output=out, format=name, threads=2)
except gw.GraftworkError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("format_name", THING)
def test_a_file_that_may_not_grow_leaves_nothing_behind(tmp_path, format_name):
    """The same from the operating system itself, at several sizes."""
    files, name = sources(tmp_path, format_name, size=5000, count=3)
    (tmp_path / "out").mkdir()
    there = listing(tmp_path)
    whole = gw.merge(files, output=tmp_path / "out" / name, format=format_name)
    size = max(f.stat().st_size for f in ([whole] if whole.is_file() else whole.rglob("*")))
    if format_name == "sharded_h5":
        size = max(f.stat().st_size for f in whole.parent.iterdir())
    for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert listing(tmp_path) == there
    # -B: Python would leave compiled modules that are cut short, which no other process can import
    command = [sys.executable, "-B", "-c", LIMITED, *map(str, files), str(tmp_path / "out" / name), format_name]
    for limit in (100, size // 2, size - 1):
        done = subprocess.run(
            [*command, str(limit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.startswith("refused:"), (limit, done.stdout, done.stderr[-1500:])
        assert not done.stderr, (limit, done.stderr[-1500:])
        assert listing(tmp_path) == there, limit


@pytest.mark.parametrize("format_name", THING)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_found_and_leaves_nothing_behind(tmp_path, capsys, format_name, value):
    """Tensor, count and model are named; `allow_nonfinite` lets it pass."""
    files, name = sources(tmp_path, format_name, size=3000, count=2)
    write, _ = THING[format_name]
    bad = np.ones(3000, np.float32)
    bad[[5, 2999]] = value
    (tmp_path / "bad").mkdir()
    write(tmp_path / "bad" / name, {"thing/0": np.ones(3000, np.float32), "thing/1": bad})
    (tmp_path / "out").mkdir()
    there = listing(tmp_path)
    with pytest.raises(gw.NonFiniteError, match=r"tensor 'thing/1' holds .* 2 in third"):
        gw.merge(
            [*files, tmp_path / "bad" / name],
            names=["first", "second", "third"],
            output=tmp_path / "out" / name,
            format=format_name,
        )
    assert listing(tmp_path) == there
    out = gw.merge(
        [*files, tmp_path / "bad" / name], output=tmp_path / "out" / name, format=format_name, allow_nonfinite=True
    )
    assert gw.verify(out, load=False).nonfinite == {"thing/1": 2}
    assert capsys.readouterr().err == ""


def test_a_result_that_overflows_its_dtype_is_refused(tmp_path):
    """70000 is no float16; merging and converting say so, and leave nothing."""
    save_file({"w": np.full(4, 7e4, np.float32)}, tmp_path / "a.safetensors")
    there = listing(tmp_path)
    with pytest.raises(gw.GraftworkError, match=r"'w'.*float16"):
        gw.merge([tmp_path / "a.safetensors"] * 2, dtype="float16", output=tmp_path / "b.safetensors")
    with pytest.raises(gw.GraftworkError, match=r"'w'.*float16"):
        gw.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="float16")
    assert listing(tmp_path) == there


def test_converting_keeps_what_is_not_finite(tmp_path):
    """A copy is a copy: infinities of the source are the result's, in another dtype too."""
    values = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    save_file({"w": values}, tmp_path / "a.safetensors")
    gw.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="float16")
    np.testing.assert_array_equal(load_file(tmp_path / "b.safetensors")["w"], values.astype(np.float16))


@pytest.mark.parametrize("format_name", ["safetensors", "keras", "sharded_h5", "keras_dir"])
def test_a_signal_at_any_moment_leaves_nothing_behind(tmp_path, format_name):
    """Ctrl-C and SIGTERM: the old result whole, or the new one whole, and no temporary file."""
    files, name = sources(tmp_path, format_name, size=3_000_000, count=2)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / name
    command = [sys.executable, "-m", "graftwork", "merge", *map(str, files), "-o", str(out), "--method", "ties"]
    command += ["--base", str(files[0]), "--format", format_name, "--overwrite", "--threads", "2"]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    takes = time.monotonic() - began
    before, there, new = state(tmp_path / "s0"), listing(tmp_path), contents(out)
    old = state(tmp_path / "out")
    moments = random.Random(format_name)
    for k in range(6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(takes * moments.uniform(0.25, 1.02))
        process.send_signal((signal.SIGINT, signal.SIGTERM)[k % 2])
        _, said = process.communicate()
        assert listing(tmp_path) == there, (k, said)
        assert contents(out) == new
        if process.returncode:
            assert {p: b for p, (b, _) in state(tmp_path / "out").items()} == {p: b for p, (b, _) in old.items()}
        if process.returncode == 130:  # before the command begins there is nothing to say
            assert said.strip() in ("", "interrupted; no half-written result is left"), said
    assert state(tmp_path / "s0") == before


# Targets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """Two small sources and what they are before anything happens."""
    for k in range(2):
        save_file({"w": np.full(10, k, np.float32)}, tmp_path / f"{k}.safetensors")
    return [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]


def test_an_existing_target_needs_overwrite(tmp_path, pair):
    """Nothing is replaced that the user did not say to replace."""
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(gw.OutputError, match="exists; pass --overwrite"):
        gw.merge(pair, output=out)
    assert out.read_bytes() == b"precious"
    gw.merge(pair, output=out, overwrite=True)
    np.testing.assert_array_equal(load_file(out)["w"], np.full(10, 0.5, np.float32))


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link", "dotted path", "symlink to source"])
def test_a_target_that_is_a_source_is_refused(tmp_path, pair, how):
    """Through any name, with overwrite too; the base counts as a source."""
    before = state(tmp_path)
    target, given = pair[1], list(pair)
    if how == "symlink":
        target = tmp_path / "link.safetensors"
        target.symlink_to(pair[1])
    elif how == "hard link":
        target = tmp_path / "link.safetensors"
        target.hardlink_to(pair[1])
    elif how == "dotted path":
        target = tmp_path / ".." / tmp_path.name / pair[1].name
    elif how == "symlink to source":
        given[1] = tmp_path / "link.safetensors"
        given[1].symlink_to(pair[1])
    for overwrite in (False, True):
        with pytest.raises(gw.OutputError, match="one of the sources"):
            gw.merge(given, output=target, overwrite=overwrite)
        with pytest.raises(gw.OutputError, match="one of the sources"):
            gw.merge(given[:1], base=given[1], method="task_arithmetic", output=target, overwrite=overwrite)
        with pytest.raises(gw.OutputError, match="one of the sources"):
            gw.convert(given[1], target, overwrite=overwrite, dtype="float16")
    assert {p: s for p, s in state(tmp_path).items() if p in before} == before


def test_shards_never_replace_a_source(tmp_path):
    """The result's first shard has the name of a file that is read: refused before anything is written, overwrite or not."""
    arrays = {"thing/0": np.ones(4, np.float32)}
    keras_files.weights_h5(tmp_path / "x_00000.weights.h5", arrays)
    before = state(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(gw.OutputError, match="x_00000"):
            gw.merge([tmp_path / "x_00000.weights.h5"] * 2, output=tmp_path / "x.weights.json", overwrite=overwrite)
        with pytest.raises(gw.OutputError, match="x_00000"):
            gw.convert(tmp_path / "x_00000.weights.h5", tmp_path / "x.weights.json", overwrite=overwrite)
    assert state(tmp_path) == before


def test_a_directory_that_is_a_source_is_refused(tmp_path):
    """Also when it is named by a file in it, or the target lies inside."""
    for name in ("a", "b"):
        keras_files.keras_directory(tmp_path / name, {"thing/0": np.ones(4, np.float32)})
    before = state(tmp_path)
    for target in (tmp_path / "b", tmp_path / "a", tmp_path / "a" / "model.weights.h5"):
        with pytest.raises(gw.OutputError, match="one of the sources"):
            gw.merge([tmp_path / "a", tmp_path / "b"], output=target, overwrite=True)
    assert state(tmp_path) == before


def test_a_target_inside_a_source_directory_is_refused(tmp_path):
    """A source keeps its files and gets no others."""
    keras_files.keras_directory(tmp_path / "a", {"thing/0": np.ones(4, np.float32)})
    there = listing(tmp_path)
    with pytest.raises(gw.OutputError, match="inside"):
        gw.merge([tmp_path / "a"] * 2, output=tmp_path / "a" / "out.weights.h5")
    assert listing(tmp_path) == there


def test_fewer_shards_leave_none_of_the_old_ones(tmp_path):
    """What belonged to the replaced result goes with it; what only looks so stays."""
    keras_files.weights_h5(tmp_path / "s.weights.h5", {f"thing/{k}": np.ones(1000, np.float32) for k in range(4)})
    target = tmp_path / "x.weights.json"
    gw.merge([tmp_path / "s.weights.h5"] * 2, output=target, shard_bytes=4000)
    assert len(listing(tmp_path)) == 6
    (tmp_path / "x_00009.weights.h5").write_bytes(b"mine")
    gw.merge([tmp_path / "s.weights.h5"] * 2, output=target, overwrite=True)
    assert listing(tmp_path) == ["s.weights.h5", "x.weights.json", "x_00000.weights.h5", "x_00009.weights.h5"]
    assert set(gw.inspect(target).provenance) >= {"merge", "sources"}


@pytest.mark.parametrize("format_name", ["sharded_h5", "keras_dir", "tf_checkpoint"])
def test_a_shard_that_holds_nothing_is_refused(tmp_path, format_name):
    """A size of 0 is no size, and not the usual one."""
    files, name = sources(tmp_path, format_name, size=10, count=2)
    (tmp_path / "out").mkdir()
    there = listing(tmp_path)
    with pytest.raises(gw.OutputError, match="a shard of 0 bytes holds nothing"):
        gw.merge(files, output=tmp_path / "out" / name, format=format_name, shard_bytes=0)
    assert listing(tmp_path) == there


@pytest.mark.parametrize("name", ["n" * 236 + ".weights.json", "n" * 243 + ".safetensors", "ü" * 121 + ".safetensors"])
def test_a_long_name_is_a_name(tmp_path, pair, name):
    """As long as the file system allows, whatever the temporary file is called; longer ones are refused."""
    if name.endswith(".json"):
        keras_files.weights_h5(tmp_path / "s.weights.h5", {"thing/0": np.ones(4, np.float32)})
        pair = [tmp_path / "s.weights.h5"] * 2
    assert gw.merge(pair, output=tmp_path / name).exists()
    with pytest.raises(gw.OutputError, match="longer than the 255"):
        gw.merge(pair, output=tmp_path / ("n" * 20 + name))
    with pytest.raises(gw.OutputError, match="no name"):
        gw.merge(pair, output=tmp_path / ("a\0" + name))


def test_integers_that_do_not_fit_are_not_dropped_silently(tmp_path):
    """Another shape, or a number that is a float elsewhere: refused in either order. Missing or wider ones: told."""

    def weights(name, values):
        arrays = {"thing/0": np.ones(3, np.float32)} | ({} if values is None else {"thing/1": values})
        keras_files.weights_h5(tmp_path / f"{name}.weights.h5", arrays)
        return tmp_path / f"{name}.weights.h5"

    first = weights("first", np.arange(3))
    for name, values in (("longer", np.arange(4)), ("float", np.ones(3, np.float32))):
        other = weights(name, values)
        for models in ([first, other], [other, first]):
            with pytest.raises(gw.MismatchError, match="'thing/1' has"):
                gw.plan_merge(models)
    for name, values in (("narrow", np.arange(3, dtype=np.int32)), ("without", None)):
        notes = gw.plan_merge([first, weights(name, values)]).notes
        assert any(note.startswith(f"{name}: counter 'thing/1'") for note in notes), notes


def test_a_directory_that_is_no_model_is_not_replaced(tmp_path, pair):
    """Overwrite replaces results, not whatever happens to have the name."""
    keras_files.keras_directory(tmp_path / "a", {"thing/0": np.ones(4, np.float32)})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(gw.OutputError, match="remove it yourself"):
        gw.merge([tmp_path / "a", tmp_path / "a"], output=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_result_keeps_its_old_file_until_the_end(tmp_path, pair, monkeypatch):
    """While the new one is made and checked, whoever opens the name finds the old one, whole."""
    out = tmp_path / "out.safetensors"
    gw.merge(pair, output=out)
    old = out.read_bytes()
    seen = []
    real = written.verify_written

    def looking(*arguments, **more):
        seen.append(out.read_bytes())
        return real(*arguments, **more)

    monkeypatch.setattr(written, "verify_written", looking)
    gw.merge(pair, output=out, weights=[1, 3], overwrite=True)
    assert seen == [old] != [out.read_bytes()]


def test_a_result_that_does_not_hold_what_was_written_is_refused(tmp_path, pair, monkeypatch):
    """The reopened file is compared with what was computed; a disk that lies is found out."""
    real = os.pwritev

    def lying(fd, buffers, offset, flags=0):
        data = bytearray(buffers[0])
        data[0] ^= 1
        return real(fd, [bytes(data)], offset, flags)

    monkeypatch.setattr(os, "pwritev", lying)
    there = listing(tmp_path)
    with pytest.raises(gw.OutputError, match="does not hold what was written"):
        gw.merge(pair, output=tmp_path / "out.safetensors")
    assert listing(tmp_path) == there


def test_too_little_disk_is_refused_by_the_plan(tmp_path, pair, monkeypatch):
    """With the numbers, before anything is written."""
    from graftwork import planning

    monkeypatch.setattr(planning, "free_bytes", lambda _: 1000)
    there = listing(tmp_path)
    for act in (gw.merge, gw.plan_merge):
        with pytest.raises(gw.OutputError, match="has 1,000 bytes free, but the result needs"):
            act(pair, output=tmp_path / "out.safetensors")
    assert listing(tmp_path) == there


def test_a_source_cut_short_while_it_is_read_leaves_nothing(tmp_path, monkeypatch):
    """Another process truncates a file after its header was read."""
    for k in range(2):
        save_file({"w": np.ones(100_000, np.float32)}, tmp_path / f"{k}.safetensors")
    there = listing(tmp_path)
    real = local.LocalExecutor.run

    def run(self):
        os.truncate(tmp_path / "1.safetensors", 1000)
        return real(self)

    monkeypatch.setattr(local.LocalExecutor, "run", run)
    with pytest.raises(gw.StoreError, match=r"1\.safetensors ends at byte 1000"):
        gw.merge([tmp_path / "0.safetensors", tmp_path / "1.safetensors"], output=tmp_path / "out.safetensors")
    assert listing(tmp_path) == there


@pytest.mark.parametrize("kind", ["shared", "alone", "copied"])
def test_an_error_in_one_thread_ends_all(tmp_path, monkeypatch, kind):
    """The error that the user sees is the first one, not that of a thread that was told to stop."""
    arrays = {
        f"t{k}": np.ones(3_000_000 if kind == "shared" else 2000, np.float32)
        for k in range(2 if kind == "shared" else 40)
    }
    if kind == "copied":
        arrays |= {f"n{k}": np.ones(2000, np.int64) for k in range(40)}
    for k in range(2):
        save_file(arrays, tmp_path / f"{k}.safetensors")
    from graftwork.stores.safetensors import SafetensorsReader

    real, calls = SafetensorsReader.read_into, [0]

    def read_into(self, name, start, out):
        calls[0] += 1
        if calls[0] == 30:
            raise gw.StoreError("the thirtieth block is gone")
        real(self, name, start, out)

    monkeypatch.setattr(SafetensorsReader, "read_into", read_into)
    there = listing(tmp_path)
    with pytest.raises(gw.StoreError, match="the thirtieth block is gone"):
        gw.merge([tmp_path / "0.safetensors", tmp_path / "1.safetensors"], output=tmp_path / "o.safetensors", threads=5)
    assert listing(tmp_path) == there


def test_a_recipe_that_fails_leaves_nothing(tmp_path):
    """Not even what an earlier step made."""
    save_file({"w": np.ones(10, np.float32)}, tmp_path / "a.safetensors")
    save_file({"w": np.full(10, np.nan, np.float32)}, tmp_path / "b.safetensors")
    (tmp_path / "r.yaml").write_text(
        textwrap.dedent("""
        models: {a: a.safetensors, b: b.safetensors}
        steps:
          one: {merge: {method: linear, models: [a, a]}}
          two: {merge: {method: linear, models: [one, b]}}
        outputs: {two: two.safetensors}
        """)
    )
    there = listing(tmp_path)
    with pytest.raises(gw.NonFiniteError, match="10 in b"):
        gw.run(tmp_path / "r.yaml")
    assert listing(tmp_path) == there


def test_sources_that_cannot_be_written_to_are_merged(tmp_path, pair):
    """Files are opened for reading only."""
    for path in pair:
        path.chmod(0o444)
    out = gw.merge(pair, output=tmp_path / "out.safetensors")
    assert Path(out).exists()
