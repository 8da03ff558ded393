"""``.keras`` files: a zip of a configuration and HDF5 weights."""

import io
import os
import stat
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from hostile import hdf5, json_text, keras_config, oddities
from hostile.corpus import Corpus, Outcome
from hostile.hdf5 import deflated_zeros
from hostile.keras_config import config_text, pickle_that_would_run
from hostile.valid import METADATA, VALUES, WEIGHTS_KERNEL, fill_weights, h5_bytes, sequential, text
from hostile.zips import DEFLATED, Member, archive, deflated, zip64

CORPUS = Corpus("keras", VALUES)

META = Member(name=b"metadata.json", data=METADATA)
CONFIG = Member(name=b"config.json", data=text(sequential()))
WEIGHTS = Member(name=b"model.weights.h5", data=h5_bytes(fill_weights))
MEMBERS = (META, CONFIG, WEIGHTS)


def put(folder: Path, data: bytes) -> Path:
    """Write the file."""
    path = folder / "model.keras"
    path.write_bytes(data)
    return path


def valid() -> bytes:
    """Return a valid file."""
    return archive(MEMBERS)


def with_config(folder: Path, config: bytes) -> Path:
    """Write a file with another configuration."""
    return put(folder, archive([META, replace(CONFIG, data=config), WEIGHTS]))


