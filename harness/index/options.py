"""Settings that change how embeddings are scored, not what they are."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator

from harness.errors import UsageError
from harness.late_interaction import Scoring
from harness.settings import Settings
from harness.types import Modality


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
    score_modalities: list[str] | None = Field(
        None,
        min_length=1,
        description="Score these modalities only: a mask over the same embeddings, which were "
        "encoded with all.",
    )
    weights: dict[str, float] = Field(
        {}, description="Factors of the similarities by modality; 1 where none is given."
    )
    normalise: bool = Field(False, description="Divide scores by the number of query tokens.")
    search_device: str = Field(
        "cpu",
        description="Where documents are scored: cpu, cuda, cuda:1. Within 1e-5 of each other.",
    )

    @field_validator("weights")
    @classmethod
    def _weights_are_positive(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(
                    f"the weight of {name} is {weight}: give a number above 0; leave a modality "
                    "out by score_modalities"
                )
        return weights

    @field_validator("score_modalities", "weights")
    @classmethod
    def _modalities_exist(cls, given: Any) -> Any:
        for name in given or ():
            try:
                Modality.parse(name)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return given

    @property
    def scoring(self) -> Scoring:
        """The scoring that these settings ask for."""
        return Scoring(
            aggregation=self.aggregation,
            unassigned_tokens=self.unassigned_tokens,
            padding=self.padding,
            modalities=None
            if self.score_modalities is None
            else frozenset(map(Modality.parse, self.score_modalities)),
            weights={Modality.parse(name): weight for name, weight in self.weights.items()},
            normalise=self.normalise,
        )


def without_scoring(identity: dict[str, Any]) -> dict[str, Any]:
    """Return a retriever's identity without these settings: what its stored embeddings are."""
    settings = identity["settings"]
    kept = {key: settings[key] for key in settings if key not in ScoringSettings.model_fields}
    return {**identity, "settings": kept}
