"""Settings that change how embeddings are scored, not what they are."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.late_interaction import Scoring
from harness.settings import Settings


class ScoringSettings(Settings):
    """How scores are made of stored embeddings."""

    aggregation: Literal["token_max", "modality_max"] = Field(
        "token_max",
        description="Score: the best modality for each query token, or one for the whole query.",
    )
    unassigned_tokens: Literal["exclude", "compete"] = Field(
        "exclude", description="Whether document tokens of no modality (templates) may win."
    )
    padding: Literal["exclude", "zero"] = Field(
        "exclude", description="Whether every document has a zero vector, as padded batches have."
    )

    @property
    def scoring(self) -> Scoring:
        """The scoring that these settings ask for."""
        return Scoring(
            aggregation=self.aggregation,
            unassigned_tokens=self.unassigned_tokens,
            padding=self.padding,
        )


def without_scoring(identity: dict[str, Any]) -> dict[str, Any]:
    """Return a retriever's identity without these settings: what its stored embeddings are."""
    settings = identity["settings"]
    kept = {key: settings[key] for key in settings if key not in ScoringSettings.model_fields}
    return {**identity, "settings": kept}
