"""TensorFlow checkpoints against what TensorFlow itself writes and restores, bit for bit."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tf_files
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tf_files import CODES, GRAPH, entry, field, masked, put, table, text_tensor, varint

import graftwork as gw
from graftwork.errors import MismatchError, OutputError, StoreError
from graftwork.stores import crc, open_store, ordered_code
from graftwork.stores.tf_checkpoint import target_of
from graftwork.stores.tf_table import Table, table_bytes
from graftwork.tensor import Role
from graftwork.testing import random_bits, raw, read_raw

# Bytes ---------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.data())
def test_a_crc_of_pieces_is_that_of_the_whole(data, drawn):
    """In any order; a range with a hole or an overlap has none."""
    import google_crc32c

    cuts = sorted(drawn.draw(st.sets(st.integers(1, max(len(data) - 1, 1)), max_size=5)) | {0, len(data)})
    spans = [(a, b) for a, b in itertools.pairwise(cuts) if a < b <= len(data)]
    sums = crc.Pieces(len(data))
    found = [sums.add(a, b - a, google_crc32c.value(data[a:b])) for a, b in drawn.draw(st.permutations(spans))]
    if data:
        assert found[-1] == google_crc32c.value(data)
        assert set(found[:-1]) <= {None}


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=3000), max_size=80))
@settings(deadline=None)
def test_a_table_is_read_as_it_was_written(tmp_path_factory, items):
    """By us and by the test's own reader, in one block and in several."""
    path = tmp_path_factory.mktemp("table") / "a.index"
    path.write_bytes(table_bytes(sorted(items.items()), {b"m": b"x"}))
    with path.open("rb") as file:
        read = Table(file.fileno(), path.stat().st_size, path)
        assert dict(read.items()) == items
        assert read.meta() == {b"m": b"x"}
    assert tf_files.table_items(path.read_bytes()) == items


def test_keys_of_parts_by_hand():
    """The examples in the comments of TensorFlow's `ordered_code.cc`, and one whole key."""
    signed = {0x424242: "f0424242", -0x800: "3800", 0: "80", 63: "bf", -1: "7f", -64: "40", 64: "c040", -65: "3fbf"}
    assert {n: ordered_code._signed(n).hex() for n in signed} == signed
    assert ordered_code._signed(-(1 << 63)).hex() == "003f8000000000000000"
    assert ordered_code._signed((1 << 63) - 1).hex() == "ffc07fffffffffffffff"
    assert ordered_code.part_key(b"a\0\xffb", ((0, 4), (0, -1))) == b"\0a\0\xff\xff\0b\0\x01\x01\x02\x80\x84\x80\x7f"


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_tensor_in_parts_is_put_together(tmp_path_factory, shape, data):
    """Cut along any axes, read from anywhere to anywhere."""
    values = random_bits("int32", shape, 1)
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=2))}) for n in shape]
    boxes = list(itertools.product(*(list(itertools.pairwise(c)) for c in cuts)))
    path = write_parts(tmp_path_factory.mktemp("parts") / "a.index", values, data.draw(st.permutations(boxes)))
    with open_store(path) as reader:
        begin = data.draw(st.integers(0, values.size))
        out = np.empty(data.draw(st.integers(0, values.size - begin)), np.int32)
        reader.read_into("w", begin, out)
        np.testing.assert_array_equal(out, values.reshape(-1)[begin : begin + out.size])
        reader.check()


def test_large_runs_of_parts_are_read_in_place(tmp_path):
    """Runs above and below the size from which on they are read one by one."""
    values = random_bits("float32", (40, 3000), 1)
    boxes = list(itertools.product([(0, 7), (7, 40)], [(0, 2900), (2900, 3000)]))
    with open_store(write_parts(tmp_path / "a.index", values, boxes)) as reader:
        for blocks in (1, 3, 50):
            np.testing.assert_array_equal(read_raw(reader, "w", blocks), raw(values))


def write_parts(path, values, boxes, whole=None):
    """Write `values` as the tensor w in parts."""
    slices = [tuple((a, b - a) for a, b in box) for box in boxes]
    code = CODES[values.dtype.name]
    entries = {
        b"": tf_files.header(),
        b"w": entry(code, values.shape if whole is None else whole, 0, 0, 0, slices=slices),
    }
    data = b""
    for box, part in zip(boxes, slices, strict=True):
        piece = np.ascontiguousarray(values[tuple(slice(a, b) for a, b in box)])
        key = ordered_code.part_key(b"w", part)
        entries[key] = entry(code, piece.shape, len(data), piece.nbytes, masked(piece.tobytes()))
        data += piece.tobytes()
    return put(path, table(entries), [data])


@pytest.mark.parametrize(
    ("boxes", "shape", "said"),
    [
        ([((0, 2), (0, 3))], (4, 3), "holes and overlaps"),
        ([((0, 3), (0, 3)), ((2, 3), (0, 3))], (4, 3), "holes and overlaps"),
        ([((0, 3), (0, 3)), ((2, 4), (0, 2))], (4, 3), "holes and overlaps"),
        ([((0, 4), (0, 3))], (3, 3), "outside of its shape"),
        ([((0, 4), (0, 3))], (12,), "but a part"),
    ],
)
def test_parts_that_do_not_fill_a_tensor_are_refused(tmp_path, boxes, shape, said):
    """Holes, overlaps, parts outside, parts of other rank."""
    path = write_parts(tmp_path / "a.index", np.zeros((4, 3), np.float32), boxes, shape)
    with pytest.raises(StoreError, match=said):
        open_store(path)


# Damage --------------------------------------------------------------------------------------------------------------


