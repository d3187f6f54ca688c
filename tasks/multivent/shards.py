"""The shards of a split of MultiVENT 2.0: about 100 videos each, in one or several folders.

::

    <split>/<000001>/<id>.mp4, <id>.m4a, <id>.json                 unpacked, or
    <split>/<000001>.tar                                           the same files, as released
    features/<split>/.../speech_to_text/<000001>/                  Whisper's speech, unpacked, or
    features/<split>/.../speech_to_text/<split>-<000001>-*.tar.gz  as released
    features/<split>/.../icdar_ocr_max/<000001>/ or *.tar.gz       on-screen text

Features lie deep below ``features/<split>/`` and not always at the same depth; they are found by
the name of the folder that holds the shards. Media are never unpacked: members of a tar are read in
place, by their byte offset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import DataError
from harness.workspace import digest
from tasks.multivent.texts import ASR_FOLDER, OCR_FOLDER

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_UNPACKABLE = (".tar.gz", ".tgz")

#: The official release has the shards 9 folders below ``features/<split>``.
_MAX_DEPTH = 12


@dataclass(slots=True)
class Shard:
    """Where the pieces of one shard lie: folders and archives, in the order they are searched."""

    name: str
    media: list[Path] = field(default_factory=list)
    speech: list[Path] = field(default_factory=list)
    frames: list[Path] = field(default_factory=list)

    def key(self) -> str:
        """Return a digest of names, sizes and times of all files of the shard."""
        places = (*self.media, *self.speech, *self.frames)
        return digest([[str(place), sorted(_files(place))] for place in places])


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a split.

    Attributes
    ----------
    media, speech, frames
        Folders that hold shards; empty where the sources have none of a kind.
    by_name
        The shards in order.
    """

    media: tuple[Path, ...]
    speech: tuple[Path, ...]
    frames: tuple[Path, ...]
    by_name: dict[str, Shard]

    @classmethod
    def find(cls, sources: Sequence[Path], split: str) -> Shards:
        """List the shards of `split` in `sources`; an earlier source comes first.

        Raises
        ------
        DataError
            If media are compressed, so that they could not be read in place, or two folders of
            features lie beside each other.
        """
        media = tuple(source / split for source in sources if (source / split).is_dir())
        speech = _feature_folders(sources, split, ASR_FOLDER)
        frames = _feature_folders(sources, split, OCR_FOLDER)
        found: dict[str, Shard] = {}

        def shard(name: str) -> Shard:
            return found.setdefault(name, Shard(name))

        for folder in media:
            for name, path in _media_shards(folder):
                shard(name).media.append(path)
        for folder in speech:
            for name, path in _feature_shards(folder):
                shard(name).speech.append(path)
        for folder in frames:
            for name, path in _feature_shards(folder):
                shard(name).frames.append(path)
        return cls(media, speech, frames, dict(sorted(found.items())))


def _media_shards(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the shards of a folder of media; unpacked ones before tars."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        if _is_shard(entry.name) and entry.is_dir():
            yield entry.name, entry
        elif entry.name.endswith(_COMPRESSED) and _is_shard(entry.name.partition(".")[0]):
            raise DataError(
                f"{entry} is compressed, so its videos cannot be read in place: decompress it to "
                f"{entry.name.partition('.')[0]}.tar, or unpack it."
            )
    for entry in entries:
        if entry.suffix == ".tar" and _is_shard(entry.stem) and entry.is_file():
            yield entry.stem, entry


def _feature_shards(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the shards of a folder of features; unpacked ones before archives."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        if _is_shard(entry.name) and entry.is_dir():
            yield entry.name, entry
    for entry in entries:
        if entry.name.endswith(_UNPACKABLE) and not entry.name.startswith("."):
            words = [word for word in re.split(r"[-_.]", entry.name) if _is_shard(word)]
            if len(words) != 1:
                raise DataError(
                    f"{entry}: its name must hold the number of one shard, as in "
                    "train-000001-whisperv3-large.tar.gz."
                )
            yield words[0], entry


def _feature_folders(sources: Sequence[Path], split: str, name: str) -> tuple[Path, ...]:
    """Return the innermost folder called `name` below ``features/<split>`` of every source."""
    folders = []
    for source in sources:
        top = source / "features" / split
        below = _folders(top, _MAX_DEPTH) if top.is_dir() else ()
        found = [folder for folder in below if folder.name == name]
        inner = [folder for folder in found if not any(folder in other.parents for other in found)]
        if len(inner) > 1:
            raise DataError(
                f"{name!r} is ambiguous: both {inner[0]} and {inner[1]} are below {top}; keep one."
            )
        folders += inner
    return tuple(folders)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield all folders below `folder` but the shards, of which there are thousands."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not _is_shard(e.name) and e.is_dir())
    for name in names:
        yield folder / name
        if depth > 1:
            yield from _folders(folder / name, depth - 1)


def _files(place: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of a file, or of every file in a folder and those below."""
    if not place.is_dir():
        found = place.stat()
        yield place.name, found.st_size, found.st_mtime_ns
        return
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir():
                for name, size, time in _files(Path(entry.path)):
                    yield f"{entry.name}/{name}", size, time
            else:
                found = entry.stat()
                yield entry.name, found.st_size, found.st_mtime_ns


def _is_shard(name: str) -> bool:
    """Whether something is named like a shard: digits only."""
    return name.isascii() and name.isdigit()
