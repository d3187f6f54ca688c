"""Settings that every retriever on a Qwen backbone shares."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from harness.encoder import EncoderSettings
from harness.media import MediaSettings
from harness.types import Modality


class QwenSettings(EncoderSettings, MediaSettings):
    """How the checkpoint is loaded and what it is given.

    Settings of the machine alone (device, workers, ...) are left out of dumps, hence of
    fingerprints: the same vectors come out, but for rounding.
    """

    batch_size: int = Field(
        64,
        ge=1,
        description="Documents taken together; batch_tokens limits what is encoded at once.",
    )

    base: str | None = Field(
        None,
        description="Base checkpoint of an adapter: a folder or a hub id; default: the one that "
        "the adapter names.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch of a hub id.")
    projection: str | None = Field(
        None,
        description="Safetensors file with custom_text_proj.weight and .bias, for a checkpoint or "
        "adapter that lacks them.",
    )
    initial_seed: int | None = Field(
        None,
        ge=0,
        description="Draw built-in weights anew from this seed, untrained, instead of those that "
        "ship; training starts from them.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto: bfloat16 on a GPU, else float32."
    )
    attention: Literal["sdpa", "flash_attention_2", "eager"] = Field(
        "sdpa", description="Attention kernel."
    )
    quantise: Literal["4bit", "8bit"] | None = Field(
        None, description="Load the backbone in 4 bits (NF4, double quantisation) or 8 bits."
    )
    device: str = Field(
        "auto",
        exclude=True,
        description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one; spread: over all GPUs.",
    )
    min_pixels: int = Field(
        4 * 28 * 28, ge=1, description="Smallest area at which a frame is seen."
    )
    max_pixels: int | None = Field(
        None, ge=1, description="Largest area at which a frame is seen; default: the model's."
    )
    audio_seconds: float = Field(
        30.0, gt=0, le=300, description="Sound that is heard, from the start; 25 tokens a second."
    )
    query_prefix: str = Field("Query: ", description="What stands before a query.")
    query_length: int = Field(
        64, ge=1, description="Most tokens of a query, prefix and augmentation included."
    )
    query_augmentation: int = Field(10, ge=0, description="Augmentation tokens after a query.")
    ocr_length: int = Field(512, ge=1, description="Most tokens of on-screen text, with its name.")
    asr_length: int = Field(512, ge=1, description="Most tokens of speech, with its name.")
    description_length: int = Field(
        512, ge=1, description="Most tokens of a description, or of a plain text, with its name."
    )
    encode_modalities: tuple[Modality, ...] | None = Field(
        None, description="Read only these modalities; default: all that the form reads."
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        exclude=True,
        description="Most tokens, padding included, that are encoded at once; default: 16,384 on "
        "a GPU, 2,048 on a CPU.",
    )

    @field_validator("encode_modalities", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Read names of modalities, in a list or joined by commas."""
        if isinstance(value, str):
            value = value.split(",")
        if value is None:
            return None
        return tuple(Modality.parse(v) if isinstance(v, str) else v for v in value)

    @field_serializer("encode_modalities")
    def _names(self, value: tuple[Modality, ...] | None) -> list[str] | None:
        return None if value is None else [modality.label for modality in sorted(value)]

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.query_augmentation >= self.query_length:
            raise ValueError(
                f"{self.query_augmentation} augmentation tokens leave no room in query_length = "
                f"{self.query_length}"
            )
        if self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels = {self.min_pixels} exceeds max_pixels = {self.max_pixels}"
            )
        return self

    def length_of(self, modality: Modality) -> int:
        """Return the most tokens of a text modality."""
        lengths = {
            Modality.OCR: self.ocr_length,
            Modality.ASR: self.asr_length,
            Modality.DESCRIPTION: self.description_length,
            Modality.TEXT: self.description_length,
        }
        return lengths[modality]
