"""The Hugging Face directory store against directories that the test itself made with the reference implementation."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from descriptors import open_under
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from graftwork.errors import OutputError, StoreError
from graftwork.stores import format_for_target, open_store
from graftwork.stores.base import FORMATS, RAW_DTYPES
from graftwork.stores.huggingface import HuggingFaceWriter, with_dtype
from graftwork.tensor import Role, TensorSpec

INDEX = "model.safetensors.index.json"
CONFIG = {"architectures": ["BertModel"], "torch_dtype": "float32", "transformers_version": "4.51.0", "hidden_size": 4}


def arrays(count=5):
    """Return the tensors of a small model."""
    rng = np.random.default_rng(0)
    found = {f"encoder.layer.{i}.weight": rng.standard_normal((4, 8), np.float32) for i in range(count)}
    found["norm.weight"] = rng.standard_normal(4, np.float32).astype(ml_dtypes.bfloat16)
    found["embeddings.position_ids"] = np.arange(6, dtype=np.int64)
    return found


def make(folder, shards=None, config=CONFIG, **more):
    """Write a model directory: `shards` maps files to names of tensors; None makes one file."""
    folder.mkdir()
    tensors = arrays()
    if shards is None:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        for file, names in shards.items():
            save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
        write_index(folder, {name: file for file, names in shards.items() for name in names})
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in {"tokenizer.json": '{"model": {}}', "README.md": "# Mine", **more}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def two_shards():
    names = list(arrays())
    return {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}


def read(reader, name):
    spec = reader.specs()[name]
    out = np.empty(spec.size, RAW_DTYPES[spec.dtype])
    reader.read_into(name, 0, out)
    return out.tobytes()


def copy(reader, path, *, dtype=None, **options):
    """Write all tensors of a source to a new directory, as floats of another dtype if asked."""
    specs = [
        TensorSpec(name=s.name, shape=s.shape, dtype=dtype if dtype and s.role is Role.WEIGHT else s.dtype, role=s.role)
        for s in reader.specs().values()
    ]
    writer = HuggingFaceWriter(path, specs, like=reader, provenance=options.pop("provenance", ""), **options)
    try:
        for spec in specs:
            if spec.dtype == reader.specs()[spec.name].dtype:
                writer.write(spec.name, 0, np.frombuffer(read(reader, spec.name), RAW_DTYPES[spec.dtype]))
        writer.finish()
    finally:
        writer.close()


@pytest.mark.parametrize("shards", [None, two_shards()], ids=["one file", "shards"])
def test_reads_what_the_reference_implementation_wrote(tmp_path, shards):
    """Tensors, configuration, files and their size."""
    folder = make(tmp_path / "m", shards)
    with open_store(folder) as reader:
        assert reader.header.format == "huggingface"
        assert (reader.header.config, reader.header.config_kind) == (CONFIG, "huggingface")
        assert reader.header.library == "transformers 4.51.0"
        assert set(reader.header.assets) == {"tokenizer.json"}
        assert reader.metadata == {"format": "pt"}
        listed = {file.name for file in reader.header.files}
        assert listed == {f.name for f in folder.iterdir()} - {"README.md"}
        assert reader.header.size_bytes == sum((folder / name).stat().st_size for name in listed)
        assert reader.specs()["embeddings.position_ids"].role is Role.COUNTER
        assert {name: read(reader, name) for name in reader.specs()} == {n: a.tobytes() for n, a in arrays().items()}


def test_writes_shards_that_the_reference_implementation_reads(tmp_path):
    """Names, index and metadata as transformers expects them; no shard is larger than asked."""
    with open_store(make(tmp_path / "m")) as reader:
        copy(reader, tmp_path / "out", shard_bytes=300, provenance='{"recipe": 1}')
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(a.nbytes for a in arrays().values())}
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    assert len(files) > 1
    loaded = {}
    for file in files:
        part = load_file(tmp_path / "out" / file)
        assert sum(a.nbytes for a in part.values()) <= 300
        assert dict.fromkeys(part, file).items() <= index["weight_map"].items()
        loaded |= part
        with safe_open(tmp_path / "out" / file, framework="np") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert {n: a.tobytes() for n, a in loaded.items()} == {n: a.tobytes() for n, a in arrays().items()}
    with open_store(tmp_path / "out") as result, open_store(tmp_path / "m") as source:
        assert dict(result.specs()) == dict(source.specs())
        assert result.header.provenance == {"recipe": 1}


def test_one_file_when_all_fits(tmp_path):
    """A source in shards does not make shards."""
    with open_store(make(tmp_path / "m", two_shards())) as reader:
        copy(reader, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / INDEX).exists()
    with open_store(tmp_path / "out") as result:
        assert {name: read(result, name) for name in result.specs()} == {n: a.tobytes() for n, a in arrays().items()}
        assert result.header.provenance is None


def test_what_is_carried_over_and_what_is_not(tmp_path):
    """The tokenizer and the like, byte for byte; no stale weights in another format, no card of another model."""
    more = {
        "merges.txt": "a b\n",
        "vocab.bin": "x",
        "pytorch_model.bin": "pickle",
        "pytorch_model-00001-of-00002.bin": "pickle",
        "tf_model.h5": "hdf5",
        "onnx/model.onnx": "graph",
        "1_Pooling/config.json": "{}",
        "2_Dense/model.safetensors": "weights",
        ".git/config": "[core]",
        "graftwork.json": "{}",
    }
    with open_store(make(tmp_path / "m", **more)) as reader:
        copy(reader, tmp_path / "out")
        (note,) = reader.header.notes
    kept = {str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*") if f.is_file()}
    same = {"config.json", "tokenizer.json", "merges.txt", "vocab.bin", "1_Pooling/config.json"}
    assert kept == {"model.safetensors", *same}
    for name in same:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "2_Dense/model.safetensors"):
        assert name in note


def test_config_follows_the_written_dtype(tmp_path):
    """Loading with transformers would otherwise take another dtype than the file has."""
    with open_store(make(tmp_path / "m")) as reader:
        copy(reader, tmp_path / "out", dtype="float16")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**CONFIG, "torch_dtype": "float16"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "float32"}, {"dtype": "float16"}),
        ({"torch_dtype": "torch.float32"}, {"torch_dtype": "float16"}),
        ({"a": 1}, {"a": 1}),
        ({"dtype": "auto"}, {"dtype": "auto"}),
        (
            {"dtype": "bfloat16", "text": {"dtype": "bfloat16"}, "vision": {"dtype": "float32"}},
            {"dtype": "float16", "text": {"dtype": "float16"}, "vision": {"dtype": "float32"}},
        ),
        (None, None),
    ],
)
def test_config_with_dtype(config, expected):
    """Only what said the whole model's dtype changes."""
    assert with_dtype(config, "float16") == expected


