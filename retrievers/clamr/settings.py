"""Settings of CLaMR."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from retrievers.qwen.settings import QwenSettings


class ClamrSettings(QwenSettings):
    """How the checkpoint is loaded and what it is given. Defaults are the published model's.

    Settings of the machine alone (device, workers, ...) are left out of dumps, hence of
    fingerprints: the same vectors come out, but for rounding.
    """

    system_prompt: str | None = Field(
        None, description="System prompt; default: the backbone's own."
    )
    max_pixels: int = Field(224 * 224, ge=1, description="Largest area at which a frame is seen.")
    query_augmentation: int = Field(
        10, ge=0, description="Augmentation tokens after a query (the paper says 5, its code 10)."
    )
    contextualise: bool = Field(
        True,
        description="Encode all modalities as one sequence; false: each alone, then joined.",
    )
    compat: bool = Field(
        False,
        description="Reproduce the reference's token stream, modality ids and scores, faults "
        "included.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_the_reference_scores(cls, values: Any) -> Any:
        """Let what never wins by default compete, as it does in the reference."""
        if isinstance(values, dict) and values.get("compat") is True:
            return {"unassigned_tokens": "compete", "padding": "zero", **values}
        return values
