"""The losses of late-interaction training, one value a query.

All take the scores of every query with every document, and say which document answers each query
and which others are negatives. Written with :math:`s` for a score divided by the temperature,
:math:`k` for the query and its positive, and :math:`m^*` for the modality that the query aims at:

=================  ==================================================================
``contrastive``    InfoNCE (Eq. 2 of CLaMR, arXiv:2506.06144)
``hard_positive``  InfoNCE whose positive is the score by :math:`m^*` alone (Eq. 4)
``hard_negative``  the same, with every other score by one modality as a negative (Eq. 5)
``pairwise``       softplus of the hardest negative's score minus the positive's
=================  ==================================================================

There is no term from documents to queries; CLaMR has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from harness.training.pairs import PairScores
from harness.types import NO_MODALITY

Aggregation = Literal["token_max", "modality_max"]


class Loss(Protocol):
    """A loss by query."""

    def __call__(
        self,
        scores: PairScores,
        positives: Tensor,
        allowed: Tensor,
        targets: Tensor,
        temperature: Tensor | float,
        *,
        aggregation: Aggregation = "modality_max",
        compat: bool = False,
    ) -> Tensor:
        """Return the loss of each query.

        Parameters
        ----------
        scores
            Of queries with documents.
        positives
            int64, shape ``(queries,)``: the document that answers each query.
        allowed
            bool, shape ``(queries, documents)``: False for false negatives, documents that answer
            the query too; they are left out. The positive's own value does not matter.
        targets
            int64, shape ``(queries,)``: number of the modality that the query aims at; 0 if
            unknown. Where it is 0, or the positive lacks that modality, the positive's score is
            that of its best modality, and its other modalities are no negatives.
        temperature
            Scores are divided by it; a tensor of no dimensions gets a gradient.
        aggregation
            Which scores whole documents have.
        compat
            As the code of CLaMR computes it, where that differs from the paper: `hard_negative` has
            the whole document's score as its positive, and `pairwise` no temperature.

        Returns
        -------
        Tensor
            Floating, shape ``(queries,)``, finite. 0, without a gradient, where `countable` is
            False, and where a query has no negative. So the mean over queries is the sum divided by
            the number of countable ones.
        """


def countable(scores: PairScores, positives: Tensor) -> Tensor:
    """Return which queries have a positive with any token that counts: bool, ``(queries,)``."""
    return _of(scores.token_max.detach(), positives) != -torch.inf


def contrastive(
    scores: PairScores,
    positives: Tensor,
    allowed: Tensor,
    targets: Tensor,
    temperature: Tensor | float,
    *,
    aggregation: Aggregation = "modality_max",
    compat: bool = False,
) -> Tensor:
    """InfoNCE (see `Loss`)."""
    whole = _whole(scores, aggregation)
    negatives = _others(whole, positives, allowed)
    return _cross_entropy(_of(whole, positives), negatives, temperature)


def hard_positive(
    scores: PairScores,
    positives: Tensor,
    allowed: Tensor,
    targets: Tensor,
    temperature: Tensor | float,
    *,
    aggregation: Aggregation = "modality_max",
    compat: bool = False,
) -> Tensor:
    """InfoNCE with the labelled modality's score as the positive, Eq. 4 (see `Loss`)."""
    aimed = _aimed(scores, positives, targets)
    negatives = _others(_whole(scores, aggregation), positives, allowed)
    return _cross_entropy(aimed.score, negatives, temperature)


