"""The modality-aware loss of CLaMR as its formula says it: every similarity, for every modality.

Written from the description of the released training code (meetdavidwan/clamr at 353c30e): a tensor
(modality, query, document, query token, document token) in which other modalities are -inf.
"""

from __future__ import annotations

import torch


def modality_max_loss(
    queries: torch.Tensor,
    documents: torch.Tensor,
    modalities: torch.Tensor,
    count: int,
    temperature: float,
) -> torch.Tensor:
    """Return InfoNCE over the best modality's score; query i is answered by document i.

    Parameters
    ----------
    queries, documents
        Shapes ``(batch, query tokens, dim)`` and ``(batch, document tokens, dim)``.
    modalities
        int64, shape ``(batch, document tokens)``: below `count`.
    """
    products = torch.einsum("bqd,csd->bcqs", queries, documents)
    member = torch.nn.functional.one_hot(modalities, count).permute(2, 0, 1).bool()
    each = products[None].masked_fill(~member[:, None, :, None, :], -torch.inf)
    scores = each.max(-1).values.sum(-1).max(0).values / queries.shape[1]
    return torch.nn.functional.cross_entropy(scores / temperature, torch.arange(len(queries)))