def test_a_damaged_tensor_is_found_when_it_is_read_and_by_the_check(tmp_path):
    """Read whole, read in pieces from the end, and by `verify`; one that is not read to its end tells nothing."""
    path = tf_files.checkpoint(
        tmp_path / "a.index", {"w": np.arange(9000, dtype=np.float32), "v": np.ones(3, np.float32)}
    )
    data = tmp_path / "a.data-00000-of-00001"
    damaged = bytearray(data.read_bytes())
    damaged[20000] ^= 1
    data.write_bytes(damaged)
    with open_store(path) as reader, pytest.raises(StoreError, match=r"'w'.*CRC"):
        reader.check()
    for blocks in (1, 3):
        with open_store(path) as reader, pytest.raises(StoreError, match=r"'w'.*CRC"):
            read_raw(reader, "w", blocks)
    with open_store(path) as reader:
        read_raw(reader, "v")
        reader.read_into("w", 0, np.empty(8000, np.float32))
        with pytest.raises(StoreError, match=r"'w'.*CRC"):
            reader.read_into("w", 8000, np.empty(1000, np.float32))
    with pytest.raises(StoreError, match="CRC"):
        gw.verify(path)
    with pytest.raises(StoreError, match="CRC"):
        gw.convert(path, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_swapped_data_files_are_found(tmp_path):
    """Of equal size, so that only the CRCs tell."""
    arrays = {"a": np.full(3000, 1, np.float32), "b": np.full(3000, 2, np.float32)}
    path = tf_files.checkpoint(tmp_path / "x.index", arrays, shards=2)
    one, two = (tmp_path / f"x.data-0000{k}-of-00002" for k in (0, 1))
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    with open_store(path) as reader, pytest.raises(StoreError, match="belongs to another checkpoint"):
        read_raw(reader, "a")


def test_texts_are_checked(tmp_path):
    """Lengths, their CRC and the texts, in any damaged byte."""
    stored, crc_ = text_tensor([b"", b"red", b"x" * 300])
    for at in (None, *range(0, len(stored), 7)):
        data = bytearray(stored)
        if at is not None:
            data[at] ^= 1
        entries = {b"": tf_files.header(), b"s": entry(7, (3,), 0, len(stored), crc_)}
        with open_store(put(tmp_path / "a.index", table(entries), [bytes(data)])) as reader:
            if at is None:
                reader.check()
            else:
                with pytest.raises(StoreError, match="'s'"):
                    reader.check()


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_damage_with_right_crcs_is_read_or_refused(tmp_path_factory, data):
    """Whatever an entry or an object graph says, the reader keeps its manners."""
    values = random_bits("int32", (6, 4), 1)
    folder = tmp_path_factory.mktemp("damage")
    write_parts(folder / "a.index", values, [((0, 2), (0, 4)), ((2, 6), (0, 4))])
    entries = tf_files.table_items((folder / "a.index").read_bytes())
    graph = node([(1, "a"), (0, "me")]) + node([(0, "b")], [("mine", "w")], [(1, "m", 0)])
    if data.draw(st.booleans()):
        graph = damaged(data, graph)
    else:
        key = data.draw(st.sampled_from(sorted(entries)))
        entries[key] = damaged(data, entries[key])
    stored, crc_ = text_tensor([graph])
    entries[GRAPH.encode()] = entry(7, (), values.nbytes, len(stored), crc_)
    values_on_disk = (folder / "a.data-00000-of-00001").read_bytes()
    path = put(folder / "b.index", table(entries), [values_on_disk + stored])
    try:
        with open_store(path) as reader:
            for name in reader.specs():
                assert reader.key(name)
                read_raw(reader, name, 2)
    except StoreError as error:
        refusal = str(error)
    else:
        refusal = "b."
    assert "b." in refusal


def damaged(data, message):
    """Return a message some bytes of which are others, gone or new."""
    at = data.draw(st.integers(0, len(message)))
    return (
        message[:at]
        + data.draw(st.binary(max_size=6))
        + message[data.draw(st.integers(at, min(at + 6, len(message)))) :]
    )


# Spelling ------------------------------------------------------------------------------------------------------------


def test_ways_to_name_a_checkpoint(tmp_path):
    """Its index, TensorFlow's prefix, or a directory that says which is the latest."""
    tf_files.checkpoint(tmp_path / "model.ckpt-1.index", {"w": np.zeros(2, np.float32)})
    tf_files.checkpoint(tmp_path / "model.ckpt-20.index", {"w": np.ones(2, np.float32)})
    state = tmp_path / "checkpoint"
    for name in ("model.ckpt-20", str(tmp_path / "model.ckpt-20"), "/gone/away/model.ckpt-20"):
        state.write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "model.ckpt-1"\n')
        for spelled in (tmp_path / "model.ckpt-20.index", tmp_path / "model.ckpt-20", tmp_path):
            with open_store(spelled) as reader:
                assert reader.path == tmp_path / "model.ckpt-20.index"
                assert read_raw(reader, "w").tolist() == [1, 1]
    merged = gw.merge([tmp_path / "model.ckpt-1", tmp_path / "model.ckpt-20"], output=tmp_path / "mean.index")
    assert tf_files.checkpoint_of(merged)["w"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", ["../other/model", "..", "", "gone", "/etc/model", "sub/model"])
def test_a_state_file_that_points_elsewhere_is_refused(tmp_path, name):
    """Or to what is not there."""
    folder = tmp_path / "run"
    for place in (folder, tmp_path / "other", folder / "sub"):
        place.mkdir()
        tf_files.checkpoint(place / "model.index", {"w": np.zeros(2, np.float32)})
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
    with pytest.raises(StoreError, match="checkpoint"):
        open_store(folder)


# Verbs ---------------------------------------------------------------------------------------------------------------


def test_other_formats_there_and_back(tmp_path):
    """Every dtype and role that a safetensors file tells comes back from a checkpoint."""
    arrays = {f"layer/{d}": random_bits(d, (3, 5), 1) for d in ("float32", "bfloat16", "int64", "bool", "float8_e5m2")}
    arrays |= {"norm/moving_mean": np.ones(3, np.float32), "seed/state": np.ones(2, np.int64)}
    save_file(arrays, tmp_path / "a.safetensors")
    gw.convert(tmp_path / "a.safetensors", tmp_path / "b.index")
    gw.convert(tmp_path / "b.index", tmp_path / "c.safetensors")
    with open_store(tmp_path / "c.safetensors") as reader:
        assert {n: s.dtype for n, s in reader.specs().items()} == {n: a.dtype.name for n, a in arrays.items()}
        for name, values in arrays.items():
            np.testing.assert_array_equal(read_raw(reader, name), raw(values))
    assert gw.diff(tmp_path / "a.safetensors", tmp_path / "b.index").identical
    with open_store(tmp_path / "a.safetensors") as before, open_store(tmp_path / "b.index") as after:
        assert {n: s.role for n, s in before.specs().items()} == {n: s.role for n, s in after.specs().items()}
    assert gw.verify(tmp_path / "b.index").sound


def test_a_role_that_names_do_not_tell_is_kept(tmp_path):
    """As safetensors files keep it: what was a statistic stays one."""
    save_file(
        {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)},
        tmp_path / "a.safetensors",
        {"graftwork.roles": '{"b": "statistic"}'},
    )
    gw.convert(tmp_path / "a.safetensors", tmp_path / "b.index")
    gw.convert(tmp_path / "b.index", tmp_path / "c.index")
    with open_store(tmp_path / "c.index") as reader:
        assert {n: s.role for n, s in reader.specs().items()} == {"a": Role.WEIGHT, "b": Role.STATISTIC}


def test_texts_are_carried_and_compared(tmp_path):
    """Byte for byte from the first source; two vocabularies that differ stop a merge; another format says what it leaves out."""
    for k, words in enumerate(([b"red", b"green"], [b"red", b"green"], [b"green", b"red"])):
        stored, crc_ = text_tensor(words)
        value = np.full(2, k, np.float32).tobytes()
        entries = {
            b"": tf_files.header(),
            b"vocabulary": entry(7, (2,), 8, len(stored), crc_),
            b"w": entry(1, (2,), 0, 8, masked(value)),
        }
        put(tmp_path / f"{k}.index", table(entries), [value + stored])
    assert gw.inspect(tmp_path / "0.index").assets == ("vocabulary",)
    gw.merge([tmp_path / "0.index", tmp_path / "1.index"], output=tmp_path / "out.index")
    with open_store(tmp_path / "out.index") as reader:
        reader.check()
        assert read_raw(reader, "w").tolist() == [0.5, 0.5]
    assert text_tensor([b"red", b"green"])[0] in (tmp_path / "out.data-00000-of-00001").read_bytes()
    with pytest.raises(MismatchError, match=r"vocabulary.*name 'assets' in `ignore`"):
        gw.merge([tmp_path / "0.index", tmp_path / "2.index"], output=tmp_path / "no.index")
    result = gw.convert(tmp_path / "0.index", tmp_path / "w.safetensors")
    assert any("1 vocabularies and other assets" in note for note in result.notes)


def test_where_a_training_was_in_its_data_does_not_stop_a_merge(tmp_path):
    """Checkpoints of one training have another state of the iterator each; the result has that of the one that lends."""
    key, weight = "it/.ATTRIBUTES/ITERATOR_STATE", KEY.format("w")
    graph = node([(1, "w"), (2, "it")]) + node([], [("w", weight)])
    graph += node([], [("", key)]).replace(b"VARIABLE_VALUE", b"ITERATOR_STATE")
    held, crc_ = text_tensor([graph])
    for k in range(2):
        stored, state_crc = text_tensor([b"at %d" % k])
        value = np.full(2, k, np.float32).tobytes()
        entries = {
            b"": tf_files.header(),
            GRAPH.encode(): entry(7, (), 8 + len(stored), len(held), crc_),
            key.encode(): entry(7, (1,), 8, len(stored), state_crc),
            weight.encode(): entry(1, (2,), 0, 8, masked(value)),
        }
        put(tmp_path / f"{k}.index", table(entries), [value + stored + held])
    report = []
    gw.checkpoints.average([tmp_path / "0.index", tmp_path / "1.index"], output=tmp_path / "out", report=report)
    with open_store(tmp_path / "out.index") as reader:
        assert read_raw(reader, "w").view(np.float32).tolist() == [0.5, 0.5]
    assert b"at 1" in (tmp_path / "out.data-00000-of-00001").read_bytes()
    assert any("'it/.ATTRIBUTES/ITERATOR_STATE', the state of a training, is another one there" in r for r in report)


def test_parts_of_a_checkpoint_lead_to_its_index(tmp_path):
    """A data file, or a directory without a state file, is no checkpoint: what to name instead is said."""
    tf_files.checkpoint(tmp_path / "variables.index", {"w": np.ones(2, np.float32)})
    for path in (tmp_path, tmp_path / "variables.data-00000-of-00001"):
        with pytest.raises(StoreError, match=r"name a checkpoint by its index, as \S+/variables\.index"):
            open_store(path)


@pytest.mark.parametrize("name", ["b.index", "check.index", "checkpoint.index", 'a "b".index', "a\\b.index"])
def test_the_first_checkpoint_of_a_directory_is_its_latest(tmp_path, name):
    """Where there is a state file, it stays what it is, even one that leads nowhere; the result says so."""
    source = tf_files.checkpoint(tmp_path / "a.index", {"w": np.ones(2, np.float32)})
    (tmp_path / "new").mkdir()
    assert not any("stays" in note for note in gw.convert(source, tmp_path / "new" / name).notes)
    state = (tmp_path / "new" / "checkpoint").read_text()
    with open_store(tmp_path / "new") as reader:
        assert reader.path == tmp_path / "new" / name
    result = gw.convert(source, tmp_path / "new" / "second.index")
    assert any("new/checkpoint stays as it is" in note for note in result.notes)
    gw.convert(source, tmp_path / "new" / "second.index", overwrite=True)
    assert (tmp_path / "new" / "checkpoint").read_text() == state
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoint").symlink_to("nowhere")
    gw.convert(source, tmp_path / "other" / name)
    assert (tmp_path / "other" / "checkpoint").readlink().name == "nowhere"


def test_a_target_is_spelled_as_tensorflow_does(tmp_path):
    """Without the ending of the index; other formats and directories stay what they are."""
    for spelled, meant in {
        "a/model.ckpt": "a/model.ckpt.index",
        "b.index": "b.index",
        "c.safetensors": "c.safetensors",
    }.items():
        assert target_of(tmp_path / spelled) == tmp_path / meant
    assert target_of(tmp_path) == tmp_path


def test_an_old_result_goes_with_all_its_data_files(tmp_path):
    """Replacing a checkpoint of three data files by one leaves none of the three; a stranger's file stays."""
    arrays = {f"w{k}": np.full(4, k, np.float32) for k in range(3)}
    source = tf_files.checkpoint(tmp_path / "source.index", arrays)
    target = tf_files.checkpoint(tmp_path / "target.index", arrays, shards=3)
    (tmp_path / "target.data-of-mine").write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        gw.convert(source, target)
    gw.convert(source, target, overwrite=True)
    names = {"target.index", "target.data-00000-of-00001", "target.data-of-mine"}
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith("target")} == names


