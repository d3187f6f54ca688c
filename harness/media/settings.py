"""Settings that every retriever shares that looks at videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from harness.coverage import DamagePolicy
from harness.media.cache import FrameCache
from harness.media.loader import MediaLoader
from harness.media.values import AudioSampling, FrameSampling
from harness.settings import Settings
from harness.types import Document


class MediaSettings(Settings):
    """How media are read; an encoder's settings extend it beside `EncoderSettings`.

    Settings of the machine alone are left out of dumps, hence of fingerprints. A retriever that
    wants another default declares the field anew.
    """

    frames: int = Field(10, ge=1, description="Most frames of a video.")
    frame_sampling: Literal["uniform", "fps"] = Field(
        "uniform", description="Frames spread evenly over the video, or at a rate."
    )
    fps: float | None = Field(None, gt=0, description="Frames a second, for frame_sampling = fps.")
    on_damaged: DamagePolicy = Field(
        "fail",
        description="What a damaged media file does: fail, skip-modality or skip-document; "
        "--on-damaged sets it for all retrievers.",
    )
    cache_frames: bool = Field(
        False,
        exclude=True,
        description="Keep decoded frames in the cache folder, for other models and epochs.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        exclude=True,
        description="Processes that decode media; default: the cores, at most 8.",
    )

    def loader(
        self,
        *,
        video: bool = True,
        audio: AudioSampling | None = None,
        images: bool = False,
        losses: Counter[str] | None = None,
        key_frames: Callable[[Document], Sequence[int] | None] | None = None,
    ) -> MediaLoader:
        """Return a loader of what the settings ask for.

        Parameters
        ----------
        video
            Whether videos are read.
        audio, images, losses, key_frames
            As for `MediaLoader`; give it an encoder's `losses`.
        """
        return MediaLoader(
            frames=FrameSampling(self.frame_sampling, self.frames, self.fps) if video else None,
            audio=audio,
            images=images,
            on_damaged=self.on_damaged,
            workers=self.workers,
            cache=FrameCache() if self.cache_frames else None,
            key_frames=key_frames,
            losses=losses,
        )
