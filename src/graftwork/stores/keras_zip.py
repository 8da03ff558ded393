"""The ``.keras`` file: a zip that Keras 3 (and Keras 2.12 and later) writes.

::

    metadata.json        {"keras_version": …, "date_saved": …}
    config.json          the architecture, and how it was compiled
    model.weights.h5     see `keras_weights`; stored, so its datasets are byte ranges of the zip
    assets/…             vocabularies of lookup layers
    graftwork.json       our record, in files that graftwork made
"""

import contextlib
import json
import os
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.architecture.spelling import with_modules
from graftwork.architecture.wiring import checked
from graftwork.errors import OutputError, StoreError
from graftwork.stores import crc
from graftwork.stores.base import Format, Header, Raw, Reader, register
from graftwork.stores.files import open_fd, read_json
from graftwork.stores.hdf5 import H5Source, gaps
from graftwork.stores.keras_weights import (
    KerasReader,
    KerasWeights,
    check_places,
    keras_tree,
    open_part,
    weights_header,
)
from graftwork.stores.writeback import Sink
from graftwork.stores.zip_members import ZipMembers
from graftwork.tensor import ITEMSIZE, TensorSpec

WEIGHTS, CONFIG, METADATA, RECORD = "model.weights.h5", "config.json", "metadata.json", "graftwork.json"


