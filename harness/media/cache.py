"""Decoded frames kept on disk, so that another model, or another epoch, need not decode again."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from harness.files import atomic_write, writable_folder
from harness.media.values import Frames, FrameSampling
from harness.types import Media
from harness.workspace import cache_folder, digest

log = logging.getLogger("clamr_bench.media")


class FrameCache:
    """A folder of decoded frames, one file a video, without loss.

    Ten photo-like frames of 224 * 224 pixels take 0.6 MB and are read in 18 ms, where decoding
    them from half a minute of 720p video takes 275 ms. Frames of full size are not worth keeping:
    those of 720p take 10 MB and 360 ms, longer than to decode them.

    A key holds all that determines the frames: path, offset, size and time of change of the file,
    the sampling, and the media reader's version.

    Parameters
    ----------
    folder
        Where; ``frames`` in the cache folder if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = writable_folder(folder or cache_folder() / "frames", "frame cache")

    def path(
        self, files: Sequence[Media], sampling: FrameSampling, key_frames: Sequence[int] | None
    ) -> Path:
        """Return where the frames are kept, or are to be.

        Raises
        ------
        OSError
            If a file is missing.
        """
        identity = {
            "files": [
                [str(f.path.resolve()), f.offset, f.size, f.path.stat().st_mtime_ns] for f in files
            ],
            "sampling": sampling.identity(),
            "key_frames": None if key_frames is None else [int(n) for n in key_frames],
        }
        name = digest(identity)[:32]
        return self.folder / name[:2] / f"{name}.npz"

    def load(self, path: Path) -> Frames | None:
        """Return the frames kept at `path`; None if there are none, or the file is damaged."""
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as kept:
                sheet = np.asarray(Image.open(io.BytesIO(kept["sheet"].tobytes())))
                seconds, numbers = kept["seconds"], kept["numbers"]
                pixels = sheet.reshape(len(numbers), -1, sheet.shape[1], 3)
                return Frames(pixels, seconds, numbers, int(kept["lost"]))
        except (OSError, ValueError, KeyError, BadZipFile, SyntaxError) as error:
            log.warning("%s is damaged (%s): decoding again", path, error)
            return None

    def save(self, path: Path, frames: Frames) -> None:
        """Keep the frames at `path`, whole or not at all.

        Raises
        ------
        StorageError
            If the disk is full or the folder cannot be written.
        """
        count, height, width, _ = frames.pixels.shape
        sheet = io.BytesIO()
        # All frames below each other as one PNG, at its quickest level.
        Image.fromarray(frames.pixels.reshape(count * height, width, 3)).save(
            sheet, "png", compress_level=1
        )
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                sheet=np.frombuffer(sheet.getvalue(), np.uint8),
                seconds=frames.seconds,
                numbers=frames.numbers,
                lost=np.int64(frames.lost),
            )

    def size(self) -> int:
        """Return the bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.glob("*/*.npz"))
