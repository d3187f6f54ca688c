"""Members of the release's archives: media in place in a tar, features out of a ``.tar.gz``."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from harness.errors import DataError
from harness.types import Media

_BLOCK = tarfile.BLOCKSIZE

#: How gzip, bzip2, xz and zstd begin.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")

#: Reports something that is missing: its kind, and which one.
Gap = Callable[[str, str], None]

HALF_COPIED = "archives copied only in part"


def members_in_place(archive: Path, gap: Gap) -> dict[str, Media]:
    """Return the files of an uncompressed tar by name, with the offsets of their bytes.

    Of a tar that was copied only in part, the whole members are returned, and the rest is a gap.

    Raises
    ------
    DataError
        If the tar is compressed or damaged, or has a member that points outside, is a link or
        occurs twice.
    """
    files: dict[str, Media] = {}
    try:
        with archive.open("rb") as file:
            for name, member in _members(archive, file, archive.stat().st_size, gap):
                if name in files:
                    raise DataError(f"{archive}: {name!r} occurs twice; file names must be unique.")
                files[name] = Media(archive, name, member.size, member.offset_data)
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror}.") from error
    return files


def members_unpacked(archive: Path, gap: Gap) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file of a ``.tar.gz``; it is unpacked in memory.

    Of an archive that was copied only in part, the whole members are returned, and the rest is a
    gap. An archive holds the texts of about 100 videos.

    Raises
    ------
    DataError
        If it is damaged or no ``.tar.gz``, or has a member that points outside or is a link.
    """
    content, whole = _gunzip(archive)
    if not whole:
        gap(HALF_COPIED, str(archive))
    # A second gap for the tar inside would say the same.
    inner: Gap = gap if whole else (lambda kind, example: None)
    for _, member in _members(archive, io.BytesIO(content), len(content), inner):
        yield member.name, content[member.offset_data : member.offset_data + member.size]


def _members(
    archive: Path, file: IO[bytes], size: int, gap: Gap
) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield the whole plain files of an uncompressed tar, without folders and hidden ones."""
    compressed = file.read(6).startswith(_COMPRESSED)
    file.seek(0)
    if size < _BLOCK and not compressed:
        gap(HALF_COPIED, str(archive))
        return
    try:
        # "r:" refuses compression, whatever the name says.
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the caller closes the file
    except tarfile.TarError as error:
        raise DataError(
            f"{archive} cannot be read as an uncompressed tar ({error}): fetch it again, or "
            "decompress it if it is compressed."
        ) from error
    whole, damaged = False, False
    while True:
        try:
            member = tar.next()
        except tarfile.ReadError:
            # The next header lies beyond the end, or what belongs to it does, or that is damaged.
            damaged = tar.offset < size and _zeros(file, size - _BLOCK)
            break
        if member is None:
            # At the end are zeros; another block there is a header that was damaged.
            whole = _zeros(file, tar.offset)
            damaged = not whole and tar.offset + _BLOCK <= size
            break
        if member.offset_data + member.size > size:
            break
        name = _plain_name(archive, member)
        if name is not None:
            yield name, member
    if damaged:
        raise DataError(f"{archive} is damaged at byte {tar.offset:,}: fetch it again.")
    if not whole:
        gap(HALF_COPIED, str(archive))


def _zeros(file: IO[bytes], offset: int) -> bool:
    """Whether a block of zeros lies at `offset`."""
    file.seek(offset)
    block = file.read(_BLOCK)
    return len(block) == _BLOCK and not any(block)


def _gunzip(archive: Path) -> tuple[bytes, bool]:
    """Return what a gzip file holds up to where it ends, and whether that is its end."""
    content = bytearray()
    part = zlib.decompressobj(wbits=31)
    started = False
    try:
        with archive.open("rb") as file:
            while chunk := file.read(1 << 20):
                while chunk:
                    started = True
                    content += part.decompress(chunk)
                    chunk = part.unused_data.lstrip(b"\0") if part.eof else b""
                    if part.eof:
                        part, started = zlib.decompressobj(wbits=31), bool(chunk)
    except zlib.error as error:
        raise DataError(
            f"{archive} cannot be read as .tar.gz ({error}): fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror}.") from error
    return bytes(content), bool(content) and not started


def _plain_name(archive: Path, member: tarfile.TarInfo) -> str | None:
    """Return the name of a member without its folders; None for folders and hidden files."""
    if member.isdir():
        return None
    # Plain strings: paths took a fifth of the time of reading on-screen text out of archives.
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts:
        raise DataError(
            f"{archive}: member {member.name!r} points outside of the archive; do not use this "
            "file."
        )
    if not member.isreg() or member.issparse():
        raise DataError(
            f"{archive}: member {member.name!r} is a link or a special file; only plain files can "
            "be read in place."
        )
    # A dot begins what macOS adds beside each file.
    return None if parts[-1].startswith(".") else parts[-1]


def read_bytes(media: Media) -> bytes:
    """Return the content of a small file, such as a metadata JSON.

    Raises
    ------
    DataError
        If the file cannot be read or is shorter than it was.
    """
    try:
        with media.path.open("rb") as file:
            file.seek(media.offset or 0)
            content = file.read(media.size)
    except OSError as error:
        raise DataError(f"{media.path} cannot be read: {error.strerror}.") from error
    if len(content) != media.size:
        raise DataError(
            f"{media.path} has only {len(content):,} of the {media.size:,} bytes of {media.name}: "
            "fetch it again."
        )
    return content
