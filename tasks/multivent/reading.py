"""Reads the files of shards: a few shards ahead, in worker processes where there are many.

Parsing is what costs: CSV, JSON, tar and gzip of 110,000 videos take the standard library 47 s on
one core, five times as long as all that is done with them afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import DataError
from harness.types import Media
from harness.workers import Workers, usable_cores
from tasks.multivent import texts
from tasks.multivent.archives import Gap, members_in_place, read_bytes
from tasks.multivent.shards import Shard

#: Suffix of a video's metadata.
INFO = ".json"

#: Fewer shards are read in this process: starting a worker takes as long as reading ten.
_FEWEST = 32
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class ScreenText:
    """On-screen text of one video, and the numbers of the frames that were looked at."""

    text: str | None
    frames: tuple[int, ...]


@dataclass(slots=True)
class ShardFiles:
    """What one shard holds: media by file name, all else by video.

    Attributes
    ----------
    gaps
        Kind and example of everything that was missing, in the order it was met.
    """

    media: dict[str, Media] = field(default_factory=dict)
    speech: dict[str, str | None] = field(default_factory=dict)
    screen: dict[str, ScreenText] = field(default_factory=dict)
    metadata: dict[str, texts.Metadata] = field(default_factory=dict)
    gaps: list[tuple[str, str]] = field(default_factory=list)

    def gap(self, kind: str, example: str) -> None:
        """Take down something that is missing."""
        self.gaps.append((kind, example))


def read_shard(shard: Shard) -> ShardFiles:
    """Read the texts of a shard, and list its media; an earlier place comes first.

    Raises
    ------
    DataError
        If a file is broken; names it.
    """
    found = ShardFiles()
    gap: Gap = found.gap
    for place in reversed(shard.media):
        found.media |= _listed(place) if place.is_dir() else members_in_place(place, gap)
    for place in reversed(shard.speech):
        found.speech |= texts.read_speech(place, gap)
    frames: dict[str, texts.Frames] = {}
    folders: dict[str, Path] = {}
    for place in reversed(shard.frames):
        if place.is_dir():
            folders |= texts.frame_folders(place)
        else:
            frames |= texts.read_frame_archive(place, gap)
    frames |= {video: texts.read_frames(folder, video) for video, folder in folders.items()}
    for video, read in frames.items():
        found.screen[video] = ScreenText(texts.screen_text(read), tuple(sorted(read)))
    for name, media in found.media.items():
        if name.endswith(INFO):
            video = name.removesuffix(INFO)
            found.metadata[video] = texts.read_metadata(read_bytes(media), media, gap)
    return found


class ReadAhead:
    """Reads shards by their number; a context manager that ends its workers.

    Parameters
    ----------
    shards
        All shards, in the order they will be asked for; some may be left out.
    workers
        Worker processes; None for one a core where there are many shards, and 0 for none.
    """

    def __init__(self, shards: Sequence[Shard], workers: int | None = None) -> None:
        if workers is None:
            cores = min(usable_cores(), _MOST_WORKERS)
            workers = cores if cores > 1 and len(shards) >= _FEWEST else 0
        self._shards, self._workers = shards, workers
        self._pool: Workers | None = None
        self._coming: dict[int, Future[ShardFiles]] = {}

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool, self._coming = None, {}

    def __call__(self, number: int) -> ShardFiles:
        """Return what shard `number` holds, and let the workers read the next ones.

        Raises
        ------
        DataError
            If a file is broken, or a worker was killed.
        """
        if not self._workers:
            return read_shard(self._shards[number])
        if self._pool is None:
            self._pool = Workers(self._workers)
        for near in range(number, min(number + 2 * self._workers, len(self._shards))):
            if near not in self._coming:
                self._coming[near] = self._pool.submit(read_shard, self._shards[near])
        try:
            return self._coming.pop(number).result()
        except BrokenProcessPool as error:
            raise DataError(
                f"a process that read shard {self._shards[number].name} was ended from outside, "
                "perhaps for want of memory: give the same command again to go on."
            ) from error


def _listed(folder: Path) -> dict[str, Media]:
    """Return the files of an unpacked shard by name."""
    try:
        return {
            path.name: Media(path, path.name, path.stat().st_size)
            for path in sorted(folder.iterdir())
            if not path.name.startswith(".") and path.is_file()
        }
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error