def hard_negative(
    scores: PairScores,
    positives: Tensor,
    allowed: Tensor,
    targets: Tensor,
    temperature: Tensor | float,
    *,
    aggregation: Aggregation = "modality_max",
    compat: bool = False,
) -> Tensor:
    """InfoNCE with the scores by all other modalities as negatives, Eq. 5 (see `Loss`).

    These are the scores by each modality of each other document, and by each modality but the
    labelled one of the positive. Tokens of no modality, where they compete, are no negatives.

    With `compat`, the best modality of the positive is a positive, and a negative too unless it is
    the labelled one.
    """
    whole = _whole(scores, aggregation)
    aimed = _aimed(scores, positives, targets)
    mine = _is_positive(scores, positives)
    numbers = torch.tensor(scores.modalities, device=positives.device)
    wrong = aimed.known[:, None] & (numbers != targets[:, None])
    counts = torch.where(mine[..., None], wrong[:, None], allowed[..., None])
    counts = counts & (numbers != NO_MODALITY)
    apart = scores.by_modality.masked_fill(~counts, -torch.inf).flatten(1)
    negatives = torch.cat([_others(whole, positives, allowed), apart], dim=1)
    positive = _of(whole, positives) if compat else aimed.score
    return _cross_entropy(positive, negatives, temperature)


def pairwise(
    scores: PairScores,
    positives: Tensor,
    allowed: Tensor,
    targets: Tensor,
    temperature: Tensor | float,
    *,
    aggregation: Aggregation = "modality_max",
    compat: bool = False,
) -> Tensor:
    """Softplus of the hardest negative minus the positive (see `Loss`)."""
    whole = _whole(scores, aggregation)
    positive = _of(whole, positives)
    hardest = _others(whole, positives, allowed).max(1).values
    counts = (positive != -torch.inf) & (hardest != -torch.inf)
    behind = _kept(hardest, counts) - _kept(positive, counts)
    return _kept(softplus(behind if compat else behind / temperature), counts)


#: By the names of recipes.
LOSSES: Mapping[str, Loss] = {
    "contrastive": contrastive,
    "hard_positive": hard_positive,
    "hard_negative": hard_negative,
    "pairwise": pairwise,
}


@dataclass(frozen=True, slots=True, eq=False)
class _Aimed:
    """The positive's score by the modality that is aimed at, and whether there is one."""

    score: Tensor
    known: Tensor


def _aimed(scores: PairScores, positives: Tensor, targets: Tensor) -> _Aimed:
    numbers = torch.tensor(scores.modalities, device=positives.device)
    rows = torch.arange(len(positives), device=positives.device)
    own = scores.by_modality[rows, positives]
    labelled = (numbers == targets[:, None]) & (numbers != NO_MODALITY) & (own != -torch.inf)
    known = labelled.any(1)
    # A sum of one value; the others are 0, as -inf times 0 would be NaN.
    score = _kept(own, labelled).sum(1)
    best = _of(scores.modality_max, positives)
    return _Aimed(torch.where(known, score, best), known)


def _whole(scores: PairScores, aggregation: Aggregation) -> Tensor:
    return scores.token_max if aggregation == "token_max" else scores.modality_max


def _of(values: Tensor, positives: Tensor) -> Tensor:
    return values.gather(1, positives[:, None])[:, 0]


def _is_positive(scores: PairScores, positives: Tensor) -> Tensor:
    numbers = torch.arange(scores.token_max.shape[1], device=positives.device)
    return numbers == positives[:, None]


def _others(whole: Tensor, positives: Tensor, allowed: Tensor) -> Tensor:
    """Return the scores of negatives; -inf for the positive and for false negatives."""
    return whole.masked_fill(~allowed, -torch.inf).scatter(1, positives[:, None], -torch.inf)


def _kept(values: Tensor, mask: Tensor) -> Tensor:
    """Return values where the mask is True, else 0 without a gradient."""
    return values.masked_fill(~mask, 0)


def _cross_entropy(positive: Tensor, negatives: Tensor, temperature: Tensor | float) -> Tensor:
    logits = torch.cat([positive[:, None], negatives], dim=1)
    there = logits != -torch.inf
    # Masked after the division: that of -inf would give the temperature a gradient of NaN.
    logits = (_kept(logits, there) / temperature).masked_fill(~there, -torch.inf)
    return _kept(logits.logsumexp(1) - logits[:, 0], there[:, 0])
