"""Key frames of MultiVENT 2.0: their numbers, and the frames that were extracted.

::

    *mapping*.json, *key_frames*.json      {"000001/<id>.mp4": [12, 70, ...]}
    frames/<split>_000001_<id>_frame_12.jpg

The mapping lies in a source folder, the frames in one or in its folder ``frames``. This is what
CLaMR's scripts read. Where a video has both, its first ten frames stand for it, in the order of
their numbers; where only the numbers are there, they are kept beside the video.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import DataError
from harness.types import Media

#: Frames that stand for a video, as in CLaMR's scripts.
FRAMES = 10

_MAPPINGS = ("*mapping*.json", "*key_frames*.json")
_FOLDERS = (".", "frames")


@dataclass(frozen=True, slots=True)
class KeyFrames:
    """The key frames of one split.

    Attributes
    ----------
    split
        The split; entries that name another one, or a video of another one, are left out.
    folders
        Where extracted frames lie.
    mappings
        The files that were read.
    numbers
        By video: ``<shard>_<video>`` and the numbers of its key frames.
    others
        Entries of videos that are not of this split.
    """

    split: str
    folders: tuple[Path, ...] = ()
    mappings: tuple[Path, ...] = ()
    numbers: dict[str, tuple[str, str]] = field(default_factory=dict)
    others: int = 0

    @classmethod
    def read(cls, sources: Sequence[Path], split: str, videos: Collection[str] | None) -> KeyFrames:
        """Read every mapping in `sources`.

        Parameters
        ----------
        sources
            Source folders.
        split
            The split.
        videos
            Ids of its videos; None if they are not known.

        Raises
        ------
        DataError
            If a mapping has another form, or two say different things of a video.
        """
        folders = tuple(
            source / name
            for source in sources
            for name in _FOLDERS
            if _holds_frames(source / name, split)
        )
        numbers: dict[str, tuple[str, str]] = {}
        others = 0
        mappings = tuple(
            path
            for source in sources
            for path in sorted({path for name in _MAPPINGS for path in source.glob(name)})
        )
        for path in mappings:
            for key, listed in _entries(path):
                parts = PurePosixPath(key).parts
                video = PurePosixPath(key).stem
                if (len(parts) > 2 and parts[-3] != split) or (
                    videos is not None and video not in videos
                ):
                    others += 1
                    continue
                entry = (f"{parts[-2]}_{video}", ",".join(map(str, listed)))
                if numbers.setdefault(video, entry) != entry:
                    raise DataError(
                        f"{path}: the key frames of {key!r} differ from what was said before: "
                        "keep one mapping."
                    )
        return cls(split, folders, mappings, numbers, others)

    def listed(self, video: str) -> list[int] | None:
        """Return the numbers of a video's key frames as the mapping lists them, or None."""
        entry = self.numbers.get(video)
        return None if entry is None else [int(number) for number in entry[1].split(",") if number]

    def frames(self, video: str) -> tuple[list[Media], list[str]]:
        """Return the frames that stand for `video`, and the names of those without a file."""
        found: list[Media] = []
        missing: list[str] = []
        if not self.folders or video not in self.numbers:
            return found, missing
        for number in sorted((self.listed(video) or [])[:FRAMES]):
            name = f"{self.split}_{self.numbers[video][0]}_frame_{number}.jpg"
            media = self.frame(name)
            if media is None:
                missing.append(name)
            else:
                found.append(media)
        return found, missing

    def frame(self, name: str) -> Media | None:
        """Return the extracted frame called `name`, or None."""
        for folder in self.folders:
            try:
                return Media(folder / name, name, (folder / name).stat().st_size)
            except FileNotFoundError:
                continue
        return None


def _holds_frames(folder: Path, split: str) -> bool:
    """Whether a folder holds extracted frames; it looks at the first entries of a million."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(
            entry.name.startswith(f"{split}_") and entry.name.endswith(".jpg") for entry in entries
        )


def _entries(path: Path) -> Iterator[tuple[str, list[int]]]:
    try:
        value: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): fetch it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: a key-frame mapping must be a JSON object.")
    for key, numbers in value.items():
        if len(PurePosixPath(key).parts) < 2:
            raise DataError(f"{path}: the key {key!r} must read '<shard>/<video>.mp4'.")
        if not isinstance(numbers, list) or not all(
            type(number) is int and number >= 0 for number in numbers
        ):
            raise DataError(f"{path}: the frames of {key!r} must be a list of whole numbers.")
        yield key, numbers