def test_values_are_divided_among_data_files(tmp_path):
    """No file holds more than asked for, but for a tensor that is larger; texts come along, and a smaller number of files replaces them."""
    values = {f"t{k}": np.arange(k * 100, dtype=np.float32) for k in range(1, 6)}
    tf_files.checkpoint(tmp_path / "a.index", values)
    result = gw.convert(tmp_path / "a.index", tmp_path / "b.index", shard_bytes=1300)
    sizes = [file.stat().st_size for file in sorted(tmp_path.glob("b.data-*"))]
    assert sizes == [1200, 1200, 1600, 2000]
    assert result.size_bytes == sum(sizes) + (tmp_path / "b.index").stat().st_size
    for name, found in tf_files.checkpoint_of(tmp_path / "b.index").items():
        assert np.array_equal(found, values[name])
    with open_store(tmp_path / "b.index") as reader:
        reader.check()
    gw.convert(tmp_path / "a.index", tmp_path / "b.index", overwrite=True)
    assert [file.name for file in tmp_path.glob("b.data-*")] == ["b.data-00000-of-00001"]
    with pytest.raises(OutputError, match="holds nothing"):
        gw.convert(tmp_path / "a.index", tmp_path / "c.index", shard_bytes=-1)
    assert not list(tmp_path.glob("c.*"))


