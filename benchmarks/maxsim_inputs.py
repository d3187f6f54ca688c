"""The inputs of benchmarks/maxsim.py, as files that every process maps, and the exact scores."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from harness.late_interaction import Precision, TokenEmbeddings
from harness.types import Modality

DIM, QUERIES, QUERY_TOKENS = 128, 64, 32
MODALITIES = (Modality.VIDEO, Modality.ASR, Modality.OCR, Modality.DESCRIPTION)
#: Documents whose exact scores are computed in float64.
EXACT = 100


def make_documents(number: int, seed: int = 0) -> TokenEmbeddings:
    """Return documents of 200 to 2,048 tokens of length 1, gathered around 2,000 centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((2_000, DIM), dtype=np.float32)
    lengths = rng.integers(200, 2049, number)
    cuts = np.sort(rng.random((number, len(MODALITIES) - 1)), axis=1)
    ends = np.ceil(np.c_[cuts, np.ones(number)] * (lengths - 4)[:, None]).astype(np.int64)
    parts = np.diff(ends, axis=1, prepend=0) + 1
    offsets = np.concatenate([[0], np.cumsum(parts.sum(axis=1))])
    vectors = np.empty((int(offsets[-1]), DIM), np.float32)
    for start in range(0, len(vectors), 65536):
        rows = vectors[start : start + 65536]
        rows[:] = centres[rng.integers(0, len(centres), len(rows))]
        rows += rng.standard_normal(rows.shape, dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return TokenEmbeddings.trusted(
        vectors,
        offsets,
        np.tile(np.array(MODALITIES, np.uint8), number),
        np.concatenate([[0], np.cumsum(parts)]),
    )


def make_queries(documents: TokenEmbeddings, seed: int = 1) -> NDArray[np.float32]:
    """Return queries whose tokens lie near tokens of one document each."""
    rng = np.random.default_rng(seed)
    tokens = np.empty((QUERIES, QUERY_TOKENS, DIM), np.float32)
    for query in tokens:
        one = int(rng.integers(0, len(documents)))
        start, stop = documents.offsets[one : one + 2].tolist()
        query[:] = documents.vectors[rng.integers(start, stop, QUERY_TOKENS)]
    tokens += 0.1 * rng.standard_normal(tokens.shape, dtype=np.float32)
    return tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)


def write_inputs(folder: Path, documents: int) -> None:
    """Write the documents in every precision, and the queries."""
    made = make_documents(documents)
    np.save(folder / "queries.npy", make_queries(made))
    for name in ("offsets", "modalities", "segment_offsets"):
        np.save(folder / f"{name}.npy", getattr(made, name))
    for precision in Precision:
        kept = made.astype(precision)
        np.save(folder / f"documents_{precision}.npy", kept.vectors)
        if kept.scales is not None:
            np.save(folder / f"scales_{precision}.npy", kept.scales)


def reference(folder: Path, aggregation: str) -> NDArray[np.float64]:
    """Return the scores of the first documents, in float64."""
    offsets = np.load(folder / "segment_offsets.npy")
    queries = np.load(folder / "queries.npy").astype(np.float64)
    vectors = open_memmap(folder / "documents_fp32.npy", mode="r")
    number = min(EXACT, (len(offsets) - 1) // len(MODALITIES))
    scores = np.empty((len(queries), number))
    for document in range(number):
        bounds = offsets[document * len(MODALITIES) : (document + 1) * len(MODALITIES) + 1]
        tokens = vectors[bounds[0] : bounds[-1]].astype(np.float64)
        maxima = [
            (queries @ tokens[start - bounds[0] : stop - bounds[0]].T).max(axis=-1)
            for start, stop in pairwise(bounds)
        ]
        if aggregation == "token_max":
            scores[:, document] = np.max(maxima, axis=0).sum(axis=-1)
        else:
            scores[:, document] = np.sum(maxima, axis=-1).max(axis=0)
    return scores
