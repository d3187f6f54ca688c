"""Random items and the slow, plain reference that late interaction is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.late_interaction import Precision, Scoring, TokenEmbeddings
from harness.types import NO_MODALITY, Modality

Numbered = dict[int, NDArray[np.float32]]

PRECISIONS = list(Precision)


@st.composite
def collections(draw: st.DrawFn, numbers: Sequence[int], dim: int) -> list[Numbered]:
    """Items with 0 to 5 tokens for each of some modality numbers; values of either sign."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shift = draw(st.sampled_from([0.0, 1.0, -1.0]))
    lengths = st.lists(
        st.dictionaries(st.sampled_from(numbers), st.integers(0, 5)), min_size=1, max_size=8
    )
    return [
        {m: (rng.standard_normal((n, dim)) + shift).astype(np.float32) for m, n in item.items()}
        for item in draw(lengths)
    ]


def embed(
    items: Sequence[Numbered], dim: int, precision: Precision = Precision.FP32
) -> TokenEmbeddings:
    """Make embeddings of items that may have tokens of no modality."""
    rows = [(i, m, v) for i, item in enumerate(items) for m, v in sorted(item.items()) if len(v)]
    counts = np.bincount([i for i, _, v in rows for _ in v], minlength=len(items))
    return TokenEmbeddings(
        np.concatenate([np.zeros((0, dim), np.float32), *(v for *_, v in rows)]),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([m for _, m, _ in rows], np.uint8),
        np.cumsum([0, *(len(v) for *_, v in rows)], dtype=np.int64),
    ).astype(precision)


def unit(tokens: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return random vectors of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((tokens, dim), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def corpus(items: int, dim: int, longest: int, seed: int) -> TokenEmbeddings:
    """Return items of up to `longest` tokens in each of four modalities; some have none."""
    rng = np.random.default_rng(seed)
    chosen = [Modality.VIDEO, Modality.ASR, Modality.OCR, Modality.DESCRIPTION]
    lengths = rng.integers(0, longest + 1, (items, len(chosen)))
    made = [
        {m: unit(int(n), dim, seed + 7 * i + m) for m, n in zip(chosen, row, strict=True)}
        for i, row in enumerate(lengths)
    ]
    return TokenEmbeddings.of(made, dim)


scorings = st.builds(
    Scoring,
    aggregation=st.sampled_from(["token_max", "modality_max"]),
    modalities=st.none() | st.frozensets(st.sampled_from(list(Modality)), min_size=1),
    weights=st.none() | st.dictionaries(st.sampled_from(list(Modality)), st.floats(0.1, 4)),
    normalise=st.booleans(),
    unassigned_tokens=st.sampled_from(["exclude", "compete"]),
    padding=st.sampled_from(["exclude", "zero"]),
)


def item(embeddings: TokenEmbeddings, index: int) -> dict[int, list[NDArray[np.float64]]]:
    """Return an item's vectors, widened, by modality number."""
    one = embeddings[index : index + 1]
    wide = one.widen(0, len(one.vectors)).astype(np.float64)
    bounds = one.segment_offsets.tolist()
    return {int(m): list(wide[bounds[j] : bounds[j + 1]]) for j, m in enumerate(one.modalities)}


def reference(
    query: dict[int, list[NDArray[np.float64]]],
    document: dict[int, list[NDArray[np.float64]]],
    scoring: Scoring,
) -> tuple[float, dict[int, float], float]:
    """Return the score, the scores by modality and the size of their terms, by loops."""
    tokens = [token for m in sorted(query) for token in query[m]]
    counts = {
        m: vectors
        for m, vectors in document.items()
        if (
            scoring.unassigned_tokens == "compete"
            if m == NO_MODALITY
            else scoring.modalities is None or m in scoring.modalities
        )
    }
    if not counts:
        return -np.inf, {}, 1.0
    weights: dict[int, float] = {
        int(m): float(np.float32(w)) for m, w in (scoring.weights or {}).items()
    }
    table: dict[int, list[float]] = {
        m: [weights.get(m, 1.0) * max(float(q @ v) for v in vectors) for q in tokens]
        for m, vectors in counts.items()
    }
    if scoring.padding == "zero":
        template = table.get(NO_MODALITY, [0.0] * len(tokens))
        table[NO_MODALITY] = [max(value, 0.0) for value in template]
    divisor = max(len(tokens), 1) if scoring.normalise else 1
    by_modality = {m: sum(values) / divisor for m, values in table.items()}
    if scoring.aggregation == "modality_max":
        total = max(by_modality.values())
    else:
        total = sum(max(row[q] for row in table.values()) for q in range(len(tokens))) / divisor
    longest = max(float(np.linalg.norm(v)) for vectors in counts.values() for v in vectors)
    heaviest = max([1.0, *weights.values()])
    scale = sum(float(np.linalg.norm(q)) for q in tokens) * longest * heaviest / divisor
    return total, by_modality, scale


def as_bits(values: NDArray[Any] | None) -> bytes:
    """Return the bytes of an array."""
    return b"" if values is None else np.ascontiguousarray(values).tobytes()