def test_a_source_is_never_written_over(tmp_path):
    """Whatever it is called by; nor are its data files."""
    source = tf_files.checkpoint(tmp_path / "a.index", {"w": np.ones(2, np.float32)})
    for spelled in (source, tmp_path / "a"):
        with pytest.raises(OutputError, match="one of the sources"):
            gw.convert(spelled, source, overwrite=True)
    tf_files.checkpoint(tmp_path / "b.index", {"w": np.ones(2, np.float32)})
    (tmp_path / "b.index").rename(tmp_path / "c.index")
    (tmp_path / "b.data-00000-of-00001").rename(tmp_path / "c.data-00000-of-00001")
    before = (tmp_path / "c.data-00000-of-00001").read_bytes()
    with pytest.raises(OutputError):
        gw.merge([source, tmp_path / "c"], output=tmp_path / "c.index", overwrite=True)
    assert (tmp_path / "c.data-00000-of-00001").read_bytes() == before


def test_complex_numbers_are_compared_whole(tmp_path):
    """A difference in the imaginary part is one."""
    for k in range(2):
        tf_files.checkpoint(tmp_path / f"{k}.index", {"w": np.array([1 + 2j, 3 + k * 1j], np.complex64)})
    assert not gw.diff(tmp_path / "0.index", tmp_path / "1.index").identical
    assert gw.diff(tmp_path / "0.index", tmp_path / "0.index").identical


@pytest.mark.parametrize("name", ["a/../b", "..", "a\0b", "a b", "naïve", "/a", "a/", "a:0"])
def test_odd_names_are_kept(tmp_path, name):
    """Names are keys, not paths: nothing is made of them on the disk."""
    source = tf_files.checkpoint(tmp_path / "a.index", {name: np.ones(2, np.float32), "w": np.zeros(3, np.float32)})
    gw.convert(source, tmp_path / "b.index")
    assert set(tf_files.checkpoint_of(tmp_path / "b.index")) == {name, "w"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(f"{s}.{e}" for s in "ab" for e in ("data-00000-of-00001", "index")),
        "checkpoint",
    ]


