"""Settings of CLIP and SigLIP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retrievers.model_settings import TowerSettings


class ClipSettings(TowerSettings):
    """How the checkpoint is loaded, and what becomes a vector.

    Settings of the machine alone (device, workers, ...) are left out of dumps, hence of
    fingerprints: the same vectors come out, but for rounding.
    """

    unread = "there is no tower that reads {}"

    frames_as: Literal["mean", "max", "each"] = Field(
        "mean",
        description="A video's frames: their mean or their maximum as one vector, or each kept, "
        "of which the best counts.",
    )
    long_texts: Literal["cut", "windows"] = Field(
        "cut",
        description="A text longer than the text tower reads: its beginning, or the mean over "
        "windows of all of it.",
    )
    batch_inputs: int | None = Field(
        None,
        ge=1,
        exclude=True,
        description="Most images, or texts, that are encoded at once; default: 256 on a GPU, 16 "
        "on a CPU.",
    )


class SiglipSettings(ClipSettings):
    """The same, with as many frames as MultiVENT's own SigLIP features have."""

    frames: int = Field(16, ge=1, description="Most frames of a video.")
