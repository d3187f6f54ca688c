"""What can be wrong with a media file."""

from __future__ import annotations

from typing import Literal

from harness.errors import DataError
from harness.types import Media

DamageKind = Literal["missing", "unreadable", "empty", "corrupt", "no-stream", "no-content"]
"""``missing``: there is no such file. ``unreadable``: the system refuses it. ``empty``: no bytes.
``corrupt``: not a media file, cut off or damaged. ``no-stream``: whole, but without picture or
without sound, whichever was asked for. ``no-content``: a stream of no frames or samples."""


class DamagedMediaError(DataError):
    """A media file that cannot be used.

    Silence is sound: it raises nothing (see `harness.media.Waveform.silent`).

    Attributes
    ----------
    file
        The file.
    kind
        What is wrong, as a word to count by.
    reason
        What is wrong, in words.
    """

    def __init__(self, file: Media, kind: DamageKind, reason: str) -> None:
        super().__init__(
            f"{describe(file)}: {reason}. Replace the file, or choose a policy that goes on "
            "without it (--on-damaged skip-modality or skip-document)."
        )
        self.file, self.kind, self.reason = file, kind, reason

    def __reduce__(self) -> tuple[type[DamagedMediaError], tuple[Media, DamageKind, str]]:
        """Travel between processes whole."""
        return type(self), (self.file, self.kind, self.reason)


def describe(file: Media) -> str:
    """Return the path, and the member's name if it lies in a tar."""
    return str(file.path) if file.offset is None else f"{file.path} (member {file.name})"