def test_neither_tensorflow_nor_keras_is_loaded(tmp_path):
    """To read, merge and write checkpoints."""
    for k in range(2):
        tf_files.checkpoint(tmp_path / f"{k}.index", {"w": np.ones(2, np.float32)})
    code = (
        "import sys, graftwork as gw; a, b, out = sys.argv[1:]; gw.inspect(a); gw.merge([a, b], output=out); gw.verify(out, load=False);"
        "assert not {'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "0", tmp_path / "1", tmp_path / "out.index"], check=True)


# Object graphs by hand -----------------------------------------------------------------------------------------------


def node(children=(), attributes=(), slots=()):
    """One object of a graph."""
    message = b"".join(field(1, field(1, n) + field(2, name)) for n, name in children)
    message += b"".join(
        field(2, field(1, "VARIABLE_VALUE") + field(2, full) + field(3, key)) for full, key in attributes
    )
    return field(1, message + b"".join(field(3, field(1, a) + field(2, s) + field(3, b)) for a, s, b in slots))


def with_graph(path, arrays, graph):
    """Write a checkpoint with an object graph."""
    entries, (data,) = tf_files.parts_of(arrays)
    stored, crc_ = text_tensor([graph])
    entries[GRAPH.encode()] = entry(7, (), len(data), len(stored), crc_)
    return put(path, table(entries), [data + stored])


KEY = "{}/.ATTRIBUTES/VARIABLE_VALUE"


def test_a_graph_may_lead_back_to_itself(tmp_path):
    """Cycles end; names come from the graph, and from the paths where two variables have one name."""
    graph = node([(0, "me"), (1, "a"), (2, "b"), (3, "c")])
    graph += node([(0, "parent"), (2, "sister")], [("same", KEY.format("a"))])
    graph += node([(1, "sister")], [("same", KEY.format("b"))]) + node([], [("mine", KEY.format("c"))])
    arrays = {KEY.format(n): np.full(2, k, np.float32) for k, n in enumerate("abc")}
    with open_store(with_graph(tmp_path / "a.index", arrays, graph)) as reader:
        assert {n: reader.key(n) for n in reader.specs()} == {
            "a": KEY.format("a"),
            "b": KEY.format("b"),
            "mine": KEY.format("c"),
        }


def test_variables_that_an_optimizer_trains_are_weights(tmp_path):
    """The shortest path to a weight may lead through the optimizer; what only the optimizer has is its own."""
    graph = node([(1, "optimizer"), (5, "model")])
    graph += node([(2, "_iterations"), (3, "_learning_rate"), (4, "_trainable_variables"), (7, "_variables")])
    graph += node([], [("adam/iteration", KEY.format("optimizer/_iterations"))])
    graph += node([], [("adam/learning_rate", KEY.format("optimizer/_learning_rate"))])
    graph += node([(6, "0")]) + node([(6, "kernel")])
    graph += node([], [("dense/kernel", KEY.format("optimizer/_trainable_variables/0"))])
    graph += node([(8, "2")]) + node([], [("adam/momentum", KEY.format("optimizer/_variables/2"))])
    keys = ("_iterations", "_learning_rate", "_trainable_variables/0", "_variables/2")
    arrays = {KEY.format(f"optimizer/{k}"): np.ones(2, np.float32) for k in keys}
    with open_store(with_graph(tmp_path / "a.index", arrays, graph)) as reader:
        roles = {n: s.role for n, s in reader.specs().items()}
    assert roles == {
        **dict.fromkeys(("adam/iteration", "adam/learning_rate", "adam/momentum"), Role.OPTIMIZER),
        "dense/kernel": Role.WEIGHT,
    }


@pytest.mark.parametrize(
    ("names", "root"),
    [
        (("_iterations", "_variables"), "opt"),  # of Keras 3 and 2 with a schedule: no learning rate is kept
        (("_iterations", "_learning_rate", "_variables"), "opt"),
        (("iter", "decay", "momentum"), "opt"),  # SGD of early Keras 2 with a schedule and no slots
        (("step", "m", "v"), "optimizer"),  # a user's own
        (("step", "m", "v"), "generator_optimizer"),
    ],
)
def test_what_an_optimizer_keeps_is_its_own_under_any_names(tmp_path, names, root):
    """Not told by a learning rate: with a schedule there is none. Things of a user that are called alike stay weights."""
    graph = node([(1, root), (2, "model"), (3, "iter"), (4, "learning_rate")])
    graph += node([(k, name) for k, name in enumerate(names, 5)]) + node([(5 + len(names), "momentum")])
    paths = ["iter", "learning_rate", *(f"{root}/{name}" for name in names), "model/momentum"]
    for path in paths:
        graph += node([], [(path, KEY.format(path))])
    arrays = {KEY.format(path): np.ones(2, np.float32) for path in paths}
    with open_store(with_graph(tmp_path / "a.index", arrays, graph)) as reader:
        roles = {n: s.role for n, s in reader.specs().items()}
    assert roles == {path: Role.OPTIMIZER if path.startswith(f"{root}/") else Role.WEIGHT for path in paths}


def test_slots_of_tensorflow_1_are_told_under_any_name(tmp_path):
    """Adam(name="mine") makes two of each variable; an average stays a weight, and of what may be either a note says so."""
    weights = ["w", "w/ExponentialMovingAverage", "w/ExponentialMovingAverage_1", "w/Mom", "x/y", "x/y_1", "w/part"]
    slots = ["w/mine", "w/mine_1", "w/Adam_gen", "w/d_momentum", "w/Adam", "w/adam_m", "w/RMSProp_2"]
    arrays = {name: np.ones(3 if name == "w/part" else 2, np.float32) for name in (*weights, *slots)}
    with open_store(tf_files.checkpoint(tmp_path / "a.index", arrays)) as reader:
        assert {n: s.role for n, s in reader.specs().items()} == {
            **dict.fromkeys(weights, Role.WEIGHT),
            **dict.fromkeys(slots, Role.OPTIMIZER),
        }
        (note,) = reader.header.notes
    assert "'w/Mom' stands behind a variable of its shape" in note
    assert "ckpt drop '*/Mom'" in note


@pytest.mark.parametrize(
    "graph", [node([(7, "a")]), b"\x0a\xff", field(1, varint(9)), node(slots=[(0, "m", 3)]), b"\xff" * 12]
)
def test_a_damaged_graph_is_refused(tmp_path, graph):
    """References to objects that are not there, messages that are cut short."""
    path = with_graph(tmp_path / "a.index", {"w": np.ones(2, np.float32)}, graph)
    with pytest.raises(StoreError, match="object graph"):
        open_store(path)


def test_a_tensor_without_a_place_among_the_objects_is_refused(tmp_path):
    """Before anything is written."""
    graph = node([(1, "a")]) + node([], [("mine", KEY.format("a"))])
    like = with_graph(tmp_path / "like.index", {KEY.format("a"): np.ones(2, np.float32)}, graph)
    save_file({"mine": np.zeros(2, np.float32)}, tmp_path / "a.safetensors")
    gw.convert(tmp_path / "a.safetensors", tmp_path / "b.index", like=like)
    with open_store(tmp_path / "b.index") as reader:
        assert reader.key("mine") == KEY.format("a")
    save_file({"yours": np.zeros(2, np.float32)}, tmp_path / "c.safetensors")
    with pytest.raises(MismatchError, match="yours"):
        gw.convert(tmp_path / "c.safetensors", tmp_path / "d.index", like=like)


# TensorFlow ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    """TensorFlow, in tests that are marked for it."""
    import tensorflow

    return tensorflow


def assert_read_as_tensorflow_reads(tf, prefix):
    """Every tensor of a checkpoint bit for bit; return name → key."""
    theirs = tf.train.load_checkpoint(str(prefix))
    shapes = theirs.get_variable_to_shape_map()
    with open_store(prefix) as reader:
        reader.check()
        keys = {name: reader.key(name) for name in reader.specs()}
        opaque = {key for key, dtype in theirs.get_variable_to_dtype_map().items() if dtype == tf.string}
        assert set(keys.values()) == set(shapes) - opaque
        for name, key in keys.items():
            wanted = np.asarray(theirs.get_tensor(key))
            spec = reader.specs()[name]
            assert (spec.shape, spec.dtype) == (wanted.shape, wanted.dtype.name)
            for blocks in (1, 3):
                np.testing.assert_array_equal(read_raw(reader, name, blocks), raw(wanted))
    return keys


EVERY = (*CODES,)


@pytest.mark.keras
@pytest.mark.parametrize("dtype", EVERY)
def test_every_dtype_of_tensorflow_is_read_and_written(tf, tmp_path, dtype):
    """TensorFlow writes, we read; we write, TensorFlow reads and restores; NaNs' bits and all."""
    values = {f"v{k}": random_bits(dtype, shape, k) for k, shape in enumerate([(7, 5), (), (0, 3), (5000,)])}
    names, arrays = list(values), [tf.constant(v) for v in values.values()]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "a"), tensor_names=names, shape_and_slices=[""] * 4, tensors=arrays)
    assert assert_read_as_tensorflow_reads(tf, tmp_path / "a") == {n: n for n in names}
    gw.convert(tmp_path / "a", tmp_path / "b.index")
    for prefix in ("a", "b"):
        restored = tf.raw_ops.RestoreV2(
            prefix=str(tmp_path / prefix),
            tensor_names=names,
            shape_and_slices=[""] * 4,
            dtypes=[a.dtype for a in arrays],
        )
        for found, wanted in zip(restored, values.values(), strict=True):
            np.testing.assert_array_equal(raw(found.numpy()), raw(wanted))
    assert (tmp_path / "a.data-00000-of-00001").read_bytes() == (tmp_path / "b.data-00000-of-00001").read_bytes()