def test_a_directory_without_config_is_read(tmp_path):
    """Weights are weights."""
    folder = make(tmp_path / "m")
    (folder / "config.json").unlink()
    with open_store(folder) as reader:
        assert (reader.header.config, reader.header.config_kind) == (None, "")


def test_one_safetensors_file_becomes_a_directory(tmp_path):
    """There is nothing to carry, but the metadata that transformers asks for."""
    save_file(arrays(), tmp_path / "a.safetensors", {"format": "pt"})
    with open_store(tmp_path / "a.safetensors") as reader:
        assert format_for_target(tmp_path / "out", name="huggingface").create is HuggingFaceWriter
        copy(reader, tmp_path / "out")
    with open_store(tmp_path / "out") as result:
        assert result.metadata == {"format": "pt"}
        assert set(result.specs()) == set(arrays())


def test_companions_in_another_shard_are_seen(tmp_path):
    """Codes and their scales may be torn apart."""
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({"a.up": np.zeros(4, np.int8)}, folder / "x.safetensors")
    save_file({"a.weight_scale": np.zeros(1, np.float32)}, folder / "y.safetensors")
    write_index(folder, {"a.up": "x.safetensors", "a.weight_scale": "y.safetensors"})
    with open_store(folder) as reader:
        assert {spec.role for spec in reader.specs().values()} == {Role.QUANTIZED}


def test_a_declared_quantization_is_believed(tmp_path):
    """8-bit integers are codes whatever they are called."""
    folder = make(tmp_path / "m", config={"quantization_config": {"quant_method": "mine"}})
    save_file({"odd": np.zeros(4, np.uint8)}, folder / "model.safetensors")
    with open_store(folder) as reader:
        assert reader.specs()["odd"].role is Role.QUANTIZED


