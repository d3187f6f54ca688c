"""Which similarities make a score, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.types import NO_MODALITY, Modality

Aggregation = Literal["token_max", "modality_max"]

#: Length of arrays that are indexed by a modality's number; 0 is `NO_MODALITY`.
MODALITY_NUMBERS = max(Modality) + 1


@dataclass(frozen=True, slots=True)
class Scoring:
    """How the similarities of query tokens and document segments become a score.

    ``S[q, m]`` is the largest inner product of query token ``q`` with the document's tokens of
    modality ``m``, times the weight of ``m``; -inf where the document has none or ``m`` is left
    out.

    Attributes
    ----------
    aggregation
        ``token_max``: sum over ``q`` of the maximum over ``m``. ``modality_max``: maximum over
        ``m`` of the sum over ``q``.
    modalities
        The modalities that count; None for all. Leaving one out is a mask over the same
        embeddings, not another encoding.
    weights
        Factors by modality, finite and above 0; 1 where none is given. A weight scales a
        modality's similarities before any maximum, so under ``modality_max`` it scales the
        modality's score.
    normalise
        Divide scores by the number of query tokens.
    unassigned_tokens
        ``compete``: tokens of no modality (templates, end markers) count as one more modality, of
        weight 1, whatever `modalities` says. ``exclude``: they never win.
    padding
        ``zero``: every document that has a token that counts also has one zero vector of no
        modality, which counts, as in implementations that pad documents and mask by
        multiplication. So under ``token_max`` each query token contributes at least 0. Under
        ``modality_max`` each query token's similarity to no modality is at least 0, hence so is
        the score; the other modalities are as they are. ``exclude``: padding does not exist.

    Raises
    ------
    UsageError
        If a value cannot be.
    """

    aggregation: Aggregation = "token_max"
    modalities: frozenset[Modality] | None = None
    weights: Mapping[Modality, float] | None = None
    normalise: bool = False
    unassigned_tokens: Literal["exclude", "compete"] = "exclude"
    padding: Literal["exclude", "zero"] = "exclude"

    def __post_init__(self) -> None:
        _check("aggregation", self.aggregation, ("token_max", "modality_max"))
        _check("unassigned_tokens", self.unassigned_tokens, ("exclude", "compete"))
        _check("padding", self.padding, ("exclude", "zero"))
        if self.modalities is not None and not self.modalities:
            raise UsageError("modalities is empty: name at least one, or leave it out for all.")
        for modality, weight in (self.weights or {}).items():
            if not 0 < weight < np.inf:
                raise UsageError(
                    f"the weight of {modality.label} is {weight}: give a number above 0; leave a "
                    "modality out by `modalities`."
                )

    def only(self, modalities: frozenset[Modality] | None) -> Scoring:
        """Return the scoring with none but these modalities counting, of those that count now.

        Raises
        ------
        UsageError
            If none is left.
        """
        if modalities is None:
            return self
        left = modalities if self.modalities is None else modalities & self.modalities
        if not left:
            counting = ", ".join(m.label for m in sorted(self.modalities or ()))
            asked = ", ".join(m.label for m in sorted(modalities))
            raise UsageError(
                f"only {counting} is scored, and of that only {asked} is asked for: nothing is "
                "left to score."
            )
        return replace(self, modalities=left)

    @property
    def competing(self) -> NDArray[np.bool_]:
        """Whether segments of each modality number count: bool, shape ``(8,)``."""
        names = list(Modality) if self.modalities is None else sorted(self.modalities)
        table = np.zeros(MODALITY_NUMBERS, bool)
        table[[int(modality) for modality in names]] = True
        table[NO_MODALITY] = self.unassigned_tokens == "compete"
        return table

    @property
    def factors(self) -> NDArray[np.float32]:
        """The weight of each modality number: float32, shape ``(8,)``."""
        table = np.ones(MODALITY_NUMBERS, np.float32)
        for modality, weight in (self.weights or {}).items():
            table[int(modality)] = weight
        return table


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}: choose from {', '.join(allowed)}.")