@pytest.mark.keras
@pytest.mark.parametrize("dtype", ["qint8", "quint8", "qint32", "qint16", "quint16"])
def test_quantized_tensors_keep_their_type(tf, tmp_path, dtype):
    """Codes are read as integers, copied as what they were, and never merged."""
    codes = tf.bitcast(tf.constant(random_bits(dtype[1:].replace("int", "int"), (6,), 1)), getattr(tf, dtype))
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "a"), tensor_names=["q"], shape_and_slices=[""], tensors=[codes])
    gw.convert(tmp_path / "a", tmp_path / "b.index")
    (found,) = tf.raw_ops.RestoreV2(
        prefix=str(tmp_path / "b"), tensor_names=["q"], shape_and_slices=[""], dtypes=[getattr(tf, dtype)]
    )
    assert np.asarray(tf.bitcast(found, codes.dtype)).tobytes() == np.asarray(codes).tobytes()
    with pytest.raises(MismatchError, match="quantized"):
        gw.merge([tmp_path / "a", tmp_path / "b"], output=tmp_path / "c.index")


@pytest.mark.keras
def test_four_bit_integers_are_refused(tf, tmp_path):
    """By their name."""
    values = tf.cast(tf.constant([1, 2, 3]), tf.dtypes.experimental.int4)
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "a"), tensor_names=["q"], shape_and_slices=[""], tensors=[values])
    with pytest.raises(StoreError, match=r"'q'.*int4"):
        open_store(tmp_path / "a")


@pytest.mark.keras
def test_texts_and_variants_of_tensorflow_are_checked_and_carried(tf, tmp_path):
    """With TensorFlow's own CRCs, which count lengths in their own way; restored to the same."""
    texts = tf.constant([["", "a"], ["é" * 500, "x" * 70000]])
    lists = tf.raw_ops.TensorListFromTensor(tensor=tf.constant([[1.0, 2.0], [3.0, 4.0]]), element_shape=[2])
    names = ["list", "texts", "w"]
    tensors = [lists, texts, tf.constant([1.0])]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "a"), tensor_names=names, shape_and_slices=[""] * 3, tensors=tensors)
    with open_store(tmp_path / "a") as reader:
        reader.check()
        assert list(reader.header.assets) == ["list", "texts"]
        assert list(reader.specs()) == ["w"]
    gw.convert(tmp_path / "a", tmp_path / "b.index")
    dtypes = [tf.variant, tf.string, tf.float32]
    restored = tf.raw_ops.RestoreV2(
        prefix=str(tmp_path / "b"), tensor_names=names, shape_and_slices=[""] * 3, dtypes=dtypes
    )
    assert restored[1].numpy().tolist() == texts.numpy().tolist()
    stack = tf.raw_ops.TensorListStack(input_handle=restored[0], element_shape=[2], element_dtype=tf.float32)
    assert stack.numpy().tolist() == [[1, 2], [3, 4]]
    with open_store(tmp_path / "b.index") as reader:
        reader.check()


@pytest.fixture(scope="module")
def tf1(tf, tmp_path_factory):
    """A graph of TensorFlow 1 with partitioned variables and Adam, saved in one data file and in several."""
    v1, folder = tf.compat.v1, tmp_path_factory.mktemp("tf1")
    for k in range(2):
        with tf.Graph().as_default(), v1.Session() as session:
            build_tf1(tf)
            session.run(v1.global_variables_initializer())
            session.run(v1.get_collection("train"))
            (folder / str(k)).mkdir()
            v1.train.Saver().save(session, str(folder / str(k) / "model.ckpt"), 1000)
            v1.train.Saver(sharded=True).save(session, str(folder / str(k) / "sharded.ckpt"))
    return folder


def build_tf1(tf, partitions=3):
    """Make the variables of the graph."""
    v1 = tf.compat.v1
    rows = v1.get_variable("bert/rows", (10, 4), partitioner=v1.fixed_size_partitioner(partitions))
    columns = v1.get_variable("cols", (5, 7), partitioner=v1.fixed_size_partitioner(partitions - 1, axis=1))
    kernel = v1.get_variable("dense/kernel", (4, 2))
    v1.get_variable("words", initializer=tf.constant(["a", "", "ccc"]))
    step = v1.train.get_or_create_global_step()
    loss = tf.reduce_sum(tf.matmul(tf.convert_to_tensor(rows), kernel)) + tf.reduce_sum(tf.convert_to_tensor(columns))
    v1.add_to_collection("train", v1.train.AdamOptimizer().minimize(loss, step))


@pytest.mark.keras
@pytest.mark.parametrize("name", ["model.ckpt-1000", "sharded.ckpt"])
def test_checkpoints_of_tensorflow_1_are_read(tf, tf1, name):
    """Partitioned variables are whole; slots, counters and texts have their roles."""
    prefix = tf1 / "0" / name
    assert_read_as_tensorflow_reads(tf, prefix)
    with open_store(prefix) as reader:
        roles = {n: str(s.role) for n, s in reader.specs().items()}
        assert list(reader.header.assets) == ["words"]
    weights = ("bert/rows", "cols", "dense/kernel")
    slots = [f"{w}/{s}" for w in weights for s in ("Adam", "Adam_1")]
    assert roles == {
        **dict.fromkeys(weights, "weight"),
        **dict.fromkeys([*slots, "beta1_power", "beta2_power"], "optimizer"),
        "global_step": "counter",
    }


