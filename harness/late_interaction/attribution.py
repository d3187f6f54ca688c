"""What a score is made of: which modality's tokens matched the query, and how much each adds.

Attribution names the tokens whose vectors matched. In a contextualised encoder such a vector can
carry what another modality showed: see ``docs/late-interaction.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.late_interaction.embeddings import TokenEmbeddings
from harness.late_interaction.maxsim import max_sim
from harness.late_interaction.scoring import MODALITY_NUMBERS, Scoring
from harness.late_interaction.winners import Winners, winners
from harness.types import NO_MODALITY, Modality

#: The name of `NO_MODALITY` in tables and files.
NONE_LABEL = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """The exact parts of the score of one document for one query.

    Attributes
    ----------
    winners
        The winning token of each query token, and what it adds to the score.
    by_modality
        float32, shape ``(8,)``: the score by each modality alone, at its number; -inf where it is
        missing or does not count.
    spans
        float32, shape ``(n_query_tokens, 7)``: where in its source each winner comes from (see
        `TokenEmbeddings`), NaN where that is not known; None if it is for none.
    """

    winners: Winners
    by_modality: NDArray[np.float32]
    spans: NDArray[np.float32] | None

    @property
    def score(self) -> float:
        """The score, as a search gives it; -inf if no token of the document counts."""
        return self.winners.score

    @property
    def found(self) -> bool:
        """Whether there is anything to attribute: a query token, and a token that it matched."""
        return bool(np.isfinite(self.score)) and len(self.winners.parts) > 0

    @property
    def contributions(self) -> dict[int, float]:
        """What the winners of each modality number add; their sum is the score.

        To the rounding of the score, which is a float32. Modalities without a winner are not in
        it; winners of no modality (templates, padding) are, under 0.
        """
        if not self.found:
            return {}
        numbers = self.winners.modalities
        sums = np.bincount(numbers, self.winners.parts, MODALITY_NUMBERS)
        return {int(number): float(sums[number]) for number in np.unique(numbers)}

    @property
    def shares(self) -> dict[int, float] | None:
        """Each contribution as a fraction of the score; they are in [0, 1] and their sum is 1.

        None where fractions mean nothing: if a contribution is negative, or the score is not
        above 0. `contributions` are right then, too.
        """
        parts = self.contributions
        total = sum(parts.values())
        if not total > 0 or min(parts.values()) < 0:
            return None
        return {number: part / total for number, part in parts.items()}

    @property
    def majority(self) -> frozenset[int]:
        """The modality numbers that won the most query tokens: several if they tie."""
        return _most(np.bincount(self.winners.modalities, minlength=MODALITY_NUMBERS), self.found)

    @property
    def strongest(self) -> frozenset[int]:
        """The modality numbers with the largest score by themselves: several if they tie."""
        return _most(self.by_modality, self.found)


def attribute(
    query: TokenEmbeddings, document: TokenEmbeddings, scoring: Scoring | None = None
) -> Attribution:
    """Take the score of one document for one query apart.

    Parameters
    ----------
    query, document
        One item each: ``queries[i : i + 1]``. All tokens of the query count, those of its template
        and its augmentation too, just as in the score.
    scoring
        As given to `max_sim`.

    Raises
    ------
    UsageError, PluginError
        As `winners` does.
    """
    won = winners(query, document, scoring)
    apart = max_sim(query, document, scoring, by_modality=True).by_modality
    spans = None
    if document.spans is not None and len(document.spans):
        chosen = won.tokens >= 0
        spans = np.where(chosen[:, None], document.spans[np.where(chosen, won.tokens, 0)], np.nan)
        spans = spans.astype(np.float32)
    missing = np.full(MODALITY_NUMBERS, -np.inf, np.float32)
    return Attribution(won, missing if apart is None else apart[0, 0], spans)


def label(number: int) -> str:
    """Return the name of a modality number as tables and files have it."""
    return NONE_LABEL if number == NO_MODALITY else Modality(number).label


def _most(values: NDArray[np.generic], found: bool) -> frozenset[int]:
    if not found:
        return frozenset()
    return frozenset(np.flatnonzero(values == values.max()).tolist())
