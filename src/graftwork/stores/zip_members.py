"""The members of a zip file, none of whose claims are believed before they are checked.

Python's zipfile reads the directory; the checks here are what a model file needs beyond it: no name twice, no name that leads out of a
folder, nothing encrypted, nothing that expands beyond reason, and stored members whose bytes lie where the directory says.
"""

import itertools
import os
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.stores.files import MAX_JSON_BYTES, brief

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
MAX_MEMBERS = 100_000
MAX_EXPANSION = 1100
"""DEFLATE cannot expand by more than 1032."""
INFLATED_RATIO, INFLATED_BYTES = 32, 1 << 26
"""A compressed weights member may be so many times larger than stored, or so large: weights hardly compress."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: where its stored bytes lie in the zip."""

    name: str
    offset: int
    stored_bytes: int
    size_bytes: int
    crc: int
    compressed: bool


class ZipMembers:
    """The directory of a zip file.

    Args:
        path: The file.
        fd: A descriptor open on it; stays the caller's.

    Raises:
        StoreError: If it is not a zip file or says something about its members that cannot be.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd
        self.members: dict[str, Member] = {}
        try:
            with open(os.dup(fd), "rb") as file, zipfile.ZipFile(file) as archive:
                infos, directory = archive.infolist(), archive.start_dir
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            EOFError,
            struct.error,
            NotImplementedError,
            UnicodeError,
        ) as error:
            raise StoreError(f"{path.name} is not a readable zip file: {brief(error)}") from error
        if len(infos) > MAX_MEMBERS:
            raise StoreError(f"{path.name} has {len(infos):,} members; no Keras file has as many")
        for info in infos:
            if not info.filename:
                raise StoreError(f"{path.name} has a member without a name")
            if info.is_dir():
                continue
            member = self._check(info, directory)
            if member.name in self.members:
                raise StoreError(f"{path.name} has two members called {member.name!r}")
            self.members[member.name] = member
        for before, after in itertools.pairwise(sorted(self.members.values(), key=lambda m: m.offset)):
            if before.offset + before.stored_bytes > after.offset:
                raise StoreError(f"members {before.name!r} and {after.name!r} of {path.name} overlap")

    def _check(self, info: zipfile.ZipInfo, size: int) -> Member:
        """Check one member against the bytes before the zip's directory."""
        name, what = info.filename, f"member {info.filename!r} of {self.path.name}"
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
            raise StoreError(f"{what} has a name that leads out of the file")
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            raise StoreError(f"{what} is a symbolic link, which no Keras file has")
        if info.flag_bits & 0x1:
            raise StoreError(f"{what} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StoreError(f"{what} is compressed by method {info.compress_type}, expected stored or deflated")
        if not 0 <= info.header_offset <= size - LOCAL_HEADER.size:
            raise StoreError(f"{what} should begin at byte {info.header_offset:,}, but the file has {size:,}")
        head = LOCAL_HEADER.unpack(os.pread(self.fd, LOCAL_HEADER.size, info.header_offset))
        begin = info.header_offset + LOCAL_HEADER.size + head[9] + head[10]
        local_name = os.pread(self.fd, head[9], info.header_offset + LOCAL_HEADER.size)
        if head[0] != b"PK\x03\x04" or local_name != (name.encode("utf-8") if info.flag_bits & 0x800 else _cp437(name)):
            raise StoreError(f"{what} is not where the directory of the zip says")
        if info.compress_size < 0 or begin + info.compress_size > size:
            raise StoreError(f"{what} claims {info.compress_size:,} bytes, more than the file has")
        compressed = info.compress_type == zipfile.ZIP_DEFLATED
        if not compressed and info.file_size != info.compress_size:
            raise StoreError(
                f"{what} is stored, but its two sizes differ: {info.file_size:,} and {info.compress_size:,}"
            )
        if compressed and info.file_size > MAX_EXPANSION * info.compress_size + 64:
            raise StoreError(f"{what} claims to expand from {info.compress_size:,} to {info.file_size:,} bytes")
        return Member(name, begin, info.compress_size, info.file_size, info.CRC, compressed)

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        """Return a small member's contents, its CRC checked."""
        member = self.members[name]
        what = f"member {name!r} of {self.path.name}"
        if member.size_bytes > limit:
            raise StoreError(f"{what} has {member.size_bytes:,} bytes, more than the {limit:,} that it may have")
        data = os.pread(self.fd, member.stored_bytes, member.offset)
        if member.compressed:
            inflate = zlib.decompressobj(-15)
            try:
                data = inflate.decompress(data, member.size_bytes + 1)
            except zlib.error as error:
                raise StoreError(f"{what} cannot be decompressed: {brief(error)}") from error
        if len(data) != member.size_bytes or zlib.crc32(data) != member.crc:
            raise StoreError(f"{what} does not have the contents that its CRC promises; the file is damaged")
        return data

    def inflate(self, name: str) -> Any:
        """Return a compressed member unpacked into a temporary file that has no name.

        Raises:
            StoreError: If it is damaged or larger than it says.
        """
        member = self.members[name]
        what = f"member {name!r} of {self.path.name}"
        if member.size_bytes > max(INFLATED_BYTES, INFLATED_RATIO * member.stored_bytes):
            raise StoreError(
                f"{what} would expand from {member.stored_bytes:,} to {member.size_bytes:,} bytes, more than weights do; "
                "unzip it yourself if you trust it, and open the directory"
            )
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller owns it
        try:
            inflate, at, crc, written = zlib.decompressobj(-15), 0, 0, 0
            while not inflate.eof:
                piece = inflate.unconsumed_tail
                if not piece:
                    piece = os.pread(self.fd, min(1 << 20, member.stored_bytes - at), member.offset + at)
                    at += len(piece)
                data = inflate.decompress(piece, 1 << 22)
                if not data and not piece:
                    raise StoreError(f"{what} is cut short")
                crc = zlib.crc32(data, crc)
                written += len(data)
                if written > member.size_bytes:
                    raise StoreError(f"{what} expands beyond the {member.size_bytes:,} bytes that it claims")
                file.write(data)
            if written != member.size_bytes or crc != member.crc:
                raise StoreError(f"{what} does not have the contents that its CRC promises; the file is damaged")
            file.flush()
        except zlib.error as error:
            file.close()
            raise StoreError(f"{what} cannot be decompressed: {brief(error)}") from error
        except BaseException:
            file.close()
            raise
        return file

    def crc_holds(self, name: str) -> bool:
        """Return whether a stored member's bytes have the CRC of the directory, reading all of it in pieces."""
        member = self.members[name]
        crc, done = 0, 0
        while done < member.stored_bytes:
            data = os.pread(self.fd, min(1 << 22, member.stored_bytes - done), member.offset + done)
            if not data:
                return False
            crc = zlib.crc32(data, crc)
            done += len(data)
        return crc == member.crc


def _cp437(name: str) -> bytes:
    try:
        return name.encode("cp437")
    except UnicodeEncodeError:
        return name.encode("utf-8")