@pytest.mark.keras
@pytest.mark.parametrize("optimizer", ["drop", "first"])
def test_a_merge_of_tensorflow_1_is_restored_by_its_saver(tf, tf1, tmp_path, optimizer):
    """Into a graph with other partitions than before; averages by hand, the rest as in the first source."""
    v1 = tf.compat.v1
    sources = [tf1 / str(k) / "model.ckpt-1000" for k in range(2)]
    gw.merge(sources, output=tmp_path / "out.index", optimizer=optimizer)
    a, b = (tf.train.load_checkpoint(str(s)) for s in sources)
    out = tf.train.load_checkpoint(str(tmp_path / "out"))
    kept = set(out.get_variable_to_shape_map())
    assert kept == {
        n for n in a.get_variable_to_shape_map() if optimizer == "first" or ("Adam" not in n and "_power" not in n)
    }
    for name in kept:
        mine = name in ("bert/rows", "cols", "dense/kernel")
        wanted = (a.get_tensor(name) + b.get_tensor(name)) / 2 if mine else a.get_tensor(name)
        np.testing.assert_array_equal(out.get_tensor(name), wanted)
    with tf.Graph().as_default(), v1.Session() as session:
        build_tf1(tf, 2)
        variables = [
            v
            for v in v1.global_variables()
            if optimizer == "first" or ("Adam" not in v.name and "_power" not in v.name)
        ]
        v1.train.Saver(variables).restore(session, str(tmp_path / "out"))
        rows = np.concatenate([session.run(v) for v in v1.global_variables("bert/rows/part_[0-9]+:")])
    np.testing.assert_array_equal(rows, out.get_tensor("bert/rows"))


def fitted(keras, seed, build):
    """Return a small model after one step of training."""
    keras.utils.set_random_seed(seed)
    model = build(keras)
    model.compile("adam", "mse", run_eagerly=True)
    rng = np.random.default_rng(seed)
    model.fit(rng.standard_normal((4, 8)), rng.standard_normal((4, 2)), verbose=0)
    return model


def build_keras(keras):
    """Return a model of Keras 2 or 3."""
    inputs = keras.Input((8,))
    hidden = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(4, name="first")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="second")(hidden))


WEIGHTS = {f"{layer}/{name}" for layer in ("first", "second") for name in ("kernel", "bias")} | {
    "norm/gamma",
    "norm/beta",
}
STATISTICS = {"norm/moving_mean", "norm/moving_variance"}


@pytest.mark.keras
@pytest.mark.parametrize("version", ["keras", "tf_keras"])
@pytest.mark.parametrize("optimizer", ["drop", "first"])
def test_a_merge_of_object_checkpoints_is_restored(tf, tmp_path, version, optimizer):
    """By name through the object graph, whatever the keys; `tf.train.Checkpoint` restores the result, slots only if they were kept."""
    keras = pytest.importorskip(version)
    models = [fitted(keras, seed, build_keras) for seed in range(2)]
    for k, model in enumerate(models):
        tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(tmp_path / str(k)))
    keys, _ = (assert_read_as_tensorflow_reads(tf, tmp_path / str(k)) for k in range(2))
    with open_store(tmp_path / "0") as reader:
        roles = {name: spec.role for name, spec in reader.specs().items()}
    assert {n for n, r in roles.items() if r is Role.WEIGHT} == WEIGHTS
    assert {n for n, r in roles.items() if r is Role.STATISTIC} == STATISTICS
    assert sum(r is Role.OPTIMIZER for r in roles.values()) == 2 * len(WEIGHTS) + 2
    gw.merge([tmp_path / "0", tmp_path / "1"], output=tmp_path / "out.index", optimizer=optimizer)
    with open_store(tmp_path / "out.index") as reader:
        assert {n: reader.key(n) for n in reader.specs()} == {
            n: k for n, k in keys.items() if optimizer == "first" or roles[n] is not Role.OPTIMIZER
        }
        reader.check()
    fresh = fitted(keras, 2, build_keras)
    before = [np.asarray(v) for v in optimizer_variables(fresh)]
    status = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).read(str(tmp_path / "out"))
    status.assert_consumed() if optimizer == "first" else status.expect_partial()
    for new, a, b in zip(fresh.variables[:8], models[0].variables[:8], models[1].variables[:8], strict=True):
        np.testing.assert_array_equal(np.asarray(new), (np.asarray(a) + np.asarray(b)) / 2)
    wanted = [np.asarray(v) for v in optimizer_variables(models[0])] if optimizer == "first" else before
    for new, old in zip(optimizer_variables(fresh), wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(new), old)


def optimizer_variables(model):
    """Return an optimizer's variables, a method in some versions."""
    found = model.optimizer.variables
    return found() if callable(found) else list(found)


@pytest.mark.keras
def test_weights_of_keras_go_into_an_object_checkpoint_and_back(tf, tmp_path):
    """`.weights.h5` to a checkpoint of objects that `like` lends, restored by TensorFlow, and back without loss."""
    import keras

    model = fitted(keras, 0, build_keras)
    model.save_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "a.keras")
    other = fitted(keras, 1, build_keras)
    tf.train.Checkpoint(model=other).write(str(tmp_path / "other"))
    gw.convert(tmp_path / "a.keras", tmp_path / "b.index", like=tmp_path / "other")
    tf.train.Checkpoint(model=other).read(str(tmp_path / "b")).assert_consumed()
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    gw.convert(tmp_path / "b.index", tmp_path / "c.weights.h5", like=tmp_path / "a.keras")
    assert gw.diff(tmp_path / "a.weights.h5", tmp_path / "c.weights.h5").identical