def with_weights(folder: Path, weights: bytes) -> Path:
    """Write a file with other weights."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, data=weights)]))


@CORPUS.harmless()
def valid_file(folder: Path) -> Path:
    """Nothing wrong."""
    return put(folder, valid())


hdf5.add_faults(CORPUS, with_weights, fill_weights, WEIGHTS_KERNEL)
for _name, _text in json_text.BROKEN.items():
    CORPUS.add(f"config-{_name}", lambda folder, text=_text: with_config(folder, text), mentions="config.json")
for _name, _fault in keras_config.FAULTS.items():
    CORPUS.add(
        f"config-{_name}",
        lambda folder, fault=_fault: with_config(folder, config_text(fault.make(folder))),
        _fault.outcome,
    )
for _name, _text in json_text.BROKEN.items():
    CORPUS.add(
        f"metadata-{_name}",
        lambda folder, text=_text: put(folder, archive([replace(META, data=text), CONFIG, WEIGHTS])),
        Outcome.TOLERATED,
    )
oddities.add(CORPUS, "model.keras", valid())


# Truncation --------------------------------------------------------------------------------------------------------


@CORPUS.refused()
def cut_in_the_first_header(folder: Path) -> Path:
    """Twenty bytes."""
    return put(folder, valid()[:20])


@CORPUS.refused()
def cut_in_the_weights(folder: Path) -> Path:
    """Half."""
    return put(folder, valid()[: len(valid()) // 2])


@CORPUS.refused()
def cut_in_the_directory(folder: Path) -> Path:
    """All but a hundred bytes."""
    return put(folder, valid()[:-100])


@CORPUS.refused()
def last_byte_missing(folder: Path) -> Path:
    """All but one byte."""
    return put(folder, valid()[:-1])


@CORPUS.refused()
def middle_missing(folder: Path) -> Path:
    """A hundred bytes of the weights are gone, the directory is whole."""
    data = valid()
    return put(folder, data[: len(data) // 2] + data[len(data) // 2 + 100 :])


@CORPUS.refused()
def only_an_end_record(folder: Path) -> Path:
    """An empty archive."""
    return put(folder, archive([]))


# Lies in the directory ---------------------------------------------------------------------------------------------


@CORPUS.refused()
def directory_past_the_end(folder: Path) -> Path:
    """The directory begins beyond the file."""
    return put(folder, archive(MEMBERS, directory_offset=1 << 30))


@CORPUS.refused()
def directory_larger_than_the_file(folder: Path) -> Path:
    """The directory has more bytes than the file."""
    return put(folder, archive(MEMBERS, directory_size=1 << 30))


@CORPUS.refused()
def directory_of_nothing(folder: Path) -> Path:
    """The directory has no bytes and three members."""
    return put(folder, archive(MEMBERS, directory_size=0))


@CORPUS.tolerated()
def count_lies(folder: Path) -> Path:
    """The record at the end says 60,000 members."""
    return put(folder, archive(MEMBERS, count=60_000))


@CORPUS.tolerated()
def comment_longer_than_the_file(folder: Path) -> Path:
    """A comment of 60,000 bytes that is not there."""
    return put(folder, archive(MEMBERS, comment_length=60_000))


@CORPUS.harmless()
def comment(folder: Path) -> Path:
    """A comment."""
    return put(folder, archive(MEMBERS, comment=b"made by hand"))


@CORPUS.tolerated()
def bytes_before_the_first_member(folder: Path) -> Path:
    """An archive behind a shell script, as self-extracting ones are; all offsets are honest."""
    return put(folder, archive(MEMBERS, before=b"#!/bin/sh\nexit 1\n" * 20))


@CORPUS.tolerated()
def another_archive_in_front(folder: Path) -> Path:
    """Two archives behind each other: readers disagree about which one counts."""
    other = archive([META, replace(CONFIG, data=b"{}"), WEIGHTS])
    return put(folder, archive(MEMBERS, before=other))


@CORPUS.refused("config.json|twice")
def two_configurations(folder: Path) -> Path:
    """Two members of one name: readers disagree about which one counts."""
    return put(folder, archive([META, replace(CONFIG, data=b"{}"), CONFIG, WEIGHTS]))


@CORPUS.refused("model.weights.h5|twice")
def two_weights(folder: Path) -> Path:
    """Two members of one name, each valid."""
    return put(folder, archive([*MEMBERS, replace(WEIGHTS, data=h5_bytes(lambda f: fill_weights(f, optimizer=False)))]))


@CORPUS.refused()
def weights_missing(folder: Path) -> Path:
    """No weights."""
    return put(folder, archive([META, CONFIG]))


@CORPUS.refused("config.json")
def config_missing(folder: Path) -> Path:
    """No configuration."""
    return put(folder, archive([META, WEIGHTS]))


@CORPUS.tolerated()
def metadata_missing(folder: Path) -> Path:
    """No metadata."""
    return put(folder, archive([CONFIG, WEIGHTS]))


@CORPUS.tolerated()
def weights_twice_under_two_names(folder: Path) -> Path:
    """Both a plain and a sharded set of weights: which ones count?"""
    return put(
        folder, archive([*MEMBERS, Member(name=b"model.weights.json", data=b'{"metadata": {}, "weight_map": {}}')])
    )


@CORPUS.harmless()
def members_nobody_asked_for(folder: Path) -> Path:
    """A readme, and a directory."""
    return put(
        folder, archive([*MEMBERS, Member(name=b"README.txt", data=b"hello"), Member(name=b"assets/", data=b"")])
    )


@CORPUS.harmless()
def assets(folder: Path) -> Path:
    """A vocabulary, as lookup layers keep it."""
    return put(folder, archive([*MEMBERS, Member(name=b"assets/_layer/vocabulary.txt", data=b"a\nb\n")]))


# Names -------------------------------------------------------------------------------------------------------------

for _name, _raw in {
    "climbs": b"assets/../../../evil",
    "climbs-at-once": b"../evil",
    "is-absolute": b"/etc/evil",
    "climbs-in-windows": b"assets\\..\\..\\evil",
    "is-a-drive": b"C:\\evil",
    "is-empty": b"",
    "is-a-dot": b"assets/./x",
    "holds-a-nul": b"config.json\0.txt",
    "is-not-utf8": b"assets/\xff\xfe",
}.items():
    CORPUS.add(
        f"member-name-{_name}",
        lambda folder, raw=_raw: put(folder, archive([*MEMBERS, Member(name=raw, data=b"evil", flags=0x800)])),
        Outcome.TOLERATED if _name == "is-a-dot" else Outcome.REFUSED,
    )


@CORPUS.refused()
def member_is_a_link(folder: Path) -> Path:
    """A symbolic link to a system file among the assets."""
    link = Member(name=b"assets/vocabulary.txt", data=b"/etc/passwd", attributes=(stat.S_IFLNK | 0o777) << 16)
    return put(folder, archive([*MEMBERS, link]))


@CORPUS.refused()
def weights_are_a_link(folder: Path) -> Path:
    """A symbolic link in place of the weights."""
    link = replace(WEIGHTS, data=b"/etc/passwd", attributes=(stat.S_IFLNK | 0o777) << 16)
    return put(folder, archive([META, CONFIG, link]))


@CORPUS.refused()
def name_in_the_local_header_lies(folder: Path) -> Path:
    """The directory says config.json, the member itself says something else."""
    return put(folder, archive([META, replace(CONFIG, local_name=b"somethin.js"), WEIGHTS]))


@CORPUS.refused()
def weights_named_otherwise_in_the_local_header(folder: Path) -> Path:
    """The directory says model.weights.h5, the member itself has a longer name: the values shift."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, local_name=b"assets/some/other/member.h5")]))