def test_the_cache_of_huggingface_hub_is_read(tmp_path):
    """Its snapshots are links into its blobs."""
    made = make(tmp_path / "m", two_shards())
    cache = tmp_path / "models--x--y"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for i, file in enumerate(sorted(made.iterdir())):
        shutil.copyfile(file, cache / "blobs" / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    with open_store(snapshot) as reader:
        assert set(reader.specs()) == set(arrays())
        copy(reader, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"model": {}}'


def _edit(change):
    """Return a case that changes the index of a model in two shards."""

    def edit(folder):
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return edit


def _link_away(name):
    def edit(folder):
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return edit


def _twice(folder):
    save_file({n: arrays()[n] for n in two_shards()["model-00001-of-00002.safetensors"]}, folder / "z.safetensors")
    _edit(lambda m: m.update({next(iter(m)): "z.safetensors"}))(folder)


FIRST, SECOND = two_shards()
REFUSED = {
    "a tensor that no shard holds": (_edit(lambda m: m.update(ghost=FIRST)), "holds tensor 'ghost', but no shard does"),
    "a tensor in another shard": (
        _edit(lambda m: m.update({"norm.weight": FIRST})),
        f"'norm.weight', but {SECOND} does",
    ),
    "a tensor not mentioned": (_edit(lambda m: m.pop("norm.weight")), f"{SECOND} holds tensor 'norm.weight', which"),
    "a tensor twice": (_twice, "is in two shards"),
    "a shard that is not there": (lambda f: (f / SECOND).unlink(), "which is not there"),
    "a shard elsewhere": (_edit(lambda m: m.update(x="../x.safetensors")), "not the name of a file beside it"),
    "an absolute shard": (_edit(lambda m: m.update(x="/etc/passwd")), "not the name of a file beside it"),
    "a shard without a name": (_edit(lambda m: m.update(x="")), "not the name of a file beside it"),
    "a shard that is the directory": (_edit(lambda m: m.update(x="..")), "not the name of a file beside it"),
    "a shard that is a number": (_edit(lambda m: m.update(x=3)), "expected a shard's name"),
    "a shard with an odd name": (_edit(lambda m: m.update(x="\ud800")), "which is not there"),
    "a shard that links away": (_link_away(SECOND), "links to a file outside of m"),
    "a tokenizer that links away": (_link_away("tokenizer.json"), "links to a file outside of m"),
    "a config that links away": (_link_away("config.json"), "links to a file outside of m"),
    "a link to itself": (lambda f: ((f / SECOND).unlink(), (f / SECOND).symlink_to(SECOND)), "leads nowhere|cannot be"),
    "a shard that is a directory": (lambda f: ((f / SECOND).unlink(), (f / SECOND).mkdir()), "not a regular file"),
    "a shard cut short": (lambda f: os.truncate(f / SECOND, 100), SECOND),
    "an index without a map": (lambda f: (f / INDEX).write_text("{}"), "no `weight_map` with"),
    "an index without tensors": (_edit(dict.clear), "no `weight_map` with"),
    "an index that is no JSON": (lambda f: (f / INDEX).write_text("{"), "is not JSON"),
    "both forms": (lambda f: shutil.copyfile(f / FIRST, f / "model.safetensors"), "has both"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(tmp_path, case):
    """The index must say exactly what the shards hold, and all must lie in the directory."""
    edit, message = REFUSED[case]
    folder = make(tmp_path / "m", two_shards())
    edit(folder)
    before = open_under(tmp_path)
    with pytest.raises(StoreError, match=message):
        open_store(folder)
    assert open_under(tmp_path) == before


def test_pickles_are_never_read(tmp_path):
    """The message says why, and what to do."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(StoreError, match="a pickle, which can run any code"):
        open_store(tmp_path / "m")


def test_adapters_are_told_apart(tmp_path):
    """A LoRA is no model."""
    (tmp_path / "m").mkdir()
    save_file({"a": np.zeros(1)}, tmp_path / "m" / "adapter_model.safetensors")
    with pytest.raises(StoreError, match="holds an adapter, not a model"):
        open_store(tmp_path / "m")


def test_a_shard_size_must_be_positive(tmp_path):
    """Zero would be a shard per tensor by accident."""
    with open_store(make(tmp_path / "m")) as reader, pytest.raises(OutputError, match="holds nothing"):
        copy(reader, tmp_path / "out", shard_bytes=0)


def test_a_directory_of_the_same_kind_by_default(tmp_path):
    """A target without an ending takes after the first source."""
    with open_store(make(tmp_path / "m")) as reader:
        assert format_for_target(tmp_path / "out", like=reader) is FORMATS["huggingface"]


@pytest.mark.parametrize("name", ["merged.pt", "merged.BIN", "merged.Safetensors"])
def test_a_directory_is_not_called_like_a_file(tmp_path, name):
    """Who asks for a file in a format that is not written here gets no directory of that name; a version is no ending."""
    with open_store(make(tmp_path / "a")) as reader:
        with pytest.raises(OutputError, match=f"{name} does not say in which format"):
            format_for_target(tmp_path / name, reader)
        assert format_for_target(tmp_path / "llama-3.1", reader).name == "huggingface"