@pytest.mark.keras
def test_modules_tables_and_unnamed_variables_are_read_and_restored(tf, tmp_path):
    """Variables without names of their own are called by their paths; a table's texts are carried, its numbers are a table."""

    class Module(tf.Module):
        def __init__(self, value):
            super().__init__()
            self.w, self.v = tf.Variable(tf.fill((3, 3), value)), tf.Variable(tf.fill((3,), value))
            self.named = tf.Variable(value, name="mine")
            self.words = tf.Variable(["a", "bb"])
            self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
            self.table.insert(["x", "y"], [1, 2])
            self.me = self

    for k in range(2):
        tf.train.Checkpoint(module=Module(float(k))).write(str(tmp_path / str(k)))
    assert_read_as_tensorflow_reads(tf, tmp_path / "0")
    with open_store(tmp_path / "0") as reader:
        roles = {n: str(s.role) for n, s in reader.specs().items()}
        assert sorted(reader.header.assets) == ["module/table/.ATTRIBUTES/table-keys", "module/words"]
    table_values = "module/table/.ATTRIBUTES/table-values"
    assert roles == {**dict.fromkeys(["mine", "module/v", "module/w"], "weight"), table_values: "table"}
    gw.merge([tmp_path / "0", tmp_path / "1"], output=tmp_path / "out.index")
    fresh = Module(7.0)
    fresh.table.insert(["z"], [3])
    tf.train.Checkpoint(module=fresh).read(str(tmp_path / "out")).assert_consumed()
    assert fresh.w.numpy().tolist() == [[0.5] * 3] * 3 and float(fresh.named) == 0.5
    assert fresh.words.numpy().tolist() == [b"a", b"bb"]
    assert fresh.table.lookup(tf.constant(["x", "y", "z"])).numpy().tolist() == [1, 2, -1]


@pytest.mark.keras
def test_many_tensors_fill_several_blocks(tf, tmp_path):
    """An index of more than one block: ours for TensorFlow, TensorFlow's for us."""
    names = [f"{'deep/' * 20}layer_{k:05}/kernel" for k in range(6000)]
    save_file({n: np.full(2, k, np.float32) for k, n in enumerate(names)}, tmp_path / "a.safetensors")
    gw.convert(tmp_path / "a.safetensors", tmp_path / "b.index")
    theirs = tf.train.load_checkpoint(str(tmp_path / "b"))
    assert set(theirs.get_variable_to_shape_map()) == set(names)
    for k in (0, 1, 2999, 5999):
        assert theirs.get_tensor(names[k]).tolist() == [k, k]
    tensors = [tf.constant([float(k)] * 2) for k in range(6000)]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "c"), tensor_names=names, shape_and_slices=[""] * 6000, tensors=tensors)
    assert gw.diff(tmp_path / "b", tmp_path / "c").identical


# SavedModels ---------------------------------------------------------------------------------------------------------


@pytest.mark.keras
@pytest.mark.parametrize("version", ["keras", "tf_keras"])
def test_variables_of_exported_models_are_read(tf, tmp_path, version):
    """Each once, under its own name; into a model of the same architecture without loss."""
    keras = pytest.importorskip(version)
    model = fitted(keras, 0, build_keras)
    model.export(tmp_path / "out", verbose=False) if version == "keras" else model.save(tmp_path / "out")
    with open_store(tmp_path / "out") as reader:
        reader.check()
        assert reader.header.format == "saved_model"
        specs = reader.specs()
        for variable in model.weights:
            name = variable.path if version == "keras" else variable.name.removesuffix(":0")
            np.testing.assert_array_equal(read_raw(reader, name), raw(np.asarray(variable)))
        assert {n for n, s in specs.items() if s.role is Role.WEIGHT} == WEIGHTS
        assert {n for n, s in specs.items() if s.role is Role.STATISTIC} == STATISTICS
        assert {n for n, s in specs.items() if s.role is Role.COUNTER} <= {"total", "count"}
    with pytest.raises(OutputError, match="only read"):
        gw.convert(tmp_path / "out", tmp_path / "again")
    gw.convert(tmp_path / "out", tmp_path / "a.safetensors")
    assert gw.diff(tmp_path / "out", tmp_path / "a.safetensors").identical
    if version == "keras":
        model.save(tmp_path / "like.keras")
        gw.convert(tmp_path / "out", tmp_path / "b.keras", like=tmp_path / "like.keras")
        assert gw.diff(tmp_path / "b.keras", tmp_path / "like.keras").identical


@pytest.mark.keras
def test_saved_models_of_tensorflow_1_and_of_modules_are_read(tf, tmp_path):
    """By names, by objects; a file of assets is listed, and compared."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 4), name="x")
        y = tf.matmul(x, v1.get_variable("dense/kernel", (4, 2)))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "one"), {"x": x}, {"y": y})
        kernel = session.run(v1.global_variables()[0])
    with open_store(tmp_path / "one") as reader:
        np.testing.assert_array_equal(read_raw(reader, "dense/kernel"), raw(kernel))
    for name, words in (("a", "red\ngreen\n"), ("b", "green\nred\n")):
        (tmp_path / f"{name}.txt").write_text(words)
        module = tf.Module()
        module.w = tf.Variable(tf.ones((2, 2)))
        module.words = tf.saved_model.Asset(str(tmp_path / f"{name}.txt"))
        tf.saved_model.save(module, str(tmp_path / name))
    with open_store(tmp_path / "a") as reader:
        assert list(reader.specs()) == ["w"]
        assert list(reader.header.assets) == ["assets/a.txt"]
    with pytest.raises(MismatchError, match="txt"):
        gw.merge([tmp_path / "a", tmp_path / "b"], output=tmp_path / "c.index")


def test_a_saved_model_that_links_elsewhere_is_refused(tmp_path):
    """An asset outside of the directory; variables that are not there; none at all are no mistake."""
    folder = tmp_path / "model"
    folder.mkdir()
    program = folder / "saved_model.pb"
    program.write_bytes(tf_files.field(2, b""))
    (folder / "variables").mkdir()  # TensorFlow 1 leaves it empty
    with open_store(folder) as reader:
        assert not reader.specs() and reader.header.notes
    node = tf_files.field(1, "w") + tf_files.field(2, "VarHandleOp")
    program.write_bytes(tf_files.field(2, tf_files.field(2, tf_files.field(1, node))))
    with pytest.raises(StoreError, match="missing"):
        open_store(folder)
    tf_files.checkpoint(folder / "variables" / "variables.index", {"w": np.ones(2, np.float32)})
    open_store(folder).close()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "assets").mkdir()
    (folder / "assets" / "words.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(StoreError, match="outside"):
        open_store(folder)
