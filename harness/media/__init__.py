"""Media files -> arrays: frames of videos, sound as a waveform, images; and what is damaged.

Files are read where they lie, as members of a tar too. A file that cannot be used raises
`DamagedMediaError`; `MediaLoader` applies a policy to it, counts it and names it in the log.
"""

from __future__ import annotations

from harness.coverage import DamagePolicy
from harness.media.audio import read_audio
from harness.media.cache import FrameCache
from harness.media.damage import DamagedMediaError, DamageKind
from harness.media.image import read_image
from harness.media.loader import (
    Damage,
    LoadedDocument,
    MediaLoader,
)
from harness.media.settings import MediaSettings
from harness.media.values import (
    VERSION,
    AudioSampling,
    Frames,
    FrameSampling,
    Waveform,
    check_frames,
)
from harness.media.video import read_frames

__all__ = [
    "VERSION",
    "AudioSampling",
    "Damage",
    "DamageKind",
    "DamagePolicy",
    "DamagedMediaError",
    "FrameCache",
    "FrameSampling",
    "Frames",
    "LoadedDocument",
    "MediaLoader",
    "MediaSettings",
    "Waveform",
    "check_frames",
    "read_audio",
    "read_frames",
    "read_image",
]
