"""Exact MaxSim of queries against documents whose tokens are grouped by modality.

For a query token ``q`` and a segment (the tokens of one modality of one document) the largest inner
product is ``S[q, document, modality]``. Every score follows from it in one pass (see `Scoring`):
ColBERT's (Khattab and Zaharia 2020, eq. 3) is the sum over query tokens of its maximum over
modalities.

The documents of a block are multiplied with the query tokens tile by tile; a tile's rows are
reduced segment by segment while they are in cache. That costs about 1.1 times the bare product. The
masked formulation on padded tensors costs 8 to 30 times, and lets padding win where all true inner
products are negative.

Products and their maxima are float32, sums over query tokens float64. On one machine and build a
score is the same bits whatever other queries and documents are scored with it, in whatever order,
blocks and threads (see `harness.late_interaction.products`).
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError, UsageError
from harness.late_interaction.embeddings import TokenEmbeddings
from harness.late_interaction.packing import Packed, chunks
from harness.late_interaction.products import single_threaded_blas
from harness.late_interaction.scoring import MODALITY_NUMBERS, Scoring
from harness.late_interaction.tiled import TiledEngine
from harness.types import NO_MODALITY


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
        alone, at the modality's number (0: no modality), with its weight and normalised; -inf
        where it is missing or does not count.
    """

    total: NDArray[np.float32]
    by_modality: NDArray[np.float32] | None = None


class Engine(Protocol):
    """Scores one block of queries; `sums` may run in several threads at once."""

    #: Most tokens and segments of the documents of one call of `sums`.
    chunk: tuple[int, int]

    def __init__(self, queries: TokenEmbeddings, documents: TokenEmbeddings, device: str) -> None:
        """Take in a block of queries for documents of the precision of `documents`."""

    @staticmethod
    def query_tokens(queries: TokenEmbeddings) -> int:
        """Return how many query tokens one block should hold."""

    def sums(
        self, documents: Packed, scoring: Scoring, together: bool, apart: bool
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Sum maxima over the tokens of each query.

        Returns
        -------
        together
            Shape ``(n_found, n_queries)``, or None if not asked for: for each document, the sums
            of the maxima over all its segments.
        apart
            Shape ``(n_segments, n_queries)``, or None: the sums for each segment.
        """


def max_sim(
    queries: TokenEmbeddings,
    documents: TokenEmbeddings,
    scoring: Scoring | None = None,
    *,
    by_modality: bool = False,
    device: str = "cpu",
    threads: int = 1,
) -> Scores:
    """Score every query against every document.

    All tokens of a query count, whatever their modality. Vectors are widened block by block. Where
    queries and documents are int8 of at most 1,040 dimensions, the products are exact integers,
    which are then scaled.

    Parameters
    ----------
    queries, documents
        Embeddings of the same dimension.
    scoring
        What makes a score; by default ColBERT's.
    by_modality
        Return the scores by each modality alone, too: one pass gives both.
    device
        ``cpu``: numpy. ``cuda``, ``cuda:1``, ...: torch on that device; ``torch:cpu``: the same
        code on the processor. There, vectors that are fp16 or bf16 on both sides are multiplied as
        such, with float32 sums, and scores agree with those of ``cpu`` to 1e-5 relative.
    threads
        Blocks of documents that are scored at the same time, on ``cpu``.

    Raises
    ------
    PluginError
        If dimensions differ.
    UsageError
        If there is no such device.
    """
    scoring = scoring or Scoring()
    if queries.dim != documents.dim and len(queries.vectors) and len(documents.vectors):
        raise PluginError(
            f"query vectors have {queries.dim} dimensions, document vectors {documents.dim}: an "
            "encoder must give both the same dimension."
        )
    shape = (len(queries), len(documents))
    scores = Scores(
        np.full(shape, -np.inf, np.float32),
        np.full((*shape, MODALITY_NUMBERS), -np.inf, np.float32) if by_modality else None,
    )
    make = _engine(device)
    pairs = _blocks(queries, documents, scores, make, device)

    def score(pair: _Block) -> None:
        _score(pair, documents, scoring)

    with single_threaded_blas:
        if threads == 1:
            for pair in pairs:
                score(pair)
        else:
            with ThreadPoolExecutor(threads) as pool:
                deque(pool.map(score, pairs), maxlen=0)
    return scores


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """A block of queries with an engine, a block of documents, and where their scores go."""

    engine: Engine
    query_lengths: NDArray[np.int64]
    documents: slice
    total: NDArray[np.float32]
    by_modality: NDArray[np.float32] | None


def _blocks(
    queries: TokenEmbeddings,
    documents: TokenEmbeddings,
    scores: Scores,
    make: type[Engine],
    device: str,
) -> Iterator[_Block]:
    for first, last in chunks(queries, make.query_tokens(queries), len(queries.modalities)):
        engine = make(queries[first:last], documents, device)
        lengths = np.diff(queries.offsets[first : last + 1])
        for start, stop in chunks(documents, *make.chunk):
            place = (slice(first, last), slice(start, stop))
            by_modality = None if scores.by_modality is None else scores.by_modality[place]
            yield _Block(engine, lengths, place[1], scores.total[place], by_modality)


def _score(block: _Block, documents: TokenEmbeddings, scoring: Scoring) -> None:
    packed = Packed.of(documents[block.documents], scoring.competing)
    if not len(packed.modalities):
        return
    by_token = scoring.aggregation == "token_max"
    apart_too = not by_token or block.by_modality is not None
    best, apart = block.engine.sums(packed, scoring, by_token, apart_too)
    zero = scoring.padding == "zero"
    divisor = np.maximum(block.query_lengths, 1) if scoring.normalise else 1
    # An overflow gives a score that is not finite, which whoever ranks refuses by name.
    with np.errstate(over="ignore", invalid="ignore"):
        if apart is not None and best is None:
            best = np.maximum.reduceat(apart, packed.bounds, axis=0)
            best = np.maximum(best, 0) if zero else best
        if best is not None:
            block.total[:, packed.owners] = (best / divisor).T
        if apart is not None and block.by_modality is not None:
            block.by_modality[:, packed.segment_owners(), packed.modalities] = (apart / divisor).T
            if zero:
                of_none = block.by_modality[:, packed.owners, NO_MODALITY]
                block.by_modality[:, packed.owners, NO_MODALITY] = np.maximum(of_none, 0)


def _engine(device: str) -> type[Engine]:
    if device == "cpu":
        return TiledEngine
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            f"device {device!r} needs torch: pip install 'clamr-bench[models]', or choose cpu."
        )
    from harness.late_interaction.tensors import TorchEngine

    return TorchEngine
