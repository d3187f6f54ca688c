"""Settings of CLIP and SigLIP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from harness.encoder import EncoderSettings
from harness.errors import UsageError
from harness.media import MediaSettings
from harness.types import Modality
from retrievers.clip.family import READS


class ClipSettings(EncoderSettings, MediaSettings):
    """How the checkpoint is loaded, and what becomes a vector.

    Settings of the machine alone (device, workers, ...) are left out of dumps, hence of
    fingerprints: the same vectors come out, but for rounding.
    """

    batch_size: int = Field(
        64,
        ge=1,
        description="Documents taken together; batch_inputs limits what is encoded at once.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch of a hub id.")
    initial_seed: int | None = Field(
        None,
        ge=0,
        description="Draw built-in weights anew from this seed, untrained, instead of those that "
        "ship; training starts from them.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto: bfloat16 on a GPU, else float32."
    )
    device: str = Field(
        "auto", exclude=True, description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one."
    )
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
    encode_modalities: list[str] | None = Field(
        None, min_length=1, description="Read only these modalities; default: all."
    )
    batch_inputs: int | None = Field(
        None,
        ge=1,
        exclude=True,
        description="Most images, or texts, that are encoded at once; default: 256 on a GPU, 16 "
        "on a CPU.",
    )

    @field_validator("encode_modalities")
    @classmethod
    def _can_be_read(cls, given: list[str] | None) -> list[str] | None:
        if given is None:
            return None
        try:
            asked = sorted({Modality.parse(name) for name in given})
        except UsageError as error:
            raise ValueError(str(error)) from None
        strange = [modality.label for modality in asked if modality not in READS]
        if strange:
            raise ValueError(
                f"there is no tower that reads {', '.join(strange)}: choose from "
                f"{', '.join(modality.label for modality in READS)}"
            )
        return [modality.label for modality in asked]

    @property
    def reads(self) -> frozenset[Modality]:
        """The document modalities that are encoded."""
        if self.encode_modalities is None:
            return frozenset(READS)
        return frozenset(map(Modality.parse, self.encode_modalities))


class SiglipSettings(ClipSettings):
    """The same, with as many frames as MultiVENT's own SigLIP features have."""

    frames: int = Field(16, ge=1, description="Most frames of a video.")
