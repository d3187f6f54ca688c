"""What retrievers made of image and text towers share in their settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from harness.encoder import EncoderSettings
from harness.errors import UsageError
from harness.media import MediaSettings
from harness.settings import Settings
from harness.types import TEXT_MODALITIES, Modality

#: Document modalities that some of these models read.
READS = (Modality.VIDEO, Modality.IMAGE, *TEXT_MODALITIES)


class ModelSettings(Settings):
    """Where a model goes, and which modalities it is given.

    Settings of the machine alone are left out of dumps, hence of fingerprints: the same vectors
    come out, but for rounding.
    """

    #: How the message begins that refuses a modality.
    unread: ClassVar[str] = "no model reads {} here"

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto: bfloat16 on a GPU, else float32."
    )
    device: str = Field(
        "auto", exclude=True, description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one."
    )
    encode_modalities: list[str] | None = Field(
        None, min_length=1, description="Read only these modalities; default: all."
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
                f"{cls.unread.format(', '.join(strange))}: choose from "
                f"{', '.join(modality.label for modality in READS)}"
            )
        return [modality.label for modality in asked]

    @property
    def reads(self) -> frozenset[Modality]:
        """The document modalities that are asked for."""
        if self.encode_modalities is None:
            return frozenset(READS)
        return frozenset(map(Modality.parse, self.encode_modalities))


class TowerSettings(EncoderSettings, MediaSettings, ModelSettings):
    """Settings of a checkpoint of image and text towers, or of the tiny one that is built in."""

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