# Flags and methods -------------------------------------------------------------------------------------------------


@CORPUS.refused()
def encrypted_config(folder: Path) -> Path:
    """A configuration behind a password."""
    return put(folder, archive([META, replace(CONFIG, flags=1), WEIGHTS]))


@CORPUS.refused()
def encrypted_weights(folder: Path) -> Path:
    """Weights behind a password."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, flags=1)]))


@CORPUS.refused()
def unknown_method(folder: Path) -> Path:
    """Weights compressed with something else."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, method=99)]))


@CORPUS.tolerated()
def stored_here_and_deflated_there(folder: Path) -> Path:
    """The directory says STORED, the member itself says DEFLATED."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, local_method=DEFLATED)]))


@CORPUS.harmless()
def deflated_config(folder: Path) -> Path:
    """A configuration that somebody compressed."""
    return put(folder, archive([deflated(META), deflated(CONFIG), WEIGHTS]))


@CORPUS.tolerated()
def deflated_weights(folder: Path) -> Path:
    """Weights that somebody compressed; Keras would read them."""
    return put(folder, archive([META, CONFIG, deflated(WEIGHTS)]))


# Sizes -------------------------------------------------------------------------------------------------------------


@CORPUS.refused()
def wrong_checksum_of_the_config(folder: Path) -> Path:
    """CRC-32 of something else."""
    return put(folder, archive([META, replace(CONFIG, crc=1), WEIGHTS]))


@CORPUS.tolerated()
def wrong_checksum_of_the_weights(folder: Path) -> Path:
    """CRC-32 of something else, which is known only after reading everything."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, crc=1)]))


@CORPUS.refused()
def config_bomb(folder: Path) -> Path:
    """A configuration of 300 kB that expands to 300 MB of zeros, honestly declared."""
    data = deflated_zeros(288 << 20)
    return put(folder, archive([META, replace(CONFIG, data=data, method=DEFLATED, size=288 << 20, crc=0), WEIGHTS]))


@CORPUS.refused()
def config_bomb_of_four_gigabytes(folder: Path) -> Path:
    """A configuration that expands to 4 GB, honestly declared."""
    size = 4080 << 20
    return put(
        folder, archive([META, replace(CONFIG, data=deflated_zeros(size), method=DEFLATED, size=size, crc=0), WEIGHTS])
    )


@CORPUS.refused()
def config_bomb_in_disguise(folder: Path) -> Path:
    """A configuration that expands to 4 GB and says that it has a hundred bytes."""
    data = deflated_zeros(4080 << 20, prefix=CONFIG.data)
    lie = replace(CONFIG, data=data, method=DEFLATED, size=len(CONFIG.data), crc=zlib.crc32(CONFIG.data))
    return put(folder, archive([META, lie, WEIGHTS]))


@CORPUS.tolerated()
def asset_bomb(folder: Path) -> Path:
    """A vocabulary that expands to 4 GB; nobody needs to read it to read the weights."""
    size = 4080 << 20
    bomb = Member(name=b"assets/v.txt", data=deflated_zeros(size), method=DEFLATED, size=size, crc=0)
    return put(folder, archive([*MEMBERS, bomb]))


@CORPUS.refused()
def metadata_bomb(folder: Path) -> Path:
    """Metadata that expand to 4 GB."""
    size = 4080 << 20
    return put(
        folder, archive([replace(META, data=deflated_zeros(size), method=DEFLATED, size=size, crc=0), CONFIG, WEIGHTS])
    )


@CORPUS.refused()
def weights_bomb(folder: Path) -> Path:
    """Weights that expand to 4 GB."""
    size = 4080 << 20
    bomb = replace(WEIGHTS, data=deflated_zeros(size, prefix=WEIGHTS.data), method=DEFLATED, size=size, crc=0)
    return put(folder, archive([META, CONFIG, bomb]))


@CORPUS.refused()
def zip_in_a_zip(folder: Path) -> Path:
    """The configuration is an archive."""
    return put(folder, archive([META, replace(CONFIG, data=valid()), WEIGHTS]))


