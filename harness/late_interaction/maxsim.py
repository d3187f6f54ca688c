"""Exact MaxSim of queries against documents whose tokens are grouped by modality.

For a query token ``q`` and a segment (the tokens of one modality of one document) the largest inner
product is ``S[q, document, modality]``. Both aggregations follow from it in one pass:

- ``token_max``: maximum over modalities, then sum over query tokens. This is ColBERT's score
  (Khattab and Zaharia 2020, eq. 3) of the document's tokens taken together;
- ``modality_max``: sum over query tokens for each modality, then maximum over modalities.

The documents of a block are multiplied with the query tokens in one matrix product; its rows are
reduced segment by segment while they are in cache. That costs 1.1 times the bare product. The
masked formulation on padded tensors costs 8 to 30 times, and lets padding win where all true inner
products are negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.late_interaction.embeddings import TokenEmbeddings
from harness.types import NO_MODALITY

#: Rows and columns of a similarity block: 512 x 2,048 float32 are 4 MB, which stay in cache.
DOCUMENT_TOKENS = 512
QUERY_TOKENS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class MaxSim:
    """Scores of queries against documents.

    Attributes
    ----------
    token_max, modality_max
        float32, shape ``(n_queries, n_documents)``; -inf for a document without a token that may
        win, and 0 for a query without tokens against any other document.
    """

    token_max: NDArray[np.float32]
    modality_max: NDArray[np.float32]


def max_sim(queries: TokenEmbeddings, documents: TokenEmbeddings) -> MaxSim:
    """Score every query against every document.

    All tokens of a query count, whatever their modality. Products and sums are float32, also for
    float16 vectors, which are widened block by block.

    Parameters
    ----------
    queries, documents
        Embeddings of the same dimension.

    Raises
    ------
    PluginError
        If dimensions differ.
    """
    if queries.dim != documents.dim and len(queries.vectors) and len(documents.vectors):
        raise PluginError(
            f"query vectors have {queries.dim} dimensions, document vectors {documents.dim}: an "
            "encoder must give both the same dimension."
        )
    shape = (len(queries), len(documents))
    scores = MaxSim(np.full(shape, -np.inf, np.float32), np.full(shape, -np.inf, np.float32))
    # An overflow gives a score that is not finite, which whoever ranks refuses by name.
    with np.errstate(over="ignore", invalid="ignore"):
        for first, last in _blocks(queries.offsets, QUERY_TOKENS):
            _score(queries, slice(first, last), documents, scores)
    return scores


def _score(queries: TokenEmbeddings, rows: slice, documents: TokenEmbeddings, out: MaxSim) -> None:
    """Score one block of queries against all documents."""
    offsets = queries.offsets[rows.start : rows.stop + 1]
    tokens = queries.vectors[offsets[0] : offsets[-1]].astype(np.float32, copy=False)
    # `reduceat` gives an empty range the next value: queries without tokens are left out of it.
    filled = np.flatnonzero(np.diff(offsets))
    starts = (offsets[filled] - offsets[0]).astype(np.intp)
    empty = rows.start + np.flatnonzero(np.diff(offsets) == 0)
    columns = rows.start + filled
    item_segments = documents.item_segments
    for first, last in _blocks(documents.offsets, DOCUMENT_TOKENS):
        segments = np.arange(item_segments[first], item_segments[last])
        segments = segments[documents.modalities[segments] != NO_MODALITY]
        if not len(segments):
            continue
        owners = np.searchsorted(item_segments, segments, side="right") - 1
        bounds = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        found = owners[bounds]
        out.token_max[np.ix_(empty, found)] = 0.0
        out.modality_max[np.ix_(empty, found)] = 0.0
        if not len(filled):
            continue
        base = documents.offsets[first]
        block = documents.vectors[base : documents.offsets[last]].astype(np.float32, copy=False)
        maxima = _segment_maxima(block @ tokens.T, documents.segment_offsets - base, segments)
        by_modality = np.add.reduceat(maxima, starts, axis=1)
        together = _maxima(maxima, bounds)
        by_token = np.add.reduceat(together, starts, axis=1)
        out.token_max[np.ix_(columns, found)] = by_token.T
        out.modality_max[np.ix_(columns, found)] = _maxima(by_modality, bounds).T


def _segment_maxima(
    similarities: NDArray[np.float32], offsets: NDArray[np.int64], segments: NDArray[Any]
) -> NDArray[np.float32]:
    """Return the maximum over each segment's rows: ``(n_segments, n_query_tokens)``.

    A plain maximum per slice: `np.maximum.reduceat` over the same rows takes five times as long.
    """
    maxima = np.empty((len(segments), similarities.shape[1]), np.float32)
    starts, stops = offsets[segments].tolist(), offsets[segments + 1].tolist()
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        np.max(similarities[start:stop], axis=0, out=maxima[row])
    return maxima


def _maxima(rows: NDArray[np.float32], bounds: NDArray[Any]) -> NDArray[np.float32]:
    """Return the maximum over each run of rows; runs begin at `bounds`."""
    if len(bounds) == len(rows):
        return rows
    return np.stack([run.max(axis=0) for run in np.split(rows, bounds[1:])])


def _blocks(offsets: NDArray[np.int64], tokens: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of items that hold at most `tokens` tokens together, or are one item."""
    first, items = 0, len(offsets) - 1
    while first < items:
        last = int(np.searchsorted(offsets, offsets[first] + tokens, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
