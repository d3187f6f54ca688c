"""Opening media where they lie: a file, or a member of a tar, as a container of streams."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from harness.media.damage import DamagedMediaError
from harness.types import Media

#: Containers that are opened. Playlists and patterns (hls, dash, concat, image2) are not: they
#: lead to other files, or to the network.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,nut,mxf,h264,hevc,m4v,"
    "wav,w64,flac,mp3,aac,aiff,caf,au,amr,wv,ape,ac3"
)

#: Bytes a read. Every read goes through Python.
_BUFFER = 256 * 1024


class Window(io.RawIOBase):
    """The bytes ``[start, start + size)`` of a file, as a file of their own.

    Parameters
    ----------
    path
        The file.
    start
        First byte.
    size
        Number of bytes; None for all up to the end.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self._file = path.open("rb")
        self._start = start
        end = self._file.seek(0, io.SEEK_END)
        self._size = max(0, end - start if size is None else min(size, end - start))
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the present position; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        room = max(0, min(len(view), self._size - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(view[:room])
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; positions count from the start of the window."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position within the window."""
        return self._position

    def __len__(self) -> int:
        return self._size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextmanager
def opened(file: Media) -> Iterator[Window]:
    """Open the bytes of `file`; whatever fails within is told as damage of that file.

    Raises
    ------
    DamagedMediaError
        If the file is missing, unreadable or empty, or the block raises an error of the operating
        system or of FFmpeg.
    """
    try:
        with Window(file.path, file.offset or 0, None if file.offset is None else file.size) as it:
            if not len(it):
                raise DamagedMediaError(file, "empty", "the file is empty (0 bytes)")
            yield it
    except av.FFmpegError as error:  # a subclass of OSError for some of its errors
        reason = f"it cannot be decoded ({error.strerror or error})"
        raise DamagedMediaError(file, "corrupt", reason) from error
    except MemoryError as error:
        raise DamagedMediaError(file, "corrupt", "it states sizes beyond memory") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedMediaError(file, "missing", "there is no such file") from error
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error})"
        raise DamagedMediaError(file, "unreadable", reason) from error


def container(window: Window) -> Any:
    """Open the container in `window`; it is a context manager."""
    window.seek(0)
    return av.open(
        window,
        options={"format_whitelist": FORMATS},
        metadata_errors="replace",
        buffer_size=_BUFFER,
    )
