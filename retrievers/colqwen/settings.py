"""Settings of ColQwen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.types import Modality
from retrievers.qwen.settings import QwenSettings


class ColQwenSettings(QwenSettings):
    """How the checkpoint is loaded and what it is given. Defaults are the published models'."""

    batch_size: int = Field(
        8,
        ge=1,
        description="Documents taken together; batch_tokens limits what is encoded at once.",
    )
    frames_as: Literal["pages", "video"] = Field(
        "pages",
        description="Each frame is a page of its own; or all are one video, which the Omni form "
        "takes.",
    )
    max_pixels: int | None = Field(
        None,
        ge=1,
        description="Largest area at which a page is seen, 28 x 28 pixels a token; default: 768 "
        "tokens, Omni 1,024, as the published models were trained.",
    )
    query_length: int = Field(
        512, ge=1, description="Most tokens of a query, prefix and augmentation included."
    )
    text_length: int = Field(512, ge=1, description="Most tokens of a plain text.")
    template_tokens: bool = Field(
        True,
        description="Keep the vectors of the prompt around a page, sound or text, as the published "
        "models are scored; false: those of the content alone.",
    )
    compat: bool = Field(
        False,
        description="Reproduce transformers' own ColQwen2 of 5.23: a page's tokens have positions "
        "in a row, and a query ends in a line break.",
    )

    def length_of(self, modality: Modality) -> int:
        """Return the most tokens of a text modality."""
        return self.text_length if modality is Modality.TEXT else super().length_of(modality)