@CORPUS.refused()
def keras_file_for_weights(folder: Path) -> Path:
    """The weights are a whole ``.keras`` file."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, data=valid())]))


@CORPUS.refused()
def weights_longer_than_the_file(folder: Path) -> Path:
    """STORED weights of 3 GB in a file of 20 kB."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, size=3 << 30, packed=3 << 30)]))


@CORPUS.refused()
def stored_with_two_sizes(folder: Path) -> Path:
    """STORED, but the two sizes differ."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, size=len(WEIGHTS.data) // 2)]))


@CORPUS.refused()
def weights_run_into_the_directory(folder: Path) -> Path:
    """STORED weights whose last bytes are the directory."""
    more = len(WEIGHTS.data) + 40
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, size=more, packed=more)]))


@CORPUS.tolerated()
def local_sizes_lie(folder: Path) -> Path:
    """The member itself claims other sizes than the directory."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, local_size=17)]))


@CORPUS.harmless()
def sizes_behind_the_data(folder: Path) -> Path:
    """Zeros in the local header and bit 3 set, as streams are written."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, flags=8, local_size=0)]))


@CORPUS.refused()
def members_overlap(folder: Path) -> Path:
    """The configuration and the weights are one and the same member."""
    at = 30 + len(META.name) + len(META.data)
    return put(
        folder, archive([META, CONFIG, replace(WEIGHTS, offset=at, size=len(CONFIG.data), packed=len(CONFIG.data))])
    )


@CORPUS.refused()
def member_past_the_end(folder: Path) -> Path:
    """The weights begin beyond the file."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, offset=1 << 30)]))


@CORPUS.refused()
def member_at_no_header(folder: Path) -> Path:
    """The weights begin in the middle of something else."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, offset=77)]))


@CORPUS.refused()
def zip64_size_of_exabytes(folder: Path) -> Path:
    """An extra field that claims 2**62 bytes."""
    size = 0xFFFFFFFF
    lie = replace(WEIGHTS, size=size, packed=size, extra=zip64(1 << 62, 1 << 62))
    return put(folder, archive([META, CONFIG, lie]))


@CORPUS.refused()
def zip64_size_that_is_negative(folder: Path) -> Path:
    """An extra field that claims 2**64 - 1 bytes."""
    size = 0xFFFFFFFF
    lie = replace(WEIGHTS, size=size, packed=size, extra=zip64((1 << 64) - 1, (1 << 64) - 1))
    return put(folder, archive([META, CONFIG, lie]))


@CORPUS.refused()
def zip64_offset_that_overflows(folder: Path) -> Path:
    """An extra field that puts the member at 2**63 - 8."""
    lie = replace(WEIGHTS, offset=0xFFFFFFFF, extra=zip64((1 << 63) - 8))
    return put(folder, archive([META, CONFIG, lie]))


@CORPUS.refused()
def zip64_field_cut_short(folder: Path) -> Path:
    """An extra field that should hold two sizes and holds none."""
    lie = replace(WEIGHTS, size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=b"\1\0\0\0")
    return put(folder, archive([META, CONFIG, lie]))


@CORPUS.tolerated()
def extra_field_longer_than_it_is(folder: Path) -> Path:
    """An extra field that claims 60,000 bytes and has four."""
    return put(folder, archive([META, CONFIG, replace(WEIGHTS, extra=b"\x99\x99\x60\xea")]))


@CORPUS.tolerated()
def sixty_thousand_members(folder: Path) -> Path:
    """As many members as an archive can have without zip64."""
    return put(folder, archive([*MEMBERS, *(Member(name=b"assets/%d" % i, data=b"") for i in range(60_000))]))


# Other weights -----------------------------------------------------------------------------------------------------


@CORPUS.refused()
def weights_are_a_pickle(folder: Path) -> Path:
    """A pickle under the name of the weights."""
    return with_weights(folder, pickle_that_would_run(folder))


@CORPUS.refused()
def weights_are_an_npz_of_pickles(folder: Path) -> Path:
    """``model.weights.npz``, which Keras can read too, with an array of objects."""

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {folder / keras_config.MARKER}",)

    buffer = io.BytesIO()
    np.savez(buffer, trap=np.array([Trap()], object))
    return put(folder, archive([META, CONFIG, Member(name=b"model.weights.npz", data=buffer.getvalue())]))


@CORPUS.refused()
def config_is_a_pickle(folder: Path) -> Path:
    """A pickle under the name of the configuration."""
    return with_config(folder, pickle_that_would_run(folder))