class KerasZipReader(KerasReader):
    """A ``.keras`` file, open for reading.

    Args:
        path: The file.

    Raises:
        StoreError: If it is not a Keras file or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_fd(path)
        self._inflated: Any = None
        try:
            self.members = ZipMembers(path, self._fd)
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        names = self.members.members
        if CONFIG not in names:
            raise StoreError(f"{self.path.name} is a zip file without {CONFIG}, so it is not a Keras model")
        if WEIGHTS not in names:
            other = next((n for n in names if n.startswith("model.weights")), None)
            raise StoreError(
                f"{self.path.name} has no member {WEIGHTS!r}"
                + (f"; its weights are in {other!r}, save it again with Keras in the h5 format" if other else "")
            )
        metadata = (
            read_json(self.members.read(METADATA), f"{METADATA} of {self.path.name}") if METADATA in names else {}
        )
        self.metadata: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
        self.config_bytes = self.members.read(CONFIG)
        config = read_json(self.config_bytes, f"{CONFIG} of {self.path.name}")
        architecture = checked(config, f"{CONFIG} of {self.path.name}")
        version = str(self.metadata.get("keras_version", ""))[:40]
        keras2 = version.startswith("2.")
        record = read_json(self.members.read(RECORD), f"{RECORD} of {self.path.name}") if RECORD in names else None
        source = self._source()
        self.weights = KerasWeights(self.path, [source], architecture, keras2=keras2)
        self.header: Header = weights_header(
            "keras",
            self.weights,
            [self.path],
            config=config,
            architecture=architecture,
            keras2=keras2,
            library=f"Keras {version}" if version else "",
            assets={n: f"{m.crc:08x}:{m.size_bytes}" for n, m in names.items() if n.startswith("assets/")},
            provenance=record,
        )

    def _source(self) -> H5Source:
        member = self.members.members[WEIGHTS]
        label = f"{WEIGHTS} of {self.path.name}"
        if not member.compressed:
            return H5Source(self.path, self._fd, (member.offset, member.stored_bytes), label)
        self._inflated = self.members.inflate(WEIGHTS)
        return H5Source(self.path, self._inflated.fileno(), None, label)

    def asset(self, name: str) -> bytes:
        """Return the contents of a member under ``assets/``."""
        return self.members.read(name, limit=1 << 32)

    def check(self) -> None:
        """Read every member and compare it with its CRC.

        Raises:
            StoreError: For the first member that differs.
        """
        for name in self.members.members:
            if not self.members.members[name].compressed:
                if not self.members.crc_holds(name):
                    raise StoreError(f"member {name!r} of {self.path.name} does not have the CRC that the zip promises")
            elif name != WEIGHTS:  # inflating the weights has checked them
                self.members.read(name, limit=1 << 32)

    def close(self) -> None:
        """Close the file."""
        super().close()
        if self._inflated is not None:
            self._inflated.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class KerasZipWriter:
    """A ``.keras`` file being made; see `graftwork.stores.base.Writer` for the arguments.

    Args beyond those of every writer:
        drop_compile: Leave out how the model was compiled.
    """

    def __init__(
        self, path: Path, specs: Sequence[TensorSpec], *, like: Reader, provenance: str, drop_compile: bool = False
    ) -> None:
        self.path = path
        small = carried_members(like, provenance, drop_compile=drop_compile)
        self._specs = {spec.name: spec for spec in specs}
        tree, self._paths = keras_tree(specs, like)
        skeleton = path.with_name(path.name + ".h5")
        try:
            self._part = open_part(skeleton, tree, "")
            try:
                self._lay_out(small)
            except BaseException:
                self.close()
                raise
            finally:
                self._part.close()
        finally:
            skeleton.unlink(missing_ok=True)
        self._pieces: list[tuple[int, int, int]] = []  # (offset in the member, bytes, crc)
        self._lock = threading.Lock()

    def _lay_out(self, small: Mapping[str, bytes]) -> None:
        """Write the zip with a weights member that holds everything but values."""
        length = os.fstat(self._part.fd).st_size
        self._file = self.path.open("w+b")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        for name, data in small.items():
            self._zip.writestr(_info(name), data)
        self._member = _info(WEIGHTS)
        self._member.CRC = 0  # known only when all is written
        self._member.header_offset = self._file.tell()
        self._member.file_size = self._member.compress_size = length
        self._file.write(self._member.FileHeader(zip64=True))
        self._begin, self._length = self._file.tell(), length
        self._file.truncate(self._begin + length)
        self._sink = Sink(self._file.fileno(), self._begin + length)
        self._static = gaps(self._part.places.values(), length)
        self._file.flush()
        for offset, nbytes in self._static:
            data = os.pread(self._part.fd, nbytes, offset)
            os.pwrite(self._file.fileno(), data, self._begin + offset)

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        spec = self._specs[name]
        offset = self._part.places[self._paths[name]][0] + start * ITEMSIZE[spec.dtype]
        compared = self._sink.write(block, self._begin + offset)
        piece = (offset, block.nbytes, zlib.crc32(block.data.cast("B")))
        with self._lock:
            self._pieces.append(piece)
        return compared

    def finish(self) -> None:
        """Write the weights member's CRC and the zip's directory, and sync."""
        fd = self._file.fileno()
        static = [
            (offset, nbytes, zlib.crc32(os.pread(fd, nbytes, self._begin + offset))) for offset, nbytes in self._static
        ]
        total, at = 0, 0
        for offset, nbytes, value in sorted(p for p in (*static, *self._pieces) if p[1]):
            if offset != at:
                raise OutputError(f"{self.path.name}: bytes {at:,} to {offset:,} of the weights were never written")
            total, at = crc.combine(total, value, nbytes), at + nbytes
        if at != self._length:
            raise OutputError(
                f"{self.path.name}: the last {self._length - at:,} bytes of the weights were never written"
            )
        self._member.CRC = total
        os.pwrite(fd, self._member.FileHeader(zip64=True), self._member.header_offset)
        # zipfile writes the directory behind `start_dir`; the member was placed by hand because its bytes come in any order
        self._file.seek(self._begin + self._length)
        self._zip.start_dir = self._begin + self._length
        self._zip.filelist.append(self._member)
        self._zip.NameToInfo[WEIGHTS] = self._member
        self._zip._didModify = True  # type: ignore[attr-defined]
        self._zip.close()
        self._file.flush()
        os.fsync(fd)

    def close(self) -> None:
        """Close the file as it is; closing twice does nothing."""
        if hasattr(self, "_zip"):
            self._zip._didModify = False  # type: ignore[attr-defined]  # else it writes a directory when it is closed or forgotten
            self._zip.close()
        if hasattr(self, "_file"):
            with contextlib.suppress(OSError):  # what is still in its buffer belongs to a file that is given up
                self._file.close()


def check_architecture(specs: Sequence[TensorSpec], like: Reader) -> None:
    """Refuse a source without an architecture that a Keras model file could carry, or tensors without a place in it."""
    _check_config(like)
    check_places(specs, like)


def _check_config(like: Reader) -> None:
    if like.header.config is None or like.header.config_kind not in ("keras3", "keras2"):
        raise OutputError(
            f"{like.path.name} holds no Keras architecture, so a Keras model cannot be made of it; give a model of the same "
            "architecture first (`merge`) or as `like` (`convert`), or write a weights file"
        )
    if like.header.format == "legacy_h5" and like.header.config_kind == "keras2":
        raise OutputError(
            f"{like.path.name} was written by Keras 2, whose configuration Keras 3 cannot read from a .keras file; "
            "write an .h5 or a weights file, or rebuild the model in Keras 3 and name it first (`merge`) or as `like` (`convert`)"
        )


def carried_members(like: Reader, provenance: str, *, drop_compile: bool = False) -> dict[str, bytes]:
    """Return the small members of a Keras model file or directory that has the architecture of `like`.

    Args:
        like: An open source with a Keras configuration.
        provenance: Graftwork's record.
        drop_compile: Leave out how the model was compiled.

    Raises:
        OutputError: If `like` has no configuration that a Keras model file could carry.
    """
    header = like.header
    _check_config(like)
    if isinstance(like, KerasZipReader):
        members = {name: like.members.read(name) for name in (METADATA, CONFIG) if name in like.members.members}
    else:
        version = header.library.removeprefix("Keras ") or "3.0.0"
        members = {
            METADATA: json.dumps({"keras_version": version}).encode(),
            CONFIG: json.dumps(with_modules(header.config)).encode(),
        }
    if drop_compile:
        members[CONFIG] = without_compile(json.loads(members[CONFIG]))
    for name in header.assets:
        members[name] = like.asset(name)  # type: ignore[attr-defined]
    if provenance:
        members[RECORD] = provenance.encode()
    return members


def without_compile(config: Any) -> bytes:
    """Return a model's configuration as JSON without how it was compiled."""
    return json.dumps({key: value for key, value in config.items() if key != "compile_config"}).encode()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o600 << 16
    info.create_system = 3
    return info


def recognise(path: Path) -> bool:
    """Return whether a path is a zip file, or claims to be a Keras model and is no directory."""
    if path.is_dir():
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04" or path.suffix == ".keras"
    except OSError:
        return path.suffix == ".keras"


register(
    Format(
        name="keras",
        summary="Keras model file (.keras): architecture, weights, compile settings",
        suffixes=(".keras",),
        recognise=recognise,
        open=KerasZipReader,
        create=KerasZipWriter,
        check=check_architecture,
        holds_architecture=True,
        order=30,
    )
)
