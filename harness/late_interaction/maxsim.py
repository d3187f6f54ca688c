"""Exact MaxSim of queries against documents whose tokens are grouped by modality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.late_interaction.embeddings import TokenEmbeddings
from harness.late_interaction.scoring import MODALITY_NUMBERS, Scoring
from harness.types import NO_MODALITY

#: Tokens of a block of documents and of queries.
DOCUMENT_TOKENS = 512
QUERY_TOKENS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of queries against documents.

    Attributes
    ----------
    total
        float32, shape ``(n_queries, n_documents)``; -inf for a document without a token that
        counts, and 0 for a query without tokens against any other document.
    by_modality
        float32, shape ``(n_queries, n_documents, 8)``, if asked for: the score by each modality
        alone, at its number (0: no modality), weighted and normalised; -inf where it is missing.
    """

    total: NDArray[np.float32]
    by_modality: NDArray[np.float32] | None = None


def max_sim(
    queries: TokenEmbeddings,
    documents: TokenEmbeddings,
    scoring: Scoring | None = None,
    *,
    by_modality: bool = False,
    device: str = "cpu",
    threads: int | None = None,
) -> Scores:
    """Score every query against every document."""
    scoring = scoring or Scoring()
    if queries.dim != documents.dim and len(queries.vectors) and len(documents.vectors):
        raise PluginError(
            f"query vectors have {queries.dim} dimensions, document vectors {documents.dim}: an "
            "encoder must give both the same dimension."
        )
    total = np.full((len(queries), len(documents)), -np.inf, np.float32)
    every = np.full((*total.shape, MODALITY_NUMBERS), -np.inf, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for first, last in _blocks(queries.offsets, QUERY_TOKENS):
            for start, stop in _blocks(documents.offsets, DOCUMENT_TOKENS):
                _score(
                    queries.items(first, last),
                    documents.items(start, stop),
                    scoring,
                    total[first:last, start:stop],
                    every[first:last, start:stop],
                )
    return Scores(total, every if by_modality else None)


def _score(
    queries: TokenEmbeddings,
    documents: TokenEmbeddings,
    scoring: Scoring,
    total: NDArray[np.float32],
    every: NDArray[np.float32],
) -> None:
    counts = scoring.competing[documents.modalities]
    owners = np.repeat(np.arange(len(documents)), np.diff(documents.item_segments))
    tokens = queries.widen(0, len(queries.vectors))
    product = documents.widen(0, len(documents.vectors)) @ tokens.T
    maxima = np.full((len(documents), MODALITY_NUMBERS, len(tokens)), -np.inf, np.float32)
    for segment in np.flatnonzero(counts):
        rows = slice(*documents.segment_offsets[segment : segment + 2])
        number = documents.modalities[segment]
        maxima[owners[segment], number] = product[rows].max(axis=0) * scoring.factors[number]
    found = np.unique(owners[counts])
    if scoring.padding == "zero":
        maxima[found, NO_MODALITY] = np.maximum(maxima[found, NO_MODALITY], 0)
    for query in range(len(queries)):
        columns = slice(*queries.offsets[query : query + 2])
        length = columns.stop - columns.start
        part = maxima[found][:, :, columns].astype(np.float64)
        divisor = max(length, 1) if scoring.normalise else 1
        present = (
            part.max(axis=2, initial=-np.inf) > -np.inf
            if length
            else _present(counts, owners, documents, found)
        )
        sums = np.where(present, np.where(present[:, :, None], part, 0).sum(axis=2), -np.inf)
        every[query, found] = sums / divisor
        if scoring.aggregation == "modality_max":
            total[query, found] = sums.max(axis=1) / divisor
        else:
            total[query, found] = part.max(axis=1).sum(axis=1) / divisor


def _present(counts: Any, owners: Any, documents: TokenEmbeddings, found: Any) -> Any:
    table = np.zeros((len(documents), MODALITY_NUMBERS), bool)
    table[owners[counts], documents.modalities[counts]] = True
    return table[found]


def _blocks(offsets: NDArray[np.int64], tokens: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of items that hold at most `tokens` tokens together, or are one item."""
    first, items = 0, len(offsets) - 1
    while first < items:
        last = int(np.searchsorted(offsets, offsets[first] + tokens, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
