"""Which token of a document answers each query token: the exact parts of one score.

Finding the place of a maximum costs four times as much as finding its value, so it is done
afterwards, for the pairs of query and document that are shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError, UsageError
from harness.late_interaction.embeddings import TokenEmbeddings
from harness.late_interaction.packing import Packed
from harness.late_interaction.products import single_threaded_blas
from harness.late_interaction.scoring import Scoring
from harness.late_interaction.tiled import TiledEngine
from harness.types import NO_MODALITY


@dataclass(frozen=True, slots=True, eq=False)
class Winners:
    """The winner of each token of a query, in one document.

    Of tokens that tie, the first in the document wins.

    Attributes
    ----------
    tokens
        int64, shape ``(n_query_tokens,)``: number of the winning token within the document; -1
        where padding wins, or where no token counts.
    modalities
        uint8, shape ``(n_query_tokens,)``: its modality's number; 0 for none.
    similarities
        float32, shape ``(n_query_tokens,)``: its inner product, weighted; 0 where padding wins,
        -inf where no token counts.
    parts
        float64, shape ``(n_query_tokens,)``: what each adds to the score: `similarities`, divided
        by the number of query tokens if the scoring normalises.
    score
        The very score that `max_sim` gives: the sum of `parts` to the last bit of float32.
    """

    tokens: NDArray[np.int64]
    modalities: NDArray[np.uint8]
    similarities: NDArray[np.float32]
    parts: NDArray[np.float64]
    score: float


def winners(
    query: TokenEmbeddings, document: TokenEmbeddings, scoring: Scoring | None = None
) -> Winners:
    """Find the winner of each token of one query in one document.

    Under ``modality_max`` all winners are of the modality with the largest sum, the first of
    those that tie.

    Parameters
    ----------
    query, document
        One item each, of the same dimension: ``queries[i : i + 1]``.
    scoring
        As given to `max_sim`.

    Raises
    ------
    UsageError
        If there is not one item each.
    PluginError
        If dimensions differ.
    """
    if len(query) != 1 or len(document) != 1:
        raise UsageError(
            f"winners are of one query and one document, not of {len(query)} and {len(document)}."
        )
    if query.dim != document.dim and len(query.vectors) and len(document.vectors):
        raise PluginError(
            f"query vectors have {query.dim} dimensions, document vectors {document.dim}: an "
            "encoder must give both the same dimension."
        )
    scoring = scoring or Scoring()
    packed = Packed.of(document, scoring.competing)
    if not packed.tokens:
        return _nothing(len(query.vectors))
    with single_threaded_blas:
        engine = TiledEngine(query, document, "cpu")
        similarities = engine.similarities(packed, scoring)
    places, values = _best(similarities, packed, scoring, engine)
    segments = np.searchsorted(packed.starts, places, side="right") - 1
    sources = packed.sources[segments] + places - packed.starts[segments]
    chosen = places >= 0
    with np.errstate(over="ignore", invalid="ignore"):
        divisor = max(len(values), 1) if scoring.normalise else 1
        score = np.float32(engine.summed(values[None])[0, 0] / divisor)
        parts = values.astype(np.float64) / divisor
    return Winners(
        np.where(chosen, sources, -1),
        np.where(chosen, packed.modalities[segments], NO_MODALITY).astype(np.uint8),
        values,
        parts,
        float(score),
    )


def _best(
    similarities: NDArray[np.float32], packed: Packed, scoring: Scoring, engine: TiledEngine
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the packed place, or -1, and the similarity of each query token's winner."""
    zero = scoring.padding == "zero"
    if scoring.aggregation == "token_max":
        return _floored(*_largest(similarities, 0), zero)
    candidates = []
    for segment, modality in enumerate(packed.modalities.tolist()):
        start, stop = packed.starts[segment : segment + 2].tolist()
        found = _largest(similarities[:, start:stop], start)
        candidates.append(_floored(*found, zero and modality == NO_MODALITY))
    if zero and NO_MODALITY not in packed.modalities:
        nowhere = np.full(len(similarities), -1)
        candidates.append((nowhere, np.zeros(len(nowhere), np.float32)))
    sums = engine.summed(np.stack([values for _, values in candidates]))[:, 0]
    return candidates[int(np.argmax(sums))]


def _largest(
    similarities: NDArray[np.float32], start: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    places = np.argmax(similarities, axis=1)
    return places + start, similarities[np.arange(len(places)), places]


def _floored(
    places: NDArray[np.int64], values: NDArray[np.float32], floor: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Let padding win where all similarities are negative, if `floor`."""
    if not floor:
        return places, values
    return np.where(values < 0, -1, places), np.maximum(values, 0)


def _nothing(tokens: int) -> Winners:
    return Winners(
        np.full(tokens, -1, np.int64),
        np.full(tokens, NO_MODALITY, np.uint8),
        np.full(tokens, -np.inf, np.float32),
        np.full(tokens, -np.inf),
        -np.inf,
    )
