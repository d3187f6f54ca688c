"""Where the files of MSR-VTT lie: found by their names, up to four folders deep."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import DataError
from harness.types import Media

TEST = "MSRVTT_JSFUSION_test.csv"
TRAIN = {"9k": "MSRVTT_train.9k.csv", "7k": "MSRVTT_train.7k.csv"}
#: CLIP4Clip's file, and Frozen-in-Time's.
CAPTIONS = ("MSRVTT_data.json", "MSR_VTT.json")
MTEB = ("MSRVTT_mteb.csv", "MSRVTT_mteb.txt")
#: Transcripts have one of these words in their name, and one of these suffixes.
SPEECH_WORDS = ("whisper", "asr")
SPEECH_SUFFIXES = (".csv", ".json", ".jsonl")

_NAMES = frozenset((TEST, *TRAIN.values(), *CAPTIONS, *MTEB))
_VIDEOS = (".mp4", ".webm", ".mkv", ".avi")
_IMAGES = (".jpg", ".jpeg", ".png")
_ID = re.compile(r"video\d+")
#: ``SOURCE/MSRVTT/videos/all/video0.mp4`` and one more.
_DEPTH = 4
#: Videos of the release are video0 to video9999.
_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class Files:
    """The files of some sources; of several of one name the first that is found.

    Attributes
    ----------
    named
        Lists and captions by their name.
    speech
        Files of transcripts of the first source that has any.
    videos, frames
        The file of each video, and the folder of its frames.
    """

    named: dict[str, Path] = field(default_factory=dict)
    speech: list[Path] = field(default_factory=list)
    videos: dict[str, Path] = field(default_factory=dict)
    frames: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def find(cls, sources: Sequence[Path]) -> Files:
        """Look through the sources, in their order."""
        found = cls()
        for source in sources:
            speech = []
            for path, is_folder in _entries(source):
                if is_folder:
                    found.frames.setdefault(path.name, path)
                elif path.name in _NAMES:
                    found.named.setdefault(path.name, path)
                elif path.suffix.lower() in _VIDEOS and _ID.fullmatch(path.stem):
                    found.videos.setdefault(path.stem, path)
                elif path.suffix.lower() in SPEECH_SUFFIXES and any(
                    word in path.name.lower() for word in SPEECH_WORDS
                ):
                    speech.append(path)
            found.speech.extend(() if found.speech else speech)
        return found

    def first(self, names: Sequence[str]) -> Path | None:
        """Return the first of these files that is there."""
        return next((self.named[name] for name in names if name in self.named), None)

    def video(self, video: str) -> tuple[Media, ...]:
        """Return the video's file, else its frames in the order of their numbers; or nothing."""
        path = self.videos.get(video)
        if path is not None:
            return (_media(path),)
        folder = self.frames.get(video)
        if folder is None:
            return ()
        images = [path for path in folder.iterdir() if path.suffix.lower() in _IMAGES]
        return tuple(map(_media, sorted(images, key=_numbered)))


def check_video(video: str, where: str) -> str:
    """Return the id of a video of MSR-VTT.

    Raises
    ------
    DataError
        If it is none; `where` says where it stands.
    """
    if not _ID.fullmatch(video) or video != f"video{int(video[5:])}" or number(video) >= _COUNT:
        raise DataError(
            f"{where}: {video!r} is no video of MSR-VTT, which are video0 to video{_COUNT - 1}: is "
            "the file of another dataset?"
        )
    return video


def number(video: str) -> int:
    """Return the number of a video."""
    return int(video.removeprefix("video"))


def _entries(source: Path) -> Iterator[tuple[Path, bool]]:
    """Yield files, and the folders that are called like a video, which are not looked into."""
    for name, folders, files in os.walk(source, followlinks=True):
        here = Path(name)
        folders.sort()
        for folder in [folder for folder in folders if _ID.fullmatch(folder)]:
            folders.remove(folder)
            yield here / folder, True
        if len(here.relative_to(source).parts) >= _DEPTH:
            folders.clear()
        for file in sorted(files):
            yield here / file, False


def _media(path: Path) -> Media:
    return Media(path, path.name, path.stat().st_size)


def _numbered(path: Path) -> tuple[list[int], str]:
    """Order names by the numbers in them: frame_2 comes before frame_10."""
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name
