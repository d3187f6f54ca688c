"""The media of MultiVENT 2.0: shards of about 100 videos, unpacked or as tar files.

::

    <split>/<000001>/<id>.mp4, <id>.m4a, <id>.json       unpacked, or
    <split>/<000001>.tar                                 the same files, as released

A tar is never unpacked: its members are read in place, by their byte offset.
"""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from harness.errors import DataError
from harness.types import Media

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_shard(name: str) -> bool:
    """Whether a folder is named like a shard: digits only."""
    return name.isascii() and name.isdigit()


def shard_names(folder: Path) -> set[str]:
    """Return the names of the shards in the folder of a split.

    Raises
    ------
    DataError
        If a shard is compressed: its members could not be read in place.
    """
    names = set()
    for entry in folder.iterdir():
        if is_shard(entry.name) and entry.is_dir():
            names.add(entry.name)
        elif entry.suffix == ".tar" and is_shard(entry.stem):
            names.add(entry.stem)
        elif entry.name.endswith(_COMPRESSED) and is_shard(entry.name.partition(".")[0]):
            raise DataError(
                f"{entry} is compressed, so its videos cannot be read in place: decompress it to "
                f"{entry.name.partition('.')[0]}.tar, or unpack it."
            )
    return names


def shard_files(folder: Path, shard: str) -> dict[str, Media]:
    """Return the files of one shard by name; an unpacked file comes before the tar's.

    Raises
    ------
    DataError
        If the tar is damaged or compressed, or has a member that points outside, is a link or
        occurs twice.
    """
    archive = folder / f"{shard}.tar"
    files = _members(archive) if archive.is_file() else {}
    unpacked = folder / shard
    if unpacked.is_dir():
        for path in sorted(unpacked.iterdir()):
            if not path.name.startswith(".") and path.is_file():
                files[path.name] = Media(path, path.name, path.stat().st_size)
    return files


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


def _members(archive: Path) -> dict[str, Media]:
    files: dict[str, Media] = {}
    try:
        # "r:" refuses compression, whatever the name says.
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(
                        f"{archive}: member {member.name!r} points outside of the archive; do not "
                        "use this file."
                    )
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{archive}: member {member.name!r} is a link or a special file; only "
                        "plain files can be read in place."
                    )
                if path.name.startswith("."):
                    continue  # what macOS adds beside each file
                if path.name in files:
                    raise DataError(
                        f"{archive}: {path.name!r} occurs twice; file names must be unique."
                    )
                files[path.name] = Media(archive, path.name, member.size, member.offset_data)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{archive} cannot be read as an uncompressed tar ({error}): fetch it again, or "
            "decompress it if it is compressed."
        ) from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror}.") from error
    return files
